# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A broken hypervisor is replaced, and no store ever has two servers that run.

Master, hypervisors and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses

import pytest
from fake_master import (
    GUEST,
    HYPERVISOR,
    PATH,
    PILLAR,
    deployed,
    failed,
    hypervisor_facts,
    not_ok,
    pem,
    ran,
    told,
)

from storelib.errors import Conflict, Fault
from storemaster.deployment import engine, new_hardware, requests, views
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import pump

NEW = "hv-new"
OTHER_MACHINE = "0" * 32
WITH_HYPERVISOR = PATH[PATH.index("staging") : PATH.index("booting")]
"""States in which the hypervisor is asked; in later ones its guest's silence ends it."""


def now(master):
    return master.ledger.get("0815")


def ready(master, minion=HYPERVISOR, auto_deploy=True):
    """Let a hypervisor say that it is ready, and do what comes of it."""
    new_hardware.note_ready(master, master.ledger, now(master), minion, auto_deploy, 50)
    for _ in range(500):
        record = engine.advance(master, master.ledger, "0815", 50)
        if not record.active and not record.candidate:
            return record
        master.wait(max(record.due, master.time + 0.25))
    raise AssertionError(f"{record.state} never ends: {record.reason}")


def new_box(master, minion=HYPERVISOR):
    """Put a machine in the place of the hypervisor, which is gone."""
    master.up = False
    master.facts = {**hypervisor_facts(), "machine_id": OTHER_MACHINE}
    master.known_keys[minion] = {ACCEPTED: pem("hypervisor")}


@pytest.fixture
def two(master):
    """A master whose store is deployed, and a second hypervisor whose pillar names the store."""
    deployed(master)
    master.known_keys[NEW] = {ACCEPTED: pem("hypervisor")}
    master.pillars[NEW] = master.pillars[HYPERVISOR]
    master.others[NEW] = {**hypervisor_facts(), "machine_id": OTHER_MACHINE}
    return master


# A new machine under the old name


def test_new_hardware_gets_the_stores_server_by_itself(master):
    deployed(master)
    new_box(master)
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", 2), record.reason
    assert record.evidence.hypervisor["machine_id"] == OTHER_MACHINE
    assert record.requested_by == "event"
    assert any("new hardware" in change.reason for change in master.ledger.history("0815"))


def test_without_auto_deploy_it_is_told_what_to_type(master):
    before = deployed(master)
    new_box(master)
    record = ready(master, auto_deploy=False)
    assert (record.state, record.generation) == ("deployed", before.generation)
    told = views.explain(record, master.time, master.ledger)
    assert "new hardware" in told["offered"]
    assert "salt-run deploy.store 0815 hypervisor=hv-0815 redeploy=True" in told["you_can"][-1]


def test_a_server_whose_domain_and_disk_are_gone_is_made_anew(master):
    deployed(master)
    master.up = False
    master.facts["domain"] = {"exists": False}
    master.facts["disk"] = {**master.facts["disk"], "exists": False}
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", 2)


@pytest.mark.parametrize("left", ["domain", "disk", "libvirt", "pool"])
def test_what_is_not_provably_gone_is_left_alone(master, left):
    before = deployed(master)
    gone = {
        "domain": {"exists": False},
        "disk": {**master.facts["disk"], "exists": False},
    }
    gone.pop(left, None)
    master.facts |= gone
    if left == "libvirt":
        master.facts["libvirt"] = {**master.facts["libvirt"], "reachable": False}
        master.facts["domain"] = None
    elif left == "pool":
        master.facts["pool"] = {**master.facts["pool"], "exists": False}
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", before.generation)


def test_the_same_hypervisor_can_be_ready_as_often_as_it_likes(master):
    before = deployed(master)
    for _ in range(3):
        record = ready(master)
    assert (record.state, record.generation) == ("deployed", before.generation)
    assert told(master)[-1] == "deployed"
    assert "offered" not in record.evidence


