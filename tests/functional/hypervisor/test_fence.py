# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Orders that come late, on a real libvirt: each is refused, and the server of the day stays whole.

What the rules are is in unit/test_orders.py; here they are kept, by each step, in each state.
"""

import contextlib
import json
import os
import pathlib
import signal
import threading

import libvirt
import pytest
from on_hypervisor import GIB

from storelib import orders
from storelib.hypervisor import domains, fence

pytestmark = pytest.mark.thorough

PATH = ("stage", "prepare", "clear", "define", "start", "finish")
"""What one deployment orders, in its order."""

ENDS = {"discard": ("discard",), "restore": ("clear", "restore"), "retire": ("retire",)}
"""What is ordered, as another attempt, when a deployment is cancelled, rolled back, retired."""

GUEST = "store-0815"


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """No system runs in these guests that would shut down; their firmware is still at the drive."""
    monkeypatch.setattr(domains, "SHUTDOWN_S", 0)
    monkeypatch.setattr(domains, "EJECT_S", 60)


@pytest.fixture
def act(modules, connection, spec):
    """Give an order of a deployment (1, 2, ..), and return the report."""

    def act(step, number=2, attempt=1, replaces=None, after=None, deployment="", **arguments):
        if step in ("prepare", "define"):
            arguments["master_public_key"] = "MASTER"
        if step == "retire":
            arguments |= {"remove": True, "data_disks": True}
        if step == "restore":
            arguments |= {"of": 1}
        if step == "prune":
            arguments = {"remove": True, "older_than_s": 0, **arguments}
        replaces = [f"g{number - 1}-d"] if replaces is None else replaces
        ours = deployment or f"g{number}-d"
        order = orders.made(ours, attempt, replaces, after or (attempt, step))
        return modules[f"store_hypervisor.{step}"](
            spec=spec, generation=number, order=order, **arguments
        )

    return act


@pytest.fixture
def went(act):
    """Carry out a deployment as far as that step."""

    def went(number, last="finish", **how):
        for step in PATH[: PATH.index(last) + 1]:
            made = act(step, number, **how)
            assert made["ok"], made["error"]
        return made["facts"]

    return went


@pytest.fixture
def stands(act, went):
    """Let deployment 2 stand at that step, over deployment 1."""

    def stands(present):
        went(1)
        went(2, present if present in PATH else "start")
        for step in ENDS.get(present, ()):
            made = act(step, attempt=2)
            assert made["ok"], made["error"]

    return stands


def seen(pool):
    """What there is, from outside: domains with state and definition, files with their inodes."""
    with libvirt.open("qemu:///system") as anew:
        domains = {
            domain.name(): (domain.state(), domain.ID(), domain.autostart(), domain.XMLDesc())
            for domain in anew.listAllDomains()
        }
    files = {
        str(path): (path.stat().st_ino, path.stat().st_size)
        for path in sorted(pool.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
    return domains, files


def note():
    """The hypervisor's note of the store."""
    return fence.NOTES / pathlib.Path("/etc/machine-id").read_text().strip() / "0815.json"


def is_refused(made):
    assert made["ok"] is False
    assert made["facts"]["behind"] is True
    assert "has gone on: noted is" in made["error"]
    assert "deploy.adopt 0815" in made["hint"]
    return True


@pytest.mark.parametrize("present", [*PATH, *ENDS])
def test_no_order_of_the_deployment_before_is_carried_out(act, stands, pool, present):
    stands(present)
    before = seen(pool)
    for late in orders.STEPS:
        assert is_refused(act(late, 1, replaces=[], after=(9, "retire")))
        assert is_refused(act(late, 1, attempt=2, replaces=[], after=(9, "retire")))
    assert seen(pool) == before
    assert GUEST in before[0] or present in ("clear", "discard", "retire")


@pytest.mark.parametrize("end", ENDS)
def test_no_order_from_before_its_end_is_carried_out(act, stands, pool, end):
    stands(end)
    before = seen(pool)
    for late in PATH:
        assert is_refused(act(late))
        assert is_refused(act(late, after=(9, "retire")))
    assert seen(pool) == before
    assert (GUEST in before[0]) is (end == "restore")


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_is_ordered_twice_changes_nothing(act, stands, pool, end):
    stands(end)
    before = seen(pool)
    made = act(end, attempt=2)
    assert made["ok"], made["error"]
    assert seen(pool) == before


