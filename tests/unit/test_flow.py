# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A deployment comes to its end, whatever happens on its way.

Master, hypervisor and guest are a stub (fake_master); the ledger and all that decides are real.
"""

import dataclasses
import json
import multiprocessing
import signal
from collections import Counter

import pytest
from fake_master import (
    ASKING,
    BEGAN,
    GUEST,
    HYPERVISOR,
    PATH,
    PILLAR,
    FakeMaster,
    Killed,
    deployed,
    failed,
    not_ok,
    pem,
    ran,
    report_of,
    told,
    waits,
    with_facts,
)

from storelib import __version__, flow, lifecycle, report, seal, spec, views
from storelib.errors import Fault, LedgerError, Refused
from storelib.times import lasting
from storelib.turn import MEND_AGAIN
from storelib.world import ACCEPTED

ACTING = [
    "store_hypervisor.stage",
    "store_hypervisor.prepare",
    "store_hypervisor.clear",
    "store_hypervisor.define",
    "store_hypervisor.start",
    "provisioning_helper.highstate",
    "provisioning_helper.settle",
    "provisioning_helper.probe",
    "provisioning_helper.cleanup",
    "store_hypervisor.finish",
]


# The good path


def test_a_store_is_deployed_in_the_order_of_the_design(master):
    record = deployed(master)
    acting = [function for function in ran(master) if function.partition(".")[2] not in ASKING]
    assert acting == [*ACTING[:-2], "provisioning_helper.highstate", *ACTING[-2:]]
    assert record.evidence["boot_ids"] == ["boot-1", "boot-2", "boot-3"]
    assert [call["test"] for call in master.functions("provisioning_helper.highstate")[1:]] == [
        True
    ]
    assert (record.failed_in, record.reason, record.next_action) == ("", "", "")


def test_each_change_is_told_once_and_in_order(master):
    record = deployed(master)
    assert told(master) == [*PATH, "deployed"]
    assert master.events[0] == (
        "store/0815/deploy/awaiting_hypervisor",
        {
            "store": "0815",
            "generation": 1,
            "state": "awaiting_hypervisor",
            "previous": "",
            "reason": "requested by operator",
            "at": BEGAN,
        },
    )
    for (_, data), previous in zip(master.events[1:], told(master), strict=False):
        assert data["previous"] == previous
    assert [change.state for change in master.books.history("0815")] == told(master)
    assert record.revision == master.books.get("0815").revision


def test_every_job_names_store_and_deployment_and_goes_to_one_minion(master):
    deployed(master)
    for function, arguments in master.published:
        if function.startswith("store_hypervisor."):
            assert arguments["spec"] == spec.from_pillar(PILLAR, HYPERVISOR).as_dict()
        elif function.startswith("provisioning_helper."):
            assert arguments["store"] == "0815"
        assert arguments["generation"] == 1


def test_no_secret_is_in_a_job_an_event_or_the_record(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "guest_pillar": {"till": "s3cr3t"}}}
    record = deployed(master)
    assert "s3cr3t" not in str((master.published, master.events, dataclasses.asdict(record)))


def test_the_public_record_is_json_without_keys(master):
    shown = json.dumps(views.record(deployed(master)))
    assert "PUBLIC KEY" not in shown


def test_the_autosign_entry_is_there_only_from_the_start_until_the_key_is_accepted(master):
    deployed(master)
    acts = [act for act in master.acts if "arm" in act or act.endswith((".define", ".start"))]
    assert acts == [
        "run store_hypervisor.define",
        "arm store-0815",
        "run store_hypervisor.start",
        "disarm store-0815",
    ]


def test_a_pinned_key_is_accepted_before_the_start_and_nothing_is_armed(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": "pinned"}}
    record = deployed(master)
    assert master.acts.index("accept store-0815") < master.acts.index("run store_hypervisor.start")
    assert "arm store-0815" not in master.acts
    assert master.keys(GUEST) == {"accepted": record.evidence["public_key"]}


def test_no_key_is_purged_where_there_is_none(master):
    deployed(master)
    assert "purge store-0815" not in master.acts


@pytest.mark.parametrize("state", ["accepted", "pending", "denied", "rejected"])
def test_a_stale_key_is_purged_after_the_old_guest_is_off(master, state):
    master.known_keys[GUEST] = {state: pem("old")}
    deployed(master)
    purged = master.acts.index("purge store-0815")
    assert purged > master.acts.index("run store_hypervisor.clear")
    assert purged < master.acts.index("arm store-0815")
    (cleared,) = master.functions("store_hypervisor.clear")
    assert cleared["public_key"] == (pem("old") if state == "accepted" else None)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "no minion of that name has called"),
        ({"pending": pem("hypervisor")}, "its key is pending"),
        ({"rejected": pem("hypervisor")}, "its key is rejected"),
    ],
)
def test_nothing_is_sent_to_a_hypervisor_without_an_accepted_key(master, keys, told):
    master.known_keys[HYPERVISOR] = keys
    master.begin()
    waits(master, f"hv-0815 has no accepted key on this master yet: {told}")
    assert master.published == []


# Beginning


@pytest.mark.parametrize("state", PATH)
def test_a_second_request_is_refused_while_one_is_under_way(master, state):
    master.begin()
    full = {"max_active": 0} if state == "queued" else {}
    before = master.run(until=lambda record: record.state == state, **full)
    for redeploy in (False, True):
        with pytest.raises(Refused, match="deployment 1 of store 0815 is under way"):
            master.begin(redeploy=redeploy)
    assert master.books.get("0815") == before


def test_a_deployed_store_is_not_touched_without_the_flag(master):
    before = deployed(master)
    with pytest.raises(Refused, match="store 0815 is deployed") as refused:
        master.begin()
    assert "redeploy=True" in refused.value.hint
    assert master.books.get("0815") == before


def test_with_the_flag_the_server_is_replaced_and_has_another_key(master):
    first = deployed(master)
    master.acts.clear()
    second = deployed(master, redeploy=True)
    assert second.generation == 2
    assert second.evidence["public_key"] != first.evidence["public_key"]
    assert second.evidence["set_aside"]["generation"] == 1
    assert master.keys(GUEST) == {"accepted": second.evidence["public_key"]}
    assert master.functions("store_hypervisor.clear")[-1]["public_key"] == pem(
        "guest of deployment 1"
    )
    assert told(master)[-len(PATH) - 1 :] == [*PATH, "deployed"]


def test_after_a_failure_the_store_can_be_deployed_again(master):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()
    failed(master, "configuring", "a state failed")
    master.instead.clear()
    record = deployed(master)
    assert record.generation == 2
    assert (record.failed_in, record.reason) == ("", "")


def test_a_deployed_server_is_kept_when_its_redeployment_failed_before_it(master):
    deployed(master)
    master.facts["tools_missing"] = ["qemu-img"]
    master.begin(redeploy=True)
    failed(master, "awaiting_hypervisor", "qemu-img")
    master.facts["tools_missing"] = []
    master.begin()
    failed(master, "awaiting_hypervisor", "it has a server of this store (deployment 1)")
    assert master.facts["domain"]["exists"]
    assert master.facts["domain"]["generation"] == 1


def test_a_server_that_the_ledger_does_not_know_is_not_replaced_without_the_flag(master):
    master.facts["domain"] = {"exists": True, "ours": True, "generation": 7, "state": "running"}
    master.begin()
    record = failed(master, "awaiting_hypervisor", "a server of this store (deployment 7)")
    assert "redeploy=True" in record.reason
    assert ran(master) == ["store_hypervisor.facts"]


def test_a_server_that_the_ledger_does_not_know_is_replaced_with_the_flag(master):
    master.facts["domain"] = {"exists": True, "ours": True, "generation": 7, "state": "running"}
    master.facts["domain"]["public_key"] = pem("old")
    assert deployed(master, redeploy=True).evidence["set_aside"]["generation"] == 7


def other_store(master, store="0816", **changes):
    """Put another store's deployment on record."""
    plain = spec.from_pillar(
        {**PILLAR, "store": store, "minion_id": f"store-{store}"}, f"hv-{store}"
    )
    record = flow.begin(master.books, master.time, plain, f"hv-{store}", "operator")
    return master.books.save(dataclasses.replace(record, **changes))


