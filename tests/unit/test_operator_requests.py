# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What plan, retire and prune make of what a minion answers: a sentence, whatever it is."""

import contextlib
import dataclasses
import itertools

import pytest
from fake_master import GUEST, HYPERVISOR, PILLAR, deployed, hypervisor_facts, pem

from storelib import report
from storelib.errors import Refused
from storemaster.deployment import views
from storemaster.deployment.master_api import ACCEPTED, Returned
from storemaster.master import asking, doctor, keys, operator_requests, planning

GOOD = {
    "facts": hypervisor_facts(),
    "retire": {"found": [], "kept": [], "removed": [], "left": []},
    "prune": {"found": [], "kept": [], "removed": [], "left": []},
}
STEP = {"plan": "facts", "retire": "retire", "prune": "prune"}
NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()


class Answering:
    """A master whose hypervisor answers what a test says."""

    def __init__(self, master):
        self.master = master
        self.answer = NOTHING
        self.jids = map(str, itertools.count(1))
        self.keys, self.secret = master.keys, master.secret
        self.store_server, self.accept_key = master.store_server, master.accept_key
        self.same_key, self.asked = master.same_key, []
        self.others, self.at = {}, {}
        self.serves = lambda source, saltenv: 0

    def new_jid(self):
        return next(self.jids)

    def publish(self, jid, minion, function, arguments):
        self.at[jid] = minion
        if minion == HYPERVISOR:
            self.asked.append((function, arguments))

    def returned(self, jid, minion):
        if minion != HYPERVISOR:
            told = self.others.get(minion, NOTHING)
            return None if told is NOTHING else Returned(told)
        if callable(self.answer):
            return Returned(self.answer(*self.asked[-1]))
        return None if self.answer is NOTHING else Returned(self.answer)


@pytest.fixture
def asked(master, monkeypatch):
    """A site with one deployed store."""
    deployed(master)
    made = Answering(master)
    monkeypatch.setattr(operator_requests, "open_master", lambda _: contextlib.nullcontext(made))
    monkeypatch.setattr(
        operator_requests, "open_ledger", lambda _: contextlib.nullcontext(master.ledger)
    )
    monkeypatch.setattr(doctor, "autosign", lambda _: [])
    monkeypatch.setattr(asking, "LOOK_S", 0.01)
    monkeypatch.setattr(asking, "FACTS_S", 0.1)
    return made


def said(verb, full=False):
    """Say the verb; return all sentences that say what is wrong, and what to do."""
    if verb == "plan":
        told = planning.plan({}, "0815", None, True, full).as_data()
        assert (told["faults"] or [""])[0].startswith(told.get("error", ""))
        return told["faults"], told.get("hint")
    if verb == "retire":
        try:
            operator_requests.would_retire({}, "0815", False)
        except Refused as err:
            return [err.reason], err.hint
        return [], None
    (row,) = operator_requests.prune({}, 0, "0815", False)
    return [row["error"]] if "error" in row else [], "see the row"


def report_of(verb, **changes):
    step = STEP[verb]
    generation = 2 if verb == "plan" else 1
    return {**report.made("0815", generation, step, GOOD[step]), **changes}


ODD = [None, True, 2.5, "", "text", "\x1b[2Jx\ny", b"\xff", [1], {}, {1: {}}, set()]


@pytest.mark.parametrize("verb", STEP)
def test_a_good_answer_is_no_fault(asked, verb):
    asked.answer = report_of(verb)
    assert said(verb)[0] == []


def told_of(asked, verb, answer):
    asked.answer = answer
    faults, hint = said(verb)
    assert all(isinstance(fault, str) and fault and "\n" not in fault for fault in faults)
    assert hint or not faults
    return faults