def test_a_cancelled_store_is_not_deployed_again_by_its_own_hypervisor(master):
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    requests.cancel(master.ledger, master.time, now(master))
    master.run()
    assert ready(master).state == "cancelled"


@pytest.mark.parametrize("state", PATH[:2])
def test_a_store_that_was_cancelled_before_its_hypervisor_was_known_stays_cancelled(master, state):
    master.away.add(HYPERVISOR)
    master.begin()
    requests.cancel(master.ledger, master.time, now(master))
    assert master.run().state == "cancelled"
    master.away.clear()
    record = ready(master)
    assert (record.state, record.generation) == ("cancelled", 1)


def test_a_hypervisor_that_was_waited_for_in_vain_begins_the_deployment_when_it_is_ready(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 600}}}
    master.away.add(HYPERVISOR)
    master.begin()
    failed(master, "awaiting_hypervisor", "was not over after 10 min")
    master.away.clear()
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", 2)
    assert any("had waited" in change.reason for change in master.ledger.history("0815"))


def test_a_hypervisor_that_does_not_say_what_it_has_changes_nothing(master):
    before = deployed(master)
    new_box(master)
    master.away.add(HYPERVISOR)
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", before.generation)
    assert (record.due, record.job) == (None, None)


@pytest.mark.parametrize("state", WITH_HYPERVISOR)
def test_a_machine_that_is_replaced_in_mid_deployment_begins_again(master, state):
    master.begin()
    master.run(until=lambda record: record.state == state)
    new_box(master)
    record = master.run()
    assert (record.state, record.generation) == ("deployed", 1), record.reason
    assert told(master).count("staging") == 2
    assert record.evidence.hypervisor["machine_id"] == OTHER_MACHINE
    assert master.keys(GUEST) == {ACCEPTED: record.evidence.public_key}


@pytest.mark.parametrize("state", PATH[1:])
def test_a_key_that_an_operator_accepted_anew_begins_again(master, state):
    master.begin()
    full = {"max_active": 0} if state == "queued" else {}
    master.run(until=lambda record: record.state == state, **full)
    new_box(master)
    master.hypervisor_key = pem("new")
    master.known_keys[HYPERVISOR] = {ACCEPTED: pem("new")}
    record = master.run()
    assert (record.state, record.generation) == ("deployed", 1), record.reason
    assert record.evidence.hypervisor_key == pem("new")
    assert not master.wrong


def test_a_hypervisor_whose_key_was_taken_away_is_only_waited_for(master):
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    key = master.known_keys.pop(HYPERVISOR)
    master.run(until=lambda record: record.state == "finishing")
    master.known_keys[HYPERVISOR] = key
    assert master.run().state == "deployed"
    assert told(master).count("staging") == 1


def test_a_ready_bell_is_kept_while_another_process_has_the_store(master, tmp_path):
    deployed(master)
    new_box(master)
    opts = {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}
    master.ledger.ring(HYPERVISOR, master.time, ready=True)
    with engine.locked(tmp_path / "locks", "0815") as held:
        assert held
        pump.reconcile(opts, master, sweep=False)
        assert [bell.name for bell in master.ledger.rung()] == [HYPERVISOR]
    pump.reconcile(opts, master, sweep=False)
    assert master.ledger.rung() == []
    assert now(master).candidate["minion"] == HYPERVISOR


def test_a_ready_bell_is_kept_though_the_store_is_free_again_at_once(master, tmp_path, monkeypatch):
    deployed(master)
    new_box(master)
    opts = {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}
    master.ledger.ring(HYPERVISOR, master.time, ready=True)

    def taken(*_):
        raise Conflict("somebody else changed the record")

    monkeypatch.setattr(new_hardware, "note_ready", taken)
    pump.reconcile(opts, master, sweep=False)
    assert [bell.name for bell in master.ledger.rung()] == [HYPERVISOR]


# Another hypervisor


