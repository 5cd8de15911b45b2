# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The old server is touched last, and for how long the store is without one is known.

Master, hypervisor and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses

import pytest
from fake_master import (
    BOOTS_IN_S,
    GUEST,
    HYPERVISOR,
    OFF_FOR_S,
    PILLAR,
    deployed,
    failed,
    not_ok,
    pem,
    ran,
)

from storelib.errors import Fault
from storemaster.deployment import requests, views
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.spec import from_pillar

OLD = pem("guest of deployment 1")


def now(master):
    return master.ledger.get("0815")


@pytest.fixture
def redeploying(master):
    """A master whose store's server runs, and is about to be replaced."""
    deployed(master)
    master.acts.clear()
    master.begin(redeploy=True)
    return master


def the_old_server_runs(master):
    assert "store_hypervisor.clear" not in ran(master)
    assert master.facts["domain"]["state"] == "running"
    assert master.keys(GUEST) == {"accepted": OLD}
    assert master.up


# What fails, fails before


def test_all_that_can_fail_is_tried_before_the_old_server_is_touched(redeploying):
    redeploying.run()
    acts = [act for act in redeploying.acts if not act.endswith((".facts", ".boots"))]
    assert acts[:5] == [
        "run store_hypervisor.stage",
        "rewrite autosign",
        "run store_hypervisor.prepare",
        "run store_hypervisor.clear",
        "purge store-0815",
    ]
    assert redeploying.acts.count("rewrite autosign") == 1


def test_what_cannot_be_prepared_fails_while_the_old_server_runs(redeploying):
    redeploying.instead["store_hypervisor.prepare"] = not_ok("libvirt refuses: 300 CPUs")
    failed(redeploying, "preparing", "libvirt refuses: 300 CPUs")
    the_old_server_runs(redeploying)


def test_an_autosign_file_that_cannot_be_written_fails_while_the_old_server_runs(redeploying):
    def broken():
        raise Fault("the autosign file cannot be written: Read-only file system", "mend it")

    redeploying.rewrite_autosign = broken
    record = failed(redeploying, "preparing", "the autosign file cannot be written")
    assert record.next_action.startswith("mend it, then: ")
    assert "store_hypervisor.prepare" not in ran(redeploying)
    the_old_server_runs(redeploying)
    del redeploying.rewrite_autosign
    requests.retry(redeploying.ledger, redeploying.time, record)
    assert redeploying.run().state == "deployed"
    assert "rewrite autosign" in redeploying.acts


