# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A mail server on this machine gets the changes: one that refuses some holds nobody else up."""

import email
import email.policy
import time

import pytest
from aiosmtpd.smtp import SMTP
from outbox_site import Site, never
from tests.receiving import Mail, raw, server_context

from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Outbox
from storemaster.master import settings
from storemaster.master.outbox import mail


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def short(monkeypatch):
    """A time limit that a test can wait for."""
    monkeypatch.setattr(mail, "TIMEOUT_S", 1.0)


def mail_settings(server, **told):
    base = {"mail": ["ops@example.com"], "sender": "salt@example.com"}
    return {**base, "server": f"localhost:{server.port}", "tls": "none", **told}


def parsed(server):
    return [
        (addresses, email.message_from_bytes(content, policy=email.policy.default))
        for addresses, content in server.mails
    ]


def test_a_change_is_a_mail(site):
    with Mail() as server:
        site.receiver(**mail_settings(server))
        site.change(reason="the guest does not call\nsince 10:00", who="alice")
        assert site.deliver() == 1
        ((addresses, told),) = parsed(server)
    assert addresses == ["ops@example.com"]
    assert told["subject"] == "store 0815: failed"
    assert told["from"] == "salt@example.com"
    assert told["auto-submitted"] == "auto-generated"
    assert told["message-id"].endswith("@example.com>")
    lines = told.get_content().splitlines()
    assert lines[0].endswith(
        "store 0815: failed (was booting) by alice: the guest does not call since 10:00"
    )
    assert lines[1] == "    salt-run deploy.explain 0815"


def test_a_mass_failure_is_a_digest_a_minute(site):
    with Mail() as server:
        site.receiver(**mail_settings(server, states=["failed"]))
        site.change("0000")
        assert site.deliver() == 1
        for number in range(1, 60):
            site.change(f"{number:04}")
        # The first one was told a moment ago.
        assert site.deliver() == 0
        site.hurry()
        assert site.deliver() == 59
        (_, first), (_, digest) = parsed(server)
    assert first["subject"] == "store 0000: failed"
    assert digest["subject"] == "59 changes of stores: 59 failed"
    told = digest.get_content()
    assert all(f"store {number:04}: failed" in told for number in range(1, 60))


def test_who_asked_for_the_deployment_is_told_its_end(site):
    alice = {"mail": [], "addresses": {"alice": "alice@example.com"}, "states": ["deployed"]}
    with Mail() as server:
        site.receiver(**mail_settings(server, **alice))
        site.change("0815", "rebooting", who="alice")
        site.change("0815", "deployed")
        site.change("0816", "deployed", who="bob")
        assert site.deliver() == 1
        ((addresses, told),) = parsed(server)
    assert addresses == ["alice@example.com"]
    assert told["subject"] == "store 0815: deployed"


@pytest.fixture
def locked(site, tls):
    """A server that wants STARTTLS and a password, and how to log in with one."""
    crt, key = tls

    def log_in(password):
        file = site.file("password", password)
        how = {"user": "salt", "password_file": file, "ca_file": str(crt), "tls": "starttls"}
        site.receiver(**mail_settings(server, **how))

    with Mail(server_context(crt, key), "salt", "hunter2") as server:
        yield server, log_in


def test_by_starttls_with_a_log_in(site, locked):
    server, log_in = locked
    log_in("hunter2")
    site.change()
    assert site.deliver() == 1
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"tls": "starttls"}, "its certificate is not to be trusted"),
        ({"tls": "none"}, "it answers 530"),
        ({"tls": "tls"}, ""),
    ],
)
def test_a_mail_server_that_is_not_spoken_to_as_it_wants_gets_nothing(
    site, tls, short, more, fault
):
    crt, key = tls
    with Mail(server_context(crt, key)) as server:
        site.receiver(**mail_settings(server, **more))
        site.change()
        assert site.deliver() == 0
        assert server.mails == []
    assert site.fault()
    assert fault in site.fault()


def test_a_wrong_password_is_told_and_not_shown(site, locked):
    _, log_in = locked
    log_in("hunter3")
    site.change()
    assert site.deliver() == 0
    assert "it answers 535" in site.fault()
    assert "hunter3" not in site.fault()


