# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A ledger from a backup, while the store has gone on: nothing is touched, and it is taken over."""

import contextlib
import dataclasses
import sqlite3

import pytest
from fake_master import GUEST, HYPERVISOR, PATH, PILLAR, KillableLedger, deployed

from storelib import orders
from storelib.errors import Refused
from storemaster.deployment import adoption, lifecycle, requests
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.spec import from_pillar

HARMLESS = ("facts", "noted", "boots", "console")


def kept(master, path):
    """Back up the ledger while the master runs."""
    ledger, copy = sqlite3.connect(master.path), sqlite3.connect(path)
    with contextlib.closing(ledger), contextlib.closing(copy):
        ledger.backup(copy)


def restored(master, path):
    """Put the backup back and start the master again, as the README says."""
    master.end()
    for side in ("-wal", "-shm"):
        master.path.with_name(master.path.name + side).unlink(missing_ok=True)
    path.replace(master.path)
    master.runs += 1
    master.ledger, master.witness = KillableLedger(master.path, master), Ledger(master.path)


@pytest.fixture
def old(master, tmp_path):
    """Return a function that has a ledger of a second deployment's state, which then went on."""

    def old(state):
        deployed(master)
        master.begin(redeploy=True)
        master.run(
            until=lambda record: record.state == state, max_active=0 if state == "queued" else 50
        )
        kept(master, tmp_path / "backup")
        assert master.run().state == "deployed"
        restored(master, tmp_path / "backup")
        master.acts.clear()
        master.published.clear()
        return master.witness.get("0815")

    return old


def untouched(master, before):
    """Say that nothing was done but to ask, and that the server has its key."""
    functions = [function.partition(".")[2] for function, _ in master.published]
    # A first order is refused by the hypervisor itself.
    assert set(functions) <= {*HARMLESS, "stage"}
    assert [act for act in master.acts if not act.startswith("run ")] == []
    assert (master.known_keys, master.facts["domain"]) == before
    return True


def present(master):
    return dict(master.known_keys), dict(master.facts["domain"])


@pytest.mark.parametrize("state", PATH)
def test_a_deployment_of_a_ledger_from_a_backup_stops_and_touches_nothing(master, old, state):
    record, before = old(state), present(master)
    assert record.state == state
    ended = master.run()
    # Facts from before may lie in the job cache: then the first order is refused.
    assert ended.state == "failed"
    assert ended.failed_in == (state if state in PATH[2:] else "staging")
    assert "store 0815 has gone on: " in ended.reason
    assert "salt-run deploy.adopt 0815" in ended.next_action
    assert untouched(master, before)


@pytest.mark.thorough
@pytest.mark.parametrize("state", PATH)
def test_it_is_not_cancelled_either(master, old, state):
    record, before = old(state), present(master)
    requests.cancel(master.ledger, master.time, record)
    ended = master.run()
    if ended.state == "failed":
        assert "has gone on" in ended.reason
    else:
        # Nothing was ordered yet as far as it knows, so nothing is taken back.
        assert record.ordered == orders.NOWHERE
    assert untouched(master, before)


@pytest.mark.parametrize("verb", ["rollback", "cancel", "retire", "hold"])
def test_a_ledger_from_the_midst_of_another_verb_stops_and_touches_nothing(master, tmp_path, verb):
    deployed(master)
    deployed(master, redeploy=True)
    if verb in ("cancel", "hold"):
        master.begin(redeploy=True)
        master.run(until=lambda record: record.state == "booting")
    record = getattr(requests, verb)(master.ledger, master.time, master.witness.get("0815"))
    if verb == "rollback":
        record = master.run(until=lambda record: record.state == "rolling_back")
    kept(master, tmp_path / "backup")
    if verb == "hold":
        requests.release(master.ledger, master.time, record)
    assert not master.run().active
    deployed(master, redeploy=True)
    deployed(master, redeploy=True)
    restored(master, tmp_path / "backup")
    master.acts.clear()
    master.published.clear()
    before = present(master)
    if verb == "hold":
        requests.release(master.ledger, master.time, master.witness.get("0815"))
    ended = master.run()
    assert ended.state == "failed"
    assert "has gone on" in ended.reason
    assert "deploy.adopt" in ended.next_action
    assert untouched(master, before)


