# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A hypervisor breaks and is replaced, and in the end the store goes for good.

The hypervisors' minions share this machine's libvirt. What a new machine has not got is removed by
hand, or is behind libvirt's test driver; its minion has a machine ID of its own.
"""

import json

import pytest
import store_site

STORE, GUEST, HYPERVISOR = "moved", "store-moved", "hv-moved"


@pytest.fixture(scope="module")
def first(site):
    """The store's server on its first hypervisor."""
    site.describe(HYPERVISOR, STORE, auto_deploy=True)
    site.start_hypervisors(HYPERVISOR)
    site.reaches_its_highstate(HYPERVISOR)
    store_site.until(lambda: site.record(STORE), 30, "the deployment begins")
    return site.deployed(STORE)


def uuid():
    return store_site.run("virsh", "domuuid", GUEST).strip()


def test_a_hypervisor_that_is_ready_again_changes_nothing(first, site):
    before = uuid()
    site.reaches_its_highstate(HYPERVISOR)
    store_site.until(lambda: not site.bells(), 30, "the bell was answered")
    store_site.until(lambda: not site.record(STORE).candidate, 60, "it was looked at")
    record = site.record(STORE)
    assert (record.state, record.generation) == ("deployed", 1)
    assert uuid() == before


def test_another_hypervisor_gets_no_twin_of_a_server_that_runs(first, site):
    site.describe("hv-twin", STORE, auto_deploy=True)
    site.start_hypervisors("hv-twin")
    site.hypervisors["hv-twin"].become_another_machine(apart=True)
    store_site.until(lambda: site.ask("hv-twin", "test.ping"), 120, "it answers")
    site.reaches_its_highstate("hv-twin")
    store_site.until(lambda: "offered" in site.record(STORE).evidence, 60, "it is told")
    told = site.salt_run("explain", STORE).answer
    assert f"{HYPERVISOR} still runs the store's server" in told["offered"]
    plan = site.salt_run("plan", STORE, "hypervisor=hv-twin", "redeploy=True").answer
    twin = f"{HYPERVISOR} still runs the server of store {STORE}: a second one would be its twin"
    assert [fault for fault in plan["faults"] if twin in fault]
    assert (site.record(STORE).state, site.record(STORE).hypervisor) == ("deployed", HYPERVISOR)


def test_an_operator_is_kept_from_replacing_a_server_of_which_nothing_is_noted(first, site):
    """The two share a libvirt now: on the other machine there is the server, and no note of it."""
    before = uuid()
    site.hypervisors["hv-twin"].become_another_machine()
    done = site.salt_run("store", STORE, "hypervisor=hv-twin", "redeploy=True")
    assert (done.status, done.answer["failed_in"]) == (1, "staging"), done.stdout
    assert f"there is a server of deployment {first.deployment} and no note" in done.answer["error"]
    assert uuid() == before
    assert store_site.run("virsh", "domstate", GUEST).strip() == "running"


@pytest.fixture(scope="module")
def second(first, site):
    """What a new machine in the place of the first one gets by itself."""
    site.hypervisors.pop("hv-twin").kill()
    (store_site.PKI / "minions" / "hv-twin").unlink()
    before = uuid()
    store_site.run("virsh", "destroy", GUEST)
    store_site.run("virsh", "undefine", GUEST)
    (store_site.POOL / f"{GUEST}.qcow2").unlink()
    site.hypervisors[HYPERVISOR].become_another_machine()
    store_site.until(lambda: site.ask(HYPERVISOR, "test.ping"), 120, "the new machine answers")
    generation = site.record(STORE).generation
    site.reaches_its_highstate(HYPERVISOR)
    store_site.until(
        lambda: site.record(STORE).generation > generation, 60, "a new deployment begins"
    )
    record = site.deployed(STORE)
    assert uuid() != before
    return record


def test_new_hardware_gets_its_stores_server_by_itself(second, site):
    assert second.requested_by == "event"
    assert second.hypervisor == HYPERVISOR
    assert any("new hardware" in change.reason for change in site.history(STORE))
    assert set(site.keys(GUEST)) == {"minions"}
    assert site.ask(GUEST, "test.ping") is True


def test_a_rollback_to_a_server_on_the_old_machine_is_refused(second, site):
    before = site.record(STORE)
    done = site.salt_run("rollback", STORE)
    assert done.status == 1
    assert "or is on a machine that is gone (such as hv-twin)" in done.sentences[0]
    assert site.record(STORE) == before
    assert store_site.run("virsh", "domstate", GUEST).strip() == "running"
    assert site.ask(GUEST, "test.ping") is True


def test_a_retirement_shows_first_what_it_would_remove(second, site):
    done = site.salt_run("retire", STORE)
    assert done.status == 0, done.stdout
    shown = json.dumps(done.answer["would_remove"])
    assert GUEST in shown
    assert f"{GUEST}.qcow2" in shown
    assert uuid()


def test_a_retired_store_has_nothing_left(second, site):
    done = site.salt_run("retire", STORE, "remove=True")
    assert (done.status, done.answer["state"]) == (0, "retiring"), done.stdout
    record = site.ended(STORE)
    assert record.state == "retired", record.reason
    assert GUEST not in store_site.run("virsh", "list", "--all", "--name").split()
    assert not [
        path
        for path in store_site.POOL.rglob("*")
        if GUEST in path.name and path.parent.name != "locks"
    ]
    assert site.keys(GUEST) == {}
    assert not site.armed(GUEST)
    before = record.generation
    site.reaches_its_highstate(HYPERVISOR)
    store_site.until(lambda: not site.bells(), 30, "the bell was answered")
    assert (site.record(STORE).state, site.record(STORE).generation) == ("retired", before)
