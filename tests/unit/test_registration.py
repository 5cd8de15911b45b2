# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""When Uyuni is asked, what waits for it, and what is left of its keys."""

import pytest
from fake_master import HYPERVISOR, PILLAR, deployed, failed, pem, ran, with_facts

from storelib.errors import Fault
from storemaster.deployment import requests, verbs
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.step_context import Waiting


@pytest.fixture
def asked(master):
    """The store's server is to be known to Uyuni."""
    master.pillars = {HYPERVISOR: {**PILLAR, "registration": "reactivation"}}
    return master


def test_without_a_choice_uyuni_is_left_alone(master):
    deployed(master)
    assert master.uyuni == []


def test_uyuni_is_ready_before_anything_is_touched_and_its_keys_are_deleted_in_the_end(asked):
    record = deployed(asked)
    assert list(dict.fromkeys(asked.uyuni)) == ["arrange 0815", "forget 0815"]
    assert asked.uyuni.count("arrange 0815") == 1
    assert record.spec["registration"] == "reactivation"
    for step in ("prepare", "define"):
        (order,) = asked.functions(f"store_hypervisor.{step}")
        assert order["registration"] == ["management_key"], "the name, not the key"


def test_a_uyuni_that_is_away_delays_and_is_told(asked):
    asked.uyuni_says = [Waiting("Uyuni does not answer", 30)] * 3
    asked.begin()
    record = asked.run(until=lambda record: record.reason.startswith("Uyuni does not answer"))
    assert record.state == "awaiting_hypervisor"
    assert set(ran(asked)) <= {"store_hypervisor.facts"}
    assert asked.run().state == "deployed"


def test_a_refusal_fails_the_deployment_before_anything_is_touched(asked):
    asked.uyuni_says = [Fault("Uyuni refuses system.getMinionIdMap", "mend it")]
    asked.begin()
    failed(asked, "awaiting_hypervisor", "Uyuni refuses")
    assert set(ran(asked)) <= {"store_hypervisor.facts"}


def test_a_hypervisor_whose_pillar_lacks_a_key_is_waited_for(asked):
    lacking = iter([with_facts(waits="its pillar has no management_key yet")] * 2)
    asked.instead["store_hypervisor.prepare"] = lambda value: next(lacking, dict)(value)
    asked.begin()
    record = asked.run(until=lambda record: "its pillar has no" in record.reason)
    assert (record.state, record.reason) == (
        "preparing",
        "hv-0815: its pillar has no management_key yet",
    )
    assert asked.run().state == "deployed"


def test_new_hardware_gets_a_key_of_its_own(asked):
    asked.begin()
    asked.run(until=lambda record: record.state == "configuring")
    asked.uyuni.clear()
    asked.known_keys[HYPERVISOR] = {ACCEPTED: pem("another machine")}
    asked.run(until=lambda record: record.state == "awaiting_hypervisor")
    assert asked.uyuni[:1] == ["forget 0815"]


def test_keys_that_are_still_among_the_grains_fail_the_deployment(asked):
    kept = ["activation_key"]
    asked.instead["provisioning_helper.cleanup"] = with_facts(registration=kept)
    asked.begin()
    failed(asked, "finishing", "bootstrap data is still in store-0815: activation_key in the grain")


def test_a_guest_that_was_given_no_keys_may_have_its_own(master):
    kept = ["activation_key"]
    master.instead["provisioning_helper.cleanup"] = with_facts(registration=kept)
    deployed(master)


def test_a_cancelled_deployment_leaves_no_key(asked):
    asked.begin()
    asked.run(until=lambda record: record.state == "booting")
    requests.cancel(asked.ledger, asked.now(), asked.ledger.get("0815"))
    assert asked.run().state == "cancelled"
    assert asked.uyuni == ["arrange 0815", "forget 0815"]


@pytest.mark.parametrize("uyuni", [False, True])
def test_a_retired_store_leaves_uyuni_on_request(asked, uyuni):
    record = deployed(asked)
    asked.uyuni.clear()
    asked.uyuni_says = [Waiting("Uyuni is asked", 3)] * 2 if uyuni else []
    requests.retire(asked.ledger, asked.now(), record, uyuni=uyuni)
    assert asked.run().state == "retired"
    assert asked.uyuni == ["end 0815"] * (3 if uyuni else 0) + ["forget 0815"]


def test_who_is_refused_by_uyuni_is_told_the_whole_command(asked):
    record = deployed(asked)
    asked.uyuni_says = [Fault("Uyuni refuses system.deleteSystem", "mend it")]
    requests.retire(asked.ledger, asked.now(), record, uyuni=True)
    record = failed(asked, "retiring", "Uyuni refuses")
    assert verbs.again(record) == "salt-run deploy.retire 0815 uyuni=True remove=True"
