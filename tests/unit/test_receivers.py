# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the settings say of receivers: refused in one sentence each, or meant as it is written."""

import pytest

from storemaster.deployment import receivers
from storemaster.deployment.outbox import Notice
from storemaster.deployment.record import Change

WEBHOOK = {"webhook": "https://erp.example.com/stores", "secret_file": "/etc/salt/erp"}
MAIL = {"mail": ["ops@example.com"], "server": "mail.example.com", "sender": "salt@example.com"}
CHAT = {"chat_file": "/etc/salt/chat"}


def notice(state="failed", group="north", asked_by="alice"):
    return Notice(Change(1, "0815", 1, state, "booting", "it is late", 1.0), group, asked_by, False)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"erp": WEBHOOK, "desk": MAIL, "room": CHAT},
        {"erp": {**WEBHOOK, "webhook": "https://erp.example.com:8443/a?b=c"}},
        {"erp": {**WEBHOOK, "webhook": "http://127.0.0.1:8080/"}},
        {"erp": {**WEBHOOK, "webhook": "http://[::1]:8080/"}},
        {"erp": {"webhook": "https://erp.example.com", "secret": "sdb://vault/erp"}},
        {"desk": {**MAIL, "server": "mail.example.com:2525", "tls": "none"}},
        {"desk": {**MAIL, "server": "[2001:db8::1]:25", "user": "salt", "password_file": "/p"}},
        {"desk": {**MAIL, "mail": [], "addresses": {"alice": "alice@example.com"}}},
        {"room": {"chat": "sdb://vault/room", "states": ["failed"], "groups": ["north"]}},
    ],
)
def test_what_is_right_is_taken(told):
    assert list(receivers.faults(told)) == []
    assert [each.name for each in receivers.receivers(told)] == list(told)


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (["erp"], "it is no mapping of receivers by their names"),
        ({"../erp": WEBHOOK}, "'../erp' is no name, allowed: letters, digits"),
        ({7: WEBHOOK}, "7 is no name"),
        ({"erp": "https://erp.example.com"}, "erp is no mapping"),
        ({"erp": {}}, "erp: it needs one of webhook, mail, chat"),
        ({"erp": {**WEBHOOK, **MAIL}}, "erp: it needs one of webhook, mail, chat"),
        ({"erp": {**WEBHOOK, "url": "x"}}, "erp: url is no key of a webhook, allowed: webhook, "),
        ({"erp": {"webhook": WEBHOOK["webhook"]}}, "erp: it needs secret_file or secret"),
        ({"erp": {**WEBHOOK, "secret": "sdb://x"}}, "erp: it has both secret_file and secret"),
        ({"erp": {**WEBHOOK, "secret_file": "erp"}}, "erp: secret_file is wrong, allowed: an abs"),
        ({"erp": {**WEBHOOK, "states": ["done"]}}, "erp: states is ['done'], allowed: a list of"),
        ({"erp": {**WEBHOOK, "states": []}}, "erp: states is [], allowed: a list of states"),
        ({"erp": {**WEBHOOK, "states": "failed"}}, "erp: states is 'failed', allowed: a list of"),
        ({"erp": {**WEBHOOK, "groups": [7]}}, "erp: groups is [7], allowed: a list of groups"),
        ({"desk": {**MAIL, "mail": "ops@example.com"}}, "desk: mail is 'ops@example.com', allow"),
        ({"desk": {**MAIL, "mail": ["a@b.c\nBcc: d@e.f"]}}, "desk: mail is ['a@b.c\\nBcc: d@e.f"),
        ({"desk": {**MAIL, "mail": ["ops"]}}, "desk: mail is ['ops'], allowed: a list of mail"),
        ({"desk": {**MAIL, "sender": "a@b.c\r\nX: y"}}, "desk: sender is 'a@b.c\\r\\nX: y', allo"),
        ({"desk": {**MAIL, "addresses": {"a": "b\n@c"}}}, "desk: addresses is {'a': 'b\\n@c'}"),
        ({"desk": {**MAIL, "addresses": {7: "b@c.d"}}}, "desk: addresses is {7: 'b@c.d'}, allow"),
        ({"desk": {**MAIL, "mail": []}}, "desk: nobody gets its mail"),
        ({"desk": {**MAIL, "server": "a b"}}, "desk: server is wrong, allowed: HOST or HOST:PORT"),
        ({"desk": {**MAIL, "server": "mail:70000"}}, "desk: server is wrong, allowed: HOST"),
        ({"desk": {**MAIL, "server": "salt:hunter2@mail"}}, "desk: server is wrong, allowed: HO"),
        ({"desk": {**MAIL, "mail": ["a\x1b@b.c"]}}, "desk: mail is ['a\\x1b@b.c'], allowed: a"),
        ({"room": {"chat_file": "https://hooks/secret"}}, "room: chat_file is wrong, allowed: a"),
        ({"desk": {**MAIL, "tls": True}}, "desk: tls is True, allowed: starttls | tls | none"),
        ({"desk": {**MAIL, "user": "salt"}}, "desk: user and its password go together"),
        ({"desk": {**MAIL, "password_file": "/p"}}, "desk: user and its password go together"),
        (
            {"desk": {**MAIL, "user": "salt", "password_file": "/p", "tls": "none"}},
            "desk: with tls: none the password would be readable on its way",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(told, fault):
    (found,) = receivers.faults(told)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "url",
    [
        "http://erp.example.com/",
        "ftp://erp.example.com/",
        "https://user:word@erp.example.com/",
        "https://",
        "https://erp.example.com:0/",
        "https://erp.example.com:99999/",
        "https://erp.example.com/\nX: y",
        "https://erp.example.com/a b",
        "erp",
        "",
        7,
        None,
    ],
)
def test_a_url_that_is_none_or_not_safe_is_refused_and_not_shown(url):
    (found,) = receivers.faults({"erp": {**WEBHOOK, "webhook": url}})
    assert found.startswith("erp: webhook is wrong, allowed: https://HOST/PATH")