def test_another_hypervisor_takes_over_from_one_that_is_gone(two):
    two.away.add(HYPERVISOR)
    two.up = False
    two.facts, two.others = two.others.pop(NEW), {}
    record = ready(two, NEW)
    assert (record.state, record.hypervisor, record.generation) == ("deployed", NEW, 2)
    assert set(record.others) == {HYPERVISOR}


def test_while_the_old_one_runs_the_server_nothing_is_begun(two):
    record = ready(two, NEW)
    assert (record.state, record.hypervisor, record.generation) == ("deployed", HYPERVISOR, 1)
    assert (
        "hv-0815 still runs the store's server"
        in views.explain(record, two.time, two.ledger)["offered"]
    )


def test_an_operator_does_not_make_a_twin_either(two):
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    record = failed(two, "clearing", "hv-0815 still runs the server of store 0815")
    assert "hypervisor=hv-0815" in record.next_action
    assert two.functions("store_hypervisor.clear")[1:] == []
    two.others[HYPERVISOR]["domain"] = {**two.others[HYPERVISOR]["domain"], "state": "shut off"}
    requests.retry(two.ledger, two.time, record)
    assert two.run().state == "deployed"


@pytest.mark.parametrize("state", ["starting", "booting", "configuring"])
def test_a_retry_makes_no_twin_either(two, state):
    two.begin(redeploy=True, hypervisor=NEW)
    old, two.facts = two.facts, two.others.pop(NEW)
    two.away.add(HYPERVISOR)
    function = {
        "starting": "store_hypervisor.start",
        "booting": "provisioning_helper.boots",
        "configuring": "provisioning_helper.highstate",
    }
    two.instead[function[state]] = not_ok("it broke")
    record = failed(two, state, "it broke")
    two.instead.clear()
    two.away.clear()
    two.others[HYPERVISOR] = old
    requests.retry(two.ledger, two.time, record)
    if state == "configuring":
        # Its own guest runs already: it goes on.
        assert two.run().state == "deployed"
    else:
        failed(two, "starting", "hv-0815 still runs the server of store 0815")


def test_a_rollback_makes_no_twin_either(two):
    two.begin(redeploy=True, hypervisor=NEW)
    old, two.facts = two.facts, two.others.pop(NEW)
    two.away.add(HYPERVISOR)
    assert two.run().state == "deployed"
    two.begin(redeploy=True, hypervisor=NEW)
    assert two.run().state == "deployed"
    two.away.clear()
    two.others[HYPERVISOR] = old
    requests.rollback(two.ledger, two.time, now(two))
    failed(two, "rolling_back", "hv-0815 still runs the server of store 0815")
    assert "store_hypervisor.restore" not in ran(two)


def test_a_hypervisor_that_cannot_say_whether_it_runs_the_server_is_waited_for(two):
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    there = dict(two.others[HYPERVISOR])
    two.others[HYPERVISOR] |= {"domain": None, "libvirt": {**there["libvirt"], "why": "no socket"}}
    record = failed(two, "clearing", "hv-0815 may run the store's server and cannot say so")
    two.others[HYPERVISOR] = {**there, "domain": {**there["domain"], "state": "shut off"}}
    requests.retry(two.ledger, two.time, record)
    assert two.run().state == "deployed"


def test_who_forges_the_old_hypervisors_answer_makes_no_twin(two):
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    two.run(until=lambda record: record.state == "clearing")
    two.forged["store_hypervisor.facts"] = lambda value: {**value, "seal": "x"}
    failed(two, "clearing", "refused: hv-0815 sent a report on facts without its seal")


def test_a_redeployment_that_was_cancelled_at_once_does_not_forget_the_hypervisor(two):
    two.begin(redeploy=True)
    requests.cancel(two.ledger, two.time, now(two))
    assert two.run().state == "cancelled"
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    failed(two, "clearing", "hv-0815 still runs the server of store 0815")