@pytest.mark.parametrize("theirs", ["store-0816", "hv-0816"])
def test_a_minion_id_of_another_store_is_refused(master, theirs):
    other_store(master)
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": theirs}}
    with pytest.raises(Refused, match=f"minion ID {theirs} belongs to store 0816"):
        master.begin()
    assert master.books.get("0815") is None


@pytest.mark.parametrize("theirs", ["store-0816", "hv-0816"])
def test_a_minion_id_of_another_store_is_refused_also_when_it_is_given_later(master, theirs):
    other_store(master)
    master.known_keys[theirs] = {"accepted": pem("theirs")}
    master.begin()
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": theirs}}
    failed(master, "awaiting_hypervisor", f"minion ID {theirs} belongs to store 0816")
    assert master.keys(theirs) == {"accepted": pem("theirs")}


# The hypervisor


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {
                "libvirt": {"uri": None, "version": None, "reachable": False, "why": "no socket"},
                "free_memory_mib": None,
                "sources_missing": None,
                "domain": None,
            },
            "hv-0815: no socket: start libvirtd",
        ),
        ({"pool_error": "no pool fast"}, "hv-0815: no pool fast: create it"),
        ({"free_memory_mib": 1}, "1 MiB of memory are free"),
        (
            {"domain": {"exists": True, "ours": False, "generation": None, "state": "running"}},
            "a domain store-0815 is there that store-deploy did not make",
        ),
    ],
    ids=["libvirt down", "no pool", "no memory", "foreign domain"],
)
def test_a_configured_hypervisor_that_does_not_suffice_fails_the_deployment(master, facts, reason):
    master.facts |= facts
    master.begin()
    failed(master, "awaiting_hypervisor", reason)
    assert ran(master) == ["store_hypervisor.facts"]


@pytest.mark.parametrize(
    "marker",
    [
        None,
        {"boot_id": "an earlier boot", "finished_at": "x", "result": True},
        {"boot_id": "hv-boot-1", "finished_at": "x", "result": False},
    ],
    ids=["none", "of an earlier boot", "of a highstate that failed"],
)
def test_a_hypervisor_that_is_not_configured_yet_is_waited_for(master, marker):
    good = master.facts["marker"]
    master.facts |= {"marker": marker, "sources_missing": ["bridge br0"]}
    master.begin()
    waits(master, "hv-0815: bridge br0 does not exist")
    master.facts |= {"marker": good, "sources_missing": []}
    assert master.run().state == "deployed"


