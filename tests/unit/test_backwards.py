# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Back to the server that was set aside, and away with all of them.

Master, hypervisor and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses

import pytest
from fake_master import (
    GUEST,
    HYPERVISOR,
    PILLAR,
    deployed,
    failed,
    not_ok,
    pem,
    ran,
    told,
    with_facts,
)

from storelib.errors import Refused
from storemaster.deployment import requests
from storemaster.deployment.master_api import ACCEPTED

OLD, NEW = pem("guest of deployment 1"), pem("guest of deployment 2")


def now(master):
    return master.ledger.get("0815")


def rollback(master):
    return requests.rollback(master.ledger, master.time, now(master))


@pytest.fixture
def replaced(master):
    """A master whose store has its second server."""
    deployed(master)
    deployed(master, redeploy=True)
    assert master.keys(GUEST) == {ACCEPTED: NEW}
    return master


def test_the_set_aside_server_runs_again_with_its_own_key(replaced):
    assert rollback(replaced).state == "queued"
    record = replaced.run()
    assert (record.state, record.generation) == ("deployed", 3), record.reason
    assert told(replaced)[-3:] == ["queued", "rolling_back", "deployed"]
    assert replaced.keys(GUEST) == {ACCEPTED: OLD}
    assert replaced.facts["domain"]["generation"] == 1
    assert replaced.facts["domain"]["state"] == "running"
    assert record.evidence.public_key == OLD
    assert [each["generation"] for each in replaced.facts["set_asides"]] == [2]
    assert set(record.asides) == {"2"}


def test_the_key_that_is_replaced_goes_while_no_guest_runs(replaced):
    rollback(replaced)
    replaced.run()
    acts = [act for act in replaced.acts if "store-0815" in act or act.startswith("run store_hyp")]
    assert acts[-5:] == [
        *("run store_hypervisor.clear", "run store_hypervisor.restore"),
        *("purge store-0815", "accept store-0815", "run store_hypervisor.start"),
    ]


def test_a_second_rollback_brings_the_newer_server_back(replaced):
    rollback(replaced)
    replaced.run()
    rollback(replaced)
    assert replaced.run().state == "deployed"
    assert replaced.keys(GUEST) == {ACCEPTED: NEW}


def test_a_redeployment_after_a_rollback_can_be_rolled_back(replaced):
    rollback(replaced)
    replaced.run()
    replaced.begin(redeploy=True)
    replaced.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    failed(replaced, "configuring", "a state failed")
    rollback(replaced)
    assert replaced.run().state == "deployed"
    assert replaced.keys(GUEST) == {ACCEPTED: OLD}


@pytest.mark.parametrize("function", ["store_hypervisor.clear", "provisioning_helper.highstate"])
def test_a_failed_redeployment_is_rolled_back_wherever_it_failed(master, function):
    deployed(master)
    master.begin(redeploy=True)
    master.instead[function] = not_ok("it broke")
    assert master.run().state == "failed"
    master.instead.clear()
    rollback(master)
    assert master.run().state == "deployed"
    assert master.keys(GUEST) == {ACCEPTED: OLD}


def test_a_cancelled_redeployment_is_rolled_back(master):
    deployed(master)
    master.begin(redeploy=True)
    master.run(until=lambda record: record.state == "booting")
    requests.cancel(master.ledger, master.time, now(master))
    assert master.run().state == "cancelled"
    rollback(master)
    assert master.run().state == "deployed"
    assert master.keys(GUEST) == {ACCEPTED: OLD}


@pytest.mark.parametrize("verb", ["retry", "rollback"])
def test_a_rollback_that_failed_goes_on_to_the_same_server(replaced, verb):
    rollback(replaced)
    replaced.instead["store_hypervisor.start"] = not_ok("no memory")
    record = failed(replaced, "rolling_back", "no memory")
    assert "deploy.retry" in record.next_action or record.next_action == "mend it"
    replaced.instead.clear()
    getattr(requests, verb)(replaced.ledger, replaced.time, now(replaced))
    assert replaced.run().state == "deployed"
    assert replaced.keys(GUEST) == {ACCEPTED: OLD}


