# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What an operator can do to a deployment: cancel, hold, release and retry it.

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
    not_ok,
    pem,
    ran,
    told,
    with_facts,
)

from storelib.errors import Conflict, Refused
from storemaster.deployment import requests, views

VERBS = {
    verb.__name__: verb
    for verb in (requests.cancel, requests.hold, requests.release, requests.retry)
}
FAILING = {
    "awaiting_hypervisor": "store_hypervisor.facts",
    "staging": "store_hypervisor.stage",
    "preparing": "store_hypervisor.prepare",
    "clearing": "store_hypervisor.clear",
    "defining": "store_hypervisor.define",
    "starting": "store_hypervisor.start",
    "booting": "provisioning_helper.boots",
    "configuring": "provisioning_helper.highstate",
    "restarting": "provisioning_helper.settle",
    "verifying": "provisioning_helper.probe",
    "finishing": "provisioning_helper.cleanup",
}


def now(master):
    return master.ledger.get("0815")


def said(master, verb):
    """Let the operator say the verb, as ``operator_requests.change`` does."""
    return VERBS[verb](master.ledger, master.time, master.ledger.get("0815"))


def entered(master, state):
    """Begin a deployment and let it come as far as its first wait in this state."""
    master.begin()
    full = {"max_active": 0} if state == "queued" else {}
    if state == "awaiting_hypervisor":
        master.away.add(HYPERVISOR)
    return master.run(until=lambda record: record.state == state, **full)


def broken(master, state):
    """Let a deployment fail in this state, and mend the fault."""
    if state in FAILING:
        master.instead[FAILING[state]] = not_ok("it broke")
    elif state == "rebooting":
        master.comes_back = False
    elif state == "queued":
        master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {state: 600}}}
    master.begin()
    record = master.run(max_active=0 if state == "queued" else 50)
    assert (record.state, record.failed_in) == ("failed", state)
    master.instead.clear()
    if not master.comes_back:
        master.comes_back = True
        master._boot()
    return record


def nothing_is_left(master):
    """Check that hypervisor and master have nothing of the new server, after a while, too."""
    for _ in range(50):
        master.wait(master.time + 10)
    assert not master.up
    assert master.facts["domain"] == {"exists": False}
    assert [master.facts[what]["exists"] for what in ("disk", "seed")] == [False, False]
    assert master.keys(GUEST) == {}
    assert not master.armed(GUEST)


# cancel


@pytest.mark.parametrize("state", PATH)
def test_a_deployment_is_cancelled_in_every_state_and_nothing_is_left(master, state):
    entered(master, state)
    assert said(master, "cancel").state == "cancelling"
    record = master.run()
    assert record.state == "cancelled", record.reason
    assert record.due is record.deadline is record.job is None
    assert told(master)[-2:] == ["cancelling", "cancelled"]
    nothing_is_left(master)


@pytest.mark.parametrize("state", [*FAILING, "queued", "rebooting"])
def test_a_failed_deployment_is_given_up_and_nothing_is_left(master, state):
    broken(master, state)
    said(master, "cancel")
    record = master.run()
    assert record.state == "cancelled", record.reason
    assert (record.failed_in, record.reason, record.next_action) == ("", "", "")
    nothing_is_left(master)


@pytest.mark.parametrize("state", PATH)
def test_what_is_held_can_be_cancelled(master, state):
    entered(master, state)
    said(master, "hold")
    said(master, "cancel")
    assert master.run().state == "cancelled"
    nothing_is_left(master)


def test_what_is_retried_can_be_cancelled(master):
    broken(master, "configuring")
    said(master, "retry")
    said(master, "cancel")
    assert master.run().state == "cancelled"
    nothing_is_left(master)


@pytest.mark.parametrize("state", PATH[:3])
def test_where_nothing_was_made_the_hypervisor_is_not_asked(master, state):
    entered(master, state)
    master.away.add(HYPERVISOR)
    said(master, "cancel")
    before = len(master.published)
    assert master.run(until=lambda record: False).state == "cancelled"
    assert len(master.published) == before