def test_after_an_event_the_highstate_of_this_boot_is_waited_for(master):
    good, master.facts["marker"] = master.facts["marker"], None
    master.begin(by="event")
    waits(master, "hv-0815 has not reached its highstate since it booted")
    master.facts["marker"] = good
    assert master.run().state == "deployed"


def test_an_operator_need_not_wait_for_the_marker_of_a_hypervisor_that_suffices(master):
    master.facts["marker"] = None
    deployed(master)


def test_a_hypervisor_is_asked_again_and_again_until_it_is_up(master):
    master.away.add(HYPERVISOR)
    master.begin()
    master.run(until=lambda record: master.time > BEGAN + 3600)
    asked = len(master.functions("store_hypervisor.facts"))
    assert 60 <= asked <= 130, "about every half minute"
    master.away.clear()
    assert master.run().state == "deployed"


def test_the_pillar_may_change_until_the_deployment_is_queued_and_not_after(master):
    master.begin()
    master.pillars = {HYPERVISOR: {**PILLAR, "cpus": 8}}
    record = master.run(until=lambda record: record.state == "staging")
    assert record.spec["cpus"] == 8
    master.pillars = {HYPERVISOR: {**PILLAR, "cpus": 16}}
    assert master.run().spec["cpus"] == 8


def test_the_pillar_is_compiled_in_the_environments_that_the_hypervisor_told(master):
    master.facts["environment"] = {"saltenv": "", "pillarenv": "prod"}
    master.begin()
    assert master.run().state == "deployed"
    assert master.environments == {HYPERVISOR: master.facts["environment"]}


def test_while_a_hypervisor_is_awaited_its_pillar_is_not_compiled_in_vain(master):
    looks = []
    master.away.add(HYPERVISOR)
    store_server = master.store_server
    master.store_server = lambda minion, *_: looks.append(minion) or store_server(minion)
    master.begin()
    master.run(until=lambda record: master.time > BEGAN + 3600)
    assert looks == []
    master.pillars = {HYPERVISOR: {**PILLAR, "cpus": 8}}
    master.away.clear()
    record = master.run()
    assert (record.state, record.spec["cpus"]) == ("deployed", 8), record.reason


def test_a_hypervisor_that_is_installed_anew_while_it_is_awaited_is_believed(master):
    master.away.add(HYPERVISOR)
    master.begin()
    master.run(until=lambda record: master.time > BEGAN + 600)
    master.hypervisor_key = pem("new")
    master.known_keys[HYPERVISOR] = {ACCEPTED: pem("new")}
    master.away.clear()
    record = master.run()
    assert (record.state, record.evidence["hypervisor_key"]) == ("deployed", pem("new"))


def test_a_server_does_not_change_its_minion_id(master):
    before = deployed(master)
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    with pytest.raises(Refused, match="has the minion ID store-0815, the pillar now says") as told:
        master.begin(redeploy=True)
    assert "deploy.retire 0815 remove=True" in told.value.hint
    assert master.books.get("0815") == before


def test_a_server_does_not_change_its_minion_id_while_its_hypervisor_is_awaited(master):
    deployed(master)
    master.begin(redeploy=True)
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    failed(master, "awaiting_hypervisor", "the server of store 0815 has the minion ID store-0815")
    assert master.facts["domain"]["state"] == "running"


def test_a_store_without_a_server_may_get_another_minion_id(master):
    master.instead["store_hypervisor.define"] = not_ok("it broke")
    master.begin()
    failed(master, "defining", "it broke")
    flow.cancel(master.books, master.time, master.books.get("0815"))
    assert master.run().state == "cancelled"
    master.instead.clear()
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    assert master.begin().minion_id == "store-other"


def test_after_a_retirement_a_store_may_get_another_minion_id_even_while_it_is_awaited(master):
    deployed(master)
    flow.retire(master.books, master.time, master.books.get("0815"))
    assert master.run().state == "retired"
    master.begin()
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    record = master.run(until=lambda record: record.state == "queued")
    assert record.minion_id == "store-other"


def test_a_way_out_that_follows_a_changed_pillar_says_what_reads_it_again(master):
    deployed(master)
    master.instead["store_hypervisor.stage"] = not_ok("no image", "correct it in the pillar")
    master.begin(redeploy=True)
    record = failed(master, "staging", "no image")
    assert record.next_action.endswith(
        "or, if you changed the pillar: salt-run deploy.store 0815 redeploy=True"
    )


@pytest.mark.parametrize(
    ("pillar", "reason"),
    [
        ({**PILLAR, "store": "0816"}, "the pillar of hv-0815 now names store 0816"),
        ({**PILLAR, "cpus": -1}, "cpus is -1"),
        (None, "store_server is None"),
    ],
    ids=["another store", "wrong", "gone"],
)
def test_a_pillar_that_became_wrong_fails_the_deployment(master, pillar, reason):
    master.begin()
    master.pillars = {HYPERVISOR: pillar}
    failed(master, "awaiting_hypervisor", reason)
    assert {function for function, _ in master.published} == {"store_hypervisor.facts"}


