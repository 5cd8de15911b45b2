# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Time that the master was not there, and clocks that jump, neither fail nor delay a deployment.

Master, hypervisor and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses

import pytest
from fake_master import (
    BEGAN,
    GUEST,
    HYPERVISOR,
    PATH,
    PILLAR,
    deployed,
    failed,
    pem,
    waits,
)

from storemaster.deployment import (
    engine,
    lifecycle,
    new_hardware,
    requests,
    step_context,
    tables,
    views,
)
from storemaster.deployment.ledger import LOOK_AGAIN_S
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.record import Job
from storemaster.deployment.step_context import Unheard
from storemaster.deployment.times import lasting

HOUR, YEARS = 3600.0, 3 * 365 * 24 * 3600.0
JUMPS = {"3 h on": 3 * HOUR, "3 h back": -3 * HOUR, "years on": YEARS, "years back": -YEARS}
JUMPS |= {"seconds on": 40.0, "seconds back": -40.0}
LONG_S = 24 * HOUR + 1
"""Longer than any state of the path may last."""

ASKS_TWICE = ("restarting", "verifying", "finishing")


def reached(master, state):
    """Begin a deployment and let it come as far as its first wait in this state."""
    master.begin()
    full = {"max_active": 0} if state == "queued" else {}
    return master.run(until=lambda record: record.state == state, **full)


def took_s(master):
    return master.time - BEGAN


# The master is not there


@pytest.mark.parametrize("state", PATH)
@pytest.mark.parametrize("away_s", [301.0, LONG_S])
def test_a_master_that_was_not_there_does_not_fail_a_deployment_whose_answer_is_there(
    master, state, away_s
):
    reached(master, state)
    master.nobody_looks(away_s)
    record = master.run()
    assert record.state == "deployed", record.reason


@pytest.mark.parametrize("state", PATH)
def test_a_master_that_was_away_again_and_again_fails_nothing_either(master, state):
    """Each state with more than one question is met between two of them."""
    reached(master, state)
    for _ in range(30):
        record = engine.advance(master, master.ledger, "0815", 50)
        if not record.active:
            break
        master.nobody_looks(LONG_S)
    assert master.run().state == "deployed", record.reason


@pytest.mark.parametrize("state", PATH)
@pytest.mark.parametrize("up_s", [5.0, 3 * HOUR])
def test_a_master_that_was_booted_meanwhile_goes_on(master, state, up_s):
    reached(master, state)
    master.nobody_looks(LONG_S)
    master.reboots(up_s)
    record = master.run()
    assert record.state == "deployed", record.reason


def test_of_a_gap_at_most_a_minute_counts_and_after_a_boot_at_most_what_it_has_lasted(master):
    reached(master, "staging")
    master.away.add(HYPERVISOR)

    def spent_s():
        before = master.ledger.get("0815").spent_s
        return engine.advance(master, master.ledger, "0815", 50).spent_s - before

    master.nobody_looks(20)
    assert spent_s() == pytest.approx(20)
    master.nobody_looks(LONG_S)
    assert spent_s() == LOOK_AGAIN_S
    master.nobody_looks(LONG_S)
    master.reboots(7)
    assert spent_s() == pytest.approx(7)
    master.nobody_looks(LONG_S)
    master.reboots(LONG_S)
    master.kernel = "master-boot-3"
    assert spent_s() == LOOK_AGAIN_S


@pytest.mark.parametrize("state", ASKS_TWICE)
def test_a_turn_that_read_an_answer_and_asked_on_is_not_failed_in_the_same_breath(master, state):
    """However little of the limit is left."""
    record = reached(master, state)
    limit = lifecycle.limit_s(state, {})
    master.ledger.save(dataclasses.replace(record, spent_s=limit - 1.0))
    master.nobody_looks(20)
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.state == state
    assert "late" not in record.evidence
    if state != "restarting":
        assert master.run().state == "deployed"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("state", ["configuring", "verifying", "finishing"])
def test_after_a_gap_an_answer_counts_however_little_of_the_limit_is_left(master, state, restarted):
    record = reached(master, state)
    master.ledger.save(dataclasses.replace(record, spent_s=lifecycle.limit_s(state, {}) - 1.0))
    master.nobody_looks(LONG_S)
    if restarted:
        master.runs += 1
    record = master.run()
    assert record.state == "deployed", record.reason


@pytest.mark.parametrize("state", [name for name in PATH if name != "queued"])
def test_a_silent_minion_ends_each_state_at_its_limit(master, state):
    """Give or take a pause: no deployment lives for ever."""
    limit = 900
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {state: limit}}}
    entered = reached(master, state)
    master.away |= {HYPERVISOR, GUEST}
    master.calls = False
    record = failed(master, state, f"{state} was not over after {lasting(limit)}: ")
    assert limit <= record.since - entered.since <= limit + LOOK_AGAIN_S + engine.CONSOLE_S