def test_the_old_server_stays_set_aside_and_its_key_purged(master):
    deployed(master)
    master.begin(redeploy=True)
    master.run(until=lambda record: record.state == "configuring")
    said(master, "cancel")
    record = master.run()
    assert record.evidence.set_aside["generation"] == 1
    nothing_is_left(master)


def test_an_old_server_that_was_not_reached_yet_runs_on(master):
    first = deployed(master)
    master.begin(redeploy=True)
    master.run(until=lambda record: record.state == "staging")
    said(master, "cancel")
    assert master.run().state == "cancelled"
    assert master.up
    assert master.facts["domain"]["generation"] == 1
    assert master.keys(GUEST) == {"accepted": first.evidence.public_key}


def test_a_key_of_another_machine_is_not_touched(master):
    entered(master, "defining")
    master.known_keys[GUEST] = {"accepted": pem("another machine's")}
    said(master, "cancel")
    assert master.run().state == "cancelled"
    assert master.keys(GUEST) == {"accepted": pem("another machine's")}


@pytest.mark.parametrize("state", ["starting", "booting"])
def test_an_intruders_key_does_not_outlive_the_cancelling(master, state):
    entered(master, state)
    master.known_keys[GUEST] = {"accepted": pem("intruder")}
    said(master, "cancel")
    assert master.run().state == "cancelled"
    nothing_is_left(master)


def test_cancel_waits_for_the_job_that_is_under_way(master):
    master.takes_s["store_hypervisor.define"] = 200
    entered(master, "defining")
    said(master, "cancel")
    record = master.run(until=lambda record: record.reason)
    assert record.reason == "hv-0815 is still at work: store_hypervisor.define"
    assert master.run().state == "cancelled"
    assert ran(master)[-1] == "store_hypervisor.discard"
    assert ran(master).count("store_hypervisor.define") == 1
    nothing_is_left(master)


def test_cancel_waits_for_no_job_that_got_lost(master):
    master.lost["store_hypervisor.define"] = 1
    entered(master, "defining")
    said(master, "cancel")
    assert master.run().state == "cancelled"
    assert ran(master).count("store_hypervisor.define") == 1
    nothing_is_left(master)


def test_cancel_does_not_wait_for_a_job_in_the_guest(master):
    master.takes_s["provisioning_helper.highstate"] = 10**9
    record = entered(master, "configuring")
    said(master, "cancel")
    assert master.run().since < record.since + 60
    nothing_is_left(master)


def test_while_the_hypervisor_is_away_the_deployment_is_cancelling(master):
    entered(master, "booting")
    master.away.add(HYPERVISOR)
    began = said(master, "cancel").since
    master.run(until=lambda record: master.time > began + 1800)
    assert master.ledger.get("0815").state == "cancelling"
    master.away.clear()
    assert master.run().state == "cancelled"
    nothing_is_left(master)


def test_a_guest_that_calls_on_is_locked_out_without_a_storm_of_key_rotations(master):
    entered(master, "configuring")
    master.away.add(HYPERVISOR)
    said(master, "cancel")
    purges = master.acts.count("purge store-0815")
    for _ in range(100):
        # As Salt's minion does whose key was deleted.
        master.known_keys[GUEST] = {"pending": master.guest_key}
        master.run(until=lambda record: True)
        master.time += 30
    assert now(master).state == "cancelling"
    assert master.acts.count("purge store-0815") == purges + 1
    master.away.clear()
    assert master.run().state == "cancelled"
    nothing_is_left(master)


@pytest.mark.parametrize("how", ["key", "machine"])
def test_what_was_on_a_machine_that_is_gone_is_named_and_the_cancelling_ends(master, how):
    entered(master, "configuring")
    master.away.add(HYPERVISOR)
    said(master, "cancel")
    master.run(until=lambda record: True)
    master.away.clear()
    master.up = False
    if how == "key":
        master.hypervisor_key = pem("new")
        master.known_keys[HYPERVISOR] = {"accepted": pem("new")}
    else:
        master.facts["machine_id"] = "0" * 32
    record = master.run()
    assert record.state == "cancelled", record.reason
    (left,) = views.record(record)["cleanup_failed"]
    assert left.startswith("hv-0815: whatever the machine before it had")
    assert master.keys(GUEST) == {}


