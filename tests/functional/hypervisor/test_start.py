# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.start, on a real libvirt."""

import concurrent.futures
import time

import libvirt

from storelib.hypervisor import domains


def test_a_guest_is_started_and_watched(done, connection):
    done("stage", "define")
    facts = done("start")
    domain = connection.lookupByName("store-0815")
    assert domain.isActive()
    assert (facts["state"], facts["id"]) == ("running", domain.ID())
    assert (facts["attempts"], facts["errors"]) == (1, [])
    assert facts["started_at"]


def test_a_guest_that_runs_is_only_watched(done):
    done("stage", "define")
    first, second = done("start"), done("start")
    assert second["id"] == first["id"]
    assert second["started_at"] is None


def test_a_start_that_fails_twice_and_then_works(done, stub, modules, place):
    """The stub hides the disk from the real virt.start the first two times."""
    done("stage", "define")
    calls = []

    def start(name):
        calls.append(name)
        hidden = place.disk.with_suffix(".hidden")
        if len(calls) < 3:
            place.disk.rename(hidden)
        try:
            return modules["virt.start"](name)
        finally:
            if hidden.exists():
                hidden.rename(place.disk)

    stub(virt__start=start)
    facts = done("start")
    assert (facts["attempts"], facts["state"]) == (3, "running")
    assert all("Cannot access storage file" in error for error in facts["errors"])
    assert len(facts["errors"]) == 2


def test_a_start_that_always_fails_says_what_libvirt_said(done, call, place):
    done("stage", "define")
    hidden = place.disk.rename(place.disk.with_suffix(".hidden"))
    made = call("start")
    assert "did not start in 3 attempts: Cannot access storage file" in made["error"]
    assert "/var/log/libvirt/qemu/store-0815.log" in made["hint"]
    assert (made["facts"]["attempts"], made["facts"]["state"]) == (3, "shut off")
    hidden.rename(place.disk)
    assert done("start")["attempts"] == 1


def test_a_restart_of_libvirt_in_the_midst_of_a_step_costs_nothing(done, spec, libvirtd):
    done("stage", "define")
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 3}

    def restart():
        deadline = time.monotonic() + 30
        with libvirt.open("qemu:///system") as connection:
            while not connection.lookupByName("store-0815").isActive():
                assert time.monotonic() < deadline
                time.sleep(0.1)
        libvirtd.stop()
        libvirtd.start()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        facts = done("start")
        restarted.result()
    assert (facts["state"], facts["errors"]) == ("running", [])


def test_a_libvirt_that_does_not_come_back_is_told(done, refused, spec, libvirtd, monkeypatch):
    done("stage", "define", "start")
    monkeypatch.setattr(domains, "BACK_S", 0)
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 20}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(libvirtd.stop)
        try:
            assert refused("start").startswith("libvirt ")
        finally:
            stopped.result()
            libvirtd.start()


def test_a_guest_that_stops_at_once_has_not_started(done, stub, modules, connection):
    """The stub switches the guest off after the first real virt.start."""
    done("stage", "define")
    calls = []

    def start(name):
        calls.append(name)
        modules["virt.start"](name)
        if len(calls) == 1:
            connection.lookupByName(name).destroy()

    stub(virt__start=start)
    facts = done("start")
    assert facts["errors"] == ["it did not run for 0.1 s without a break"]
    assert facts["attempts"] == 2


def test_a_guest_that_was_started_anew_meanwhile_has_not_run_without_a_break(
    done, refused, spec, connection, monkeypatch
):
    """The guest is started a second time right after it was first seen to run."""
    done("stage", "define")
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 20}
    running_as, seen = domains.running_as, []

    def seen_before(there, name):
        run = running_as(there, name)
        if run is not None and not seen:
            seen.append(run)
            domain = connection.lookupByName(name)
            domain.destroy()
            domain.create()
        return run

    monkeypatch.setattr(domains, "running_as", seen_before)
    sentence = refused("start")
    assert seen
    assert "did not run for 20 s without a break" in sentence


def test_only_this_deployments_domain_is_started_or_finished(done, refused):
    done("stage")
    for step in ("start", "finish"):
        assert refused(step) == "the domain store-0815 of deployment 1 is not defined"
    done("define")
    for step in ("start", "finish"):
        assert refused(step, generation=2) == (
            "the domain store-0815 of deployment 2 is not defined"
        )
