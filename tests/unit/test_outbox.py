# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Each receiver is told of each change that is its own: in order, until it was told."""

import dataclasses

import pytest
from test_ledger import record

from storemaster.deployment import outbox
from storemaster.deployment.actor import Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import GIVEN_UP_S, PAUSES_S, Outbox

NOW = 1_000_000.0


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def erp(ledger):
    """A receiver that was there before anything happened."""
    return there(ledger, "erp")


def there(ledger, name):
    made = Outbox(ledger, name)
    assert not made.collect(everything)
    return made


def everything(_):
    return True


def change(ledger, store="0815", state="staging", who="", **changes):
    """Let a store change its state."""
    old = ledger.get(store) or record(store, state="awaiting_hypervisor")
    with act_as(Actor(who, "api")):
        new = dataclasses.replace(old, state=state, **{"since": NOW, **changes})
        return ledger.save(new, "so it is")


def due(box, now=NOW):
    while box.collect(everything):
        pass
    return [(each.change.store, each.change.state) for each in box.due(now)]


def test_what_changes_is_told_in_its_order(ledger, erp):
    for state in ("awaiting_hypervisor", "queued", "staging"):
        change(ledger, state=state)
    assert [state for _, state in due(erp)] == ["awaiting_hypervisor", "queued", "staging"]
    assert due(erp) == due(erp)
    erp.told(erp.due(NOW)[:2])
    assert due(erp) == [("0815", "staging")]


def test_a_receiver_that_is_new_is_not_told_the_past(ledger):
    change(ledger)
    new = there(ledger, "new")
    assert due(new) == []
    change(ledger, state="preparing")
    assert due(new) == [("0815", "preparing")]


def test_each_receiver_has_its_own(ledger, erp):
    other = there(ledger, "other")
    change(ledger)
    assert due(erp) == due(other) == [("0815", "staging")]
    erp.told(erp.due(NOW))
    assert due(erp) == []
    assert due(other) == [("0815", "staging")]


def test_what_a_receiver_does_not_want_is_never_told(ledger, erp):
    change(ledger)
    erp.collect(lambda notice: notice.change.state == "failed")
    assert due(erp) == []


def test_a_line_in_the_midst_of_a_state_is_no_change(ledger, erp):
    saved = change(ledger)
    ledger.save(saved, "ticket 4711", noted=NOW)
    assert due(erp) == [("0815", "staging")]


def test_more_lines_than_are_looked_at_in_one_go_are_all_told(ledger, erp, monkeypatch):
    monkeypatch.setattr(outbox, "AT_ONCE", 3)
    stores = [f"{number:04}" for number in range(8)]
    for store in stores:
        change(ledger, store)
    told = []
    while now := due(erp):
        told += now
        erp.told(erp.due(NOW))
    assert [store for store, _ in told] == stores


def test_a_notice_knows_the_stores_group_and_who_asked(ledger, erp):
    change(ledger, state="awaiting_hypervisor", who="alice", spec={"group": "north"})
    change(ledger, state="queued")
    change(ledger, state="staging", who="bob", generation=2)
    assert due(erp)
    told = [(each.group, each.asked_by) for each in erp.due(NOW)]
    assert told == [("north", "alice"), ("north", "alice"), ("north", "bob")]


def test_a_notices_key_is_the_same_at_each_try_and_no_other_ones(ledger, erp):
    change(ledger)
    change(ledger, "0816")
    change(ledger, state="preparing")
    due(erp)
    keys = [each.key for each in erp.due(NOW)]
    assert len(set(keys)) == 3
    assert [each.key for each in erp.due(NOW)] == keys


# Receivers that cannot be told


def fail(box, now, fault="it is away"):
    """Let the first try at ``now`` fail; return what is left to be told then."""
    box.failed(box.due(now)[:1], fault, now)


def test_a_receiver_that_fails_rests_for_longer_each_time(ledger, erp):
    change(ledger)
    assert due(erp)
    now, pauses = NOW, []
    for _ in range(len(PAUSES_S) + 2):
        fail(erp, now)
        pause = next(each for each in range(1, 2000) if erp.due(now + each))
        pauses.append(pause)
        now += pause
    assert pauses == [*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]]


def test_one_that_answers_again_is_told_all_at_once(ledger, erp):
    for store in ("0815", "0816", "0817"):
        change(ledger, store)
    assert len(due(erp)) == 3
    fail(erp, NOW)
    assert due(erp, NOW + 1) == []
    fail(erp, NOW + PAUSES_S[0])
    later = NOW + PAUSES_S[0] + PAUSES_S[1]
    erp.told(erp.due(later)[:1])
    assert len(due(erp, later)) == 2


def test_a_notice_that_is_refused_holds_up_its_own_store_only(ledger, erp):
    for store in ("0815", "0816"):
        change(ledger, store)
        change(ledger, store, state="preparing")
    assert [store for store, _ in due(erp)] == ["0815", "0815", "0816", "0816"]
    fail(erp, NOW)
    # It comes last from now on, and nothing of its store before it.
    after = NOW + PAUSES_S[0]
    assert due(erp, after - 1) == []
    in_order = [("0816", "staging"), ("0816", "preparing"), ("0815", "staging")]
    assert due(erp, after) == [*in_order, ("0815", "preparing")]
    erp.told(erp.due(after)[:2])
    fail(erp, after)
    # While it rests, others are told.
    erp.told([])
    change(ledger, "0817")
    assert due(erp, after + 1) == [("0817", "staging")]


