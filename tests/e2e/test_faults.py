# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Guests that do not become store servers: one fails its highstate, one never calls."""

import pytest
from tests.e2e.stores import until


@pytest.fixture(scope="module")
def failing(stores, deployments):
    """The outcome for store 0816, whose highstate has a failing state."""
    yield deployments["0816"].result()
    stores.virsh("destroy", "store-0816")


@pytest.fixture(scope="module")
def silent(stores, deployments):
    """The outcome for store 0817, whose guest calls where nobody is."""
    yield deployments["0817"].result()
    stores.virsh("destroy", "store-0817")


def test_a_failing_highstate_fails_the_deployment(failing):
    assert failing.status == 1
    assert failing.answer["state"] == "failed"
    assert failing.answer["failed_in"] == "configuring"


def test_the_reason_names_the_state_and_the_way_out(failing):
    reason = failing.answer["reason"]
    assert "receipt-printer" in reason
    assert "out of paper" in reason
    assert " ".join(reason.split()) in " ".join(failing.progress.split())
    assert failing.answer["next_action"]


def test_the_guests_other_states_were_applied(stores, failing):
    assert stores.sh("0816", "cat /srv/demo/hello") == "Hello from store 0816"


def test_the_guest_that_failed_is_in_with_its_own_key_and_the_door_is_shut(stores, failing):
    own = stores.sh("0816", "cat /etc/salt/pki/minion/minion.pub")
    assert stores.keys("0816") == {"minions": own}
    assert not stores.autosigned("0816")


def test_a_guest_that_never_calls_fails_at_its_deadline(silent):
    assert silent.status == 1
    assert silent.answer["state"] == "failed"
    assert silent.answer["failed_in"] == "booting"
    assert "store-0817 has not called" in silent.answer["reason"]
    assert "2 min 30 s" in silent.answer["reason"]
    # What it says there itself is often the only hint; how far it had come by then is not known.
    assert "its console ended with: " in silent.answer["reason"]
    assert silent.answer["next_action"]


def test_it_was_a_whole_guest_that_had_booted(stores, silent):
    assert stores.virsh("domstate", "store-0817").strip() == "running"
    until(lambda: "login:" in stores.console("0817"), 300, "the guest's login prompt")


def test_nobody_can_call_in_its_place_any_more(stores, silent):
    assert not stores.autosigned("0817")
    assert stores.keys("0817") == {}


def test_the_store_beside_them_was_not_touched(stores, deployed, failing, silent):
    assert stores.record("0815")["state"] == "deployed"
    started = deployed.answer["evidence"]["start"]["id"]
    assert int(stores.virsh("domid", "store-0815")) == started