def test_a_removal_that_the_hypervisor_refuses_says_what_is_left(master):
    entered(master, "configuring")
    master.instead["store_hypervisor.discard"] = not_ok("libvirt cannot be reached")
    said(master, "cancel")
    record = failed(master, "cancelling", "libvirt cannot be reached")
    assert record.evidence.cleanup_failed == ["hv-0815: whatever it has of store-0815"]
    assert record.next_action == "mend it, then: salt-run deploy.cancel 0815"


def test_a_guest_of_a_machine_that_was_replaced_is_not_let_in_after_a_cancel(master):
    entered(master, "configuring")
    master.up = False
    master.hypervisor_key = pem("new")
    master.known_keys[HYPERVISOR] = {"accepted": pem("new")}
    master.run(until=lambda record: record.state == "awaiting_hypervisor")
    said(master, "cancel")
    assert master.run().state == "cancelled"
    assert master.keys(GUEST) == {}


def test_what_is_still_there_is_named_and_cancel_can_be_said_again(master):
    entered(master, "booting")
    left = ["/pool/store-0815.qcow2"]
    master.instead["store_hypervisor.discard"] = with_facts(left=left)
    said(master, "cancel")
    record = failed(master, "cancelling", "not be removed: hv-0815: /pool/store-0815.qcow2")
    assert views.record(record)["cleanup_failed"] == ["hv-0815: /pool/store-0815.qcow2"]
    assert "deploy.cancel 0815" in record.next_action
    assert not any(
        "deploy.retry" in each for each in views.explain(record, 0, master.ledger)["you_can"]
    )
    with pytest.raises(Refused):
        said(master, "retry")
    master.instead.clear()
    said(master, "cancel")
    assert master.run().state == "cancelled"
    nothing_is_left(master)


def test_a_pump_that_is_at_work_meanwhile_leaves_it_to_the_cancelling(master):
    entered(master, "clearing")
    publish = master.publish

    def interrupted(*given):
        master.publish = publish
        requests.cancel(master.witness, master.time, master.witness.get("0815"))
        publish(*given)

    master.publish = interrupted
    assert master.run().state == "cancelled"
    nothing_is_left(master)


def test_a_change_that_comes_too_late_is_a_conflict(master):
    seen = entered(master, "staging")
    master.run(until=lambda record: record.state == "booting")
    for verb in (requests.cancel, requests.hold):
        with pytest.raises(Conflict):
            verb(master.ledger, master.time, seen)


def test_a_cancelled_store_can_be_deployed_again(master):
    entered(master, "booting")
    said(master, "cancel")
    master.run()
    assert deployed(master).generation == 2


# hold and release


@pytest.mark.parametrize("state", PATH)
def test_what_is_held_rests_until_it_is_released_and_keeps_its_time(master, state):
    before = entered(master, state)
    held = said(master, "hold")
    assert (held.state, held.deadline, held.due) == ("held", None, None)
    master.time += 30 * 24 * 3600
    published = len(master.published)
    assert master.run() == held
    assert len(master.published) == published
    master.away.clear()
    released = said(master, "release")
    assert released.state == state
    left_s = before.deadline and pytest.approx(before.deadline - held.since)
    assert (released.deadline and released.deadline - master.time) == left_s
    record = master.run()
    assert record.state == "deployed", record.reason
    assert told(master).count("held") == 1


def test_nobody_is_let_in_while_a_deployment_is_held(master):
    master.calls = False
    entered(master, "booting")
    assert master.armed(GUEST)
    said(master, "hold")
    master.run()
    assert not master.armed(GUEST)
    master.calls = True
    said(master, "release")
    master.later(10, master._call)
    assert master.run().state == "deployed"