@pytest.mark.parametrize("key", ["secret", "password", "chat"])
def test_a_secret_in_the_settings_is_refused_and_not_shown(key):
    of_kind = {"secret": WEBHOOK, "password": {**MAIL, "user": "salt"}, "chat": {}}[key]
    told = {name: value for name, value in of_kind.items() if not name.endswith("_file")}
    (found,) = receivers.faults({"it": {**told, key: "hunter2"}})
    assert found == f"it: {key} is wrong, allowed: an sdb:// URI"


def test_all_faults_are_told_at_once():
    found = list(receivers.faults({"erp": {**WEBHOOK, "states": 7, "x": 1}, "desk": {"mail": 7}}))
    assert len(found) == 5


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({}, True),
        ({"states": ["failed", "deployed"]}, True),
        ({"states": ["deployed"]}, False),
        ({"groups": ["north"]}, True),
        ({"groups": ["south"]}, False),
        ({"states": ["failed"], "groups": ["south"]}, False),
    ],
)
def test_a_receiver_is_told_what_its_filters_let_through(told, wanted):
    (receiver,) = receivers.receivers({"erp": {**WEBHOOK, **told}})
    assert receiver.wants(notice()) is wanted


def test_who_asked_for_a_deployment_gets_the_mail_too_if_they_have_an_address():
    told = {**MAIL, "addresses": {"alice": "alice@example.com", "ops": "ops@example.com"}}
    (receiver,) = receivers.receivers({"desk": told})
    assert receiver.addresses(notice()) == ("ops@example.com", "alice@example.com")
    assert receiver.addresses(notice(asked_by="bob")) == ("ops@example.com",)
    assert receiver.addresses(notice(asked_by="ops")) == ("ops@example.com",)


def test_a_mail_that_nobody_would_get_is_none():
    told = {**MAIL, "mail": [], "addresses": {"alice": "alice@example.com"}}
    (receiver,) = receivers.receivers({"desk": told})
    assert receiver.wants(notice())
    assert not receiver.wants(notice(asked_by="bob"))