@pytest.mark.parametrize("verb", ["store", "rollback", "retire"])
def test_what_the_ledger_has_at_rest_is_not_replaced_by_what_it_does_not_know(
    master, tmp_path, verb
):
    deployed(master)
    deployed(master, redeploy=True)
    kept(master, tmp_path / "backup")
    deployed(master, redeploy=True)
    restored(master, tmp_path / "backup")
    master.acts.clear()
    master.published.clear()
    before, record = present(master), master.witness.get("0815")
    if verb == "store":
        master.begin(redeploy=True)
    else:
        getattr(requests, verb)(master.ledger, master.time, record)
    ended = master.run()
    assert ended.state == "failed"
    assert "has gone on" in ended.reason
    assert "deploy.adopt" in ended.next_action
    assert untouched(master, before)


def test_while_the_hypervisor_is_away_nothing_is_believed_of_the_job_cache(master, old):
    old("clearing")
    before = present(master)
    master.away.add(HYPERVISOR)
    ended = master.run()
    assert ended.state == "failed"
    assert untouched(master, before)


def test_a_restarted_master_with_its_own_ledger_goes_on(master):
    deployed(master)
    for state in PATH[1:]:
        master.begin(redeploy=True)
        master.run(until=lambda record, state=state: record.state == state)
        master.runs += 1
        assert master.run().state == "deployed", master.witness.get("0815").reason


def test_a_hypervisor_with_older_modules_is_brought_the_newer_ones(master):
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.runs += 1
    master.forged["store_hypervisor.noted"] = lambda value: (
        value
        if master.functions("saltutil.sync_all")
        else "'store_hypervisor.noted' is not available."
    )
    assert master.run().state == "deployed"
    assert len(master.functions("saltutil.sync_all")) == 1


@pytest.mark.parametrize("state", PATH[PATH.index("booting") :])
def test_a_guest_that_was_cleaned_already_is_brought_to_its_end_once_more(master, tmp_path, state):
    """The hypervisor has noted nothing since the start: to it this ledger is not behind."""
    master.begin()
    master.run(until=lambda record: record.state == state)
    kept(master, tmp_path / "backup")
    # What comes back is not heard, so nothing more is ordered.
    master.lost["provisioning_helper.cleanup"] = 1
    master.run(until=lambda record: record.state == "finishing" and master.cleaned)
    restored(master, tmp_path / "backup")
    assert master.run().state == "deployed", master.witness.get("0815").reason


# Adopting


def found(master, record=None, **changes):
    """Return what deploy.adopt finds."""
    facts = {**master.facts, "note": master.notes.get(master.facts["machine_id"]), **changes}
    facts["set_asides"] = [{**each, "complete": True} for each in facts["set_asides"]]
    spec = from_pillar(PILLAR, HYPERVISOR).as_dict()
    key = master.known_keys[HYPERVISOR][ACCEPTED]
    accepted = master.keys(GUEST).get(ACCEPTED, "")
    domain = facts["domain"]
    same = master.same_key(accepted, domain.get("public_key") or "")
    there = adoption.Found(
        spec, HYPERVISOR, key, facts, accepted, same, record, lambda pem: f"fp-{len(pem)}"
    )
    there.check()
    return there


def adopted(master, **changes):
    record = found(master, master.witness.get("0815"), **changes).becomes(master.time)
    return master.ledger.save(record, change="deploy.adopt apply=True")


@pytest.mark.thorough
@pytest.mark.parametrize("state", PATH)
def test_what_went_on_is_taken_over_and_is_the_stores_again(master, old, state):
    old(state)
    assert master.run().state == "failed"
    record = adopted(master)
    assert (record.state, record.generation) == ("deployed", 2)
    assert record.key_of(GUEST) == master.known_keys[GUEST][ACCEPTED]
    deployed(master, redeploy=True)
    requests.rollback(master.ledger, master.time, master.witness.get("0815"))
    assert master.run().state == "deployed"


def test_a_store_is_taken_over_into_an_empty_ledger(master, tmp_path):
    deployed(master)
    deployed(master, redeploy=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "empty")):
        pass
    restored(master, tmp_path / "empty")
    # Without it nothing begins over a server that the ledger does not know.
    master.begin(redeploy=True)
    assert "has gone on" in master.run().reason
    record = adopted(master)
    assert (record.state, record.generation) == ("deployed", 2)
    assert list(record.asides) == ["1"]
    deployed(master, redeploy=True)


