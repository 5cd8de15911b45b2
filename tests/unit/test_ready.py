# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A hypervisor's bell is kept until it can be decided on, and acknowledged when it was.

Master, hypervisors and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses

import pytest
from fake_master import GUEST, HYPERVISOR, PILLAR, deployed, failed, hypervisor_facts, pem, waits

from storelib.errors import LedgerError, PillarError
from storemaster.deployment import engine, new_hardware, requests
from storemaster.deployment.doorbell import PUT_OFF_S
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.step_context import Waiting
from storemaster.master import pump

OTHER = "hv-0816"
"""A hypervisor that no record names."""


@pytest.fixture
def opts(tmp_path):
    return {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}


@pytest.fixture(autouse=True)
def _clock(master, monkeypatch):
    """The pump's clock is the stub's."""
    monkeypatch.setattr(pump.time, "time", lambda: master.time)


@pytest.fixture
def pumped(master, opts):
    """Have the pump look, each second for so long."""

    def looked(seconds=1):
        for _ in range(seconds):
            pump.reconcile(opts, master, sweep=False)
            master.time += 1

    return looked


@pytest.fixture
def ring(master):
    """Let a hypervisor that has an accepted key, and this pillar, say that it is ready."""

    def rung(pillar=None, minion=OTHER, **states):
        master.known_keys[minion] = states or {ACCEPTED: pem(minion)}
        if pillar is not None:
            master.pillars[minion] = {**PILLAR, "store": "0816", **pillar}
        master.ledger.ring(minion, master.time, eager=True, ready=True)

    return rung


@pytest.fixture
def broken(master):
    """Pillars that do not compile, and how often each was tried."""
    compiled, tries = master.store_server, []

    def store_server(hypervisor, *_):
        tries.append(hypervisor)
        if mended:
            return compiled(hypervisor)
        raise PillarError(f"the pillar of {hypervisor} does not compile: mapping", "mend it")

    mended = []
    master.store_server = store_server
    return tries, lambda: mended.append(True)


def bells(master):
    return [bell.name for bell in master.ledger.rung()]


def test_a_bell_is_kept_while_the_pillar_does_not_compile(master, ring, broken, pumped):
    _, mend = broken
    ring({"auto_deploy": True})
    pumped(20)
    assert bells(master) == [OTHER]
    assert master.acknowledged == []
    mend()
    pumped(20)
    assert master.ledger.get("0816").requested_by == "event"
    assert bells(master) == []
    assert master.acknowledged == [OTHER]


def test_a_pillar_that_does_not_compile_costs_less_and_less(master, ring, broken, pumped):
    tries, _ = broken
    ring({"auto_deploy": True})
    pumped(600)
    assert 5 < len(tries) < 10
    ring()
    pumped()
    assert len(tries) < 11, "rung again it is looked at again, once"


def test_a_clock_that_is_set_back_does_not_make_a_bell_wait_for_it(master, ring, broken, pumped):
    _, mend = broken
    ring({"auto_deploy": True})
    pumped()
    master.time -= 3 * 3600
    mend()
    pumped()
    assert master.ledger.get("0816")


@pytest.mark.parametrize("state", ["pending", "denied"])
def test_a_bell_is_kept_while_the_hypervisors_key_is_not_accepted(master, ring, pumped, state):
    ring({"auto_deploy": True}, **{state: pem(OTHER)})
    pumped(20)
    assert (bells(master), master.acknowledged) == ([OTHER], [])
    master.known_keys[OTHER] = {ACCEPTED: pem(OTHER)}
    pumped(20)
    assert (bells(master), master.acknowledged) == ([], [OTHER])
    assert master.ledger.get("0816")


@pytest.mark.parametrize("states", [{}, {"rejected": "a key"}], ids=["none", "rejected"])
def test_the_bell_of_whom_nobody_knows_is_neither_kept_nor_acknowledged(
    master, ring, pumped, states
):
    ring({"auto_deploy": True})
    master.known_keys[OTHER] = states
    pumped()
    assert (bells(master), master.acknowledged) == ([], [])
    assert master.ledger.get("0816") is None


REFUSED = {
    "without a store": None,
    "without auto_deploy": {"auto_deploy": False},
    "with a wrong pillar": {"auto_deploy": True, "cpus": -1},
}


