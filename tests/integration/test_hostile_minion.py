# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A minion that the master has accepted, and that speaks in the name of others."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time

import hostile as enemy
import pytest
import salt.exceptions
import store_site

from storelib import report
from storemaster.deployment import engine, lifecycle
from storemaster.deployment.jobs import MEND_AGAIN

PATH = [*(state.name for state in lifecycle.PATH), "deployed"]
FLOOD = int(os.environ.get("STORE_DEPLOY_FLOOD", "1000"))
"""Doorbells of the flood."""


@pytest.fixture(scope="module")
def hostile(site):
    minion = enemy.Hostile()
    yield minion
    minion.channel.close()


@pytest.fixture(scope="module")
def told(site):
    """Deploy store calm; return the true reports of its minions, by function."""
    site.describe("hv-calm", "calm")
    site.start_hypervisors("hv-calm")
    with site.events("salt/job/") as heard:
        site.begin("calm")
        site.deployed("calm")
    # Nobody forges its bells, so that an honest one can be told from them.
    site.describe("hv-honest", "honest")
    site.begin("honest")
    assert site.salt_run("cancel", "honest").status == 0
    site.ended("honest")
    return {data["fun"]: data["return"] for tag, data in heard if "/ret/" in tag}


def condition(site, store):
    """What no forged word about a store may change."""
    minion = f"store-{store}"
    # A ready event has the hypervisor asked what it has.
    store_site.until(lambda: not site.record(store).candidate, 60, "it was looked at")
    record = site.record(store)
    # What a minion may have lacked is no word about the store.
    evidence = dataclasses.replace(record.evidence, mended=[])
    # When it was looked at is none, either.
    seen = {"looked": {}, "clock_s": 0, "spent_s": 0}
    return {
        "record": dataclasses.replace(record, revision=0, evidence=evidence, **seen),
        "history": site.history(store),
        "keys": site.keys(minion),
        "armed": site.armed(minion),
        "domain": store_site.run("virsh", "dumpxml", minion),
    }


def states(site, store):
    """Return the states of the store's history; what was refused is told once in each, at most."""
    history = site.history(store)
    refused = [change.state for change in history if change.reason.startswith("refused: ")]
    assert len(refused) == len(set(refused))
    return [change.state for change in history if not change.reason.startswith("refused: ")]


@contextlib.contextmanager
def answered(site, seconds=120):
    """Ring as an honest minion does after what is done here, and wait until all was answered."""
    with site.rings() as rung:
        yield
        # A tag that 3006 cannot read back is lost on whoever reads the bus, with what is beside it.
        ask = functools.partial(site.ask, "store-calm", "event.send", "store/honest/guest/here")
        store_site.until(functools.partial(ask, seconds=10), 60, "the honest minion rings")
        store_site.until(lambda: ("honest", 0) in rung(), seconds, "the honest bell was heard")
        store_site.until(lambda: not site.bells(), 30, "the bells were answered")


# Events.


def test_forged_events_move_nothing(site, hostile, told):
    guest, hypervisor = "store-calm", "hv-calm"
    before = condition(site, "calm")
    tags = [
        *("store/calm/guest/firstboot", "store/calm/guest/booted", "store/calm/guest/failed"),
        *("store/calm/hypervisor/ready", f"salt/minion/{hypervisor}/start"),
        *(f"salt/minion/{guest}/start", "salt/minion/hv-0815/start", "store/0815/guest/booted"),
        *("store/calm/deploy/failed", f"salt/job/20200101000000000000/ret/{guest}"),
    ]
    with answered(site):
        for tag in tags:
            hostile.fire(tag, {"id": guest, "state": "failed"})
            for minion in (guest, hypervisor):
                hostile.fire_as((tag, {"id": minion, "store": "calm", "return": {}, "ok": False}))
    assert condition(site, "calm") == before


TEXTS = {
    "newline": "x\npwned:\n  runner.test.arg:\n    - args: []",
    "jinja": "{{ salt['cmd.run']('touch /srv/pwned') }}",
    "raw": "{% endraw %}{% raw %}{{ salt['cmd.run']('touch /srv/pwned') }}",
    "yaml": "]: [\n  runner.salt.cmd: [{fun: cmd.run}, {cmd: touch /srv/pwned}]",
    "tag": "!!python/object/apply:os.system ['touch /srv/pwned']",
    "quotes": "\"'`$(touch /srv/pwned)",
    "path": "../x",
    "glob": "*",
    "list": "calm,hv-calm",
    "null": "a\0b",
    "emoji": "\N{PILE OF POO}\N{NEXT LINE}\N{LINE SEPARATOR}",
    "large": "A" * 1_000_000,
}


