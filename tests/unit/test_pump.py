# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A round of the pump: whatever happens to one store, the others are advanced.

Master, hypervisors and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses
import threading

import pytest
from fake_master import HYPERVISOR, PILLAR, deployed, not_ok, pem

from storelib import report
from storelib.errors import Refused
from storemaster.deployment import failing, requests
from storemaster.deployment.doorbell import Ring
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.spec import from_pillar
from storemaster.deployment.step_context import Waiting
from storemaster.master import asking, operator_requests, pump


@pytest.fixture
def opts(tmp_path):
    return {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}


@pytest.fixture(autouse=True)
def _clock(master, monkeypatch):
    """The pump's clock is the stub's."""
    monkeypatch.setattr(pump.time, "time", lambda: master.time)


def test_a_store_that_cannot_even_fail_stops_no_other_and_is_tried_again_later(
    master, opts, monkeypatch
):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    other = from_pillar({**PILLAR, "store": "0816"}, "hv-0816")
    requests.begin(master.ledger, master.time, other, "hv-0816", "operator")
    fail = failing.fail

    def broken(*_):
        raise AttributeError("not foreseen")

    monkeypatch.setattr(failing, "fail", broken)
    while master._later:
        master.wait(master.time + 100)
    states = pump.reconcile(opts, master, sweep=True)
    assert states == {"0816": "awaiting_hypervisor"}
    assert master.ledger.get("0815").due == master.time + pump.PUT_OFF_S
    monkeypatch.setattr(failing, "fail", fail)
    master.time += pump.PUT_OFF_S
    assert pump.reconcile(opts, master, sweep=False)["0815"] == "failed"


def test_an_operator_who_gives_a_slot_back_wakes_who_waits_for_it(master, opts):
    """Whatever becomes of the cancelling itself: its hypervisor may be away for days."""
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    other = from_pillar({**PILLAR, "store": "0816"}, "hv-0816")
    record = requests.begin(master.ledger, master.time, other, "hv-0816", "operator")
    master.ledger.save(dataclasses.replace(record, state="queued"))
    one = {"store_deploy": {**opts["store_deploy"], "max_active": 1}}
    assert master.ledger.next_in_queue(1) == []
    record = operator_requests.change(one, "0815", requests.cancel)
    assert record.state == "cancelling"
    assert {bell.name for bell in master.ledger.rung()} == {"0815", "0816"}


def test_of_many_ready_hypervisors_a_few_are_looked_at_in_each_round(master, opts):
    names = [f"hv-{number}" for number in range(pump.READY_AT_ONCE + 3)]
    looks = []
    master.store_server = looks.append
    for name in names:
        master.known_keys[name] = {ACCEPTED: pem(name)}
        master.ledger.ring(name, master.time, ready=True)
        master.time += 1
    master.ledger.ring("store-quick", master.time)
    pump.reconcile(opts, master, sweep=False)
    assert looks == names[: pump.READY_AT_ONCE]
    assert [bell.name for bell in master.ledger.rung()] == names[pump.READY_AT_ONCE :]
    pump.reconcile(opts, master, sweep=False)
    assert looks == names


def test_a_slot_that_was_given_back_and_woke_nobody_is_found_by_the_sweep(master, opts):
    """Whoever gave it back was killed before it could ring."""
    other = from_pillar({**PILLAR, "store": "0816"}, HYPERVISOR)
    first = requests.begin(master.ledger, master.time, other, HYPERVISOR, "operator")
    first = master.ledger.save(dataclasses.replace(first, state="staging", due=None))
    master.begin()
    master.run(until=lambda record: record.state == "queued" and "slots" in record.reason)
    master.ledger.save(dataclasses.replace(first, state="deployed"))
    assert rung(master) == []
    assert pump.reconcile(opts, master, sweep=False) == {}
    assert pump.reconcile(opts, master, sweep=True)["0815"] != "queued"


def rung(master):
    return [bell.name for bell in master.ledger.rung()]


# What the engine keeps open


@pytest.fixture
def pumping(master, opts, monkeypatch):
    """The engine's pump, with a list of the statements that it has the ledger do."""
    monkeypatch.setattr(pump, "SaltMaster", lambda _: master)
    made = pump.Pump(opts)
    statements = []

    class Traced(pump.Ledger):
        def __init__(self, *how):
            super().__init__(*how)
            statements.append("open")
            self._db.set_trace_callback(statements.append)

        def close(self):
            super().close()
            statements.append("close")

    monkeypatch.setattr(pump, "Ledger", Traced)
    return made, statements


def test_all_bells_of_a_round_are_rung_and_answered_with_two_commits(master, pumping):
    deployed(master)
    pumped, statements = pumping
    rings = [Ring("0815", "store-0815"), Ring("0815", HYPERVISOR), Ring(None, HYPERVISOR)]
    assert pumped.ring(rings) is True
    pumped.round()
    assert statements.count("COMMIT") == 2
    assert master.ledger.rung() == []


