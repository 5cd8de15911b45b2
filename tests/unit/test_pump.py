# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A round of the pump: whatever happens to one store, the others have their turn.

Master, hypervisors and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import pytest
from fake_master import HYPERVISOR, PILLAR, deployed, not_ok, pem

from storelib import flow, report
from storelib.errors import Refused
from storelib.master import asking, office
from storelib.spec import from_pillar
from storelib.turn import Waiting
from storelib.world import ACCEPTED


@pytest.fixture
def opts(tmp_path):
    return {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}


@pytest.fixture(autouse=True)
def _clock(master, monkeypatch):
    """The pump's clock is the stub's."""
    monkeypatch.setattr(office.time, "time", lambda: master.time)


def test_a_store_that_cannot_even_fail_stops_no_other_and_is_tried_again_later(
    master, opts, monkeypatch
):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    other = from_pillar({**PILLAR, "store": "0816"}, "hv-0816")
    flow.begin(master.books, master.time, other, "hv-0816", "operator")
    fail = flow._fail

    def broken(*_):
        raise AttributeError("not foreseen")

    monkeypatch.setattr(flow, "_fail", broken)
    while master._later:
        master.wait(master.time + 100)
    states = office.reconcile(opts, master, sweep=True)
    assert states == {"0816": "awaiting_hypervisor"}
    assert master.books.get("0815").due == master.time + office.PUT_OFF_S
    monkeypatch.setattr(flow, "_fail", fail)
    master.time += office.PUT_OFF_S
    assert office.reconcile(opts, master, sweep=False)["0815"] == "failed"


def test_of_many_ready_hypervisors_a_few_are_looked_at_in_each_round(master, opts):
    names = [f"hv-{number}" for number in range(office.READY_AT_ONCE + 3)]
    looks = []
    master.store_server = looks.append
    for name in names:
        master.known_keys[name] = {ACCEPTED: pem(name)}
        master.books.ring(name, master.time, ready=True)
        master.time += 1
    master.books.ring("store-quick", master.time)
    office.reconcile(opts, master, sweep=False)
    assert looks == names[: office.READY_AT_ONCE]
    assert [bell.name for bell in master.books.rung()] == names[office.READY_AT_ONCE :]
    office.reconcile(opts, master, sweep=False)
    assert looks == names


@pytest.fixture
def pruned(master, monkeypatch):
    """Prune on the hypervisor, which says that this is what it removed."""
    deployed(master)
    deployed(master, redeploy=True)

    def pruned(path, secret):
        record = master.books.get("0815")
        facts = {"found": [], "removed": [{"path": path}], "kept": [], "left": []}
        told = report.made("0815", record.generation, "prune", facts)

        def asked_all(_master, asked):
            (_, _, arguments) = asked["0815"]
            return {"0815": report.sealed(told, arguments["nonce"], secret)}

        monkeypatch.setattr(asking, "asked_all", asked_all)
        (row,) = office._pruned(master.books, master, 0, "0815", True)
        assert row["removed"] == [{"path": path}]
        return set(master.books.get("0815").asides)

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