def test_an_address_that_is_refused_keeps_no_mail_from_the_others(site):
    with Mail() as server:
        server.refuses = {"gone@example.com": "550 no such user"}
        site.receiver(**mail_settings(server, mail=["gone@example.com", "ops@example.com"]))
        site.change()
        assert site.deliver() == 1
        assert [addresses for addresses, _ in server.mails] == [["ops@example.com"]]


def test_a_mail_that_all_refuse_is_tried_again(site):
    with Mail() as server:
        server.refuses = {"ops@example.com": "450 later"}
        site.receiver(**mail_settings(server))
        site.change()
        assert site.deliver() == 0
        assert "it refuses ops@example.com (450 later)" in site.fault()
        server.refuses = {}
        site.hurry()
        assert site.deliver() == 1


def test_an_address_that_is_refused_starves_nobody_elses_mail(site):
    people = {"bob": "bob@example.com", "zoe": "zoe@example.com"}
    with Mail() as server:
        server.refuses = {"bob@example.com": "550 no such user"}
        site.receiver(**mail_settings(server, mail=[], addresses=people))
        site.change("0815", who="bob")
        site.change("0816", who="zoe")
        assert site.deliver() == 1
        assert [addresses for addresses, _ in server.mails] == [["zoe@example.com"]]
    assert [each["store"] for each in site.waiting()] == ["0815"]


def test_who_has_no_address_any_more_is_not_waited_for(site):
    people = {"bob": "bob@example.com", "zoe": "zoe@example.com"}
    with Mail() as server:
        server.refuses = {"bob@example.com": "450 later"}
        site.receiver(**mail_settings(server, mail=[], addresses=people))
        site.change("0815", who="bob")
        assert site.deliver() == 0
        del people["bob"]
        site.receiver(**mail_settings(server, mail=[], addresses=people))
        site.hurry()
        assert site.deliver() == 0
    assert site.waiting() == []


def test_a_mail_is_the_same_at_each_try_and_what_came_later_is_another_one(site):
    with Mail() as server:
        site.receiver(**mail_settings(server))
        site.change("0815")
        site.change("0816")
        # Taken, but the answer was lost.
        server.refuses = {"ops@example.com": "450 later"}
        site.deliver()
        with Ledger(settings.ledger_path(site.opts)) as ledger:
            first = Outbox(ledger, "it").due(time.time() + 5)
        site.change("0817")
        server.refuses = {}
        with Ledger(settings.ledger_path(site.opts)) as ledger, ledger.writing() as db:
            db.execute("UPDATE notices SET due = ? WHERE due > 0", (time.time(),))
        assert site.deliver() == 3
        ids = [told["message-id"] for _, told in parsed(server)]
    expected = mail.message(site.one, first)["message-id"]
    assert sorted(each == expected for each in ids) == [False, True]


def test_a_password_that_cannot_be_sent_is_told_and_not_shown(site):
    password = site.file("password", "h\u00e4nter2")
    with Mail() as server:
        log_in = {"user": "salt", "password_file": password, "tls": "starttls"}
        site.receiver(**mail_settings(server, **log_in))
        site.change()
        assert site.deliver() == 0
    assert "has letters beyond ASCII" in site.fault()
    assert "nter2" not in site.fault()


def test_a_mail_server_that_never_answers_is_given_up(site, short):
    with raw(never) as port:
        told = {"mail": ["a@b.c"], "sender": "a@b.c", "tls": "none"}
        site.receiver(**told, server=f"127.0.0.1:{port}")
        site.change()
        assert site.deliver() == 0
    assert "no answer within 1 s" in site.fault()


def test_a_mail_that_was_taken_is_not_sent_again_because_of_the_farewell(site, monkeypatch):
    async def rude(self, arg):
        self.transport.abort()

    monkeypatch.setattr(SMTP, "smtp_QUIT", rude)
    with Mail() as server:
        site.receiver(**mail_settings(server))
        site.change()
        assert site.deliver() == 1
        assert len(server.mails) == 1