@pytest.fixture(params=["engine", "reactors"])
def hearing(request, master):
    """Who hears the bus; return the runners that may be begun for that."""
    if request.param == "engine":
        return set()
    master(without=["50-store-deploy-engine.conf"], **store_site.REACTORS)
    return {"runner.deploy.notify"}


def test_what_an_event_says_is_never_executed(site, hostile, told, hearing):
    before = condition(site, "calm")
    with site.events("salt/run/") as heard, answered(site):
        for text in TEXTS.values():
            data = {"id": text, "data": text, "store": text, "fun": text, "return": text}
            for tag in (
                *(f"store/{text}/guest/{text}", f"store/{text}/hypervisor/ready"),
                *(f"salt/minion/{text}/start", f"salt/job/{text}/ret/{text}"),
            ):
                hostile.fire(tag, data)
                hostile.fire_as((tag, data), (tag, {"id": data}))
    assert {data["fun"] for tag, data in heard if tag.endswith("/new")} == hearing
    assert not pathlib.Path("/srv/pwned").exists()
    assert condition(site, "calm") == before


def test_a_tag_that_salt_cannot_read_back_stops_no_bells(site, hostile, told):
    log = pathlib.Path("/var/log/salt/master")
    written = log.stat().st_size
    with answered(site, 60):
        for tag in ("store/x\n\ny/guest/z", "salt/job/x\n\ny/ret/store-calm"):
            hostile.fire(tag)
            hostile.fire_as((tag, {"id": "x"}))
    with log.open(errors="replace") as file:
        file.seek(written)
        assert "store_pump) could not be started" not in file.read()


