# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Guests that call and then do not do what they should. All are deployed at once, to save time."""

import pytest

STORES = {
    "states": {"guest_pillar": {}},
    "probes": {"verify": [{"command": "exit 3"}], "timeouts": {"verifying": 25}},
    "lost": {"timeouts": {"restarting": 5}},
    "impostor": {},
}


@pytest.fixture(scope="module")
def failed(site):
    """Return the record of a store's deployment, which has to fail."""
    site.stand_ins.impostors.add("store-impostor")
    site.start_hypervisors(*(f"hv-{store}" for store in STORES))
    for store, changes in STORES.items():
        site.describe(f"hv-{store}", store, **changes)
        site.begin(store)

    def failed(store):
        record = site.ended(store)
        assert record.state == "failed"
        assert record.next_action
        assert "\n" not in record.reason + record.next_action
        assert not site.armed(record.minion_id)
        return record

    site.entered("lost", "configuring", 300)
    (site.stand_ins.disk("store-lost") / "srv/stays-down").touch()
    return failed


def test_a_guest_with_another_key_is_an_intruder(failed, site):
    record = failed("impostor")
    assert record.failed_in == "booting"
    assert record.reason.startswith("intrusion: the key that was accepted for store-impostor is ")
    assert "minions" not in site.keys("store-impostor")
    assert not (site.stand_ins.disk("store-impostor") / "srv/demo").exists()


def test_a_failing_state_is_named(failed):
    record = failed("states")
    assert record.failed_in == "configuring"
    assert "the highstate failed in 1 of 1 states, first demo-hello (demo): " in record.reason


def test_a_guest_that_does_not_come_back_from_a_reboot_is_told(failed):
    record = failed("lost")
    assert record.failed_in == "restarting"
    assert record.reason.startswith("restarting was not over after 5 s: store-lost ")


def test_a_failing_probe_is_named(failed):
    record = failed("probes")
    assert record.failed_in == "verifying"
    assert "1 of 1 checks failed, first {'command': 'exit 3'}: status 3" in record.reason