@pytest.mark.parametrize("present", PATH[1:])
def test_no_earlier_order_of_the_same_deployment_is_carried_out(act, went, pool, present):
    went(1)
    went(2, present)
    before = seen(pool)
    for late in PATH[: PATH.index(present)]:
        assert is_refused(act(late))
    assert seen(pool) == before


@pytest.mark.parametrize("present", PATH[1:])
def test_an_order_that_comes_twice_changes_nothing(act, went, pool, present):
    went(1)
    went(2, present)
    before = seen(pool)
    made = act(present)
    assert made["ok"], made["error"]
    assert seen(pool) == before


@pytest.mark.parametrize("present", PATH)
def test_after_a_retry_no_order_of_the_attempt_before_is_carried_out(act, went, pool, present):
    went(1)
    went(2, present)
    assert act(present, attempt=2)["ok"]
    before = seen(pool)
    for late in (*PATH, "discard"):
        assert is_refused(act(late))
    assert seen(pool) == before


@pytest.mark.parametrize("known", PATH[:-1])
def test_a_ledger_from_a_backup_neither_cancels_nor_repeats_what_went_on(act, went, pool, known):
    went(1)
    went(2)
    before = seen(pool)
    for step in ("discard", *PATH):
        assert is_refused(act(step, attempt=2, after=(1, known)))
    # Nor does it begin anew over a deployment that it does not know.
    assert is_refused(act("stage", 3, replaces=["g1-d"]))
    assert is_refused(act("retire", 3, replaces=["g1-d"]))
    assert seen(pool) == before


def test_a_lost_ledger_does_not_begin_over_a_server_that_it_does_not_know(act, went, pool):
    went(1)
    before = seen(pool)
    assert is_refused(act("stage", 7, replaces=[]))
    note().unlink()
    made = act("stage", 7, replaces=[])
    assert not made["ok"]
    assert "there is a server of deployment g1-d and no note of it" in made["error"]
    assert seen(pool) == before


def test_a_retired_store_leaves_a_note(act, went, pool):
    went(1)
    assert act("retire")["ok"]
    for late in PATH:
        assert is_refused(act(late, 1, after=(9, "retire")))
    assert GUEST not in seen(pool)[0]
    went(3)


def test_a_note_that_cannot_be_read_is_not_taken_for_none(act, went, pool, modules, spec):
    went(1)
    path = note()
    path.write_text("{")
    before = seen(pool)
    made = act("stage")
    assert not made["ok"]
    assert str(path) in made["error"]
    assert seen(pool) == before
    assert modules["store_hypervisor.adopt"](spec=spec, generation=1)["ok"]
    assert json.loads(path.read_text())["deployment"] == "g1-d"
    went(2)


@pytest.mark.parametrize(
    "late",
    [
        {"number": 1, "replaces": [], "after": (9, "retire")},
        {"number": 1, "replaces": [], "after": (1, "finish"), "attempt": 2},
        {"after": (1, "finish")},
        {"after": (2, "stage"), "attempt": 2},
    ],
    ids=["another deployment", "its retry", "another attempt", "another step"],
)
def test_only_who_knows_how_far_the_store_is_prunes(act, went, pool, late):
    went(1)
    went(2)
    for step in PATH[:2]:
        assert act(step, attempt=2)["ok"]
    before, noted = seen(pool), note().read_text()
    assert is_refused(act("prune", **late))
    assert act("prune", remove=False, **late)["facts"]["removed"] == []
    assert seen(pool) == before
    made = act("prune", attempt=2, after=(2, "prepare"))
    assert made["ok"], made["error"]
    (gone,) = made["facts"]["removed"]
    assert gone["path"] not in map(os.path.dirname, seen(pool)[1])
    assert note().read_text() == noted