@pytest.mark.parametrize("pillar", REFUSED.values(), ids=REFUSED)
def test_a_bell_that_begins_nothing_is_acknowledged_all_the_same(master, ring, pumped, pillar):
    ring(pillar)
    pumped(30)
    assert (bells(master), master.acknowledged) == ([], [OTHER])
    assert master.ledger.get("0816") is None


def test_the_bell_of_a_store_that_is_deployed_is_acknowledged(master, ring, pumped):
    deployed(master)
    ring(minion=HYPERVISOR)
    pumped(30)
    assert (bells(master), master.acknowledged) == ([], [HYPERVISOR])


def test_the_bell_of_a_retired_store_is_acknowledged(master, ring, pumped):
    deployed(master)
    requests.retire(master.ledger, master.time, master.ledger.get("0815"))
    assert master.run().state == "retired"
    ring(minion=HYPERVISOR)
    pumped(30)
    assert (bells(master), master.acknowledged) == ([], [HYPERVISOR])
    assert master.ledger.get("0815").state == "retired"


def test_the_bell_of_a_deployment_that_is_under_way_is_acknowledged(master, ring, pumped):
    master.begin()
    ring(minion=HYPERVISOR)
    pumped()
    assert (bells(master), master.acknowledged) == ([], [HYPERVISOR])


def test_no_other_bell_is_acknowledged(master, pumped):
    master.begin()
    for name in (HYPERVISOR, GUEST):
        master.ledger.ring(name, master.time, eager=True)
    pumped()
    assert (bells(master), master.acknowledged) == ([], [])


@pytest.mark.parametrize(
    "broken", [AttributeError("not foreseen"), LedgerError("a record is damaged")], ids=repr
)
def test_a_bell_that_breaks_what_looks_at_it_is_kept(master, ring, pumped, monkeypatch, broken):
    def store_server(*_):
        raise broken

    monkeypatch.setattr(master, "store_server", store_server)
    ring({"auto_deploy": True})
    pumped(20)
    monkeypatch.undo()
    monkeypatch.setattr(pump.time, "time", lambda: master.time)
    assert (bells(master), master.acknowledged) == ([OTHER], [])
    pumped(int(PUT_OFF_S[4]))
    assert (bells(master), master.acknowledged) == ([], [OTHER])


def test_a_master_that_takes_no_job_stops_nothing_for_an_acknowledgement(
    master, ring, pumped, monkeypatch
):
    def publish(*_):
        raise Waiting("the master did not take a job: timed out")

    monkeypatch.setattr(master, "publish", publish)
    ring({"auto_deploy": False})
    pumped()
    assert (bells(master), master.acknowledged) == ([], [])


# What an operator has begun


@pytest.mark.parametrize("by", ["operator", "event"])
def test_a_deployment_waits_while_the_pillar_does_not_compile(master, broken, by):
    _, mend = broken
    master.begin(by=by)
    assert waits(master, "the pillar of hv-0815 does not compile").state == "awaiting_hypervisor"
    mend()
    assert master.run().state == "deployed"


def test_a_pillar_that_never_compiles_ends_with_the_states_limit(master, broken):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 600}}}
    master.begin()
    failed(master, "awaiting_hypervisor", "was not over after 10 min")


def test_new_hardware_is_not_forgotten_while_its_pillar_does_not_compile(master, broken):
    _, mend = broken
    mend()
    record = deployed(master)
    master.up = False
    master.facts = {**hypervisor_facts(), "machine_id": "0" * 32}
    new_hardware.note_ready(master, master.ledger, record, HYPERVISOR, True, 50)
    compiles = master.store_server

    def store_server(*_):
        raise PillarError("it does not compile", "mend it")

    master.store_server = store_server
    for _ in range(100):
        record = engine.advance(master, master.ledger, "0815", 50)
        master.wait(min(record.due, master.time + 0.25))
    assert record.candidate, "it is still looked at"
    master.store_server = compiles
    until = master.time + 300
    while record.generation == 1:
        assert master.time < until
        record = engine.advance(master, master.ledger, "0815", 50)
        master.wait(record.due)
    assert record.requested_by == "event"
    assert dataclasses.asdict(record)["candidate"] == {}
