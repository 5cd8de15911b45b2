# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Every line of history names who made the change, and nothing that a caller sends can set it."""

import os
import pwd

import pytest
from fake_master import HYPERVISOR, PATH, PILLAR, pem

from storelib.errors import Refused
from storemaster.deployment import requests
from storemaster.deployment.actor import API, CLOCK, EVENT, NOBODY, SHELL, Actor, act_as, acting
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import caller, pump, verb

ALICE = Actor("alice", API)


def by(master):
    """Return who made each change of the store, with its state."""
    return [(each.state, each.actor, each.way) for each in master.ledger.history("0815")]


def test_who_acts_is_known_until_the_act_is_over():
    assert acting() == NOBODY
    with act_as(ALICE):
        with act_as(Actor("bob", API)):
            assert acting().who == "bob"
        assert acting() == ALICE
    assert acting() == NOBODY
    with pytest.raises(ZeroDivisionError), act_as(ALICE):
        raise ZeroDivisionError
    assert acting() == NOBODY


def test_what_was_asked_for_is_the_askers_and_what_follows_comes_by_the_clock(master):
    with act_as(ALICE):
        master.begin()
        # As `deploy.advance` does, in somebody's process.
        record = master.run()
    assert record.state == "deployed"
    first, *rest = by(master)
    assert first == (PATH[0], "alice", API)
    assert [state for state, *_ in rest] == [*PATH[1:], "deployed"]
    assert {each[1:] for each in rest} == {("", CLOCK)}


def test_each_request_is_in_the_name_of_who_made_it(master):
    master.begin()
    for number, request in enumerate((requests.hold, requests.release, requests.cancel)):
        with act_as(Actor(f"user{number}", SHELL)):
            request(master.ledger, master.time, master.ledger.get("0815"))
    assert [each[1] for each in by(master)] == ["", "user0", "user1", "user2"]


def test_a_deployment_that_an_event_began_is_its_minions(master, tmp_path):
    opts = {"fun": "runner.deploy.reconcile", "store_deploy": {"state_dir": str(tmp_path)}}
    master.known_keys[HYPERVISOR] = {ACCEPTED: pem(HYPERVISOR)}
    master.pillars[HYPERVISOR] = {**PILLAR, "auto_deploy": True}
    master.ledger.ring(HYPERVISOR, master.time, eager=True, ready=True)
    # Whoever runs the round, or the schedule.
    with act_as(ALICE):
        pump.reconcile(opts, master, sweep=False)
    assert by(master)[0] == (PATH[0], HYPERVISOR, EVENT)


def test_a_note_is_a_line_that_changes_nothing_else(master):
    before = master.begin()
    with act_as(ALICE):
        after = requests.note(master.ledger, master.time + 9, before, "ticket 4711")
    assert (after.state, after.due, after.since) == (before.state, before.due, before.since)
    line = master.ledger.history("0815")[-1]
    assert (line.reason, line.actor, line.at) == ("note: ticket 4711", "alice", master.time + 9)
    assert [each.reason for each in master.ledger.unannounced("0815")] == ["requested by operator"]


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "\x1b[2J", "x" * 501, None, True, ["a"], {}])
def test_a_note_that_is_no_line_is_refused(text):
    with pytest.raises(Refused, match=r"^text is ") as refused:
        verb.line(text=text)
    assert refused.value.hint.startswith("allowed: a text of one line, up to 500 characters")


@pytest.mark.parametrize(("text", "line"), [(" a b ", "a b"), ("x" * 500, "x" * 500)])
def test_a_note_is_a_line(text, line):
    assert verb.line(text=text) == line


@pytest.mark.parametrize(
    ("typed", "value", "good"),
    [("4711", 4711, True), ("text=4711", 4711, True), ("0471", 471, False), ("1.10", 1.1, False)],
)
def test_digits_are_a_note_only_if_salt_leaves_them_as_they_were_typed(
    monkeypatch, typed, value, good
):
    monkeypatch.setattr("sys.argv", ["salt-run", "deploy.note", "0815", typed])
    if good:
        assert verb.line(text=value) == str(value)
    else:
        with pytest.raises(Refused, match=f"text is {value}"):
            verb.line(text=value)


@pytest.mark.parametrize("value", [10, True, ["north"], {}, "", " north", "a\nb", "x" * 129])
def test_a_group_that_is_no_name_is_refused(value):
    with pytest.raises(Refused, match="group is "):
        verb.group(group=value)
    verb.group(group=None)
    verb.group(group="Läden im Süden")


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """Call from a shell: with this login, this sudo."""

    def called(login, sudo=None, user="root"):
        monkeypatch.setattr("sys.argv", ["/usr/bin/salt-run", "deploy.list"])
        file = tmp_path / "loginuid"
        file.write_text(str(login))
        monkeypatch.setattr(caller, "LOGIN", file)
        monkeypatch.delenv("SUDO_USER", raising=False)
        if sudo:
            monkeypatch.setenv("SUDO_USER", sudo)
        return caller.caller(user)

    return called


def test_who_calls_from_a_shell_is_who_has_logged_in(shell):
    daemon = pwd.getpwnam("daemon")
    assert shell(daemon.pw_uid, sudo="mallory") == Actor("daemon", SHELL)
    own = pwd.getpwuid(os.getuid()).pw_name
    assert shell(caller.NO_LOGIN) == Actor(own, SHELL)
    assert shell("garbage") == Actor(own, SHELL)


def test_who_said_sudo_is_named_where_no_login_is_known(shell):
    assert shell(caller.NO_LOGIN, sudo="alice") == Actor("alice", SHELL)
    # Salt is the master's user by then, and root's login is nobody's name.
    assert shell(0, sudo="alice") == Actor("alice", SHELL)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Jürgen O'Neill", "Jürgen O'Neill"),
        ("olga\u200b", r"olga\u200b"),
        (r"olga\u200b", r"olga\\u200b"),
        ("a\x1b[2J\n", r"a\x1b[2J\n"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 63 + "…"),
    ],
)
def test_a_name_is_shown_as_what_it_is_and_never_as_another(monkeypatch, name, shown):
    monkeypatch.setattr("sys.argv", ["/usr/bin/salt-master"])
    assert caller.caller(name) == Actor(shown, API)


def test_who_was_authenticated_by_the_master_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/salt-master", "-d"])
    monkeypatch.setenv("SUDO_USER", "mallory")
    assert caller.caller("alice") == ALICE
    assert caller.caller("Reactor") == Actor("Reactor", "reactor")
    assert caller.caller(None) == Actor("", API)


def test_an_account_has_the_name_that_the_system_gives_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/salt-master"])
    known = pwd.getpwnam("daemon")
    alike = {"DAEMON": known, "daemon@example.com": known, "daemon": known}
    monkeypatch.setattr(caller.pwd, "getpwnam", alike.__getitem__)
    assert [caller.caller(name).who for name in (*alike, "olga")] == ["daemon"] * 3 + ["olga"]