@pytest.mark.thorough
@pytest.mark.parametrize("verb", STEP)
@pytest.mark.parametrize("answer", [NOTHING, *ODD], ids=repr)
def test_an_odd_answer_is_one_sentence(asked, verb, answer):
    assert len(told_of(asked, verb, answer)) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("verb", STEP)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_part_of_an_answer_is_told_in_sentences(asked, verb, odd):
    for key in report_of(verb):
        told_of(asked, verb, report_of(verb, **{key: odd}))
    facts = GOOD[STEP[verb]]
    for key, value in facts.items():
        told_of(asked, verb, report_of(verb, facts={**facts, key: odd}))
        for inner in value if isinstance(value, dict) else ():
            inside = {**value, inner: odd}
            told_of(asked, verb, report_of(verb, facts={**facts, key: inside}))
        less = {name: facts[name] for name in facts if name != key}
        told_of(asked, verb, report_of(verb, facts=less))
        told_of(asked, verb, report_of(verb, facts={**facts, key: [odd]}))


@pytest.mark.parametrize("verb", STEP)
def test_a_hypervisor_that_is_no_minion_is_told_apart_from_one_that_is_silent(asked, verb):
    (silent,), _ = said(verb)
    assert silent.startswith("hv-0815 does not answer")
    (pem,) = asked.master.known_keys[HYPERVISOR].values()
    asked.master.known_keys[HYPERVISOR] = {"pending": pem}
    (pending,), _ = said(verb)
    assert pending.startswith("hv-0815 has no accepted key on this master")
    del asked.master.known_keys[HYPERVISOR]
    (none,), _ = said(verb)
    assert none.startswith("hv-0815 is no minion of this master")


def test_a_plan_is_short_and_says_first_what_is_wrong(asked):
    asked.answer = report_of("plan", facts={**GOOD["facts"], "sources_missing": ["bridge br0"]})
    told = planning.plan({}, "0815", None, True).as_data()
    assert (
        told["error"]
        == "bridge br0 does not exist or is not active: create it or correct the pillar"
    )
    assert told["faults"] == [told["error"]]
    assert "deploy.plan 0815" in told["hint"]
    assert not {"spec", "steps"} & set(told)
    assert 2 <= len(told["would"]) <= 6
    full = planning.plan({}, "0815", None, True, True).as_data()
    assert full["spec"]["store"] == "0815"
    assert full["steps"] == [": ".join(step) for step in views.steps(full["spec"])]
    assert full["steps"][0].endswith("fails after 24 h")


def test_a_plan_of_a_deployed_store_says_what_must_be_said_to_replace_its_server(asked):
    asked.answer = report_of("plan", facts={**GOOD["facts"], "sources_missing": ["bridge br0"]})
    told = planning.plan({}, "0815", None).as_data()
    assert told["error"] == "store 0815 is deployed"
    assert told["hint"].endswith("salt-run deploy.store 0815 redeploy=True")
    assert told["faults"][0] == f"{told['error']}: {told['hint']}"
    assert len(told["faults"]) == 2


def test_a_plan_says_what_would_be_made_and_what_becomes_of_the_old_server(asked):
    disks = [{"name": "data", "size_gib": 100}]
    asked.master.pillars[HYPERVISOR] = {**PILLAR, "memory_mib": 4096, "data_disks": disks}
    domain = {"exists": True, "ours": True, "state": "running", "memory_mib": 1}
    asked.answer = report_of("plan", facts={**GOOD["facts"], "domain": domain})
    assert planning.plan({}, "0815", None, True).as_data()["would"] == [
        "image salt://images/store-server.qcow2: is fetched",
        "old server store-0815, running: is shut down and set aside",
        "server store-0815: 2 CPUs, 4096 MiB of memory, 20 GiB of disk in /var/lib/libvirt/images",
        "data disk data: 100 GiB, unless it is there already",
        "interface eth0: bridge br0, dhcp",
    ]


def planned(asked, redeploy=True, **facts):
    """Return the faults that a plan finds in these facts."""
    asked.answer = report_of("plan", facts={**GOOD["facts"], **facts})
    return planning.plan({}, "0815", None, redeploy).as_data()["faults"]


def test_a_plan_tells_what_prepare_would_refuse(asked):
    refused = ["the disk /pool/store-0815.qcow2 is used by the domain look: detach it"]
    assert planned(asked, refused=refused) == refused


