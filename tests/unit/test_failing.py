# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What fails a deployment, when its time is over, and what is told of it then."""

import dataclasses
import multiprocessing
import signal

import pytest
from fake_master import (
    HYPERVISOR,
    PATH,
    PILLAR,
    deployed,
    failed,
    not_ok,
    ran,
    report_of,
    told,
    with_facts,
)

from storelib.errors import Fault, LedgerError
from storemaster.deployment import engine, lifecycle, transition
from storemaster.deployment.times import lasting

# Faults


FAULTS = {
    "store_hypervisor.stage": ("staging", "the image answers 404"),
    "store_hypervisor.prepare": ("preparing", "the hypervisor refuses the new server"),
    "store_hypervisor.clear": ("clearing", "the old disk cannot be moved"),
    "store_hypervisor.define": ("defining", "the disk is full"),
    "store_hypervisor.start": ("starting", "the domain did not start in 5 attempts"),
    "provisioning_helper.boots": ("booting", "this guest is of another deployment"),
    "provisioning_helper.highstate": ("configuring", "the state till-pkg failed"),
    "provisioning_helper.settle": ("restarting", "eth0 has no configuration"),
    "provisioning_helper.probe": ("verifying", "port 22 does not answer"),
    "provisioning_helper.cleanup": ("finishing", "a path could not be removed"),
    "store_hypervisor.finish": ("finishing", "the seed is still there"),
}


@pytest.mark.parametrize("function", FAULTS)
def test_a_fault_that_a_minion_reports_is_the_reason_of_the_failure(master, function):
    state, error = FAULTS[function]
    master.instead[function] = not_ok(error, "mend it so")
    master.begin()
    record = failed(master, state, error)
    assert record.reason == error
    assert record.next_action == (
        "mend it so, then: salt-run deploy.retry 0815, or, if you changed the pillar: "
        "salt-run deploy.store 0815"
    )
    assert told(master)[-1] == "failed"
    assert master.events[-1][1]["reason"] == error
    assert master.ledger.history("0815")[-1].reason == error


FACTS = {
    "image of another checksum": ("store_hypervisor.stage", "staging", {"image": {"sha256": "0"}}),
    "nothing prepared": ("store_hypervisor.prepare", "preparing", {"disk": {"exists": False}}),
    "prepared disk of another size": (
        "store_hypervisor.prepare",
        "preparing",
        {"disk": {"exists": True, "virtual_size": 1, "backing": None}},
    ),
    "no prepared key": ("store_hypervisor.prepare", "preparing", {"public_key": None}),
    "trial still there": ("store_hypervisor.prepare", "preparing", {"trial": "store-0815+trial"}),
    "domain still there": ("store_hypervisor.clear", "clearing", {"domain": {"exists": True}}),
    "disk still there": ("store_hypervisor.clear", "clearing", {"disk": {"exists": True}}),
    "no domain": ("store_hypervisor.define", "defining", {"domain": {"exists": False}}),
    "domain of another deployment": (
        "store_hypervisor.define",
        "defining",
        {"domain": {"exists": True, "ours": True, "generation": 9}},
    ),
    "disk of another size": (
        "store_hypervisor.define",
        "defining",
        {"disk": {"virtual_size": 1, "backing": None}},
    ),
    "disk that needs the image": (
        "store_hypervisor.define",
        "defining",
        {"disk": {"virtual_size": 20 * 1024**3, "backing": "/pool/5e.qcow2"}},
    ),
    "no key": ("store_hypervisor.define", "defining", {"public_key": None}),
    "bootstrap data left": ("provisioning_helper.cleanup", "finishing", {"left": ["/etc/x"]}),
}


@pytest.mark.parametrize(("function", "state", "facts"), FACTS.values(), ids=FACTS)
def test_facts_are_believed_more_than_the_word_ok(master, function, state, facts):
    master.instead[function] = with_facts(**facts)
    master.begin()
    failed(master, state, "")


def test_a_transfer_of_an_earlier_attempt_is_waited_for_and_told(master):
    master.instead["store_hypervisor.stage"] = with_facts(waits="another job brings the image")
    master.begin()
    record = master.run(until=lambda record: "brings" in record.reason)
    assert record.reason == f"{HYPERVISOR}: another job brings the image"
    del master.instead["store_hypervisor.stage"]
    assert master.run().state == "deployed"


def test_a_disk_without_the_image_behind_it_is_not_the_cow_clone_that_was_asked_for(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "clone": "cow"}}
    assert deployed(master).evidence.disk["backing"]
    disk = {"virtual_size": 20 * 1024**3, "backing": None}
    master.instead["store_hypervisor.define"] = with_facts(disk=disk)
    master.begin(redeploy=True)
    failed(master, "defining", "is not what was asked for")