# Slots


def test_a_second_deployment_on_the_same_hypervisor_waits_until_the_first_ends(master):
    other = other_store(master, state="staging", hypervisor=HYPERVISOR)
    master.begin()
    assert waits(master, "all slots are taken").state == "queued"
    master.books.save(dataclasses.replace(other, state="deployed"), "it is done")
    assert master.run().state == "deployed"


def test_not_more_than_max_active_are_worked_on(master):
    other_store(master, state="booting")
    master.begin()
    record = master.run(until=lambda record: master.time > BEGAN + 600, max_active=1)
    assert record.state == "queued"
    assert master.run(max_active=2).state == "deployed"


def test_whoever_ends_wakes_those_who_wait(master):
    waiting = other_store(master, state="queued", hypervisor=HYPERVISOR)
    waiting = master.books.save(dataclasses.replace(waiting, since=BEGAN + 60))
    deployed(master)
    assert [bell.name for bell in master.books.rung()] == [waiting.store]


def test_a_slot_that_is_lost_at_the_last_moment_is_waited_for(master, monkeypatch):
    master.begin()
    other = other_store(master, state="staging", hypervisor=HYPERVISOR)
    looks = iter([True])
    free = master.books.slot_free
    monkeypatch.setattr(
        master.books, "slot_free", lambda *given: next(looks, False) or free(*given)
    )
    record = master.run(until=lambda record: record.state == "queued" and master.time > BEGAN + 99)
    assert record.state == "queued"
    assert next(looks, "all were used") == "all were used"
    master.books.save(dataclasses.replace(other, state="deployed"), "it is done")
    assert master.run().state == "deployed"


# Faults


FAULTS = {
    "store_hypervisor.stage": ("staging", "the image answers 404"),
    "store_hypervisor.prepare": ("preparing", "the hypervisor refuses the new server"),
    "store_hypervisor.clear": ("clearing", "the old disk cannot be moved"),
    "store_hypervisor.define": ("defining", "the disk is full"),
    "store_hypervisor.start": ("starting", "the domain did not start in 5 attempts"),
    "provisioning_helper.boots": ("booting", "this guest is of another deployment"),
    "provisioning_helper.highstate": ("configuring", "the state till-pkg failed"),
    "provisioning_helper.settle": ("restarting", "eth0 has no configuration"),
    "provisioning_helper.probe": ("verifying", "port 22 does not answer"),
    "provisioning_helper.cleanup": ("finishing", "a path could not be removed"),
    "store_hypervisor.finish": ("finishing", "the seed is still there"),
}


@pytest.mark.parametrize("function", FAULTS)
def test_a_fault_that_a_minion_reports_is_the_reason_of_the_failure(master, function):
    state, error = FAULTS[function]
    master.instead[function] = not_ok(error, "mend it so")
    master.begin()
    record = failed(master, state, error)
    assert record.reason == error
    assert record.next_action == (
        "mend it so, then: salt-run deploy.retry 0815, or, if you changed the pillar: "
        "salt-run deploy.store 0815"
    )
    assert told(master)[-1] == "failed"
    assert master.events[-1][1]["reason"] == error
    assert master.books.history("0815")[-1].reason == error


FACTS = {
    "image of another checksum": ("store_hypervisor.stage", "staging", {"image": {"sha256": "0"}}),
    "nothing prepared": ("store_hypervisor.prepare", "preparing", {"disk": {"exists": False}}),
    "prepared disk of another size": (
        "store_hypervisor.prepare",
        "preparing",
        {"disk": {"exists": True, "virtual_size": 1, "backing": None}},
    ),
    "no prepared key": ("store_hypervisor.prepare", "preparing", {"public_key": None}),
    "trial still there": ("store_hypervisor.prepare", "preparing", {"trial": "store-0815+trial"}),
    "domain still there": ("store_hypervisor.clear", "clearing", {"domain": {"exists": True}}),
    "disk still there": ("store_hypervisor.clear", "clearing", {"disk": {"exists": True}}),
    "no domain": ("store_hypervisor.define", "defining", {"domain": {"exists": False}}),
    "domain of another deployment": (
        "store_hypervisor.define",
        "defining",
        {"domain": {"exists": True, "ours": True, "generation": 9}},
    ),
    "disk of another size": (
        "store_hypervisor.define",
        "defining",
        {"disk": {"virtual_size": 1, "backing": None}},
    ),
    "disk that needs the image": (
        "store_hypervisor.define",
        "defining",
        {"disk": {"virtual_size": 20 * 1024**3, "backing": "/pool/5e.qcow2"}},
    ),
    "no key": ("store_hypervisor.define", "defining", {"public_key": None}),
    "bootstrap data left": ("provisioning_helper.cleanup", "finishing", {"left": ["/etc/x"]}),
}


@pytest.mark.parametrize(("function", "state", "facts"), FACTS.values(), ids=FACTS)
def test_facts_are_believed_more_than_the_word_ok(master, function, state, facts):
    master.instead[function] = with_facts(**facts)
    master.begin()
    failed(master, state, "")