def test_a_plan_tells_that_the_hypervisor_knows_more_than_the_ledger(asked):
    note = {"deployment": "g7-unknown", "attempt": 1, "step": "finish"}
    (fault,) = planned(asked, note=note, machine_id="machine-1")
    assert fault.startswith("store 0815 has gone on: hv-0815 has noted finish of deployment g7-")
    assert "salt-run deploy.adopt 0815" in fault


def test_a_plan_tells_of_a_server_that_the_ledger_does_not_know(asked):
    domain = {"exists": True, "ours": True, "generation": 3, "state": "running", "memory_mib": 1}
    record = asked.master.ledger.get("0815")
    asked.master.ledger.save(dataclasses.replace(record, state="cancelled"))
    (fault,) = planned(asked, redeploy=False, domain=domain)
    assert "(deployment 3): say redeploy=True to replace it" in fault
    assert planned(asked, redeploy=True, domain=domain) == []


def test_a_plan_counts_an_image_that_the_master_serves(asked):
    asked.serves = lambda source, saltenv: 60 * 1024**3
    (fault,) = planned(asked)
    # 120 GiB for image and copy, 1 GiB for the first boot.
    assert fault.startswith(
        "pool /var/lib/libvirt/images has 100000 MiB free, 123904 MiB are needed: make room"
    )
    there = {**GOOD["facts"]["image"], "exists": True, "sha256": "5e" * 32, "size": 1024**3}
    assert planned(asked, image=there) == []


def test_a_plan_tells_what_is_wrong_with_the_autosign_file_unless_the_key_is_pinned(
    asked, monkeypatch
):
    monkeypatch.setattr(doctor, "autosign", lambda _: [("salt cannot write X", "chown salt: X")])
    assert planned(asked) == ["salt cannot write X: chown salt: X"]
    asked.master.pillars[HYPERVISOR] = {**PILLAR, "admission": "pinned"}
    assert planned(asked) == []


def test_a_plan_is_of_the_pillar_of_the_environment_that_the_hypervisor_tells(asked, monkeypatch):
    environment = {"saltenv": "", "pillarenv": "prod"}
    compiled = {**PILLAR, "memory_mib": 4096}
    told = []

    def store_server(opts, name, environment):
        told.append((name, environment))
        return compiled

    monkeypatch.setattr(operator_requests.salt_master, "store_server", store_server)
    asked.answer = report_of("plan", facts={**GOOD["facts"], "environment": environment})
    plan = planning.plan({}, "0815", None, True, full=True).as_data()
    assert plan["faults"] == []
    assert plan["spec"]["memory_mib"] == 4096
    assert told == [(HYPERVISOR, environment)] * len(told)
    assert [each["spec"]["memory_mib"] for _, each in asked.asked] == [2048, 4096]


def test_nothing_that_a_plan_refuses_hides_the_rest(asked, monkeypatch):
    image = {"source": "salt://none.qcow2", "sha256": "0" * 64}
    asked.master.pillars[HYPERVISOR] = {**PILLAR, "image": image, "minion_id": "other"}
    asked.serves = lambda source, saltenv: None
    monkeypatch.setattr(doctor, "autosign", lambda _: [("salt cannot write X", "chown salt: X")])
    faults = planned(asked, redeploy=False, sources_missing=["bridge br0"])
    for told in (
        "store 0815 is deployed: to replace its server: salt-run deploy.store",
        "the server of store 0815 has the minion ID store-0815, the pillar now says other: set",
        "image.sha256 is '000000",
        "bridge br0 does not exist",
        "the master does not serve the image salt://none.qcow2",
        "salt cannot write X: chown salt: X",
    ):
        assert sum(told in fault for fault in faults) == 1
    assert len(faults) == 6


def test_what_needs_no_hypervisor_is_told_also_if_it_is_silent(asked, monkeypatch):
    monkeypatch.setattr(doctor, "autosign", lambda _: [("salt cannot write X", "chown salt: X")])
    faults = planning.plan({}, "0815", None).as_data()["faults"]
    assert [fault.partition(":")[0] for fault in faults] == [
        *("store 0815 is deployed", "hv-0815 does not answer", "salt cannot write X")
    ]