def test_a_master_that_looks_too_seldom_ends_a_deployment_all_the_same(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"staging": 600}}}
    reached(master, "staging")
    master.away.add(HYPERVISOR)
    for _ in range(15):
        master.nobody_looks(5 * HOUR)
        record = engine.advance(master, master.ledger, "0815", 50)
    assert (record.state, record.failed_in) == ("failed", "staging")


def test_a_pillar_that_is_another_at_each_look_does_not_keep_a_deployment_alive(master):
    """Each look is an answer and one more question."""
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 600}}}
    plain, looks = master.store_server, iter(range(10**6))
    master.store_server = lambda name: {**plain(name), "cpus": 1 + next(looks) % 64}
    master.takes_s["store_hypervisor.facts"] = 20
    master.begin()
    failed(master, "awaiting_hypervisor", "awaiting_hypervisor was not over after 10 min")


# The master's own bus


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("state", ["staging", "rebooting", "configuring"])
def test_a_master_whose_own_bus_does_not_answer_is_waited_for(master, state, restarted):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {state: 300}}}
    reached(master, state)
    master.nobody_looks(5)
    spent = master.ledger.get("0815").spent_s
    if restarted:
        master.runs += 1
    publish = master.publish

    def refused(*_):
        raise Unheard("the master did not take a job: timed out", 5)

    master.publish = refused
    # What was asked before is not answered.
    master._returns.clear()
    until = master.time + 3 * 300
    record = master.run(until=lambda record: record.state == state and master.time >= until)
    assert record.reason == "the master did not take a job: timed out"
    assert record.spent_s <= spent + 3 * LOOK_AGAIN_S
    master.publish = publish
    assert master.run().state == "deployed"


# Clocks that jump


@pytest.mark.thorough
@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("state", PATH)
def test_a_clock_that_jumps_neither_fails_a_deployment_nor_makes_it_wait(master, state, jump):
    needed = 0.0
    reached(master, state)
    master.ahead_s = jump
    record = master.run()
    needed = took_s(master)
    assert record.state == "deployed", record.reason
    assert needed < 20 * 60


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize(
    "function", ["store_hypervisor.stage", "provisioning_helper.boots", "provisioning_helper.probe"]
)
def test_a_job_that_is_lost_while_the_clock_jumps_is_asked_for_as_soon(master, function, jump):
    master.lost[function] = 1
    state = {"stage": "staging", "boots": "booting", "probe": "verifying"}
    reached(master, state[function.partition(".")[2]])
    engine.advance(master, master.ledger, "0815", 50)
    master.ahead_s = jump
    assert master.run().state == "deployed"
    assert took_s(master) < 20 * 60


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_a_clock_that_jumps_does_not_stretch_the_time_of_a_silent_guest(master, jump):
    entered = reached(master, "booting")
    master.calls = False
    began = master.time
    master.ahead_s = jump
    failed(master, "booting", "booting was not over after 15 min")
    assert 900 <= master.time - began <= 900 + LOOK_AGAIN_S + engine.CONSOLE_S
    assert entered.state == "booting"


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_another_hypervisor_has_its_time_to_answer_however_the_clock_jumps(master, jump):
    """Or its server would get a twin."""
    master.others["hv-old"] = {**master.facts, "domain": {"ours": True, "state": "running"}}
    master.known_keys["hv-old"] = {ACCEPTED: master.hypervisor_key}
    record = reached(master, "staging")
    master.ledger.save(dataclasses.replace(record, others={"hv-old": master.hypervisor_key}))
    master.away.add("hv-old")
    master.run(until=lambda record: record.state == "clearing" and "fence" in record.evidence)
    master.nobody_looks(3)
    master.ahead_s = jump
    engine.advance(master, master.ledger, "0815", 50)
    master.nobody_looks(3)
    master.away.clear()
    record = engine.advance(master, master.ledger, "0815", 50, rung=True)
    failed(master, "clearing", "hv-old still runs the server of store 0815")