def test_a_probe_that_passes_in_the_end_is_a_good_one(master):
    answers = iter([not_ok("refused")] * 4)
    master.instead["provisioning_helper.probe"] = lambda value: next(answers, dict)(value)
    deployed(master)
    assert ran(master).count("provisioning_helper.probe") == 5


def test_a_probe_is_tried_five_times_and_its_results_stay(master):
    results = [{"check": {"tcp": 22}, "ok": False, "detail": "refused"}]
    master.instead["provisioning_helper.probe"] = report_of(
        ok=False, error="refused", hint="mend it", facts={"results": results}
    )
    master.begin()
    record = failed(master, "verifying", "refused")
    assert ran(master).count("provisioning_helper.probe") == 5
    # As README says of evidence: all that failed, not only the first one that the reason names.
    assert record.evidence.failure == {"results": results}


@pytest.mark.parametrize("test", [False, True], ids=["configuring", "verifying"])
def test_a_highstate_whose_pillar_is_not_whole_yet_is_waited_for(master, test):
    """On Uyuni the guest is not registered yet, or its database is away; else somebody mends it."""
    lacking = report_of(
        ok=False, error="Pillar failed to render", hint="mend", facts={"not_yet": True}
    )
    answers = iter([lacking] * 3)

    def answered(value):
        mine = value["facts"]["changed"] == (0 if test else 3)
        return next(answers, dict)(value) if mine else value

    master.instead["provisioning_helper.highstate"] = answered
    record = deployed(master)
    assert ran(master).count("provisioning_helper.highstate") == 2 + 3
    assert record.evidence.failure is None
    state = "verifying" if test else "configuring"
    told = {c.reason for c in master.ledger.history("0815") if c.state == state}
    assert told, state


def test_a_pillar_that_is_never_whole_fails_a_deployment_at_the_states_deadline(master):
    master.instead["provisioning_helper.highstate"] = report_of(
        ok=False, error="Pillar failed to render", hint="mend", facts={"not_yet": True}
    )
    master.begin()
    failed(master, "configuring", "Pillar failed to render")


# Deadlines


def silent_hypervisor(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 3600}}}
    master.away.add(HYPERVISOR)


def never_calls(master):
    master.calls = False


def never_comes_back(master):
    master.comes_back = False


def dies_in_the_highstate(master):
    master.takes_s["provisioning_helper.highstate"] = 10**9


LATE = {
    "hypervisor that never answers": (silent_hypervisor, "awaiting_hypervisor", 3600),
    "guest that never calls": (never_calls, "booting", 15 * 60),
    "guest that never comes back": (never_comes_back, "rebooting", 10 * 60),
    "highstate that never ends": (dies_in_the_highstate, "configuring", 60 * 60),
}


@pytest.mark.parametrize(("happens", "state", "limit_s"), LATE.values(), ids=LATE)
def test_what_takes_too_long_fails_at_the_deadline(master, happens, state, limit_s):
    happens(master)
    master.begin()
    record = failed(master, state, f"{state} was not over after {lasting(limit_s)}: ")
    entered = [c.at for c in master.ledger.history("0815") if c.state == state]
    assert entered[0] + limit_s <= record.since <= entered[0] + limit_s + 60


def test_the_pillar_may_set_the_deadline(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"booting": 77}}}
    master.calls = False
    master.begin()
    failed(master, "booting", "booting was not over after 77 s: store-0815 has not called yet")


@pytest.mark.parametrize("function", ["store_hypervisor.stage", "provisioning_helper.highstate"])
def test_what_was_not_foreseen_is_told_and_ended_by_the_deadline(master, function):
    publish = master.publish

    def failing(jid, minion, name, arguments):
        if name == function:
            raise ZeroDivisionError("nobody thought of this")
        publish(jid, minion, name, arguments)

    master.publish = failing
    master.begin()
    state = FAULTS[function][0]
    failed(
        master, state, f"{state} was not over after {lasting(lifecycle.STATES[state].limit_s)}: "
    )
    del master.publish


def test_an_unforeseen_exception_is_the_reason_while_it_lasts_and_no_longer(master):
    keys = master.keys
    master.begin()
    master.run(until=lambda record: record.state == "starting")

    def broken(minion):
        raise ZeroDivisionError("nobody thought of this")

    master.keys = broken
    record = master.run(until=lambda record: record.reason)
    assert record.reason == "ZeroDivisionError: nobody thought of this"
    master.keys = keys
    assert master.run().state == "deployed"