def test_a_deployment_that_an_operator_moved_is_not_moved_back_by_the_old_hypervisor(two):
    key = two.known_keys.pop(NEW)
    two.begin(redeploy=True, hypervisor=NEW)
    two.run(until=lambda record: record.reason != "")
    new_hardware.note_ready(two, two.ledger, now(two), HYPERVISOR, True, 50)
    assert now(two).hypervisor == NEW
    two.known_keys[NEW] = key
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    two.others[HYPERVISOR]["domain"] = {**two.others[HYPERVISOR]["domain"], "state": "shut off"}
    record = two.run()
    assert (record.state, record.hypervisor) == ("deployed", NEW), record.reason


def test_a_queued_deployment_moves_though_no_slot_is_free(two):
    two.begin(redeploy=True)
    two.run(until=lambda record: record.state == "queued", max_active=0)
    two.known_keys.pop(HYPERVISOR)
    new_hardware.note_ready(two, two.ledger, now(two), NEW, True, 0)
    assert (now(two).state, now(two).hypervisor) == ("awaiting_hypervisor", NEW)


def test_a_former_hypervisor_that_was_installed_anew_can_take_over(two):
    two.begin(redeploy=True, hypervisor=NEW)
    two.run(until=lambda record: "hypervisor_key" in record.evidence)
    two.known_keys.pop(NEW)
    two.known_keys[HYPERVISOR] = {ACCEPTED: pem("installed anew")}
    new_hardware.note_ready(two, two.ledger, now(two), HYPERVISOR, True, 50)
    assert now(two).hypervisor == HYPERVISOR


def test_a_guest_that_is_off_is_not_started_beside_its_twin(two):
    two.begin(redeploy=True, hypervisor=NEW)
    old, two.facts = two.facts, two.others.pop(NEW)
    two.away.add(HYPERVISOR)
    two.instead["provisioning_helper.highstate"] = not_ok("it broke")
    record = failed(two, "configuring", "it broke")
    two.instead.clear()
    two.up = False
    two.facts["domain"] |= {"state": "shut off"}
    two.away.clear()
    two.others[HYPERVISOR] = old
    requests.retry(two.ledger, two.time, record)
    failed(two, "configuring", "hv-0815 still runs the server of store 0815")
    assert ran(two).count("store_hypervisor.start") == 2, "once for each deployment"


@pytest.mark.parametrize("state", ["clearing", "starting"])
def test_a_job_that_is_under_way_is_not_sent_again_after_a_hold(two, state):
    function = {"clearing": "store_hypervisor.clear", "starting": "store_hypervisor.start"}[state]
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    gone = {**two.others[HYPERVISOR]["domain"], "state": "shut off"}
    two.others[HYPERVISOR] = {**two.others[HYPERVISOR], "domain": gone}
    two.takes_s[function] = 60
    two.run(until=lambda record: record.job is not None and record.job.function == function)
    requests.hold(two.ledger, two.time, now(two))
    requests.release(two.ledger, two.time, now(two))
    assert two.run().state == "deployed"
    assert two.wrong == []


def test_a_store_that_failed_to_be_retired_is_not_deployed_by_its_hypervisor(master):
    master.pillars = {
        HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 600, "retiring": 600}}
    }
    master.away.add(HYPERVISOR)
    master.begin()
    failed(master, "awaiting_hypervisor", "was not over after 10 min")
    requests.retire(master.ledger, master.time, now(master))
    failed(master, "retiring", "was not over after 10 min")
    master.away.clear()
    assert ready(master).state == "failed"


def test_a_hypervisor_that_cannot_look_begins_no_deployment(master):
    master.facts["domain"] = {**deployed_domain(), "generation": 7}
    master.begin(by="event")
    failed(master, "awaiting_hypervisor", "it has a server of this store (deployment 7)")
    master.facts |= {"domain": None, "pool": {"path": None, "exists": False, "free_mib": 0}}
    master.facts["libvirt"] = {**master.facts["libvirt"], "reachable": False, "why": "down"}
    assert ready(master).state == "failed"


def deployed_domain():
    """A domain of the store as libvirt shows it."""
    return {"exists": True, "ours": True, "state": "running", "store": "0815"}