@pytest.mark.parametrize("state", ["defining", "starting", "booting", "configuring", "verifying"])
def test_a_deployment_in_the_midst_is_taken_over_as_failed_and_can_be_retried(
    master, tmp_path, state
):
    master.begin()
    kept(master, tmp_path / "backup")
    master.run(until=lambda record: record.state == state)
    restored(master, tmp_path / "backup")
    assert master.run().state == "failed"
    record = adopted(master)
    assert (record.state, record.failed_in) == (
        "failed",
        # The job that was under way went on.
        "starting" if state == "defining" else "booting",
    )
    assert "in the midst" in record.reason
    requests.retry(master.ledger, master.time, record)
    assert master.run().state == "deployed"


@pytest.mark.parametrize(
    ("step", "state", "failed_in"),
    [
        ("retire", "retired", ""),
        ("discard", "cancelled", ""),
        ("clear", "failed", "clearing"),
        ("define", "failed", "clearing"),
        ("prepare", "failed", "staging"),
        ("stage", "failed", "staging"),
    ],
)
def test_a_store_without_a_server_is_taken_over_as_what_was_noted_last(
    master, step, state, failed_in
):
    deployed(master)
    note = {"deployment": "g9-x", "attempt": 1, "step": step}
    record = adopted(master, domain={"exists": False}, note=note)
    assert (record.state, record.failed_in) == (state, failed_in)
    assert record.key_of(GUEST) == ""


def test_a_server_that_was_put_back_keeps_its_own_deployment(master):
    first = deployed(master)
    deployed(master, redeploy=True)
    requests.rollback(master.ledger, master.time, master.witness.get("0815"))
    assert master.run().state == "deployed"
    record = adopted(master)
    assert (record.state, record.deployment) == ("deployed", first.deployment)
    assert record.evidence.rolls_back_to == 1
    deployed(master, redeploy=True)


def test_another_key_than_the_servers_is_refused_and_both_are_shown(master):
    deployed(master)
    master.known_keys[GUEST] = {ACCEPTED: "-----BEGIN PUBLIC KEY-----\nother\n"}
    with pytest.raises(Refused, match=r"has the key fp-\d+, accepted is fp-\d+"):
        found(master)


def test_a_server_without_a_key_of_ours_is_refused(master):
    deployed(master)
    with pytest.raises(Refused, match="carries no key of ours, accepted for store-0815 is fp-"):
        found(master, domain={**master.facts["domain"], "public_key": None})


def test_a_foreign_domain_and_an_empty_hypervisor_are_refused(master):
    with pytest.raises(Refused, match="has nothing of store 0815"):
        found(master)
    foreign = {"exists": True, "ours": False, "public_key": None}
    with pytest.raises(Refused, match="does not belong to store 0815"):
        found(master, domain=foreign)


def test_what_is_shown_names_the_server_and_how_it_differs_from_the_pillar(master):
    record = deployed(master)
    domain = {**master.facts["domain"], "memory_mib": 512, "cpus": 2, "disks": ["/old/pool/x"]}
    told = found(master, record, domain=domain).told(master.time)
    assert told["there"]["server"]["deployment"] == record.deployment
    assert told["there"]["noted"].startswith("finish of deployment g1-")
    assert told["ledger"]["state"] == told["becomes"]["state"] == "deployed"
    assert told["differences"] == [
        "memory_mib is 512, the pillar says 2048",
        "system disk is /old/pool/x, the pillar says /pool/store-0815.qcow2",
    ]


def test_no_deployment_has_the_id_of_another(master):
    seen = [deployed(master, redeploy=True).deployment for _ in range(3)]
    requests.rollback(master.ledger, master.time, master.witness.get("0815"))
    seen.append(master.run().deployment)
    requests.retire(master.ledger, master.time, master.witness.get("0815"))
    seen.append(master.run().deployment)
    assert len(set(seen)) == 5
    assert lifecycle.RETIRED.name == master.witness.get("0815").state
    deployed(master)


def test_a_record_of_the_version_before_has_ids_made_of_its_numbers(master):
    record = deployed(master)
    with contextlib.closing(sqlite3.connect(master.path, isolation_level=None)) as ledger:
        ledger.execute(
            "UPDATE deployments SET record = json_remove(record, '$.deployment', '$.attempt', "
            "'$.ordered', '$.noted')"
        )
    old = master.witness.get("0815")
    assert (old.deployment, old.may_be_noted("any")) == ("g1", [])
    assert dataclasses.replace(old, deployment="new").may_be_noted("any") == ["g1"]
    assert record.deployment.startswith("g1-")
