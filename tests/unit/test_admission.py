# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whoever takes the guest's place is locked out."""

import pytest
from fake_master import (
    GUEST,
    HYPERVISOR,
    PILLAR,
    deployed,
    failed,
    pem,
    ran,
)
from scenes import (
    intrude,
)


@pytest.mark.parametrize("admission", ["autosign", "pinned"])
@pytest.mark.parametrize("state", ["starting", "booting"])
def test_an_accepted_key_that_is_not_the_guests_is_revoked_and_an_intrusion(
    master, state, admission
):
    master.calls = False
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": admission}}
    intrude(master, state)
    record = failed(master, state, "intrusion: the key that was accepted for store-0815")
    assert master.keys(GUEST) == {}
    assert "pinned" in record.next_action
    assert "provisioning_helper.boots" not in ran(master)


def test_who_gets_in_while_a_late_deployment_ends_is_an_intruder_too(master):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.away.add(HYPERVISOR)
    master.run(until=lambda record: "late" in record.evidence)
    assert not master.armed(GUEST)
    master.known_keys[GUEST] = {"accepted": pem("intruder")}
    record = failed(master, "booting", "booting was not over after 15 min: ")
    assert "; intrusion: the key that was accepted for store-0815" in record.reason
    assert master.keys(GUEST) == {}


def test_a_key_is_compared_as_a_key_not_as_text(master):
    master.instead["store_hypervisor.define"] = lambda value: {
        **value,
        "facts": {**value["facts"], "public_key": value["facts"]["public_key"].strip()},
    }
    deployed(master)


def test_a_machine_that_only_knocks_is_named_and_not_let_in(master):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.known_keys[GUEST] = {"rejected": pem("intruder")}
    failed(master, "booting", "another machine calls itself store-0815: its key is rejected")
    assert master.keys(GUEST) == {"rejected": pem("intruder")}
