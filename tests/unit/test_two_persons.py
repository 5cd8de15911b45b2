# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What takes something away waits for another person, where a site wants two, and is done once."""

import pytest
from fake_master import deployed

from storelib.errors import Conflict, Refused
from storemaster.deployment import approvals, views
from storemaster.deployment.actor import API, SHELL, Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.master import roles, settings, two_persons, verb

REMOVE = {"store": "0815", "remove": True}
ROLES = {
    "olga": "owner",
    "olaf": "owner",
    "otto": "operator",
    "four": {"role": "owner", "stores": "04.."},
}


@pytest.fixture
def opts(tmp_path, master):
    deployed(master)
    return {
        "store_deploy": {
            "state_dir": str(tmp_path),
            "two_persons": ["retire", "prune"],
            "roles": ROLES,
        }
    }


def ask(opts, who="olga", verb="retire", way=API, **arguments):
    with act_as(Actor(who, way)):
        return two_persons.asked(opts, verb, arguments or REMOVE)


def approve(opts, request, who="olaf", way=API, store="0815"):
    """Approve a request; return what was done within, or why it was refused."""
    with act_as(Actor(who, way)):
        try:
            with two_persons.approved(opts, store, request) as asked:
                assert two_persons.asked(opts, asked.verb, asked.arguments) is None
                return asked.words
        except Refused as err:
            return err.reason


def notes(master):
    return [
        (row.actor, row.reason) for row in master.ledger.history("0815") if "deploy." in row.reason
    ]


def test_it_is_not_done_before_another_person_has_agreed_and_once(opts, master):
    told = ask(opts)
    number = told["request"]
    assert told["approve"] == f"salt-run deploy.approve 0815 {number}"
    words = "deploy.retire 0815 remove=True"
    assert approve(opts, number) == words
    assert approve(opts, number) == f"no request {number!r} of store 0815 waits"
    assert notes(master)[-2:] == [
        ("olga", f"note: {words}: waits for another person, request {number}"),
        ("olaf", f"note: {words}: approved, asked for by olga"),
    ]


@pytest.mark.parametrize(("who", "way"), [("olga", API), ("olga", SHELL), ("OLGA", SHELL)])
def test_nobody_agrees_with_himself_whatever_the_way(opts, who, way):
    number = ask(opts)["request"]
    told = f"{who} asked for it, and another person has to agree"
    assert approve(opts, number, who, way) == told
    # It waits on.
    assert approve(opts, number).startswith("deploy.retire")


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("otto", "otto may not say deploy.retire: the role is operator"),
        ("four", "store 0815 is none of four's"),
        ("mallory", "mallory has no role"),
    ],
)
def test_who_agrees_needs_the_right_to_the_act(opts, who, why):
    number = ask(opts)["request"]
    assert approve(opts, number, who) == why
    assert approve(opts, number).startswith("deploy.retire")


@pytest.mark.parametrize("number", ["bcdfghjk", "", None, 417, ["x"], "' OR 1=1 --"])
def test_a_request_that_is_none_is_refused(opts, number):
    ask(opts)
    assert approve(opts, number) == f"no request {number!r} of store 0815 waits"


def test_a_request_of_another_store_is_none_of_this(opts, master):
    number = ask(opts)["request"]
    assert approve(opts, number, store="0816") == "store 0816 was never deployed"


def test_a_request_is_void_after_a_day(opts, monkeypatch):
    number = ask(opts)["request"]
    later = two_persons.time.time() + approvals.LIFETIME_S + 1
    monkeypatch.setattr(two_persons.time, "time", lambda: later)
    assert approve(opts, number) == f"no request {number!r} of store 0815 waits"
    assert ask(opts)["request"] != number


def test_asked_for_once_more_it_is_the_same_request_and_of_another_one_it_is_not(opts, master):
    number = ask(opts)["request"]
    assert ask(opts)["request"] == number
    assert len(notes(master)) == 1
    assert ask(opts, "olaf")["request"] != number
    assert ask(opts, data_disks=True, **REMOVE)["request"] != number