def test_a_rollback_that_never_got_its_slot_is_retried_as_one(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"queued": 600}}}
    deployed(master)
    deployed(master, redeploy=True)
    rollback(master)
    record = master.run(max_active=0)
    assert (record.state, record.failed_in) == ("failed", "rolling_back")
    requests.retry(master.ledger, master.time, record)
    assert master.run().state == "deployed"
    assert master.keys(GUEST) == {ACCEPTED: OLD}


def test_a_store_without_an_earlier_server_is_refused(master):
    before = deployed(master)
    with pytest.raises(Refused, match="no earlier server that was ever verified"):
        rollback(master)
    assert now(master) == before


@pytest.mark.parametrize("where", [{"hypervisor": "hv-old"}, {"machine_id": "scrapped"}])
def test_a_server_that_was_set_aside_elsewhere_is_refused_and_named(replaced, where):
    record = now(replaced)
    asides = {"1": {**record.asides["1"], **where}}
    before = replaced.ledger.save(dataclasses.replace(record, asides=asides))
    with pytest.raises(Refused, match=r"no set-aside server .* is on hv-0815") as refused:
        rollback(replaced)
    assert "/pool/g1" in refused.value.reason
    assert next(iter(where.values())) in refused.value.reason
    assert now(replaced) == before


def test_a_server_that_a_cancelled_deployment_had_set_aside_is_found_again(master):
    deployed(master)
    master.begin(redeploy=True)
    master.run(until=lambda record: record.state == "clearing")
    requests.cancel(master.ledger, master.time, now(master))
    assert master.run().state == "cancelled"
    assert now(master).asides == {}
    deployed(master)
    rollback(master)
    assert master.run().state == "deployed"
    assert master.keys(GUEST) == {ACCEPTED: OLD}


def test_a_good_server_is_not_given_up_for_one_that_is_nowhere(replaced):
    before = replaced.ledger.save(dataclasses.replace(now(replaced), asides={}))
    with pytest.raises(Refused, match="deployment 1 was pruned, or is on a machine"):
        rollback(replaced)
    assert now(replaced) == before


def test_a_server_that_was_taken_away_is_missed_before_anything_is_touched(replaced):
    replaced.facts["set_asides"] = []
    rollback(replaced)
    failed(replaced, "rolling_back", "hv-0815 has no set-aside server of store 0815")
    assert "store_hypervisor.clear" not in ran(replaced)[-2:]
    assert replaced.keys(GUEST) == {ACCEPTED: NEW}
    assert replaced.facts["domain"]["state"] == "running"


def test_a_rollback_can_be_held_but_not_cancelled(replaced):
    rollback(replaced)
    for _ in range(2):
        with pytest.raises(Refused, match="makes no new server to remove"):
            requests.cancel(replaced.ledger, replaced.time, now(replaced))
        if now(replaced).state == "queued":
            requests.hold(replaced.ledger, replaced.time, now(replaced))
    requests.release(replaced.ledger, replaced.time, now(replaced))
    assert replaced.run().state == "deployed"


@pytest.mark.parametrize("state", ["awaiting_hypervisor", "booting"])
def test_what_is_under_way_is_not_rolled_back_and_not_retired(master, state):
    deployed(master)
    master.begin(redeploy=True)
    before = master.run(until=lambda record: record.state == state)
    for verb in (requests.rollback, requests.retire):
        with pytest.raises(Refused, match=f"store 0815 is {state}"):
            verb(master.ledger, master.time, before)
    assert now(master) == before


# The old server is the store's until it is set aside


def test_while_a_redeployment_waits_the_old_server_keeps_its_data(master):
    deployed(master)
    master.away.add(HYPERVISOR)
    master.begin(redeploy=True)
    master.time += 100
    record = master.run(until=lambda record: record.reason != "")
    assert record.key_of(GUEST) == OLD


def test_a_stale_key_that_was_never_the_stores_gives_nothing(master):
    master.known_keys[GUEST] = {ACCEPTED: pem("somebody")}
    master.begin()
    record = master.run(until=lambda record: record.state == "defining")
    assert record.key_of(GUEST) == ""
    assert record.evidence.old_public_key == pem("somebody")