def test_a_transfer_of_an_earlier_attempt_is_waited_for_and_told(master):
    master.instead["store_hypervisor.stage"] = with_facts(waits="another job brings the image")
    master.begin()
    record = master.run(until=lambda record: "brings" in record.reason)
    assert record.reason == f"{HYPERVISOR}: another job brings the image"
    del master.instead["store_hypervisor.stage"]
    assert master.run().state == "deployed"


def test_a_disk_without_the_image_behind_it_is_not_the_cow_clone_that_was_asked_for(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "clone": "cow"}}
    assert deployed(master).evidence["disk"]["backing"]
    disk = {"virtual_size": 20 * 1024**3, "backing": None}
    master.instead["store_hypervisor.define"] = with_facts(disk=disk)
    master.begin(redeploy=True)
    failed(master, "defining", "is not what was asked for")


def test_a_probe_that_passes_in_the_end_is_a_good_one(master):
    answers = iter([not_ok("refused")] * 4)
    master.instead["provisioning_helper.probe"] = lambda value: next(answers, dict)(value)
    deployed(master)
    assert ran(master).count("provisioning_helper.probe") == 5


def test_a_probe_is_tried_five_times_and_its_results_stay(master):
    results = [{"check": {"tcp": 22}, "ok": False, "detail": "refused"}]
    master.instead["provisioning_helper.probe"] = report_of(
        ok=False, error="refused", hint="mend it", facts={"results": results}
    )
    master.begin()
    record = failed(master, "verifying", "refused")
    assert ran(master).count("provisioning_helper.probe") == 5
    # As README says of evidence: all that failed, not only the first one that the reason names.
    assert record.evidence["failure"] == {"results": results}


# Deadlines


def silent_hypervisor(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"awaiting_hypervisor": 3600}}}
    master.away.add(HYPERVISOR)


def never_calls(master):
    master.calls = False


def never_comes_back(master):
    master.comes_back = False


def dies_in_the_highstate(master):
    master.takes_s["provisioning_helper.highstate"] = 10**9


LATE = {
    "hypervisor that never answers": (silent_hypervisor, "awaiting_hypervisor", 3600),
    "guest that never calls": (never_calls, "booting", 15 * 60),
    "guest that never comes back": (never_comes_back, "rebooting", 10 * 60),
    "highstate that never ends": (dies_in_the_highstate, "configuring", 60 * 60),
}


@pytest.mark.parametrize(("happens", "state", "limit_s"), LATE.values(), ids=LATE)
def test_what_takes_too_long_fails_at_the_deadline(master, happens, state, limit_s):
    happens(master)
    master.begin()
    record = failed(master, state, f"{state} was not over after {lasting(limit_s)}: ")
    entered = [c.at for c in master.books.history("0815") if c.state == state]
    assert entered[0] + limit_s <= record.since <= entered[0] + limit_s + 60


def test_the_pillar_may_set_the_deadline(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "timeouts": {"booting": 77}}}
    master.calls = False
    master.begin()
    failed(master, "booting", "booting was not over after 77 s: store-0815 has not called yet")


@pytest.mark.parametrize("function", ["store_hypervisor.stage", "provisioning_helper.highstate"])
def test_what_was_not_foreseen_is_told_and_ended_by_the_deadline(master, function):
    publish = master.publish

    def failing(jid, minion, name, arguments):
        if name == function:
            raise ZeroDivisionError("nobody thought of this")
        publish(jid, minion, name, arguments)

    master.publish = failing
    master.begin()
    state = FAULTS[function][0]
    failed(
        master, state, f"{state} was not over after {lasting(lifecycle.STATES[state].limit_s)}: "
    )
    del master.publish


def test_an_unforeseen_exception_is_the_reason_while_it_lasts_and_no_longer(master):
    keys = master.keys
    master.begin()
    master.run(until=lambda record: record.state == "starting")

    def broken(minion):
        raise ZeroDivisionError("nobody thought of this")

    master.keys = broken
    record = master.run(until=lambda record: record.reason)
    assert record.reason == "ZeroDivisionError: nobody thought of this"
    master.keys = keys
    assert master.run().state == "deployed"


@pytest.mark.parametrize("late", [False, True])
def test_a_deployment_fails_even_if_the_autosign_entry_cannot_be_removed_and_says_so(master, late):
    def broken(minion):
        raise Fault("the autosign file cannot be written: Read-only file system", "mend it")

    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    master.disarm = broken
    if late:
        dies_in_the_highstate(master)
    why = "configuring was not over after 1 h" if late else "a state failed"
    record = failed(master, "configuring", why)
    assert "the autosign file cannot be written" in record.reason


def test_a_bus_that_is_down_delays_events_and_nothing_else(master):
    announce = master.announce

    def broken(tag, data):
        raise OSError("no bus")

    master.announce = broken
    deployed(master)
    assert master.events == []
    master.announce = announce
    flow.announce(master, master.books, "0815")
    assert told(master) == [*PATH, "deployed"]


def test_a_ledger_that_cannot_be_written_for_a_while_fails_no_deployment(master):
    master.begin()
    before = master.run(until=lambda record: record.state == "staging")
    save = master.books.save
    errors = iter([LedgerError("the ledger cannot be used: disk full")])

    def broken(*given, **named):
        for error in errors:
            raise error
        return save(*given, **named)

    master.books.save = broken
    with pytest.raises(LedgerError, match="disk full"):
        flow.advance(master, master.books, "0815", 50)
    assert master.books.get("0815") == before
    assert master.run().state == "deployed"