def test_one_that_is_not_taken_for_itself_lets_the_receiver_go_on(ledger, erp):
    change(ledger, "0815")
    change(ledger, "0816")
    assert due(erp)
    erp.failed(erp.due(NOW)[:1], "it answers 400", NOW, alone=True)
    assert due(erp) == [("0816", "staging")]
    assert outbox.receivers(ledger)["erp"]["fault"] == "it answers 400"


def hurry(ledger):
    """Let all pauses be over."""
    with ledger.writing() as db:
        db.execute("UPDATE receivers SET due = 0")
        db.execute("UPDATE notices SET due = 0")


def give_up(ledger, box):
    """Let tries fail for a day."""
    for tries in range(outbox.LEAST_TRIES):
        hurry(ledger)
        fail(box, NOW + tries)
    hurry(ledger)
    fail(box, NOW + GIVEN_UP_S + 10, "still away")


def test_a_notice_that_was_tried_for_a_day_is_set_aside(ledger, erp):
    change(ledger)
    assert due(erp)
    fail(erp, NOW)
    assert not erp.waiting()[0]["set_aside"]
    change(ledger, state="preparing", since=NOW + GIVEN_UP_S)
    erp.collect(everything)
    give_up(ledger, erp)
    (first, second) = erp.waiting()
    assert (first["set_aside"], second["set_aside"]) == (True, False)
    assert first["fault"] == "still away"
    # What comes after it goes on.
    assert due(erp, NOW + GIVEN_UP_S + 3600) == [("0815", "preparing")]
    told = outbox.receivers(ledger)["erp"]
    assert (told["waiting"], told["set_aside"]) == (1, 1)


def test_of_a_dead_receiver_all_that_waits_for_a_day_is_set_aside(ledger, erp):
    for number in range(50):
        change(ledger, f"{number:04}")
    assert len(due(erp)) == 50
    give_up(ledger, erp)
    assert [each["set_aside"] for each in erp.waiting()] == [True] * 50


def test_a_day_without_a_try_is_none_of_a_notices(ledger, erp):
    change(ledger)
    assert due(erp)
    fail(erp, NOW)
    # The master was off.
    fail(erp, NOW + 10 * GIVEN_UP_S)
    assert not erp.waiting()[0]["set_aside"]


def test_the_first_change_of_a_deployment_is_one_even_in_the_same_state(ledger, erp):
    change(ledger, state="deployed")
    change(ledger, state="deployed", generation=2)
    assert due(erp) == [("0815", "deployed"), ("0815", "deployed")]


def test_what_is_not_wanted_any_more_is_forgotten(ledger, erp):
    change(ledger)
    assert due(erp)
    erp.forget(erp.due(NOW))
    assert erp.waiting() == []


def test_a_digest_that_was_sent_keeps_its_minute(ledger, erp):
    for store in ("0815", "0816"):
        change(ledger, store)
    assert due(erp)
    first, second = erp.due(NOW)
    erp.told([first], NOW + 60)
    erp.failed([second], "it is away", NOW)
    assert due(erp, NOW + 59) == []
    assert due(erp, NOW + 60) == [("0816", "staging")]


def test_a_clock_that_is_set_back_delays_nothing(ledger, erp):
    change(ledger)
    assert due(erp)
    fail(erp, NOW + GIVEN_UP_S)
    assert due(erp, NOW) == [("0815", "staging")]


def test_what_was_set_aside_can_be_tried_again_or_dropped(ledger, erp):
    change(ledger)
    assert due(erp)
    give_up(ledger, erp)
    assert due(erp, NOW + GIVEN_UP_S + 3600) == []
    assert erp.again() == 1
    assert due(erp, NOW) == [("0815", "staging")]
    assert erp.drop(everything=False) == 0
    assert due(erp, NOW) == [("0815", "staging")]
    give_up(ledger, erp)
    assert erp.drop(everything=False) == 1
    assert erp.waiting() == []


def test_what_is_no_receiver_any_more_is_forgotten_as_a_whole(ledger, erp):
    change(ledger)
    assert due(erp)
    assert erp.drop(everything=True) == 1
    assert outbox.receivers(ledger) == {}


def test_all_receivers_are_shown_with_what_waits_for_them(ledger, erp):
    there(ledger, "desk")
    change(ledger)
    assert due(erp)
    fail(erp, NOW)
    told = outbox.receivers(ledger)
    assert list(told) == ["desk", "erp"]
    assert told["desk"]["waiting"] == 0
    assert told["erp"] == {
        "next_try": NOW + PAUSES_S[0],
        "fault": "it is away",
        "waiting": 1,
        "set_aside": 0,
        "oldest": NOW,
        "failing_since": NOW,
    }
