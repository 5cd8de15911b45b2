# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What plan, retire and prune make of what a minion answers: a sentence, whatever it is."""

import contextlib
import itertools

import pytest
from fake_master import HYPERVISOR, PILLAR, deployed, hypervisor_facts

from storelib import report, views
from storelib.errors import Refused
from storelib.master import asking, office, planning
from storelib.world import ACCEPTED, Returned

GOOD = {
    "facts": hypervisor_facts(),
    "retire": {"found": [], "kept": [], "removed": [], "left": []},
    "prune": {"found": [], "kept": [], "removed": [], "left": []},
}
STEP = {"plan": "facts", "retire": "retire", "prune": "prune"}
NOTHING = object()


class Answering:
    """A master whose hypervisor answers what a test says."""

    def __init__(self, master):
        self.master = master
        self.answer = NOTHING
        self.jids = map(str, itertools.count(1))
        self.keys, self.secret = master.keys, master.secret
        self.store_server = master.store_server
        self.serves = lambda source, saltenv: True

    def new_jid(self):
        return next(self.jids)

    def publish(self, jid, minion, function, arguments):
        pass

    def returned(self, jid, minion):
        return None if self.answer is NOTHING else Returned(self.answer)


@pytest.fixture
def asked(master, monkeypatch):
    """A site with one deployed store."""
    deployed(master)
    made = Answering(master)
    monkeypatch.setattr(office, "world", lambda _: contextlib.nullcontext(made))
    monkeypatch.setattr(office, "ledger", lambda _: contextlib.nullcontext(master.books))
    monkeypatch.setattr(asking, "LOOK_S", 0.01)
    monkeypatch.setattr(asking, "FACTS_S", 0.1)
    return made


def said(verb, full=False):
    """Say the verb; return all sentences that say what is wrong, and what to do."""
    if verb == "plan":
        told = planning.plan({}, "0815", None, True, full)
        assert told.get("error") == (told["faults"] or [None])[0]
        return told["faults"], told.get("hint")
    if verb == "retire":
        try:
            office.would_retire({}, "0815", False)
        except Refused as err:
            return [err.reason], err.hint
        return [], None
    (row,) = office.prune({}, 0, "0815", False)
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


@pytest.mark.parametrize("verb", STEP)
@pytest.mark.parametrize("answer", [NOTHING, *ODD], ids=repr)
def test_an_odd_answer_is_one_sentence(asked, verb, answer):
    assert len(told_of(asked, verb, answer)) == 1


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
    assert silent == "hv-0815 does not answer"
    (pem,) = asked.master.known_keys[HYPERVISOR].values()
    asked.master.known_keys[HYPERVISOR] = {"pending": pem}
    (pending,), _ = said(verb)
    assert pending == "hv-0815 has no accepted key on this master"
    del asked.master.known_keys[HYPERVISOR]
    (none,), _ = said(verb)
    assert none.startswith("hv-0815 is no minion of this master")


def test_a_plan_is_short_and_says_first_what_is_wrong(asked):
    asked.answer = report_of("plan", facts={**GOOD["facts"], "sources_missing": ["bridge br0"]})
    told = planning.plan({}, "0815", None, True)
    assert (
        told["error"]
        == "bridge br0 does not exist or is not active: create it or correct the pillar"
    )
    assert told["faults"] == [told["error"]]
    assert "deploy.plan 0815" in told["hint"]
    assert not {"spec", "steps"} & set(told)
    assert 2 <= len(told["would"]) <= 6
    full = planning.plan({}, "0815", None, True, True)
    assert full["spec"]["store"] == "0815"
    assert full["steps"] == list(views.steps(full["spec"]))
    assert full["steps"][0].endswith("fails after 24 h")


def test_a_plan_of_a_deployed_store_says_what_must_be_said_to_replace_its_server(asked):
    asked.answer = report_of("plan", facts={**GOOD["facts"], "sources_missing": ["bridge br0"]})
    told = planning.plan({}, "0815", None)
    assert told["error"] == told["faults"][0] == "store 0815 is deployed"
    assert told["hint"].endswith("salt-run deploy.store 0815 redeploy=True")
    assert len(told["faults"]) == 2


def test_a_plan_says_what_would_be_made_and_what_becomes_of_the_old_server(asked):
    disks = [{"name": "data", "size_gib": 100}]
    asked.master.pillars[HYPERVISOR] = {**PILLAR, "memory_mib": 4096, "data_disks": disks}
    domain = {"exists": True, "ours": True, "state": "running", "memory_mib": 1}
    asked.answer = report_of("plan", facts={**GOOD["facts"], "domain": domain})
    assert planning.plan({}, "0815", None, True)["would"] == [
        "image salt://images/store-server.qcow2: is fetched",
        "old server store-0815, running: is shut down and set aside",
        "server store-0815: 2 CPUs, 4096 MiB of memory, 20 GiB of disk in /var/lib/libvirt/images",
        "data disk data: 100 GiB, unless it is there already",
        "interface eth0: bridge br0, dhcp",
    ]


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