def test_somebody_elses_change_of_the_record_ends_the_turn_and_is_not_overwritten(master):
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    publish = master.publish

    def interrupted(*given):
        master.publish = publish
        mine = master.witness.get("0815")
        master.witness.save(dataclasses.replace(mine, next_action="mine"))
        publish(*given)

    master.publish = interrupted
    assert master.run().next_action == "mine"


# Jobs that get lost


@pytest.mark.parametrize("function", ACTING)
def test_a_lost_return_is_asked_for_and_the_job_sent_again(master, function):
    master.lost[function] = 1
    deployed(master)
    assert ran(master).count(function) == 2 + (function == "provisioning_helper.highstate")
    assert len(master.functions(f"{function.partition('.')[0]}.job")) == 1


@pytest.mark.parametrize("function", ACTING)
def test_a_long_job_is_asked_after_and_never_sent_twice_while_it_runs(master, function):
    master.takes_s[function] = 200
    deployed(master)
    assert ran(master).count(function) == 1 + (function == "provisioning_helper.highstate")
    assert len(master.functions(f"{function.partition('.')[0]}.job")) >= 3


def test_a_job_that_ends_while_it_is_asked_after_is_not_sent_again(master):
    for takes_s in range(25, 36):
        master.takes_s["store_hypervisor.stage"] = takes_s
        record = deployed(master, redeploy=True)
        assert ran(master).count("store_hypervisor.stage") == record.generation


def test_a_minion_that_was_away_gets_its_job_when_it_is_back(master):
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    master.away.add(HYPERVISOR)
    master.run(until=lambda record: master.time > record.since + 600)
    assert "store_hypervisor.stage" not in ran(master)
    master.away.clear()
    assert master.run().state == "deployed"
    assert ran(master).count("store_hypervisor.stage") == 1


# Reports that are not what was asked for


STRANGE = {
    "of another store": report_of(store="0816"),
    "of another deployment": report_of(generation=2),
    "of another step": report_of(step="define"),
    "of the wrong type": report_of(facts="all is well"),
    "none": lambda value: None,
    "a text of Salt's": lambda value: "'store_hypervisor.stage' is not available.",
    "an error of Salt's": lambda value: "The minion function caused an exception: ...",
}
OTHER = {**STRANGE, "of another version": report_of(version="0.0.1")}