def test_once_it_is_set_aside_the_old_key_gives_nothing(master):
    deployed(master)
    master.begin(redeploy=True)
    record = master.run(until=lambda record: record.state == "defining")
    assert record.key_of(GUEST) == ""


# retire


@pytest.mark.parametrize("data_disks", [False, True])
def test_a_store_is_retired_with_all_its_servers_and_keys(replaced, data_disks):
    requests.retire(replaced.ledger, replaced.time, now(replaced), data_disks)
    record = replaced.run()
    assert (record.state, record.due, record.deadline) == ("retired", None, None), record.reason
    assert replaced.keys(GUEST) == {}
    assert not replaced.up
    assert replaced.facts["set_asides"] == []
    removed = [each["path"] for each in record.evidence.retired["removed"]]
    assert removed == ["/pool/g1", GUEST]
    assert bool(record.evidence.retired["kept"]) is not data_disks
    assert told(replaced)[-2:] == ["retiring", "retired"]


def test_a_retired_store_can_be_deployed_again(replaced):
    requests.retire(replaced.ledger, replaced.time, now(replaced))
    replaced.run()
    assert deployed(replaced).generation == 3


def test_a_failed_removal_is_gone_on_with_by_the_verb_as_it_was_said(replaced):
    replaced.instead["store_hypervisor.retire"] = not_ok("no libvirt")
    requests.retire(replaced.ledger, replaced.time, now(replaced), data_disks=True)
    record = failed(replaced, "retiring", "no libvirt")
    assert record.next_action.endswith("salt-run deploy.retire 0815 data_disks=True remove=True")


@pytest.mark.parametrize("way", ["retry", "release", "begin again"])
def test_what_goes_on_in_another_way_is_another_attempt(master, way):
    """By its attempt a hypervisor tells a late order from one of now."""
    master.begin()
    master.run(until=lambda record: record.state == "defining")
    before = now(master).attempt
    if way == "retry":
        master.instead["store_hypervisor.define"] = not_ok("it broke")
        requests.retry(master.ledger, master.time, failed(master, "defining", "it broke"))
        master.instead.clear()
    elif way == "release":
        requests.release(
            master.ledger, master.time, requests.hold(master.ledger, master.time, now(master))
        )
    else:
        key = pem("the hypervisor, installed anew")
        master.hypervisor_key = master.known_keys[HYPERVISOR][ACCEPTED] = key
    assert master.run().state == "deployed", now(master).reason
    ordered = [
        master.functions(f"store_hypervisor.{step}")[-1]["order"]["attempt"]
        for step in ("prepare", "finish")
    ]
    assert ordered == ([before + 1] * 2 if way == "begin again" else [before, before + 1])
    assert now(master).attempt == before + 1


def test_what_could_not_be_removed_is_named_and_retire_can_be_said_again(replaced):
    left = [{"what": "disk", "path": "/pool/store-0815.qcow2"}]
    replaced.instead["store_hypervisor.retire"] = with_facts(left=left)
    requests.retire(replaced.ledger, replaced.time, now(replaced))
    record = failed(replaced, "retiring", "not be removed: hv-0815: /pool/store-0815.qcow2")
    assert record.evidence.cleanup_failed == ["hv-0815: /pool/store-0815.qcow2"]
    assert record.next_action.endswith("salt-run deploy.retire 0815 remove=True")
    with pytest.raises(Refused, match="cannot be taken back"):
        requests.cancel(replaced.ledger, replaced.time, record)
    replaced.instead.clear()
    requests.retire(replaced.ledger, replaced.time, record)
    assert replaced.run().state == "retired"


@pytest.mark.parametrize("verb", [requests.cancel, requests.retire])
def test_a_hypervisor_that_never_comes_back_is_named_as_not_cleaned_up(master, verb):
    state = {requests.cancel: "cancelling", requests.retire: "retiring"}[verb]
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {state: 3600}}}
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    if verb is requests.retire:
        master.run()
    # Its guest runs on, but does not call.
    master.calls = False
    master.away.add(HYPERVISOR)
    verb(master.ledger, master.time, now(master))
    record = master.run()
    assert (record.state, record.failed_in) == ("failed", state)
    assert record.evidence.cleanup_failed == ["hv-0815: whatever it has of store-0815"]
    assert master.keys(GUEST) == {}