def test_adopting_notes_whose_the_server_is_and_changes_no_note(act, went, pool, modules, spec):
    went(1)
    path = note()
    noted, before = json.loads(path.read_text()), seen(pool)
    assert modules["store_hypervisor.adopt"](spec=spec, generation=1)["ok"]
    assert json.loads(path.read_text()) == noted
    path.unlink()
    made = modules["store_hypervisor.adopt"](spec=spec, generation=1)
    assert made["facts"]["note"]["deployment"] == made["facts"]["domain"]["deployment"] == "g1-d"
    assert seen(pool) == before


def test_a_server_from_before_deployments_had_ids_is_known_by_its_number(act, went, connection):
    went(1)
    domain = connection.lookupByName(GUEST)
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace(' id="g1-d"', "")
    connection.defineXML(text)
    note().unlink()
    assert not act("stage", 7, replaces=["g3"])["ok"]
    assert act("stage", replaces=["g1"])["ok"]
    assert act("clear", replaces=["g1"])["ok"]


@pytest.mark.parametrize("then", ["define", "discard"])
def test_a_definition_that_was_begun_before_deployments_had_ids_is_known_by_its_number(
    act, place, then
):
    """As a define of then leaves it that is killed while it clones the disk."""
    assert act("stage", deployment="g2")["ok"]
    place.intent.parent.mkdir(parents=True, exist_ok=True)
    place.intent.write_text(json.dumps({"store": "0815", "generation": 2}))
    place.disk.write_text("half a disk")
    made = act(then, deployment="g2")
    assert made["ok"], made["error"]
    assert not place.intent.exists()
    if then == "define":
        assert made["facts"]["disk"]["virtual_size"] == 2 * GIB
    else:
        assert (made["facts"]["left"], place.disk.exists()) == ([], False)


# Jobs that are stopped in mid-step and go on later


@contextlib.contextmanager
def stopped(monkeypatch, where, call):
    """Run ``call`` in a process that stops itself, before ``where`` does its work."""
    module, name = where
    real = getattr(module, name)

    def stops(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGSTOP)
        return real(*args, **kwargs)

    read, write = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            setattr(module, name, stops)
            os.write(write, json.dumps(call()).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)

    def goes_on():
        os.kill(child, signal.SIGCONT)
        with open(read) as told:
            answer = json.loads(told.read())
        os.waitpid(child, 0)
        return answer

    yield goes_on


@pytest.mark.parametrize("late", PATH[1:])
def test_a_job_that_was_stopped_before_it_began_and_goes_on_later_is_refused(
    act, went, pool, monkeypatch, late
):
    went(1)
    went(2, PATH[PATH.index(late) - 1])
    with stopped(monkeypatch, (fence, "at"), lambda: act(late)) as goes_on:
        for step in PATH[PATH.index(late) :]:
            assert act(step, attempt=2)["ok"]
        before = seen(pool)
        assert is_refused(goes_on())
    assert seen(pool) == before


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("late", ["define", "start"])
def test_a_job_that_was_stopped_before_its_deployment_was_given_up_is_refused(
    act, went, pool, monkeypatch, late, end
):
    went(1)
    went(2, PATH[PATH.index(late) - 1])
    with stopped(monkeypatch, (fence, "at"), lambda: act(late)) as goes_on:
        for step in ENDS[end]:
            made = act(step, attempt=2)
            assert made["ok"], made["error"]
        before = seen(pool)
        assert is_refused(goes_on())
    assert seen(pool) == before


@pytest.mark.parametrize("step", PATH[1:])
def test_nobody_acts_while_a_job_is_stopped_in_the_midst(act, went, pool, monkeypatch, step):
    went(1)
    went(2, PATH[PATH.index(step) - 1])
    made = []
    rest = threading.Thread(
        target=lambda: made.extend(act(each, attempt=2) for each in PATH[PATH.index(step) :])
    )
    with stopped(monkeypatch, (fence, "put"), lambda: act(step)) as goes_on:
        rest.start()
        before = seen(pool)
        rest.join(1)
        assert rest.is_alive()
        assert seen(pool) == before
        assert goes_on()["ok"]
        rest.join(60)
    assert [each["error"] for each in made] == [""] * len(PATH[PATH.index(step) :])
    assert seen(pool)[0][GUEST][0][0] == libvirt.VIR_DOMAIN_RUNNING
