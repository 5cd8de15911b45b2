# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The history and the events name who asked, on a master that authenticates its users."""

import json
import pathlib
import subprocess
import time

import pytest
import salt.config
import store_site

from storemaster.master import heartbeat

PASSWORD = "a lab's own"
USERS = pathlib.Path("/etc/salt/lab-users")
STORE = "asked"


@pytest.fixture(scope="module")
def asked(site):
    """A store whose deployment waits for a hypervisor that never comes; sudo was said for it."""
    USERS.touch(0o600)
    USERS.write_text("".join(f"{name}:{PASSWORD}\n" for name in ("alice", "vera", "nora")))
    site.master.kill()
    told = {name: [{"@runner": ["deploy.*"]}] for name in ("alice", "vera", "nora")}
    site.master.start(
        external_auth={"file": {"^filename": str(USERS), **told}},
        store_deploy={
            "roles": {
                "alice": "operator",
                "vera": "viewer",
                "nora": {"role": "operator", "groups": ["north"]},
            },
            "two_persons": ["cancel"],
        },
    )
    site.describe("hv-nowhere", STORE)
    with site.events(f"store/{STORE}/deploy/") as heard:
        typed("deploy.store", f"store={STORE}", "hypervisor=hv-nowhere", "wait=False", sudo="carol")
        store_site.until(lambda: heard, 60, "its event")
    yield heard
    site.master.kill()
    site.master.start()
    # If the last of the tests has not done it: on this master one person is enough.
    site.salt_run("cancel", STORE)
    site.ended(STORE)


def typed(*argv, sudo="", options=(), status=0):
    """Run salt-run to this exit status, and return what it printed."""
    done = subprocess.run(
        ["salt-run", "--out=json", *options, *argv],
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
        env={**store_site.ENVIRONMENT, **({"SUDO_USER": sudo} if sudo else {})},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def authenticated(*argv, user="alice", status=0):
    options = ["--auth=file", f"--username={user}", f"--password={PASSWORD}"]
    return json.loads(typed(*argv, options=options, sudo="mallory", status=status))


def refused(*argv, user="alice"):
    """Return why a verb is refused."""
    return authenticated(*argv, user=user, status=1)["error"]


def last(site):
    return site.history(STORE)[-1]


def test_who_said_sudo_asked_for_the_deployment(site, asked):
    (tag, data), *_ = asked
    assert tag == f"store/{STORE}/deploy/awaiting_hypervisor"
    assert (data["actor"], data["way"]) == ("carol", "salt-run")
    (row,) = [each for each in site.salt_run("history", STORE).answer if each["actor"]]
    assert (row["actor"], row["way"]) == ("carol", "salt-run")


def test_whom_the_master_has_authenticated_is_named_and_no_argument_says_otherwise(site, asked):
    authenticated("deploy.note", f"store={STORE}", "text=ticket 4711", "__user__=mallory")
    change = last(site)
    told = (change.reason, change.actor, change.way, change.state)
    assert told == ("note: ticket 4711", "alice", "api", "awaiting_hypervisor")
    authenticated("deploy.hold", f"store={STORE}", "__pub_user=mallory")
    assert (last(site).state, last(site).actor) == ("held", "alice")


@pytest.mark.parametrize("forged", ["actor=mallory", "user=mallory", "way=clock"])
def test_an_argument_that_would_name_another_is_refused(site, asked, forged):
    before = site.history(STORE)
    told = refused("deploy.note", f"store={STORE}", "text=x", forged)
    assert told.startswith("deploy.note: got an unexpected keyword argument")
    assert site.history(STORE) == before


def test_without_the_password_nothing_is_written(site, asked):
    before = site.history(STORE)
    options = ["--auth=file", "--username=alice", "--password=guessed"]
    told = typed("deploy.note", f"store={STORE}", "text=x", options=options)
    assert "uthentication failure" in told
    assert site.history(STORE) == before


@pytest.mark.parametrize(
    ("user", "said", "why"),
    [
        ("vera", ["deploy.cancel"], "vera may not say deploy.cancel: the role is viewer"),
        ("alice", ["deploy.retire", "remove=True"], "alice may not say deploy.retire"),
        ("alice", ["deploy.advance"], "alice may not say deploy.advance"),
        ("nora", ["deploy.cancel"], f"store {STORE} is none of nora's"),
        ("nora", ["deploy.store", "hypervisor=hv-nowhere"], "nora has some of the stores, and"),
    ],
)
def test_what_a_role_may_not_do_is_refused_by_the_master(site, asked, user, said, why):
    before = site.history(STORE)
    assert why in refused(said[0], f"store={STORE}", *said[1:], user=user)
    assert site.history(STORE) == before


def test_bells_and_rounds_are_nobodys(site, asked):
    told = refused("deploy.reconcile")
    assert told == "alice may not say deploy.reconcile: the role is operator"
    assert authenticated("deploy.notify", f"store={STORE}") is False


def test_who_has_some_stores_learns_nothing_of_the_others(site, asked):
    for verb in ("status", "plan", "store"):
        for store in (STORE, "askde"):
            told = authenticated(f"deploy.{verb}", f"store={store}", user="nora", status=1)
            assert told["error"] == f"store {store} is none of nora's"
            assert told["hint"] == "ask one who has it"


def test_a_list_shows_what_is_ones_own(site, asked):
    assert STORE in [row["store"] for row in authenticated("deploy.list", user="vera")]
    assert authenticated("deploy.list", user="nora") == []
    told = authenticated("deploy.explain", f"store={STORE}", user="vera")
    assert [each for each in told["you_can"] if "watch it" not in each] == []


def test_the_masters_own_schedule_is_not_limited(site, asked):
    opts, now = salt.config.master_config("/etc/salt/master"), time.time()
    store_site.until(lambda: heartbeat.last(opts, heartbeat.SWEEPER)[0] > now, 90, "a sweep")


def test_another_person_has_to_agree_where_two_are_wanted(site, asked):
    waits = authenticated("deploy.cancel", f"store={STORE}")
    number = waits["request"]
    assert site.record(STORE).state == "held"
    (line,) = site.salt_run("explain", STORE).answer["waits_for_another_person"]
    assert number in line
    said = ["deploy.approve", f"store={STORE}", f"request={number}"]
    assert refused(*said) == "alice asked for it, and another person has to agree"
    assert refused(*said, user="nora") == f"store {STORE} is none of nora's"
    told = json.loads(typed(*said, sudo="carol"))
    assert (told["store"], told["state"]) == (STORE, "cancelling")
    by = {row.state: row.actor for row in site.history(STORE)}
    assert by["cancelling"] == "carol"
    site.ended(STORE)
    assert json.loads(typed(*said, sudo="carol", status=1))["error"].startswith("no request ")
