# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store from nothing to verified, and once more; seen from outside."""

import json
import re

import pytest
import store_site

from storemaster.deployment import lifecycle

PATH = [*(state.name for state in lifecycle.PATH), "deployed"]


@pytest.fixture(scope="module")
def first(site):
    """Store 0815's first deployment, as an operator watches it."""
    site.describe("hv-0815", "0815", data_disks=[{"name": "data", "size_gib": 1}])
    site.start_hypervisors("hv-0815")
    with site.events("store/0815/deploy/") as heard:
        done = site.salt_run("store", "0815")
    done.heard = heard
    return done


def guest(site, *path):
    """A path on the disk of the stand-in of store 0815."""
    return site.stand_ins.disk("store-0815").joinpath(*path)


def own_key(site):
    """The public half of the key pair that the guest has from its seed."""
    return guest(site, "etc/salt/pki/minion/minion.pub").read_text().strip()


def test_one_command_deploys_a_store(first):
    assert (first.status, first.answer["state"]) == (0, "deployed"), first.stdout
    assert first.answer["generation"] == 1
    assert len(first.answer["evidence"]["boot_ids"]) == 3


def test_each_state_is_shown_as_it_is_entered(first):
    shown = re.findall(r"^ *[\d.]+ s  (\w+)  ", first.stderr, re.MULTILINE)
    assert shown == PATH


def test_each_change_is_told_once_and_in_order(first):
    assert [tag.rpartition("/")[2] for tag, _ in first.heard] == PATH
    for (_, data), previous in zip(first.heard, ["", *PATH], strict=False):
        assert (data["store"], data["generation"]) == ("0815", 1)
        assert (data["state"], data["previous"]) == (PATH[PATH.index(data["state"])], previous)
        assert {"reason", "at"} < set(data)


def test_the_guest_is_in_with_the_key_of_its_seed_and_the_door_is_shut(first, site):
    assert site.keys("store-0815") == {"minions": own_key(site)}
    assert not site.armed("store-0815")


def test_the_domain_runs_without_its_seed_and_starts_with_its_hypervisor(first):
    assert store_site.run("virsh", "domstate", "store-0815").strip() == "running"
    for which in ([], ["--inactive"]):
        assert "seed" not in store_site.run("virsh", "dumpxml", "store-0815", *which)
    assert re.search(r"Autostart: *enable", store_site.run("virsh", "dominfo", "store-0815"))
    assert not list(store_site.POOL.rglob("*seed*"))


def test_no_bootstrap_data_is_left_in_the_guest(first, site):
    assert guest(site, "etc/salt/minion_id").read_text() == "store-0815"
    assert not guest(site, "etc/store-deploy").exists()
    assert not guest(site, "var/lib/store-deploy").exists()
    assert not list(guest(site, "etc/salt/minion.d").glob("*bootstrap*"))
    assert not list(guest(site, "var/lib/cloud").iterdir())


def test_the_guest_has_its_stores_data_and_nobody_else_has(first, site):
    assert guest(site, "srv/demo/hello").read_text() == "Hello from store 0815\n"
    assert "greeting" in site.ask("store-0815", "pillar.ls")
    assert "greeting" not in site.ask("hv-0815", "pillar.ls")
    assert "store_server" not in site.ask("store-0815", "pillar.ls")


def test_the_data_is_always_the_current_one(first, site):
    pillar = store_site.PILLAR / "hv-0815.sls"
    before = pillar.read_text()
    pillar.write_text(before.replace("Hello from", "Hello again from"))
    shown = json.loads(store_site.run("salt-run", "pillar.show_pillar", "store-0815", "--out=json"))
    pillar.write_text(before)
    assert shown["greeting"] == "Hello again from store 0815"


def test_another_key_under_its_name_gets_no_data(first, site):
    accepted = store_site.PKI / "minions" / "store-0815"
    ours = accepted.read_text()
    accepted.write_text((store_site.PKI / "minions" / "hv-0815").read_text())
    shown = json.loads(store_site.run("salt-run", "pillar.show_pillar", "store-0815", "--out=json"))
    accepted.write_text(ours)
    assert "greeting" not in shown


@pytest.mark.parametrize(
    "words",
    [
        *(f"{verb} 0815" for verb in ("status", "history", "explain", "advance")),
        *(
            "plan 0815 redeploy=True",
            "list",
            "doctor hypervisors=False",
            "reconcile",
            "notify store=0815",
        ),
    ],
)
def test_a_verb_prints_json(first, site, words):
    done = site.salt_run(*words.split())
    assert done.status == 0, done.stdout
    assert done.answer is not None