def test_where_nobody_will_be_admitted_by_it_the_autosign_file_is_not_tried(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": "pinned"}}
    deployed(master)
    assert "rewrite autosign" not in master.acts


def test_what_was_lost_while_the_deployment_waited_is_found_while_the_old_server_runs(redeploying):
    redeploying.run(until=lambda record: record.state == "queued", max_active=0)
    redeploying.nobody_looks(3600)
    redeploying.facts["sources_missing"] = ["bridge br0"]
    record = failed(redeploying, "preparing", "hv-0815: bridge br0 does not exist")
    the_old_server_runs(redeploying)
    redeploying.facts["sources_missing"] = []
    requests.retry(redeploying.ledger, redeploying.time, record)
    assert redeploying.run().state == "deployed"


def test_until_the_old_server_is_set_aside_its_key_is_the_stores(redeploying):
    record = redeploying.run(until=lambda record: record.state == "clearing")
    assert record.key_of(GUEST) == OLD


def test_what_was_prepared_is_removed_by_a_cancel(redeploying):
    redeploying.lost["store_hypervisor.prepare"] = 1
    redeploying.run(until=lambda record: redeploying.prepared)
    requests.cancel(redeploying.ledger, redeploying.time, now(redeploying))
    assert redeploying.run().state == "cancelled"
    assert redeploying.prepared is None
    the_old_server_runs(redeploying)


# A deployment that began before an update


@pytest.fixture(params=["clearing", "defining"])
def updated(redeploying, request):
    """The same, in a state behind ``preparing``, which there was not yet when it began."""
    redeploying.run(until=lambda record: record.state == request.param)
    redeploying.prepared = None
    redeploying.ledger._db.execute(
        "DELETE FROM history WHERE generation = 2 AND state = 'preparing'"
    )
    return redeploying


def test_a_deployment_that_was_past_preparing_before_an_update_goes_on(updated):
    record = updated.run()
    assert record.state == "deployed", record.reason


def test_a_deployment_that_was_past_preparing_before_an_update_is_cancelled(updated):
    requests.cancel(updated.ledger, updated.time, now(updated))
    assert updated.run().state == "cancelled"
    assert ran(updated)[-1] == "store_hypervisor.discard"


# The outage


def entered(master, state):
    changes = [each for each in master.ledger.history("0815") if each.state == state]
    return changes[-1]


def test_the_outage_lasts_from_the_old_servers_end_to_the_new_ones_first_boot(redeploying):
    record = redeploying.run()
    outage_s = record.evidence.outage_s
    began, ended = entered(redeploying, "clearing").at, entered(redeploying, "rebooting")
    assert BOOTS_IN_S < outage_s <= ended.at - began + OFF_FOR_S
    assert ended.reason == f"the store was without a server for {outage_s} s"
    assert views.record(record)["evidence"]["outage_s"] == outage_s
    assert "old_ended_at" not in views.record(record)["evidence"]
    assert record.outage_s == outage_s


def test_where_no_server_ran_there_is_no_outage(master):
    assert "outage_s" not in deployed(master).evidence
    master.facts["domain"]["state"] = "shut off"
    assert "outage_s" not in deployed(master, redeploy=True).evidence


def test_the_outage_of_a_deployment_that_failed_goes_on_until_a_server_boots(redeploying):
    redeploying.instead["store_hypervisor.start"] = not_ok("no memory")
    failed(redeploying, "starting", "no memory")
    redeploying.instead.clear()
    redeploying.takes_s["store_hypervisor.stage"] = 1000
    redeploying.begin()
    assert redeploying.run().evidence.outage_s > 1000


def test_the_last_outage_is_remembered_until_there_is_another(redeploying):
    first = redeploying.run().outage_s
    redeploying.begin(redeploy=True)
    record = redeploying.run(until=lambda record: record.state == "clearing")
    assert record.outage_s == first
    assert "outage_s" not in record.evidence
    redeploying.takes_s["store_hypervisor.start"] = 100
    assert redeploying.run().outage_s > first


def test_where_none_was_measured_no_outage_is_expected(master):
    record = deployed(master)
    expected = views.expected_outage(record, master.ledger.all())
    assert expected["outage_s_expected"] is None
    assert "measured" in expected["outage_expected"]


def test_the_outage_that_is_expected_is_the_stores_last_one_or_the_median_of_the_others(
    redeploying,
):
    record = redeploying.run()
    others = [
        dataclasses.replace(record, evidence=Evidence(outage_s=seconds))
        for seconds in (10.0, 30.0, 50.0)
    ]
    new = dataclasses.replace(record, evidence=Evidence())
    expected = [
        views.expected_outage(this, others)["outage_s_expected"] for this in (record, new, None)
    ]
    assert expected == [record.outage_s, 30.0, 30.0]


@pytest.mark.parametrize(("waits_s", "asked"), [(5, 1), (3600, 2)])
def test_a_hypervisor_is_judged_once_more_if_the_deployment_waited_since(master, waits_s, asked):
    master.begin()
    master.run(until=lambda record: record.state == "queued", max_active=0)
    master.nobody_looks(waits_s)
    assert master.run(until=lambda record: record.state == "clearing").state == "clearing"
    assert len(master.functions("store_hypervisor.facts")) == asked


def test_a_plan_is_told_what_a_request_would_be_told(master):
    deployed(master)
    wanted = from_pillar(PILLAR, HYPERVISOR)

    def refused(redeploy):
        old = master.ledger.get("0815")
        told = (master.ledger, master.time, old, "0815", wanted.minion_id, redeploy)
        return list(requests.refusals(*told))

    (deployed_already,) = refused(redeploy=False)
    assert "store 0815 is deployed" in str(deployed_already)
    assert "redeploy=True" in deployed_already.hint
    assert refused(redeploy=True) == []
    master.begin(redeploy=True)
    for redeploy in (False, True):
        (under_way,) = refused(redeploy)
        assert "of store 0815 is under way" in str(under_way)
