# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A deployment on its way, from the request to deployed."""

import dataclasses
import json

import pytest
from fake_master import (
    ASKING,
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
    waits,
)
from scenes import (
    ACTING,
)

from storelib.errors import Refused
from storemaster.deployment import engine, lifecycle, requests, spec, views
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.steps import installing

# The good path


def test_a_store_is_deployed_in_the_order_of_the_design(master):
    record = deployed(master)
    acting = [function for function in ran(master) if function.partition(".")[2] not in ASKING]
    assert acting == [*ACTING[:7], "provisioning_helper.highstate", *ACTING[7:]]
    assert record.evidence.boot_ids == ["boot-1", "boot-2", "boot-3"]
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
            "version": 1,
            "previous": "",
            "reason": "requested by operator",
            "at": BEGAN,
            "actor": "",
            "way": "clock",
        },
    )
    for (_, data), previous in zip(master.events[1:], told(master), strict=False):
        assert data["previous"] == previous
    assert [change.state for change in master.ledger.history("0815")] == told(master)
    assert record.revision == master.ledger.get("0815").revision


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
    assert master.keys(GUEST) == {"accepted": record.evidence.public_key}


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
    assert master.ledger.get("0815") == before


def test_a_deployed_store_is_not_touched_without_the_flag(master):
    before = deployed(master)
    with pytest.raises(Refused, match="store 0815 is deployed") as refused:
        master.begin()
    assert "redeploy=True" in refused.value.hint
    assert master.ledger.get("0815") == before


def test_with_the_flag_the_server_is_replaced_and_has_another_key(master):
    first = deployed(master)
    master.acts.clear()
    second = deployed(master, redeploy=True)
    assert second.generation == 2
    assert second.evidence.public_key != first.evidence.public_key
    assert second.evidence.set_aside["generation"] == 1
    assert master.keys(GUEST) == {"accepted": second.evidence.public_key}
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
    assert deployed(master, redeploy=True).evidence.set_aside["generation"] == 7


def other_store(master, store="0816", **changes):
    """Put another store's deployment on record."""
    plain = spec.from_pillar(
        {**PILLAR, "store": store, "minion_id": f"store-{store}"}, f"hv-{store}"
    )
    record = requests.begin(master.ledger, master.time, plain, f"hv-{store}", "operator")
    return master.ledger.save(dataclasses.replace(record, **changes))


@pytest.mark.parametrize("theirs", ["store-0816", "hv-0816"])
def test_a_minion_id_of_another_store_is_refused(master, theirs):
    other_store(master)
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": theirs}}
    with pytest.raises(Refused, match=f"minion ID {theirs} belongs to store 0816"):
        master.begin()
    assert master.ledger.get("0815") is None


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
    assert (record.state, record.evidence.hypervisor_key) == ("deployed", pem("new"))


def test_a_server_does_not_change_its_minion_id(master):
    before = deployed(master)
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    with pytest.raises(Refused, match="has the minion ID store-0815, the pillar now says") as told:
        master.begin(redeploy=True)
    assert "deploy.retire 0815 remove=True" in told.value.hint
    assert master.ledger.get("0815") == before


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
    requests.cancel(master.ledger, master.time, master.ledger.get("0815"))
    assert master.run().state == "cancelled"
    master.instead.clear()
    master.pillars = {HYPERVISOR: {**PILLAR, "minion_id": "store-other"}}
    assert master.begin().minion_id == "store-other"


def test_after_a_retirement_a_store_may_get_another_minion_id_even_while_it_is_awaited(master):
    deployed(master)
    requests.retire(master.ledger, master.time, master.ledger.get("0815"))
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
    master.ledger.save(dataclasses.replace(other, state="deployed"), "it is done")
    assert master.run().state == "deployed"


def test_not_more_than_max_active_are_worked_on(master):
    other_store(master, state="booting")
    master.begin()
    record = master.run(until=lambda record: master.time > BEGAN + 600, max_active=1)
    assert record.state == "queued"
    assert master.run(max_active=2).state == "deployed"


def test_whoever_ends_wakes_those_who_wait(master):
    waiting = other_store(master, state="queued", hypervisor=HYPERVISOR)
    waiting = master.ledger.save(dataclasses.replace(waiting, since=BEGAN + 60))
    deployed(master)
    assert [bell.name for bell in master.ledger.rung()] == [waiting.store]


