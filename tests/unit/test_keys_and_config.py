# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a guest's own configuration, and what was done by hand to the minions' keys, comes to."""

import pytest
from fake_master import GUEST, HYPERVISOR, failed, pem, ran, report_of

from storemaster.deployment import requests
from storemaster.deployment.master_api import ACCEPTED


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"master": "other.example.com"}, "master: other.example.com"),
        ({"startup_states": ""}, "startup_states: none"),
        ({"saltenv": "test"}, "saltenv: test"),
    ],
)
def test_a_guest_that_does_not_go_by_its_seed_fails_the_deployment_at_its_first_word(
    master, changed, told
):
    master.config |= changed
    master.begin()
    record = failed(master, "booting", f"store-0815 does not go by its seed, but by {told}")
    assert "take that out of the image's own minion configuration" in record.next_action
    assert record.evidence.boot_ids is None


# Keys


def by_hand(master, minion, state, autoreject=False):
    """Do to a minion's key what an operator, or the master's own rules, can do."""
    key = master.known_keys.pop(minion)[ACCEPTED]
    if state:
        master.known_keys[minion] = {state: key}
    if autoreject:
        master.autoreject.add(minion)
    if minion == GUEST:
        # It calls again, and again.
        master.later(5, master._call)


TOLD = {
    "": "{} has no key on this master any more; once it has called again: salt-key -a {}",
    "pending": "{}'s own key is pending: salt-key -a {} lets it in",
    "rejected": "{}'s own key is rejected: salt-key --include-rejected -a {} lets it in",
}


@pytest.mark.parametrize("state", TOLD)
def test_a_hypervisor_whose_key_is_gone_is_told_as_that(master, state):
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    by_hand(master, HYPERVISOR, state)
    master.away.add(HYPERVISOR)
    failed(master, "staging", TOLD[state].format(HYPERVISOR, HYPERVISOR))


@pytest.mark.parametrize("state", TOLD)
@pytest.mark.parametrize("at", ["rebooting", "configuring", "finishing"])
def test_a_guest_whose_key_is_gone_is_told_as_that_and_let_in_by_a_retry(master, at, state):
    master.begin()
    master.run(until=lambda record: record.state == at)
    by_hand(master, GUEST, state)
    # Whoever has no key calls, and waits for an operator then.
    record = failed(master, at, TOLD[state or "pending"].format(GUEST, GUEST))
    requests.retry(master.ledger, master.time, record)
    assert master.run().state == "deployed"
    assert master.keys(GUEST) == {ACCEPTED: master.guest_key}


@pytest.mark.parametrize("autoreject", [False, True])
def test_a_guest_that_is_rejected_while_it_boots_is_told_as_that_and_let_in_by_a_retry(
    master, autoreject
):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.known_keys[GUEST] = {"rejected": master.guest_key}
    if autoreject:
        master.autoreject.add(GUEST)
    by = "the master's autoreject_file names it; take it out there, then " if autoreject else ""
    told = f"store-0815's own key is rejected: {by}salt-key --include-rejected -a store-0815"
    record = failed(master, "booting", told)
    master.calls = True
    master.later(5, master._call)
    requests.retry(master.ledger, master.time, record)
    assert master.run().state == "deployed"


def test_a_retry_lets_in_nobody_elses_key(master):
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    master.known_keys[GUEST] = {"pending": pem("stranger")}
    record = failed(master, "configuring", "another machine calls itself store-0815")
    requests.retry(master.ledger, master.time, record)
    master.run(
        until=lambda record: record.state == "configuring" and "readmitted" in record.evidence
    )
    assert master.keys(GUEST) == {ACCEPTED: master.guest_key}


# Versions, and guests whose first state never ran


@pytest.mark.parametrize("newer", ["99.0.0", "1"])
@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.boots", "booting")],
)
def test_a_minion_with_newer_modules_waits_for_a_restart_of_the_master(
    master, function, state, newer
):
    master.instead[function] = report_of(version=newer)
    master.begin()
    record = master.run(until=lambda record: "restart salt-master" in record.reason)
    assert record.state == state
    assert f"has version {newer} of store-deploy, the running master still " in record.reason
    assert "saltutil.sync_all" not in ran(master)
    del master.instead[function]
    assert master.run().state == "deployed"


def test_a_guest_whose_first_state_never_ran_is_told_to_get_its_modules(master):
    def without(value):
        done = "saltutil.sync_all" in ran(master)
        return value if done else "'provisioning_helper.boots' is not available."

    master.instead["provisioning_helper.boots"] = without
    master.config["startup_states"] = ""
    master.begin()
    failed(master, "booting", "store-0815 does not go by its seed, but by startup_states: none")