def test_bells_of_what_no_store_has_write_nothing(master, pumping):
    deployed(master)
    pumped, statements = pumping
    rings = [Ring("0", "till-1"), Ring(None, "till-2"), Ring(None, "till-3", eager=False)]
    assert pumped.ring(rings) is False
    assert statements[0] == "open"
    assert not [each for each in statements if each.startswith(("BEGIN", "INSERT", "DELETE"))]


def test_the_ledger_stays_open_while_there_is_work_and_is_given_back_then(
    master, pumping, monkeypatch
):
    deployed(master)
    pumped, statements = pumping
    now = [100.0]
    monkeypatch.setattr(pump.time, "monotonic", lambda: now[0])
    for _ in range(3):
        now[0] += pump.OPEN_S
        pumped.ring([Ring("0815", None)])
        pumped.round()
    assert (statements.count("open"), statements.count("close")) == (1, 0)
    pumped.round()
    assert "close" not in statements
    now[0] += pump.OPEN_S
    pumped.round()
    assert statements[-1] == "close"


def test_after_a_fault_the_ledger_is_opened_anew(master, pumping, monkeypatch):
    pumped, statements = pumping
    monkeypatch.setattr(pump.Ledger, "rung", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pumped.round()
    monkeypatch.undo()
    assert statements[-1] == "close"
    pumped.round()


# Several stores at once


@pytest.fixture
def beside(opts, monkeypatch):
    """The engine's pump with stores that are due, each of which is advanced by a stub."""
    monkeypatch.setattr(pump, "SaltMaster", Threaded)
    made = pump.Pump(opts)

    def beside(stores, advance):
        with pump.Ledger(pump.settings.ledger_path(opts)) as ledger:
            for store in stores:
                spec = from_pillar({**PILLAR, "store": store}, f"hv-{store}")
                requests.begin(ledger, 1.0, spec, f"hv-{store}", "operator")
        monkeypatch.setattr(pump, "advance", advance)
        return made.round()

    return beside


class Threaded:
    """A master that is only told apart from others."""

    def __init__(self, _):
        pass

    def beside(self):
        return Threaded(None)


def test_while_one_store_waits_for_the_master_others_advance(beside):
    """Each in a thread with a ledger and a master of its own."""
    together, used = threading.Barrier(3, timeout=30), set()

    def advance(_opts, master, ledger, store, _eager):
        used.add((id(master), id(ledger), threading.get_ident()))
        together.wait()
        return ledger.get(store)

    states = beside(["01", "02", "03"], advance)
    assert states == dict.fromkeys(["01", "02", "03"], "awaiting_hypervisor")
    assert [len(set(each)) for each in zip(*used, strict=True)] == [3, 3, 3]


def test_what_breaks_in_one_of_them_stops_no_other(beside):
    def advance(_opts, _master, ledger, store, _eager):
        if store == "02":
            raise AttributeError("not foreseen")
        return ledger.get(store)

    assert set(beside(["01", "02", "03"], advance)) == {"01", "03"}


@pytest.fixture
def pruned(master, monkeypatch):
    """Prune on the hypervisor, which says that this is what it removed."""
    deployed(master)
    deployed(master, redeploy=True)

    def pruned(path, secret):
        record = master.ledger.get("0815")
        facts = {"found": [], "removed": [{"path": path}], "kept": [], "left": []}
        told = report.made("0815", record.generation, "prune", facts)

        def asked_all(_master, asked):
            (_, _, arguments) = asked["0815"]
            return {"0815": report.sealed(told, arguments["nonce"], secret)}

        monkeypatch.setattr(asking, "asked_all", asked_all)
        (row,) = operator_requests._pruned(master.ledger, master, 0, "0815", True)
        assert row["removed"] == [{"path": path}]
        return set(master.ledger.get("0815").asides)

    return pruned


def test_what_was_pruned_is_no_server_to_go_back_to(master, pruned):
    secret = master.secret(HYPERVISOR, master.hypervisor_key)
    assert pruned("/pool/elsewhere", secret) == {"1"}
    assert pruned("/pool/g1", secret) == set()


def test_who_says_without_a_seal_what_was_pruned_changes_no_record(pruned):
    assert pruned("/pool/g1", "a stranger's") == {"1"}


def test_a_master_that_takes_no_job_is_told_in_a_sentence(master):
    def publish(*_):
        raise Waiting("the master did not take a job: timed out")

    master.publish = publish
    with pytest.raises(Refused, match="the master did not take a job") as refused:
        asking.asked(master, HYPERVISOR, "store_hypervisor.facts", {})
    assert refused.value.hint