def test_a_job_that_is_under_way_goes_on_while_the_deployment_is_held(master):
    master.takes_s["provisioning_helper.highstate"] = 200
    entered(master, "configuring")
    said(master, "hold")
    for _ in range(40):
        master.wait(master.time + 10)
    said(master, "release")
    assert master.run().state == "deployed"
    assert ran(master).count("provisioning_helper.highstate") == 2, "one, and the one for a test"


def test_a_retry_that_is_held_in_the_queue_still_goes_on_where_it_failed(master):
    broken(master, "configuring")
    said(master, "retry")
    said(master, "hold")
    said(master, "release")
    assert master.run().state == "deployed"
    assert ran(master).count("store_hypervisor.define") == 1


@pytest.mark.parametrize(("state", "kept"), [("queued", False), ("staging", True)])
def test_what_is_held_keeps_its_slot_if_it_had_one(master, state, kept):
    entered(master, state)
    said(master, "hold")
    other = {"store": "0816", "state": "queued", "held_in": "", "revision": 0}
    waiting = master.ledger.save(dataclasses.replace(master.ledger.get("0815"), **other))
    assert master.ledger.slot_free(waiting, 50) is not kept


# retry


@pytest.mark.parametrize("state", [*FAILING, "queued", "rebooting"])
def test_a_retry_goes_on_where_it_failed_and_keeps_what_was_made(master, state):
    before = broken(master, state)
    mark = len(told(master))
    retried = said(master, "retry")
    assert retried.generation == before.generation
    assert (retried.failed_in, retried.reason, retried.next_action) == ("", "", "")
    record = master.run()
    assert record.state == "deployed", record.reason
    first = {"booting": "starting"}.get(state, state)
    expected = PATH[PATH.index(first) :]
    if state not in PATH[:2]:
        expected = ["queued", *expected]
    assert told(master)[mark:] == [*expected, "deployed"]
    assert ran(master).count("store_hypervisor.define") == 1 + (state == "defining")
    started = ran(master).count("store_hypervisor.start")
    assert started == 1 + (state in ("starting", "booting")), "a guest that runs is not started"


@pytest.mark.parametrize(("domain", "starts"), [("running", 1), ("paused", 2), ("shut off", 2)])
def test_a_retry_starts_a_guest_that_does_not_go_on(master, domain, starts):
    broken(master, "configuring")
    master.facts["domain"]["state"] = domain
    said(master, "retry")
    master.run(until=lambda record: record.state == "restarting")
    assert ran(master).count("store_hypervisor.start") == starts


def test_a_retry_waits_for_a_slot(master):
    broken(master, "configuring")
    said(master, "retry")
    record = master.run(until=lambda record: record.reason, max_active=0)
    assert (record.state, record.resumes) == ("queued", "configuring")
    assert master.run().state == "deployed"


@pytest.mark.parametrize(
    ("function", "state", "facts"),
    [
        ("store_hypervisor.clear", "clearing", {"disk": {"exists": True}}),
        ("provisioning_helper.cleanup", "finishing", {"left": ["/etc/x"]}),
    ],
)
def test_what_was_wrong_is_looked_at_again(master, function, state, facts):
    master.instead[function] = with_facts(**facts)
    master.begin()
    failed(master, state, "")
    master.instead.clear()
    said(master, "retry")
    assert master.run().state == "deployed"


@pytest.mark.parametrize("state", PATH[PATH.index("rebooting") :])
def test_a_guest_that_is_off_is_switched_on_by_a_retry(master, state):
    entered(master, state)
    # As a power cut on the hypervisor does.
    master.up = False
    master.facts["domain"] |= {"state": "shut off"}
    record = master.run()
    assert (record.state, record.failed_in) == ("failed", state)
    booted = list(master.booted)

    def start(generation, spec, of=None, start=master.do_start):
        done = start(generation, spec, of)
        # It is the same disk, with its list of boots.
        master.booted = booted
        return done

    master.do_start = start
    said(master, "retry")
    record = master.run()
    assert record.state == "deployed", record.reason
    assert ran(master).count("store_hypervisor.start") == 2