def test_a_pillar_that_is_wrong_does_not_hide_that_a_deployment_is_under_way(asked):
    record = asked.master.ledger.get("0815")
    asked.master.ledger.save(dataclasses.replace(record, state="held"))
    asked.master.pillars[HYPERVISOR] = {**PILLAR, "cpus": 0}
    told = planning.plan({}, "0815", None, True).as_data()
    assert "is under way on hv-0815: held" in told["error"]
    assert "watch it" in told["hint"]
    assert "cpus is 0" in told["faults"][1]


@pytest.fixture
def twin(asked):
    """The hypervisor that the store was deployed on, and is not planned for."""
    record, other = asked.master.ledger.get("0815"), pem("the other")
    asked.master.ledger.save(dataclasses.replace(record, others={"hv-old": other}))
    asked.master.known_keys["hv-old"] = {ACCEPTED: other}
    running = {"exists": True, "ours": True, "state": "running"}

    def tells(**changes):
        facts = {**GOOD["facts"], "domain": running, **changes}
        asked.others["hv-old"] = {**report.made("0815", 2, "facts", facts)}

    tells()
    return tells


def test_a_plan_finds_the_twin_that_clearing_would_be_refused_for(asked, twin):
    (fault,) = planned(asked)
    assert fault == (
        "hv-old still runs the server of store 0815: a second one would be its twin: shut it down "
        "there, or deploy there: salt-run deploy.store 0815 hypervisor=hv-old redeploy=True"
    )


def test_a_plan_tells_of_another_hypervisor_that_cannot_say_whether_it_runs_the_server(asked, twin):
    twin(domain=None, libvirt={"why": "no socket"})
    (fault,) = planned(asked)
    assert fault.startswith("hv-old may run the store's server and cannot say so: no socket")
    asked.others["hv-old"] = "nonsense"
    (fault,) = planned(asked)
    assert fault.startswith("hv-old: ")


@pytest.mark.parametrize("gone", ["off", "silent", "no key", "another key", "none of ours"])
def test_another_hypervisor_that_is_gone_is_no_fault_of_a_plan(asked, twin, gone):
    if gone == "off":
        twin(domain={"exists": True, "ours": True, "state": "shut off"})
    elif gone == "none of ours":
        twin(domain={"exists": True, "ours": False, "state": "running"})
    elif gone == "silent":
        del asked.others["hv-old"]
    elif gone == "no key":
        del asked.master.known_keys["hv-old"]
    else:
        asked.master.known_keys["hv-old"] = {ACCEPTED: pem("a stranger")}
    assert planned(asked) == []
    if gone in ("no key", "another key"):
        assert "hv-old" not in asked.at.values()


def test_the_hypervisors_of_a_plan_are_asked_at_once_and_only_one_looks_closer(asked, twin):
    assert planned(asked)
    assert list(asked.at.values()) == [HYPERVISOR, "hv-old"]
    assert [arguments["source"] for _, arguments in asked.asked] == [True]


@pytest.fixture
def prod(asked, monkeypatch):
    """A hypervisor with an environment of its own, in which its pillar is another."""
    environment = {"saltenv": "", "pillarenv": "prod"}
    monkeypatch.setattr(
        operator_requests.salt_master,
        "store_server",
        lambda opts, name, told: {**PILLAR, "memory_mib": 4096} if told["pillarenv"] else None,
    )
    monkeypatch.setattr(operator_requests, "_environment", lambda *_: environment)
    return environment


@pytest.mark.parametrize(
    "known", [None, {**PILLAR, "store": "another"}, {**PILLAR, "cpus": 0}], ids=repr
)
def test_a_pillar_that_is_no_good_is_looked_for_in_the_hypervisors_own_environment(
    asked, prod, known
):
    asked.master.pillars[HYPERVISOR] = known
    spec, name = operator_requests.wanted({}, asked.master.ledger, "0815", HYPERVISOR)
    assert (spec.memory_mib, name) == (4096, HYPERVISOR)