@pytest.mark.parametrize("state", ["awaiting_hypervisor", "staging", "booting", "verifying"])
def test_what_a_minion_missed_just_before_its_bell_is_asked_again_soon(master, state):
    """It rings as it comes back, a moment after it was asked for the last time while away."""
    minion = HYPERVISOR if state in ("awaiting_hypervisor", "staging") else GUEST
    asked = []
    publish = master.publish

    def lost_once(jid, to, function, arguments):
        record = master.ledger.get("0815")
        if record.state == state and to == minion and not asked:
            asked.append(function)
            master.published.append((function, dict(arguments)))
            return
        publish(jid, to, function, arguments)

    master.publish = lost_once
    reached(master, state)
    master.run(until=lambda record: bool(asked))
    master.nobody_looks(1)
    engine.advance(master, master.ledger, "0815", 50, rung=True)
    began = master.time
    master.run(until=lambda record: record.state != state)
    assert asked
    assert master.time - began < 15


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_a_hypervisor_that_says_it_is_ready_has_its_time_to_answer(master, jump):
    deployed(master)
    record = master.ledger.get("0815")
    master.away.add(HYPERVISOR)
    new_hardware.note_ready(master, master.ledger, record, HYPERVISOR, True, 50)
    engine.advance(master, master.ledger, "0815", 50)
    master.nobody_looks(3)
    master.ahead_s = jump
    assert engine.advance(master, master.ledger, "0815", 50).candidate
    for _ in range(40):
        master.nobody_looks(20)
        record = engine.advance(master, master.ledger, "0815", 50)
    assert not record.candidate, "and no more than its time"


def test_a_store_that_is_due_in_a_far_future_is_due_now(master):
    """The clock was set back; no pause is that long."""
    master.begin()
    record = master.ledger.get("0815")
    due = {9999.0: True, 10000.0: True, 10030.0: False, 10060.0: False, 10061.0: True, 1e10: True}
    for at, is_due in due.items():
        record = master.ledger.save(dataclasses.replace(record, due=at))
        assert bool(master.ledger.due(10000.0)) is is_due, at


def test_who_was_queued_before_the_clock_went_back_is_still_before_the_others(master):
    record = master.begin()
    for store, since in (("0001", BEGAN), ("0002", 4e9), ("0003", BEGAN - 5)):
        other = {"store": store, "minion_id": f"store-{store}", "revision": 0}
        master.ledger.save(dataclasses.replace(record, state="queued", since=since, **other))
    assert master.ledger.next_in_queue(50) == ["0002"]


def test_a_history_over_a_clock_that_went_back_has_no_negative_times(master):
    reached(master, "booting")
    master.ahead_s = -3 * HOUR
    record = master.run(until=lambda record: record.state == "configuring")
    rows = views.timeline(master.ledger.history("0815"), master.now())
    assert min(row["took_s"] for row in rows) == 0
    master.ahead_s = -6 * HOUR
    assert views.row(record, master.now())["for_s"] == 0
    assert views.explain(record, master.now(), master.ledger)["for_s"] == 0
    change = master.ledger.history("0815")[-1]
    assert tables.progress(change, record.began).split()[0] == "0.0"
    assert tables.waiting("x", master.now() - record.began).split()[0] == "0.0"


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_how_long_a_store_was_without_a_server_does_not_depend_on_the_clock(master, jump):
    deployed(master)
    expected_s = deployed(master, redeploy=True).evidence.outage_s
    master.begin(redeploy=True)
    master.run(until=lambda record: record.state == "starting")
    master.ahead_s = jump
    assert master.run().evidence.outage_s == expected_s


def test_the_deadline_that_is_shown_is_now_and_what_is_left(master):
    record = waits_in(master, "staging")
    assert record.deadline == pytest.approx(master.now() + 2700 - record.spent_s)
    master.ahead_s = YEARS
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.deadline == pytest.approx(master.now() + 2700 - record.spent_s)


def waits_in(master, state):
    record = reached(master, state)
    master.away |= {HYPERVISOR, GUEST}
    return master.run(until=lambda now: now.state == state and now.spent_s > 100) or record


# Held


def test_what_is_held_keeps_what_it_had_left_however_long_and_however_the_clock_jumps(master):
    before = waits_in(master, "staging")
    left = 2700 - before.spent_s
    held = requests.hold(master.ledger, master.now(), before)
    assert held.left_s == pytest.approx(left)
    master.nobody_looks(LONG_S)
    master.ahead_s = -YEARS
    released = requests.release(master.ledger, master.now(), held)
    assert released.deadline == pytest.approx(master.now() + left)
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.spent_s == pytest.approx(before.spent_s)
    master.away.clear()
    assert master.run().state == "deployed"


def test_a_record_of_an_earlier_version_goes_on_with_its_whole_time(master):
    record = waits_in(master, "staging")
    job = Job("jid-x", HYPERVISOR, "store_hypervisor.stage", master.now() - 20)
    master.ledger.save(
        dataclasses.replace(record, spent_s=0.0, clock_s=0.0, looked={}, job=job, deadline=1.0)
    )
    record = engine.advance(master, master.ledger, "0815", 50)
    assert (record.state, record.spent_s) == ("staging", 0)
    held = requests.hold(master.ledger, master.now(), dataclasses.replace(record, spent_s=0.0))
    held = master.ledger.save(dataclasses.replace(held, left_s=500.0))
    released = requests.release(master.ledger, master.now(), held)
    assert released.spent_s == 2200
    master.away.clear()
    assert master.run().state == "deployed"