def test_who_cannot_be_shut_out_fails_the_deployment_on_a_replaced_machine(master):
    master.begin()
    master.run(until=lambda record: record.state == "configuring")

    def broken(_minion):
        raise Fault("the autosign file cannot be written", "mend it")

    disarm, master.disarm = master.disarm, broken
    new_box(master)
    master.hypervisor_key = pem("new")
    master.known_keys[HYPERVISOR] = {ACCEPTED: pem("new")}
    record = master.run()
    master.disarm = disarm
    assert (record.state, record.failed_in) == ("failed", "configuring")
    assert "the autosign file cannot be written" in record.reason


def test_a_machine_that_is_replaced_behind_its_guest_begins_again_at_the_deadline(master):
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    new_box(master)
    record = master.run()
    assert (record.state, record.generation) == ("deployed", 1), record.reason
    assert told(master).count("staging") == 2


def test_an_old_hypervisor_that_comes_back_does_not_get_its_store_back(two):
    two.away.add(HYPERVISOR)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    assert ready(two, NEW).hypervisor == NEW
    two.away.clear()
    record = ready(two, HYPERVISOR)
    assert (record.state, record.hypervisor, record.generation) == ("deployed", NEW, 2)
    why = record.evidence.offered["why"]
    assert "a server of the store, too (deployment 1, running); the store's is on hv-new" in why


def test_a_hypervisor_that_has_a_server_of_the_store_is_never_new(two):
    two.begin(redeploy=True, hypervisor=NEW)
    two.others[HYPERVISOR], two.facts = two.facts, two.others.pop(NEW)
    failed(two, "clearing", "hv-0815 still runs the server of store 0815")
    record = ready(two, HYPERVISOR)
    assert (record.state, record.generation) == ("failed", 2)
    assert two.others[HYPERVISOR]["domain"]["state"] == "running"


def test_a_waiting_deployment_moves_to_the_hypervisor_that_is_there(two):
    two.begin(redeploy=True)
    two.known_keys.pop(HYPERVISOR)
    two.run(until=lambda record: record.reason != "")
    two.facts, two.others = two.others.pop(NEW), {}
    record = ready(two, NEW)
    assert (record.state, record.hypervisor, record.generation) == ("deployed", NEW, 2)


def test_in_mid_deployment_another_hypervisor_is_only_told(two):
    two.begin(redeploy=True)
    two.run(until=lambda record: record.state == "configuring")
    record = ready(two, NEW)
    assert (record.state, record.hypervisor) == ("deployed", HYPERVISOR)
    assert "under way on hv-0815" in record.evidence.offered["why"]


# What a stranger says


def test_an_answer_with_another_key_is_not_believed(master):
    before = deployed(master)
    new_box(master)
    master.hypervisor_key = pem("impostor")
    record = ready(master)
    assert (record.state, record.generation) == ("deployed", before.generation)
    assert record.evidence.refused["count"]
    assert record.key_of(HYPERVISOR) == pem("hypervisor")


def test_refused_reports_are_in_the_history_once_a_state(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"configuring": 600}}}
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    master.forged["provisioning_helper.highstate"] = lambda value: {**value, "seal": "x"}
    record = master.run()
    assert record.failed_in == "configuring"
    assert record.evidence.refused["count"] > 5
    lines = [change for change in master.ledger.history("0815") if "refused:" in change.reason]
    assert [change.state for change in lines[:1]] == ["configuring"]
    assert len([change for change in lines if change.state == "configuring"]) == 1
    assert told(master).count("configuring") == 1


def test_the_ledger_knows_all_hypervisors_of_a_store(two):
    new_hardware.note_ready(two, two.ledger, now(two), NEW, True, 50)
    assert [each.store for each in two.ledger.of_minion(NEW)] == ["0815"]
    two.ledger.save(dataclasses.replace(now(two), candidate={}))
    assert two.ledger.of_minion(NEW) == []
