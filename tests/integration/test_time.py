# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Processes that stand still for longer than a state may last (clocks that are set: tests/faults).

A frozen master is on nobody's account, a minion's silence is.
"""

import contextlib
import os
import signal
import time

import pytest
import store_site

FROZEN_S = int(os.environ.get("STORE_DEPLOY_FROZEN_S", "125"))
LIMIT_S = 120
"""Of this a master that was away takes a minute at most."""

ENGINE = "Engine(salt.loaded.ext.engines.store_pump)"
"""What the engine's process calls itself."""

WAITS = {"command": "until [ -e /srv/go ]; do sleep 0.2; done"}
"""A probe that lasts until the test lets it go."""


@contextlib.contextmanager
def frozen(freeze, seconds=0):
    """Freeze some processes, for that long at least."""
    freeze(signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)
    finally:
        freeze(signal.SIGCONT)


def go(site, store):
    (site.stand_ins.disk(f"store-{store}") / "srv/go").touch()


def begin(site, store, **changes):
    site.describe(f"hv-{store}", store, **changes)
    site.start_hypervisors(f"hv-{store}")
    site.begin(store)


def test_a_master_that_stands_still_for_longer_than_a_limit_goes_on(site):
    timeouts = dict.fromkeys(("booting", "verifying"), LIMIT_S)
    begin(site, "still", timeouts=timeouts, verify=[WAITS])
    site.entered("still", "verifying")
    begin(site, "door", timeouts=timeouts)
    site.entered("door", "booting")
    with frozen(lambda how: os.killpg(site.master.process.pid, how), FROZEN_S):
        go(site, "still")
    for store in ("still", "door"):
        site.deployed(store)
        assert not site.armed(f"store-{store}")


def test_an_engine_that_stands_still_for_longer_than_a_limit_stops_nothing(site):
    site.pumped()
    (engine,) = store_site.processes(ENGINE)

    def freeze(how):
        def done():
            os.kill(engine, how)
            # Who stands still while it has the ledger may stop all others with it.
            used = how == signal.SIGSTOP and site.uses_the_ledger(engine)
            if used:
                os.kill(engine, signal.SIGCONT)
            return not used

        store_site.until(done, 30, "the engine has not the ledger open")

    with frozen(freeze, FROZEN_S):
        begin(site, "engine", timeouts=dict.fromkeys(("staging", "starting", "booting"), LIMIT_S))
        # The schedule goes on alone.
        site.entered("engine", "staging")
    site.deployed("engine")


@pytest.fixture
def silent(site):
    """A deployment that waits for its hypervisor, which stands still."""
    site.describe(
        "hv-silent", "silent", verify=[WAITS], timeouts={"awaiting_hypervisor": 60, "verifying": 60}
    )
    site.start_hypervisors("hv-silent")
    return site.hypervisors["hv-silent"]


def test_minions_that_stand_still_end_their_state_and_a_retry_goes_on(site, silent):
    def freeze_guest(how):
        site.stand_ins.signal_minion("store-silent", how)

    with frozen(silent.signal):
        site.begin("silent")
        record = site.ended("silent")
    assert record.failed_in == "awaiting_hypervisor"
    assert (
        "awaiting_hypervisor was not over after 60 s: hv-silent has not answered" in record.reason
    )
    assert site.salt_run("retry", "silent").status == 0
    site.entered("silent", "verifying")
    with frozen(freeze_guest):
        record = site.ended("silent")
    assert record.failed_in == "verifying"
    assert record.reason.startswith("verifying was not over after 60 s: store-silent")
    go(site, "silent")
    assert site.salt_run("retry", "silent").status == 0
    site.deployed("silent")


def test_minions_that_stand_still_and_go_on_within_their_limit_end_it_well(site):
    begin(site, "slow", verify=[WAITS], timeouts={"verifying": FROZEN_S + 300})
    site.entered("slow", "verifying")

    def freeze(how):
        site.stand_ins.signal_minion("store-slow", how)
        site.hypervisors["hv-slow"].signal(how)

    with frozen(freeze, FROZEN_S):
        go(site, "slow")
    site.deployed("slow")


@pytest.fixture
def clock(site, master):
    """A master without a schedule, whose clock can be set."""
    plain = site.master.environment
    shim = {"PYTHONPATH": str(store_site.HERE.parent / "faults/shim")}
    site.master.environment = plain | store_site.settable_clock() | shim
    master(without=["50-store-deploy-schedule.conf"])
    yield store_site.set_clock
    site.master.environment = plain


def test_a_pump_that_waits_for_an_event_while_the_clock_is_set_back_goes_on(site, clock):
    """On 3008 it would not, with events on the bus that are for nobody."""
    site.stand_ins.absent.add("store-pump")
    begin(site, "pump", timeouts={"booting": 45})
    site.entered("pump", "booting")
    with site.busy_bus():
        clock(-3 * 3600)
        record = site.ended("pump")
    assert record.failed_in == "booting"