def test_after_a_flood_of_bells_an_honest_one_is_answered(site, hostile, told):
    before = site.list(), condition(site, "calm")
    bells = [
        (f"store/s{n}/guest/y", {"id": f"m{n}"})
        if n % 2
        else (f"salt/minion/m{n}/start", {"id": f"m{n}"})
        for n in range(FLOOD)
    ]
    began = time.monotonic()
    with answered(site, seconds=60 + FLOOD // 10):
        for first in range(0, FLOOD, 100):
            hostile.fire_as(*bells[first : first + 100])
        print(f"{FLOOD} bells were rung in {time.monotonic() - began:.1f} s")
    print(f"the honest one was answered after {time.monotonic() - began:.1f} s")
    assert (site.list(), condition(site, "calm")) == before


# Job returns.


def question(site, heard, store, minion):
    """Return the job that the deployment has under way at a minion, once it was published."""

    def asked():
        job = site.record(store).job
        published = job and any(tag == f"salt/job/{job.jid}/new" for tag, _ in list(heard))
        return job if published and job.minion == minion else None

    return store_site.until(asked, 60, f"{minion} is asked by store {store}")


def answer(site, hostile, heard, store, minion, function, forgeries):
    """
    Answer in the minion's name, each forgery a question of its own.

    heard
        Events of the jobs.
    forgeries
        Functions that make a return, and its return code, of the question's job ID.
    """
    for number, forgery in enumerate(forgeries):
        way = enemy.WAYS[number % len(enemy.WAYS)]
        while (job := question(site, heard, store, minion)).function != function:
            # It is asked to get what an honest minion may lack.
            hostile.return_as(minion, job, True, way)
            looked_at(site, store, job)
        value, retcode = forgery(job.jid)
        hostile.return_as(minion, job, value, way, retcode)
        looked_at(site, store, job)
        hostile.fire_as((f"salt/minion/{minion}/start", {"id": minion}))


def looked_at(site, store, job):
    def over():
        now = site.record(store).job
        return now is None or now.jid != job.jid

    store_site.until(over, 60, f"the return of {job.function} was looked at")


def lies(store, true, other):
    """Return what is sent instead of the true report, with its return code."""
    mine = {**true, "store": store, "nonce": "", "seal": ""}
    return {
        "no seal": lambda jid: ({**mine, "nonce": jid}, 0),
        "a made-up seal": lambda jid: ({**mine, "nonce": jid, "seal": "0" * 64}, 0),
        "sealed with a guess": lambda jid: (report.sealed(mine, jid, "guess"), 0),
        "failed": lambda jid: ({**mine, "ok": False, "error": "x", "nonce": jid}, 1),
        "another store's": lambda jid: (other, 0),
        "another store's for this question": lambda jid: ({**other, "nonce": jid}, 0),
        "true once": lambda jid: (true, 0),
        "true once, for this question": lambda jid: ({**true, "nonce": jid}, 0),
        "a crooked return code": lambda jid: ({**mine, "nonce": jid}, "none"),
        "code": lambda jid: (TEXTS["jinja"], ["x"]),
        "large": lambda jid: ({**mine, "error": TEXTS["large"]}, None),
        "no data": lambda jid: (None, 0),
    }


IN_GUEST = ("no seal", "failed", "another store's", "true once", "true once, for this question")


def test_a_deployment_under_attack_takes_its_way(site, hostile, told):
    site.describe("hv-attacked", "attacked")
    site.start_hypervisors("hv-attacked")
    guest = "store-attacked"
    with site.events("salt/job/") as heard:
        with enemy.frozen(site.hypervisors["hv-attacked"].process):
            site.begin("attacked")
            facts = told["store_hypervisor.facts"]
            forged = lies("attacked", facts, facts).values()
            function = "store_hypervisor.facts"
            answer(site, hostile, heard, "attacked", "hv-attacked", function, forged)
            assert states(site, "attacked") == PATH[:1]

        highstate = "provisioning_helper.highstate"
        site.entered("attacked", "verifying")

        def asked():
            record = site.record("attacked")
            assert record.state == "verifying"
            return record.job and record.job.function == highstate

        store_site.until(asked, 60, "the highstate is tested")
        with enemy.frozen(site.stand_ins.processes[guest]):
            (true,) = [
                data["return"]
                for tag, data in heard
                if tag.endswith(f"/ret/{guest}") and data["fun"] == highstate
            ]
            # Not all of them: each question is a highstate that the guest runs afterwards.
            lied = [lies("attacked", true, told[highstate])[name] for name in IN_GUEST]
            answer(site, hostile, heard, "attacked", guest, highstate, lied)
            assert states(site, "attacked") == PATH[: PATH.index("finishing")]
    record = site.deployed("attacked")
    assert states(site, "attacked") == PATH
    assert len(site.history("attacked")) > len(PATH), "the history tells that reports were refused"
    # Two of each MEND_AGAIN + 2 are answered with what an honest minion may lack, and not counted.
    uncounted = 2 * (2 + (len(forged) + len(lied)) // MEND_AGAIN)
    assert record.evidence.refused["count"] >= len(forged) + len(lied) - uncounted


def test_no_return_is_taken_under_another_id(site, hostile, told):
    """Salt itself refuses that; all of the above would be worth little otherwise."""
    jid = "20200101000000000000"
    load = {"jid": jid, "fun": "test.ping", "return": True, "retcode": 0}
    with site.events("salt/job/") as heard:
        with pytest.raises(salt.exceptions.AuthenticationError):
            hostile.send_as("store-calm", "_return", **load)
        hostile.send("_return", **load)
        own = lambda: [tag for tag, _ in heard if jid in tag]  # noqa: E731
        store_site.until(own, 30, "the return under the own ID is there")
    assert own() == [f"salt/job/{jid}/ret/hostile"]


# A guest's ID.


def test_who_calls_first_by_the_guests_name_gets_nothing(site):
    site.describe("hv-raced", "raced")
    site.start_hypervisors("hv-raced")
    site.stand_ins.absent.add("store-raced")
    site.begin("raced")
    site.entered("raced", "booting")
    caller = enemy.Caller("store-raced")
    # Nobody looks after it now: all that it can get, it gets.
    with contextlib.ExitStack() as stack:
        lock = lambda: engine.locked(store_site.STATE_DIR / "locks", "raced")  # noqa: E731
        store_site.until(lambda: stack.enter_context(lock()), 30, "the store's lock is ours")
        assert site.armed("store-raced")
        given = caller.call()
        assert site.keys("store-raced") == {"minions": caller.public_key}
    assert given == {}
    record = site.ended("raced")
    assert (record.state, record.failed_in) == ("failed", "booting")
    assert record.reason.startswith("intrusion: ")
    assert not site.keys("store-raced")
    assert caller.call() is None
    assert site.keys("store-raced") == {"minions_pre": caller.public_key}


def test_where_the_key_is_pinned_nobody_else_is_let_in(site):
    site.describe("hv-pinned", "pinned", admission="pinned")
    site.start_hypervisors("hv-pinned")
    caller = enemy.Caller("store-pinned")
    with enemy.frozen(site.hypervisors["hv-pinned"].process):
        site.begin("pinned")
        assert caller.call() is None
        assert site.keys("store-pinned") == {"minions_pre": caller.public_key}
    site.entered("pinned", "starting")
    assert caller.call() is None
    site.deployed("pinned")
    assert caller.call() is None
    assert site.keys("store-pinned")["minions"] != caller.public_key
    assert site.ask("store-pinned", "test.ping")