@pytest.mark.parametrize("late", [False, True])
def test_a_deployment_fails_even_if_the_autosign_entry_cannot_be_removed_and_says_so(master, late):
    def broken(minion):
        raise Fault("the autosign file cannot be written: Read-only file system", "mend it")

    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    master.disarm = broken
    if late:
        dies_in_the_highstate(master)
    why = "configuring was not over after 1 h" if late else "a state failed"
    record = failed(master, "configuring", why)
    assert "the autosign file cannot be written" in record.reason


def test_a_bus_that_is_down_delays_events_and_nothing_else(master):
    announce = master.announce

    def broken(tag, data):
        raise OSError("no bus")

    master.announce = broken
    deployed(master)
    assert master.events == []
    master.announce = announce
    transition.announce(master, master.ledger, "0815")
    assert told(master) == [*PATH, "deployed"]


def test_a_ledger_that_cannot_be_written_for_a_while_fails_no_deployment(master):
    master.begin()
    before = master.run(until=lambda record: record.state == "staging")
    save = master.ledger.save
    errors = iter([LedgerError("the ledger cannot be used: disk full")])

    def broken(*given, **named):
        for error in errors:
            raise error
        return save(*given, **named)

    master.ledger.save = broken
    with pytest.raises(LedgerError, match="disk full"):
        engine.advance(master, master.ledger, "0815", 50)
    assert master.ledger.get("0815") == before
    assert master.run().state == "deployed"


def test_somebody_elses_change_of_the_record_ends_the_turn_and_is_not_overwritten(master):
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    publish = master.publish

    def interrupted(*given):
        master.publish = publish
        mine = master.witness.get("0815")
        master.witness.save(dataclasses.replace(mine, requested_by="mine"))
        publish(*given)

    master.publish = interrupted
    assert master.run().requested_by == "mine"


def test_probes_rest_between_two_tries_whoever_rings(master):
    """Each return and each start of the guest's minion rings, and a service may come up later."""
    master.begin()
    master.run(until=lambda record: record.state == "verifying")
    refused = not_ok("1 of 3 checks failed: connection refused")
    up_at = master.time + 40
    master.instead["provisioning_helper.probe"] = lambda made: (
        refused(made) if master.time < up_at else made
    )
    record = master.ledger.get("0815")
    while record.active:
        record = engine.advance(master, master.ledger, "0815", 50, rung=True)
        master.wait(master.time + 0.5)
    assert record.state == "deployed", record.reason
    assert 3 <= len(master.functions("provisioning_helper.probe")) <= 6


# The guest's last words


@pytest.mark.parametrize(
    ("happens", "state"),
    [
        (never_calls, "booting"),
        (never_comes_back, "rebooting"),
        (dies_in_the_highstate, "configuring"),
    ],
)
def test_a_guest_that_is_late_is_quoted(master, happens, state):
    happens(master)
    master.console = [f"line {number}" for number in range(9)] + ["", "\x1b[0mKernel panic\r"]
    master.begin()
    failed(master, state, "; its console ended with: line 6 | line 7 | line 8 | [0mKernel")
    (asked,) = master.functions("store_hypervisor.console")
    assert asked["lines"] == 5
    highstates = master.functions("provisioning_helper.highstate")
    assert len(highstates) == (state == "configuring"), "nothing is done any more but to ask"


SPEECHLESS = {
    "hypervisor away": lambda master: master.away.add(HYPERVISOR),
    "forged": lambda master: master.forged.update({"store_hypervisor.console": report_of(seal="")}),
    "not ok": lambda master: master.instead.update({"store_hypervisor.console": not_ok("no file")}),
    "strange": lambda master: master.instead.update(
        {"store_hypervisor.console": with_facts(lines=None)}
    ),
}


@pytest.mark.parametrize("happens", SPEECHLESS.values(), ids=SPEECHLESS)
def test_without_last_words_the_deployment_ends_all_the_same(master, happens):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    happens(master)
    record = failed(master, "booting", "booting was not over after 15 min: store-0815 has not")
    assert "console" not in record.reason


# The lock


def hold(folder, store, held):
    with engine.locked(folder, store) as mine:
        assert mine
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock of store 0815."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, "0815", held))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_store_that_another_process_advances_is_left_to_it(tmp_path, holder):
    with engine.locked(tmp_path, "0815") as mine:
        assert not mine
    with engine.locked(tmp_path, "0816") as mine:
        assert mine


def test_the_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    with engine.locked(tmp_path, "0815") as mine:
        assert mine


def test_the_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with engine.locked(tmp_path / "new", "0815") as mine:
            assert mine
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