@pytest.mark.parametrize("strange", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("function", ["store_hypervisor.facts", "store_hypervisor.finish"])
def test_a_hypervisor_that_gets_its_modules_then_goes_on(master, function, strange):
    answers = iter([strange])
    master.instead[function] = lambda value: next(answers, dict)(value) if value else value
    record = deployed(master)
    assert ran(master).count("saltutil.sync_all") == 1
    assert "refused" not in record.evidence


@pytest.mark.parametrize("strange", OTHER.values(), ids=OTHER)
def test_a_guest_that_has_no_modules_yet_gets_them_from_its_first_state(master, strange):
    answers = iter([strange, strange])
    master.instead["provisioning_helper.boots"] = lambda value: next(answers, dict)(value or {})
    record = deployed(master)
    assert "saltutil.sync_all" not in ran(master)
    assert "refused" not in record.evidence


def test_a_failure_for_another_version_names_both_after_one_sync(master):
    master.instead["store_hypervisor.stage"] = report_of(version="0.0.1")
    master.begin()
    record = failed(master, "staging", "has version 0.0.1 of store-deploy")
    assert __version__ in record.reason
    assert "sync_all" in record.next_action
    assert ran(master)[-3:] == [
        "store_hypervisor.stage",
        "saltutil.sync_all",
        "store_hypervisor.stage",
    ]


# Reports that nobody need believe


def replayed():
    """Give the first report of a function again, however often it is asked for another."""
    seen = []

    def replay(value):
        seen.append(value)
        return seen[0]

    return replay


FORGED = {
    **STRANGE,
    "without a seal": report_of(seal=""),
    "with a wrong seal": report_of(seal="0" * 64),
    "with another word under its seal": report_of(facts={"boots": ["1", "2", "3"]}),
    "with the nonce of another question": report_of(nonce="jid-1"),
    "with strange characters": lambda value: "\x1b[2J is not available\n\udcff",
    "with a strange seal": report_of(seal="é"),
    "of another minion": lambda value: report.sealed(
        value, value["nonce"], seal.secret(b"the master's own", "till-4711", pem("till"))
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.boots", "rebooting")],
)
def test_a_report_that_may_be_forged_neither_moves_nor_fails_the_deployment(
    master, caplog, function, state, forged
):
    master.begin()
    begun = master.run(until=lambda record: record.state == state)
    master.forged[function] = forged
    limit_s = lifecycle.STATES[state].limit_s
    record = master.run(until=lambda record: master.time > begun.since + limit_s - 60)
    assert record.state == state
    assert record.reason.startswith(("refused: ", "hv-0815 is asked", "store-0815 is asked"))
    refused = record.evidence["refused"]
    assert refused["count"] > 5
    assert caplog.text.count("0815: refused: ") == refused["count"]
    mended = sum(function.startswith("saltutil.") for function in ran(master))
    assert 1 < mended <= 1 + refused["count"] / MEND_AGAIN, "what it may lack, but not each time"
    failed(master, state, f"{state} was not over after {lasting(limit_s)}: ")


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.highstate", "configuring")],
)
def test_after_forged_reports_the_true_one_is_believed(master, function, state, forged):
    answers = iter([forged] * 4)
    master.forged[function] = lambda value: next(answers, dict)(value)
    assert deployed(master).evidence["refused"]["count"] == 3


def test_an_old_report_that_is_told_again_is_refused(master):
    master.forged["provisioning_helper.boots"] = replayed()
    master.begin()
    record = failed(master, "rebooting", "rebooting was not over after 10 min")
    assert record.evidence["refused"]["count"] > 5
    assert record.evidence["refused"]["last"].endswith("sent a report on boots without its seal")


def test_a_forged_report_in_booting_is_counted_too(master):
    master.forged["provisioning_helper.boots"] = report_of(seal="")
    master.begin()
    record = failed(master, "booting", "booting was not over after 15 min")
    assert record.evidence["refused"]["count"] > 5


def test_a_late_report_of_an_earlier_asking_is_believed(master):
    master.takes_s["provisioning_helper.boots"] = 90
    deployed(master)


@pytest.mark.parametrize("minion", [HYPERVISOR, GUEST])
def test_a_minion_without_its_secret_is_told_to_refresh_its_pillar_once(master, minion):
    master.secretless.add(minion)
    record = deployed(master)
    assert ran(master).count("saltutil.refresh_pillar") == 1
    assert "refused" not in record.evidence


def test_each_question_has_a_nonce_of_its_own(master):
    deployed(master)
    nonces = [
        arguments["nonce"] for function, arguments in master.published if "saltutil" not in function
    ]
    assert len(set(nonces)) == len(nonces)


def test_the_secret_is_in_no_job_and_no_record(master):
    record = deployed(master)
    secrets = [
        master.secret(HYPERVISOR, pem("hypervisor")),
        master.secret(GUEST, record.evidence["public_key"]),
    ]
    written = str((master.published, master.events, dataclasses.asdict(record)))
    assert not any(secret in written for secret in secrets)


# The third boot


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("when", ["configuring", "restarting"])
def test_however_often_it_booted_it_boots_once_more_after_it_was_made_permanent(
    master, when, extra
):
    settled_in = []
    settle, cleanup = master.do_settle, master.do_cleanup
    master.do_settle = lambda generation: settled_in.append(master.booted[-1]) or settle(generation)
    master.do_cleanup = lambda generation: (
        settled_in.append(master.booted[-1]) or cleanup(generation)
    )
    master.begin()
    master.run(until=lambda record: record.state == when)
    for _ in range(extra):
        master._boot()
    record = master.run()
    assert record.state == "deployed", record.reason
    settled, cleaned = settled_in
    boots = record.evidence["boot_ids"]
    assert boots.index(cleaned) > boots.index(settled)
    assert len(master.functions("provisioning_helper.reboot")) > 1


# The guest's last words


@pytest.mark.parametrize(
    ("happens", "state"),
    [
        (never_calls, "booting"),
        (never_comes_back, "rebooting"),
        (dies_in_the_highstate, "configuring"),
    ],
)
def test_a_guest_that_is_late_is_quoted(master, happens, state):
    happens(master)
    master.console = [f"line {number}" for number in range(9)] + ["", "\x1b[0mKernel panic\r"]
    master.begin()
    failed(master, state, "; its console ended with: line 6 | line 7 | line 8 | [0mKernel")
    (asked,) = master.functions("store_hypervisor.console")
    assert asked["lines"] == 5
    highstates = master.functions("provisioning_helper.highstate")
    assert len(highstates) == (state == "configuring"), "nothing is done any more but to ask"


SPEECHLESS = {
    "hypervisor away": lambda master: master.away.add(HYPERVISOR),
    "forged": lambda master: master.forged.update({"store_hypervisor.console": report_of(seal="")}),
    "not ok": lambda master: master.instead.update({"store_hypervisor.console": not_ok("no file")}),
    "strange": lambda master: master.instead.update(
        {"store_hypervisor.console": with_facts(lines=None)}
    ),
}


@pytest.mark.parametrize("happens", SPEECHLESS.values(), ids=SPEECHLESS)
def test_without_last_words_the_deployment_ends_all_the_same(master, happens):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    happens(master)
    record = failed(master, "booting", "booting was not over after 15 min: store-0815 has not")
    assert "console" not in record.reason


# Intruders


def intrude(master, state):
    """Let another machine have its key accepted when this state is entered."""
    master.begin()
    master.run(until=lambda record: record.state == state)
    master.known_keys[GUEST] = {"accepted": pem("intruder")}


@pytest.mark.parametrize("admission", ["autosign", "pinned"])
@pytest.mark.parametrize("state", ["starting", "booting"])
def test_an_accepted_key_that_is_not_the_guests_is_revoked_and_an_intrusion(
    master, state, admission
):
    master.calls = False
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": admission}}
    intrude(master, state)
    record = failed(master, state, "intrusion: the key that was accepted for store-0815")
    assert master.keys(GUEST) == {}
    assert "pinned" in record.next_action
    assert "provisioning_helper.boots" not in ran(master)


def test_who_gets_in_while_a_late_deployment_ends_is_an_intruder_too(master):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.away.add(HYPERVISOR)
    master.run(until=lambda record: "late" in record.evidence)
    assert not master.armed(GUEST)
    master.known_keys[GUEST] = {"accepted": pem("intruder")}
    record = failed(master, "booting", "booting was not over after 15 min: ")
    assert "; intrusion: the key that was accepted for store-0815" in record.reason
    assert master.keys(GUEST) == {}


def test_a_key_is_compared_as_a_key_not_as_text(master):
    master.instead["store_hypervisor.define"] = lambda value: {
        **value,
        "facts": {**value["facts"], "public_key": value["facts"]["public_key"].strip()},
    }
    deployed(master)


def test_a_machine_that_only_knocks_is_named_and_not_let_in(master):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.known_keys[GUEST] = {"rejected": pem("intruder")}
    failed(master, "booting", "another machine calls itself store-0815: its key is rejected")
    assert master.keys(GUEST) == {"rejected": pem("intruder")}


# Killed at any line


def points(make, path, state):
    """Return at which points a deployment can be killed while it is in ``state``."""
    master = FakeMaster(path)
    make(master)
    made = len(master.points)
    master.run()
    master.end()
    # Between an act and the next nothing is written: to be killed before is as after the last.
    found = [
        n
        for n, (during, point) in enumerate(master.points)
        if n >= made and during == state and point.startswith("after")
    ]
    assert found
    return found


def begun_and_run(make, master):
    make(master)
    return master.run()


def killed_and_resumed(make, path, n):
    master = FakeMaster(path)
    master.kill_at = n
    with pytest.raises(Killed):
        begun_and_run(make, master)
    master.restart()
    record = master.run()
    master.end()
    assert master.wrong == [], master.points[n]
    assert not master.armed(GUEST)
    return master, record


def begin(master):
    master.begin()


def begin_pinned(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": "pinned"}}
    master.known_keys[GUEST] = {"denied": pem("old")}
    master.begin()


def begin_with_a_fault(master):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()


def without_repeats(states):
    return [state for state, before in zip(states, ["", *states], strict=False) if state != before]


@pytest.mark.parametrize("state", PATH)
def test_a_deployment_killed_at_any_line_goes_on_to_its_end(tmp_path, state):
    for n in points(begin, tmp_path / "whole", state):
        master, record = killed_and_resumed(begin, tmp_path / f"killed-{n}", n)
        assert record.state == "deployed", (master.points[n], record.reason)
        counts = Counter(ran(master))
        once = [counts[f] - (f == "provisioning_helper.highstate") for f in ACTING]
        assert once == [1] * len(ACTING)
        assert without_repeats(told(master)) == [*PATH, "deployed"]


@pytest.mark.parametrize("state", ["clearing", "starting", "booting"])
def test_a_pinned_deployment_killed_at_any_line_goes_on_to_its_end(tmp_path, state):
    for n in points(begin_pinned, tmp_path / "whole", state):
        master, record = killed_and_resumed(begin_pinned, tmp_path / f"killed-{n}", n)
        assert record.state == "deployed", (master.points[n], record.reason)
        assert "arm store-0815" not in master.acts
        assert master.acts.count("purge store-0815") == 1


def test_a_failing_deployment_killed_at_any_line_fails_all_the_same(tmp_path):
    for n in points(begin_with_a_fault, tmp_path / "whole", "configuring"):
        master, record = killed_and_resumed(begin_with_a_fault, tmp_path / f"killed-{n}", n)
        assert (record.state, record.failed_in) == ("failed", "configuring")
        assert record.reason == "a state failed"
        assert ran(master).count("provisioning_helper.highstate") == 1


def test_an_intrusion_is_not_forgotten_if_the_process_is_killed_at_any_line(tmp_path):
    def make(master):
        intrude(master, "booting")

    for n in points(make, tmp_path / "whole", "booting"):
        _, record = killed_and_resumed(make, tmp_path / f"killed-{n}", n)
        assert record.state == "failed", record
        assert record.reason.startswith("intrusion: ")


def test_a_late_intrusion_is_not_forgotten_if_the_process_is_killed_at_any_line(tmp_path):
    def make(master):
        master.calls = False
        master.begin()
        master.run(until=lambda record: record.state == "booting")
        master.away.add(HYPERVISOR)
        master.run(until=lambda record: "late" in record.evidence)
        master.known_keys[GUEST] = {"accepted": pem("intruder")}

    for n in points(make, tmp_path / "whole", "booting"):
        master, record = killed_and_resumed(make, tmp_path / f"killed-{n}", n)
        assert record.state == "failed", record
        assert record.reason.count("intrusion: ") == 1
        assert master.keys(GUEST) == {}


# The lock


def hold(folder, store, held):
    with flow.locked(folder, store) as mine:
        assert mine
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock of store 0815."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, "0815", held))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_store_that_another_process_advances_is_left_to_it(tmp_path, holder):
    with flow.locked(tmp_path, "0815") as mine:
        assert not mine
    with flow.locked(tmp_path, "0816") as mine:
        assert mine


def test_the_lock_ends_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    with flow.locked(tmp_path, "0815") as mine:
        assert mine


def test_the_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with flow.locked(tmp_path / "new", "0815") as mine:
            assert mine
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