def test_a_deployed_store_is_refused_and_untouched(first, site):
    before = store_site.run("virsh", "dumpxml", "store-0815"), site.keys("store-0815")
    revision = site.record("0815").revision
    plan = site.salt_run("plan", "0815")
    assert plan.status == 1
    assert plan.answer["faults"] == [": ".join(plan.sentences)]
    done = site.salt_run("store", "0815")
    assert done.status == 1
    assert done.sentences == (
        "store 0815 is deployed",
        "to replace its server: salt-run deploy.store 0815 redeploy=True",
    )
    assert plan.sentences == done.sentences
    assert before == (store_site.run("virsh", "dumpxml", "store-0815"), site.keys("store-0815"))
    assert site.record("0815").revision == revision


@pytest.fixture(scope="module")
def second(first, site):
    """The store's second deployment."""
    data = store_site.POOL / "store-0815-data.qcow2"
    before = {
        "key": site.keys("store-0815")["minions"],
        "data": data.stat().st_ino,
        "uuid": store_site.run("virsh", "domuuid", "store-0815"),
    }
    done = site.salt_run("store", "0815", "redeploy=True")
    done.before = before
    return done


def test_a_server_is_replaced_if_one_says_so(second, site):
    assert (second.status, second.answer["state"]) == (0, "deployed"), second.stdout
    assert second.answer["generation"] == 2
    assert store_site.run("virsh", "domuuid", "store-0815") != second.before["uuid"]


def test_it_is_known_for_how_long_the_store_was_without_a_server(second, site):
    outage_s = second.answer["evidence"]["outage_s"]
    change = next(c for c in site.history("0815")[::-1] if c.state == "rebooting")
    assert change.reason == f"the store was without a server for {outage_s} s"
    plan = site.salt_run("plan", "0815", "redeploy=True").answer
    assert plan["outage_s_expected"] == outage_s


def test_the_old_server_is_set_aside_in_one_piece(second):
    (aside,) = (store_site.POOL / ".store-deploy/set-aside/store-0815").iterdir()
    assert re.fullmatch(r"0001-g1-\d{4}-\d\d-\d\dT\d{6}Z", aside.name)
    assert {"disk.qcow2", "domain.xml", "minion.pub"} <= {path.name for path in aside.iterdir()}
    assert second.before["uuid"].strip() in (aside / "domain.xml").read_text()
    assert (aside / "minion.pub").read_text().strip() == second.before["key"]


def test_the_new_server_has_a_key_of_its_own(second, site):
    (key,) = site.keys("store-0815").values()
    assert key == own_key(site)
    assert key != second.before["key"]


def test_the_data_disk_outlives_the_server(second):
    data = store_site.POOL / "store-0815-data.qcow2"
    assert data.stat().st_ino == second.before["data"]
    assert str(data) in store_site.run("virsh", "dumpxml", "store-0815")


@pytest.fixture(scope="module")
def third(second, site):
    """The rollback to the store's first server, without typing anything else."""
    done = site.salt_run("rollback", "0815")
    done.before = second.before
    return done


def test_the_old_server_is_put_back_and_answers(third, site):
    assert (third.status, third.answer["state"]) == (0, "deployed"), third.stdout
    assert third.answer["evidence"]["rolls_back_to"] == 1
    assert store_site.run("virsh", "domuuid", "store-0815") == third.before["uuid"]
    assert store_site.run("virsh", "domstate", "store-0815").strip() == "running"
    assert re.search(r"Autostart: *enable", store_site.run("virsh", "dominfo", "store-0815"))
    assert site.keys("store-0815") == {"minions": third.before["key"]}
    assert site.ask("store-0815", "test.ping") is True


def test_the_server_that_was_put_back_has_its_data_again(third, site):
    assert "greeting" in site.ask("store-0815", "pillar.ls")


def test_the_replaced_server_is_set_aside_in_its_place(third):
    (aside,) = (store_site.POOL / ".store-deploy/set-aside/store-0815").iterdir()
    assert aside.name.startswith("0002-g2-")


def test_what_is_set_aside_is_shown_first_and_pruned_only_with_the_flag(third, site):
    (aside,) = (store_site.POOL / ".store-deploy/set-aside/store-0815").iterdir()
    shown = site.salt_run("prune", "0", "store=0815")
    assert (shown.status, aside.exists()) == (0, True)
    (row,) = shown.answer["stores"]
    assert str(aside) in str(row["found"])
    assert row["removed"] == []
    kept = site.salt_run("prune", "1", "store=0815", "remove=True")
    assert (kept.status, aside.exists()) == (0, True), "it is younger than a day"
    done = site.salt_run("prune", "0", "store=0815", "remove=True")
    assert (done.status, aside.exists()) == (0, False)


def test_without_a_set_aside_server_a_rollback_touches_nothing(third, site):
    before = site.record("0815")
    done = site.salt_run("rollback", "0815")
    assert done.status == 1
    assert "no set-aside server of store 0815 is on hv-0815: deployment 2 was pruned" in done.stdout
    assert site.record("0815") == before
    assert store_site.run("virsh", "domstate", "store-0815").strip() == "running"
    assert site.keys("store-0815") == {"minions": third.before["key"]}