def test_after_an_intrusion_the_guest_is_let_in_anew(master):
    entered(master, "booting")
    master.known_keys[GUEST] = {"accepted": pem("intruder")}
    failed(master, "booting", "intrusion: ")
    master.later(10, master._call)
    said(master, "retry")
    record = master.run()
    assert record.state == "deployed", record.reason
    assert master.keys(GUEST) == {"accepted": record.evidence.public_key}


def test_probes_have_all_their_tries_again(master):
    broken(master, "verifying")
    master.instead[FAILING["verifying"]] = not_ok("it broke")
    said(master, "retry")
    failed(master, "verifying", "it broke")
    assert ran(master).count(FAILING["verifying"]) == 10


def test_what_an_earlier_question_waited_for_is_not_shown_after_a_retry(master):
    """While the highstate ran, `deploy.list` said that the hypervisor had not told its facts."""
    broken(master, "configuring")
    master.takes_s |= {"store_hypervisor.facts": 20, "provisioning_helper.highstate": 500}
    said(master, "retry")
    asked = {}

    def note(record):
        if record.job:
            asked.setdefault(record.job.function, []).append(record.reason)
        return False

    assert master.run(until=note).state == "deployed"
    for function in ("store_hypervisor.facts", "provisioning_helper.highstate"):
        assert asked[function], "it was waited for"
        assert all(why.endswith(f"not answered {function} yet") for why in asked[function])


def test_what_an_answer_lacked_is_shown_while_it_is_asked_again(master):
    master.facts["sources_missing"] = ["bridge br0"]
    master.facts["marker"] = None
    master.takes_s["store_hypervisor.facts"] = 20
    master.begin()
    reasons = []
    master.run(until=lambda record: reasons.append(record.reason) or master.time > BEGAN + 300)
    assert set(reasons[2:]) == {reasons[-1]}
    assert reasons[-1].startswith("hv-0815: bridge br0 does not exist")


@pytest.mark.parametrize("state", [name for name in PATH if name != "queued"])
def test_who_was_held_too_late_is_told_the_limit_and_not_the_rest(master, state):
    master.pillars[HYPERVISOR] = {**PILLAR, "timeouts": {state: 3000}}
    entered(master, state)
    master.away |= {HYPERVISOR, GUEST}
    master.run(until=lambda record: master.time > record.since + 600)
    said(master, "hold")
    said(master, "release")
    record = master.run()
    assert f"{state} was not over after 50 min: " in record.reason


def test_a_late_deployment_that_is_retried_has_its_time_again(master):
    broken(master, "rebooting")
    master.comes_back = False
    said(master, "retry")
    began = master.time
    master.booted = master.booted[:1]
    record = failed(master, "rebooting", "rebooting was not over after 10 min")
    assert record.since >= began + 600


# What does not fit


@pytest.mark.parametrize("verb", VERBS)
def test_a_deployed_store_is_not_changed(master, verb):
    before = deployed(master)
    with pytest.raises(Refused, match="store 0815 is deployed") as refused:
        said(master, verb)
    assert "deploy.explain 0815" in refused.value.hint
    assert master.ledger.get("0815") == before


@pytest.mark.parametrize(
    ("state", "verbs"),
    {
        "staging": ["release", "retry"],
        "cancelling": ["cancel", "hold", "release", "retry"],
        "cancelled": ["cancel", "hold", "release", "retry"],
        "held": ["hold", "retry"],
        "failed": ["hold", "release"],
    }.items(),
)
def test_a_verb_that_does_not_fit_the_state_is_refused(master, state, verbs):
    if state == "failed":
        broken(master, "staging")
    else:
        entered(master, "staging")
    if state == "held":
        said(master, "hold")
    if state.startswith("cancel"):
        said(master, "cancel")
    if state == "cancelled":
        master.run()
    before = master.ledger.get("0815")
    for verb in verbs:
        with pytest.raises(Refused, match=f"store 0815 is {state}"):
            said(master, verb)
    assert master.ledger.get("0815") == before