def test_what_takes_nothing_away_or_is_not_named_waits_for_nobody(opts):
    assert ask(opts, store="0815") is None
    assert ask(opts, store="0815", remove=False) is None
    assert ask(opts, verb="rollback", store="0815") is None
    opts["store_deploy"]["two_persons"] = None
    assert ask(opts) is None


def test_a_removal_of_all_stores_at_once_is_none_that_somebody_could_agree_to(opts):
    with pytest.raises(Refused, match="of one store at a time"):
        ask(opts, verb="prune", older_than_days=30, remove=True)


@pytest.mark.parametrize(
    "wrong", ["retire", ["store"], {"retire": 2}, [417], [{"retire": None}], [["retire"]], True]
)
def test_a_wrong_setting_lets_none_of_it_be_done(opts, wrong):
    opts["store_deploy"]["two_persons"] = wrong
    with pytest.raises(Refused, match="two_persons is "):
        ask(opts)
    ((fault, mend),) = settings.faults(opts)
    assert fault.endswith("allowed: a list of cancel | prune | redeploy | retire | rollback")
    assert mend


def test_what_waits_is_explained(opts, master):
    number = ask(opts)["request"]
    told = views.explain(master.ledger.get("0815"), two_persons.time.time(), master.ledger)
    (line,) = told["waits_for_another_person"]
    assert line.startswith(
        "deploy.retire 0815 remove=True, asked for by olga: "
        f"salt-run deploy.approve 0815 {number}, until "
    )


def test_a_verb_asks_before_it_does(opts, monkeypatch):
    done = []

    def retire(store, remove=False):
        done.append((store, remove))
        return {"state": "retiring"}

    said = verb.verb(retire, {"__opts__": opts, "__context__": {}, "__user__": "olga"})
    assert said("0815", remove=True)["waits_for"].startswith("another person than ")
    assert done == []
    assert said("0815") == {"state": "retiring"}
    assert done == [("0815", False)]


def test_each_act_is_one_that_a_role_may_do():
    known = {verb for verbs in roles.VERBS.values() for verb in verbs}
    assert {of for of, _ in approvals.ACTS.values()} <= known
    assert set(approvals.LETTERS).isdisjoint("aeiouy0123456789")


def test_the_next_deployment_voids_what_was_asked_for_before(opts, master):
    number = ask(opts)["request"]
    master.begin(redeploy=True)
    assert approve(opts, number) == f"no request {number!r} of store 0815 waits"


@pytest.mark.parametrize("wrong", ["a\nb", "", "x" * 300, ["x"], {"a": 1}])
def test_what_could_not_be_shown_is_refused(opts, master, wrong):
    before = notes(master)
    with pytest.raises(Refused, match="data_disks is "):
        ask(opts, data_disks=wrong, **REMOVE)
    assert notes(master) == before


def test_what_could_not_be_done_now_is_refused_before_anybody_is_asked(opts, master):
    opts["store_deploy"]["two_persons"] = ["cancel", "rollback"]
    for act in ("cancel", "rollback"):
        with pytest.raises(Refused):
            ask(opts, verb=act, store="0815")
    assert notes(master) == []


def test_a_first_deployment_takes_nothing_away(opts):
    opts["store_deploy"]["two_persons"] = ["redeploy"]
    assert ask(opts, verb="store", store="new", redeploy=True) is None
    assert "request" in ask(opts, verb="store", store="0815", redeploy=True)


def test_a_line_of_history_is_written_however_busy_the_pump_is(opts, master, monkeypatch):
    save, busy = Ledger.save, [Conflict("busy", "again")] * 2

    def saved(*args, **kwargs):
        if busy:
            raise busy.pop()
        return save(*args, **kwargs)

    monkeypatch.setattr(Ledger, "save", saved)
    number = ask(opts)["request"]
    busy[:] = [Conflict("busy", "again")] * 2
    assert approve(opts, number).startswith("deploy.retire")
    assert [who for who, _ in notes(master)] == ["olga", "olaf"]