def test_a_plan_that_is_of_another_store_in_the_hypervisors_own_environment_is_refused(
    asked, monkeypatch
):
    monkeypatch.setattr(
        operator_requests.salt_master, "store_server", lambda *_: {**PILLAR, "store": "another"}
    )
    (fault,) = planned(asked, environment={"saltenv": "", "pillarenv": "prod"})
    assert fault.startswith("the pillar of hv-0815 describes store another, not 0815: correct")


@pytest.mark.parametrize("settings", [{}, {"store_deploy": {"hypervisor_id": "hv-{store}"}}])
@pytest.mark.parametrize("key", [{}, {ACCEPTED: "its key"}])
def test_who_mistypes_a_store_is_not_told_to_deploy_it(asked, settings, key):
    asked.master.known_keys["hv-0851"] = key
    with pytest.raises(Refused) as refused:
        planning.plan(settings, "0851", None)
    assert "did you mean 0815?" in refused.value.hint
    assert "hypervisor=MINION" in refused.value.hint
    assert "deploy.store" not in refused.value.hint
    if settings:
        assert ("is no minion of this master" in refused.value.reason) is not bool(key)


# What adopt believes


@pytest.fixture
def adopting(asked, monkeypatch):
    """A hypervisor that seals what it has of the store, and whose note is lost."""
    monkeypatch.setattr(keys, "fingerprint", lambda opts, minion, pem: f"fp of {pem.split()[3]}")
    asked.key = asked.keys(HYPERVISOR)[ACCEPTED]

    def answer(function, arguments):
        if function == "saltutil.refresh_pillar":
            return True
        step = function.partition(".")[2]
        facts = {**asked.master.facts, "note": None}
        made = report.made("0815", arguments["generation"], step, facts)
        shared = asked.secret(HYPERVISOR, asked.key) if asked.key else ""
        return report.sealed(made, arguments["nonce"], shared)

    asked.answer = answer
    return asked


def adopted():
    return operator_requests.adopt({}, "0815", None, apply=True)


def test_the_key_of_the_server_is_accepted_if_none_is(adopting):
    accepted = adopting.keys(GUEST)[ACCEPTED]
    adopting.master.purge_key(GUEST)
    assert adopted()["applied"] is True
    assert adopting.keys(GUEST) == {ACCEPTED: accepted}
    assert [function for function, _ in adopting.asked][-1] == "store_hypervisor.adopt"


def test_what_is_compared_and_taken_over_is_of_the_hypervisors_own_environment(adopting, prod):
    adopting.master.facts["environment"] = prod
    adopting.master.facts["domain"] = {**adopting.master.facts["domain"], "memory_mib": 2048}
    assert "memory_mib is 2048, the pillar says 4096" in adopted()["differences"]
    assert adopting.master.witness.get("0815").spec["memory_mib"] == 4096
    # The guest's pillar is compiled there, too.
    assert adopting.master.environments == {HYPERVISOR: prod}


def test_who_only_looks_notes_no_environment(adopting, prod):
    adopting.master.facts["environment"] = prod
    adopting.master.environments.clear()
    operator_requests.adopt({}, "0815", None, apply=False)
    assert adopting.master.environments == {}


def untaken(adopting):
    """Return what is there, and what the ledger says of it."""
    record = adopting.master.witness.get("0815")
    return dict(adopting.keys(GUEST)), record.revision


@pytest.mark.parametrize("key", ["", pem("a stranger")], ids=["no seal", "another's seal"])
def test_only_what_the_hypervisor_has_sealed_is_taken_over(adopting, key):
    adopting.key = key
    adopting.master.purge_key(GUEST)
    before = untaken(adopting)
    with pytest.raises(Refused, match="has no seal: anybody may have sent it"):
        adopted()
    assert untaken(adopting) == before


def test_nothing_is_taken_over_from_a_hypervisor_with_another_key_than_it_had(adopting):
    adopting.key = adopting.master.known_keys[HYPERVISOR][ACCEPTED] = pem("installed anew")
    before = untaken(adopting)
    with pytest.raises(Refused, match="is not the one that it had") as refused:
        adopted()
    assert "salt-run deploy.store 0815" in refused.value.hint
    assert untaken(adopting) == before
    assert adopting.asked == []
