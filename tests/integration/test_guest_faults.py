# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Guests that call and then do not do what they should. All are deployed at once, to save time."""

import concurrent.futures

import pytest
import store_site

from storemaster.deployment.steps import installing

PROBE = {"command": "echo closed | tee -a /srv/tries; exit 3"}
STORES = {
    "states": {"guest_pillar": {}},
    "probes": {"verify": [PROBE]},
    "lost": {"timeouts": {"restarting": 60}},
    "impostor": {},
    "misled": {"timeouts": {"booting": 90}},
    "image": {},
}
IMAGE = {
    "master": "uyuni.example.com",
    "append_domain": "example.com",
    "saltenv": "image",
    "startup_states": "highstate",
    "sls_list": ["image"],
    "minion_id_caching": False,
}


@pytest.fixture(scope="module")
def failed(site):
    """Deploy them as operators would, side by side; say why a store's deployment failed."""
    site.stand_ins.impostors.add("store-impostor")
    site.stand_ins.misled.add("store-misled")
    site.stand_ins.images["store-image"] = {"susemanager.conf": IMAGE}
    site.start_hypervisors(*(f"hv-{store}" for store in STORES))
    for store, changes in STORES.items():
        site.describe(f"hv-{store}", store, **changes)
    before = site.others()
    with concurrent.futures.ThreadPoolExecutor(len(STORES)) as operators:
        runs = {
            store: operators.submit(site.salt_run, "store", store, seconds=600) for store in STORES
        }

        def failed(store, state):
            why = site.failed(runs[store].result(), state)
            assert site.others() == before
            return why

        site.entered("lost", "configuring", 300)
        disk(site, "lost", "srv/stays-down").touch()
        yield failed


def disk(site, store, path):
    """A path on the disk of a store's guest."""
    return site.stand_ins.disk(f"store-{store}") / path


def own_key(site, store):
    """The public half of the key pair that came with a guest's seed."""
    return disk(site, store, "etc/salt/pki/minion/minion.pub").read_text().strip()


def test_a_guest_with_another_key_is_an_intruder(failed, site):
    why = failed("impostor", "booting")
    assert why.startswith("intrusion: the key that was accepted for store-impostor is ")
    assert "minions" not in site.keys("store-impostor")
    assert not disk(site, "impostor", "srv/demo").exists()


def test_an_images_own_configuration_has_its_say_only_when_the_deployment_ends(failed, site):
    why = failed("image", "finishing")
    assert why == (
        "without the bootstrap data this minion would go by master: uyuni.example.com, id: "
        "store-image.example.com"
    )
    config = site.record("image").evidence.boot_ids
    assert len(config) == 3, "all else was done"
    disk(site, "image", "etc/salt/minion.d/susemanager.conf").unlink()
    done = site.salt_run("retry", "image")
    assert done.status == 0, done.stderr
    store_site.until(lambda: not site.record("image").active, 120, "it was over")
    assert site.record("image").state == "deployed"
    assert not list(disk(site, "image", "etc/salt/minion.d").glob("*bootstrap*"))


def test_a_failing_state_is_named(failed):
    why = failed("states", "configuring")
    assert "the highstate failed in 1 of 1 states, first demo-hello (demo): " in why


def test_a_store_whose_states_are_mended_is_deployed(failed, site):
    failed("states", "configuring")
    site.describe("hv-states", "states")
    done = site.salt_run("store", "states")
    assert (done.status, done.answer["state"]) == (0, "deployed"), done.stdout
    assert done.answer["generation"] == 2
    assert disk(site, "states", "srv/demo/hello").read_text() == "Hello from store states\n"
    assert site.keys("store-states") == {"minions": own_key(site, "states")}
    assert not site.armed("store-states")


def test_a_guest_that_does_not_come_back_from_a_reboot_is_told(failed, site):
    why = failed("lost", "restarting")
    assert why.startswith("restarting was not over after 60 s: store-lost ")
    # Seen from outside: it went down, and no third boot began.
    assert site.stand_ins.is_down("store-lost")
    _, second = site.record("lost").evidence.boot_ids
    assert disk(site, "lost", "srv/boot_id").read_text().strip() == second


def test_a_probe_that_fails_at_each_try_is_named(failed, site):
    why = failed("probes", "verifying")
    assert why == f"1 of 1 checks failed, first {PROBE}: status 3: closed"
    record = site.record("probes")
    assert record.next_action == (
        "mend the service in the guest or its states, then: salt-run deploy.retry probes, or, if "
        "you changed the pillar: salt-run deploy.store probes"
    )
    assert record.evidence.failure["results"][0]["check"] == PROBE
    # The last try is the failure.
    assert record.evidence.probe_tries == installing.PROBE_TRIES - 1
    tries = disk(site, "probes", "srv/tries").read_text().split()
    assert len(tries) == installing.PROBE_TRIES


def test_a_guest_trusts_only_the_master_whose_key_its_seed_carried(failed, site):
    why = failed("misled", "booting")
    assert why.startswith("booting was not over after 90 s: store-misled has not ")
    # The master let it in; it did not let in the master.
    assert site.keys("store-misled") == {"minions": own_key(site, "misled")}
    assert "The master key has changed" in disk(site, "misled", "srv/console").read_text()
    assert "boot_ids" not in site.record("misled").evidence
    modules = "var/cache/salt/minion/extmods"
    assert list(disk(site, "states", modules).rglob("*.py"))
    assert not list(disk(site, "misled", modules).rglob("*.py"))
    assert not disk(site, "misled", "srv/demo").exists()
