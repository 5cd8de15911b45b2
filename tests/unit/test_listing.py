# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Who asks again and again is told each change once, and nothing of others' stores."""

import pytest
from test_ledger import FIRST_SCHEMA, record, sqlite3

from storemaster.deployment.actor import API, Actor, act_as
from storemaster.deployment.ledger import Ledger
from storemaster.master import listing, roles

ROLES = {"vera": "viewer", "nora": {"role": "viewer", "groups": ["north"]}}


@pytest.fixture
def opts(tmp_path):
    return {"store_deploy": {"state_dir": str(tmp_path), "roles": ROLES}}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def asked(opts, ledger, since, user="vera", **how):
    with act_as(Actor(user, API)):
        told = listing.changed(opts, ledger, since, how.get("state"), how.get("group"))
    return told, [row["store"] for row in told["stores"]]


def write(ledger, store, group="north", **changes):
    old = ledger.get(store)
    made = record(store, spec={"group": group}, revision=old.revision if old else 0, **changes)
    return ledger.save(made)


def test_each_change_is_told_once(opts, ledger):
    for store in ("0815", "0816", "0817"):
        write(ledger, store)
    told, stores = asked(opts, ledger, 0)
    assert (told["anew"], told["more"], stores) == (True, False, ["0815", "0816", "0817"])
    assert asked(opts, ledger, told["revision"])[1] == []
    # Any of it, also what is no change of state.
    write(ledger, "0816", reason="it waits")
    again, stores = asked(opts, ledger, told["revision"])
    assert (again["anew"], stores) == (False, ["0816"])
    assert again["stores"][0]["reason"] == "it waits"
    assert asked(opts, ledger, again["revision"])[1] == []


def test_many_are_told_in_parts(opts, ledger, monkeypatch):
    monkeypatch.setattr(listing, "AT_ONCE", 2)
    names = ["0811", "0812", "0813", "0814", "0815"]
    for store in names:
        write(ledger, store)
    since, found, parts = 0, [], []
    while True:
        told, stores = asked(opts, ledger, since)
        since, found = told["revision"], found + stores
        parts.append((told["anew"], told["more"]))
        if not told["more"]:
            break
    assert found == names
    assert parts == [(True, True), (False, True), (False, False)]


def test_a_ledger_from_a_backup_begins_anew(opts, ledger):
    write(ledger, "0815")
    told, stores = asked(opts, ledger, 1000)
    assert (told["anew"], stores) == (True, ["0815"])


def test_who_has_some_stores_sees_which_they_lose(opts, ledger):
    write(ledger, "0815")
    write(ledger, "0816", group="south")
    told, stores = asked(opts, ledger, 0, "nora")
    assert stores == ["0815"]
    write(ledger, "0815", group="south")
    told, stores = asked(opts, ledger, told["revision"], "nora")
    assert (told["anew"], stores) == (True, [])


def test_it_is_filtered_by_state_and_group(opts, ledger):
    write(ledger, "0815", state="failed")
    write(ledger, "0816", state="failed", group="south")
    write(ledger, "0817")
    assert asked(opts, ledger, 0, state="failed")[1] == ["0815", "0816"]
    assert asked(opts, ledger, 0, group="north")[1] == ["0815", "0817"]


def test_a_long_reason_is_cut(opts, ledger):
    write(ledger, "0815", reason="x" * 5000)
    told, _ = asked(opts, ledger, 0)
    assert told["stores"][0]["reason"] == "x" * listing.REASON


def test_a_ledger_of_an_earlier_version_is_told_whole(opts, tmp_path):
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.executescript(FIRST_SCHEMA)
    db.close()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        told, stores = asked(opts, ledger, 0)
        assert stores == ["0815"]
        assert asked(opts, ledger, told["revision"])[1] == []


@pytest.mark.parametrize(
    ("user", "way", "role", "groups"),
    [
        ("vera", API, "viewer", None),
        ("nora", API, "viewer", ["north"]),
        ("root", "x", "owner", None),
    ],
)
def test_who_calls_is_told_what_they_may(opts, user, way, role, groups):
    with act_as(Actor(user, way)):
        told = roles.whoami(opts)
    assert (told["user"], told["role"], told["groups"]) == (user, role, groups)
    assert ("retire" in told["verbs"]) is (role == "owner")
    assert "list" in told["verbs"]