def test_a_slot_that_is_lost_at_the_last_moment_is_waited_for(master, monkeypatch):
    master.begin()
    other = other_store(master, state="staging", hypervisor=HYPERVISOR)
    looks = iter([True])
    free = master.ledger.slot_free
    monkeypatch.setattr(
        master.ledger, "slot_free", lambda *given: next(looks, False) or free(*given)
    )
    record = master.run(until=lambda record: record.state == "queued" and master.time > BEGAN + 99)
    assert record.state == "queued"
    assert next(looks, "all were used") == "all were used"
    master.ledger.save(dataclasses.replace(other, state="deployed"), "it is done")
    assert master.run().state == "deployed"


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
    boots = record.evidence.boot_ids
    assert boots.index(cleaned) > boots.index(settled)
    assert len(master.functions("provisioning_helper.reboot")) > 1


@pytest.mark.parametrize(("state", "asks"), [("rebooting", "boots"), ("restarting", "reboot")])
def test_a_guest_that_has_not_booted_yet_is_asked_again_when_it_rings(master, state, asks):
    master.begin()
    master.run(until=lambda record: record.state == state and record.rests_until)
    asked = len(master.functions(f"provisioning_helper.{asks}"))
    for _ in range(3):
        record = engine.advance(master, master.ledger, "0815", 50)
    assert len(master.functions(f"provisioning_helper.{asks}")) == asked, record.reason
    assert "reboot" in record.reason
    master._boot()
    engine.advance(master, master.ledger, "0815", 50, rung=True)
    assert len(master.functions(f"provisioning_helper.{asks}")) == asked + 1
    master.nobody_looks(2)
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.state != state, "its answer is read when it comes"
    assert master.run().state == "deployed"


@pytest.mark.parametrize(("state", "asks"), [("rebooting", "boots"), ("restarting", "reboot")])
def test_a_bell_after_the_answer_is_not_lost_on_it(master, state, asks):
    """Both are found in one look: the guest has answered, booted and rung."""
    master.begin()
    master.run(until=lambda record: record.state == state and record.rests_until)
    engine.advance(master, master.ledger, "0815", 50, rung=True)
    master.nobody_looks(2)
    master._boot()
    asked = len(master.functions(f"provisioning_helper.{asks}"))
    record = engine.advance(master, master.ledger, "0815", 50, rung=True)
    assert record.state == state
    assert len(master.functions(f"provisioning_helper.{asks}")) == asked + 1
    master.nobody_looks(2)
    assert engine.advance(master, master.ledger, "0815", 50).state != state


def test_an_answer_to_the_first_question_of_a_state_is_read_when_it_comes(master):
    master.begin()
    master.run(until=lambda record: record.state == "booting" and record.job)
    master.nobody_looks(2)
    record = engine.advance(master, master.ledger, "0815", 50, rung=True)
    assert (record.state, record.job is None) == ("rebooting", False)
    master.nobody_looks(2)
    record = engine.advance(master, master.ledger, "0815", 50)
    assert record.job is None
    assert "noted 1 boots" in record.reason


@pytest.mark.parametrize("state", ["rebooting", "restarting"])
def test_whoever_rests_is_asked_once_more_before_its_time_is_over(master, state):
    limit = lifecycle.limit_s(state, spec.from_pillar(PILLAR, HYPERVISOR).as_dict()["timeouts"])
    master.begin()
    record = master.run(until=lambda record: record.state == state and record.rests_until)
    booted = len(master.booted)
    while len(master.booted) == booted:
        master.nobody_looks(1)
    rests = {"spent_s": limit - 1.0, "rests_until": record.clock_s + 3600}
    master.ledger.save(dataclasses.replace(record, **rests))
    master.nobody_looks(2)
    assert engine.advance(master, master.ledger, "0815", 50).job
    assert master.run().state == "deployed"


@pytest.mark.parametrize(("state", "asks"), [("rebooting", "boots"), ("restarting", "reboot")])
def test_a_guest_whose_start_was_not_heard_is_asked_after_a_while(master, state, asks):
    master.begin()
    record = master.run(until=lambda record: record.state == state and record.rests_until)
    asked, at = len(master.functions(f"provisioning_helper.{asks}")), master.time
    master.run(until=lambda record: record.job)
    assert len(master.functions(f"provisioning_helper.{asks}")) == asked + 1
    assert master.time - at <= installing.BOOT_S + 1, record.reason