# The queue


def test_the_queue_has_no_limit_and_after_a_day_it_is_told(master, caplog):
    since = reached(master, "queued").since
    record = engine.advance(master, master.ledger, "0815", 0)
    assert "24 h" not in record.reason
    assert record.due == since + 24 * HOUR
    assert master.ledger.due(record.due - 1) == []
    assert master.ledger.due(record.due) == ["0815"]
    master.nobody_looks(record.due - master.now())
    record = engine.advance(master, master.ledger, "0815", 0)
    for _ in range(5):
        master.nobody_looks(50)
        record = engine.advance(master, master.ledger, "0815", 0)
    assert (record.state, record.deadline, record.due) == ("queued", None, None)
    assert "deploy.list" in record.reason
    assert "no limit" in views.explain(record, master.now(), master.ledger)["at_deadline"]
    lines = [c.reason for c in master.ledger.history("0815") if "24 h" in c.reason]
    assert lines == [record.reason]
    assert caplog.text.count("24 h") == 1
    assert master.run().state == "deployed"


def test_a_queue_that_has_a_limit_in_the_pillar_ends_at_it(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"queued": 600}}}
    record = reached(master, "queued")
    for _ in range(20):
        record = engine.advance(master, master.ledger, "0815", 0)
        if not record.active:
            break
        assert record.due <= master.now() + LOOK_AGAIN_S
        master.nobody_looks(record.due - master.now())
    assert (record.state, record.failed_in) == ("failed", "queued")


def test_no_step_can_put_off_the_next_turn_for_longer_than_a_minute(master):
    record = reached(master, "staging")
    master.keys = lambda _minion: (_ for _ in ()).throw(step_context.Waiting("long", 3000))
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.due <= master.now() + LOOK_AGAIN_S
    del master.keys


# The autosign entry


def gap(master, how):
    if how == "frozen":
        master.nobody_looks(LONG_S)
    elif how == "a clock that jumped on":
        master.ahead_s = 3 * HOUR
    elif how == "booted anew":
        master.reboots(5)
    elif how == "a machine that was paused":
        # The kernel has not noticed; the time of day was corrected.
        master.ahead_s = 3 * HOUR


GAPS = ("frozen", "a clock that jumped on", "booted anew", "a machine that was paused")


@pytest.mark.parametrize("how", GAPS)
@pytest.mark.parametrize("state", ["starting", "booting"])
def test_after_a_gap_the_autosign_entry_goes_first_and_comes_back_if_it_goes_on(master, state, how):
    master.calls = False
    reached(master, state)
    engine.advance(master, master.ledger, "0815", 50)
    master.nobody_looks(50)
    engine.advance(master, master.ledger, "0815", 50)
    assert master.armed(GUEST)
    gap(master, how)
    master.acts.clear()
    asked, order = master.keys, []
    master.keys = lambda minion: order.append(master.armed(GUEST)) or asked(minion)
    engine.advance(master, master.ledger, "0815", 50)
    assert order[0] is False, "removed before anything is looked at"
    assert master.acts == [f"disarm {GUEST}", f"arm {GUEST}"]
    assert master.armed(GUEST)


def test_without_a_gap_the_entry_is_left_alone(master):
    master.calls = False
    reached(master, "booting")
    master.acts.clear()
    for _ in range(10):
        master.nobody_looks(30)
        engine.advance(master, master.ledger, "0815", 50)
    assert master.acts == []


@pytest.mark.parametrize("state", ["starting", "booting"])
def test_after_a_gap_nobody_is_let_in_again_if_the_time_was_over(master, state):
    record = reached(master, state)
    master.calls = False
    limit = lifecycle.limit_s(state, {})
    master.ledger.save(dataclasses.replace(record, spent_s=limit + 1.0))
    master.away |= {HYPERVISOR, GUEST}
    master.nobody_looks(LONG_S)
    master._returns.clear()
    master.acts.clear()
    engine.advance(master, master.ledger, "0815", 50)
    assert f"arm {GUEST}" not in master.acts
    assert not master.armed(GUEST)


def test_whoever_came_in_by_the_open_door_during_the_gap_is_found(master):
    master.calls = False
    reached(master, "booting")
    master.nobody_looks(LONG_S)
    master.known_keys[GUEST] = {ACCEPTED: pem("impostor")}
    failed(master, "booting", "intrusion")
    assert master.keys(GUEST) == {}


def test_after_a_gap_the_entry_of_a_held_deployment_stays_away(master):
    master.calls = False
    reached(master, "booting")
    waiting = waits(master, f"{GUEST} has not called yet")
    requests.hold(master.ledger, master.now(), waiting)
    master.nobody_looks(LONG_S)
    engine.advance(master, master.ledger, "0815", 50)
    assert not master.armed(GUEST)
