# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Receivers on this machine are told of changes: a web server, a room.

Those that misbehave are told again later, and hold nobody up.
"""

import os
import threading
import time

import pytest
from outbox_site import SECRET, Site, never
from standardwebhooks.webhooks import Webhook
from tests.receiving import Web, raw, server_context

from storelib.errors import Refused
from storemaster.deployment.outbox import Outbox
from storemaster.master.outbox import connecting, office, webhook


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def web():
    with Web() as server:
        yield server


@pytest.fixture
def short(monkeypatch):
    """A time limit that a test can wait for."""
    monkeypatch.setattr(connecting, "TIMEOUT_S", 1.0)


# Webhooks


def test_a_webhook_is_told_each_change_once_in_order(site, web):
    site.webhook(web.url)
    for state in ("rebooting", "configuring", "failed"):
        site.change(state=state, who="alice")
    assert site.deliver() == 3
    assert [each["state"] for each in web.taken()] == ["rebooting", "configuring", "failed"]
    assert web.taken()[-1] == {
        "version": 1,
        "store": "0815",
        "generation": 1,
        "state": "failed",
        "previous": "configuring",
        "reason": "it is late",
        "at": web.taken()[-1]["at"],
        "actor": "alice",
        "way": "api",
    }
    assert site.deliver() == 0
    assert site.waiting() == []


def test_its_signature_is_one_of_standard_webhooks(site, web):
    site.webhook(web.url)
    site.change(reason="»Über«, <b>late</b>")
    site.deliver()
    ((headers, body, _),) = web.posts
    assert Webhook(SECRET).verify(body, headers)["reason"] == "»Über«, <b>late</b>"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(body.replace(b"0815", b"0816"), headers)
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == headers["webhook-id"]


def test_a_secret_that_is_plain_text_signs_as_it_is(site, web):
    site.file("secret", "sixteen bytes ok")
    site.webhook(web.url)
    site.change()
    site.deliver()
    ((headers, body, _),) = web.posts
    told = webhook.signed(
        b"sixteen bytes ok", headers["webhook-id"], int(headers["webhook-timestamp"]), body
    )
    assert told["webhook-signature"] == headers["webhook-signature"]


def test_what_was_not_taken_is_told_again_with_the_same_key(site, web):
    site.webhook(web.url)
    site.change()
    web.answer = lambda *_: 503
    assert site.deliver() == 0
    assert "it answers 503" in site.fault()
    # It rests, whoever looks.
    assert site.deliver() == 0
    assert len(web.posts) == 1
    site.hurry()
    web.answer = lambda *_: 204
    assert site.deliver() == 1
    (first, second) = (headers for headers, _, _ in web.posts)
    assert first["idempotency-key"] == second["idempotency-key"]
    assert site.fault() == ""


def test_a_notice_that_is_refused_holds_up_its_own_store_only(site, web):
    web.answer = lambda headers, body: 422 if b"0815" in body else 200
    site.webhook(web.url)
    for store in ("0815", "0816"):
        site.change(store, "rebooting")
        site.change(store, "failed")
    assert site.deliver() == 2
    assert [(each["store"], each["state"]) for each in web.taken()] == [
        ("0816", "rebooting"),
        ("0816", "failed"),
    ]
    assert [each["store"] for each in site.waiting()] == ["0815", "0815"]
    assert site.waiting()[0]["fault"].endswith("it answers 422 Unprocessable Entity")
    assert site.waiting()[1]["tries"] == 0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(site, web, status):
    web.answer = lambda *_: status
    site.webhook(web.url)
    site.change()
    assert site.deliver() == 0
    assert f"it answers {status}, and redirections are not followed" in site.fault()
    assert len(web.posts) == 1


def drips(connection):
    for each in b"HTTP/1.1 200 OK\r\n" * 1000:
        connection.sendall(bytes([each]))
        time.sleep(0.2)


def garbage(connection):
    connection.recv(65536)
    connection.sendall(b"\x00\x01<html>\r\n\r\n")


def ends(connection):
    connection.recv(65536)


@pytest.mark.parametrize(
    ("speak", "fault"),
    [
        (never, "no answer within 1 s"),
        (drips, "no answer within 1 s"),
        (garbage, "it does not speak HTTP"),
        (ends, "it ended the connection without an answer"),
    ],
)
def test_a_server_that_misbehaves_is_told_later(site, short, speak, fault):
    with raw(speak) as port:
        site.webhook(f"http://127.0.0.1:{port}/")
        site.change()
        began = time.monotonic()
        assert site.deliver() == 0
        assert time.monotonic() - began < 5
    assert fault in site.fault()
    assert [each["tries"] for each in site.waiting()] == [1]


def test_one_that_drips_in_the_midst_of_tls_is_given_up_too(site, short):
    def drip(connection):
        connection.recv(65536)
        # A record of TLS that is never whole.
        connection.sendall(b"\x16\x03\x03\x40\x00")
        drips(connection)

    with raw(drip) as port:
        site.webhook(f"https://127.0.0.1:{port}/")
        site.change()
        assert site.deliver() == 0
    assert "no answer within 1 s" in site.fault()


def test_nobody_there_is_told_later(site):
    with raw(ends) as port:
        pass
    site.webhook(f"http://127.0.0.1:{port}/")
    site.change()
    assert site.deliver() == 0
    assert site.fault() == f"127.0.0.1:{port}: Connection refused"


def test_a_certificate_that_is_not_valid_is_refused_unless_its_ca_is_named(site, tls):
    crt, key = tls
    with Web(server_context(crt, key)) as web:
        site.webhook(web.url)
        site.change()
        assert site.deliver() == 0
        assert "its certificate is not to be trusted" in site.fault()
        assert "name its ca_file" in site.fault()
        assert web.posts == []
        site.hurry()
        site.webhook(web.url, ca_file=str(crt))
        assert [each["store"] for each in web.taken()] == ["0815"]


def test_another_names_certificate_is_refused_too(site, tls):
    crt, key = tls
    with Web(server_context(crt, key)) as web:
        site.webhook(web.url.replace("localhost", "127.0.0.1"), ca_file=str(crt))
        site.change()
        assert site.deliver() == 0
        assert "its certificate is not to be trusted" in site.fault()
        assert web.posts == []


def test_only_what_a_filter_lets_through_is_told(site, web):
    site.webhook(web.url, states=["failed"], groups=["north"])
    site.change("0815", "rebooting")
    site.change("0815", "failed")
    site.change("0816", "failed", spec={"group": "south"})
    site.deliver()
    assert [(each["store"], each["state"]) for each in web.taken()] == [("0815", "failed")]


def test_two_that_send_at_once_send_once(site, web):
    entered, go = threading.Event(), threading.Event()

    def wait(headers, body):
        entered.set()
        go.wait(10)
        return 200

    site.webhook(web.url)
    site.change()
    web.answer = wait
    first = threading.Thread(target=site.deliver)
    first.start()
    assert entered.wait(10)
    assert site.deliver() == 0
    go.set()
    first.join(10)
    assert len(web.posts) == 1


def test_who_is_killed_after_the_sending_sends_again_with_the_same_key(site, web, monkeypatch):
    site.webhook(web.url)
    site.change()

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "told", killed)
        with pytest.raises(SystemExit):
            site.deliver()
    assert site.deliver() == 1
    (first, second) = (headers for headers, _, _ in web.posts)
    assert first["idempotency-key"] == second["idempotency-key"]


def test_sixty_failures_are_sixty_notices(site, web):
    site.webhook(web.url, states=["failed"])
    stores = [f"{number:04}" for number in range(60)]
    for store in stores:
        site.change(store)
    assert site.deliver() == 60
    assert [each["store"] for each in web.taken()] == stores


# Secrets


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_not_used(site, web, mode):
    site.webhook(web.url)
    os.chmod(site.folder / "secret", mode)
    site.change()
    assert site.deliver() == 0
    assert site.fault() == f"others may read {site.folder}/secret; chmod 600 {site.folder}/secret"
    assert web.posts == []
    assert [fault for fault, _ in office.faults(site.opts)] == [
        f"it is told nothing: others may read {site.folder}/secret"
    ]


@pytest.mark.parametrize("text", ["", "short", "whsec_!!!", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_is_told(site, web, text):
    site.webhook(web.url)
    site.file("secret", text)
    site.change()
    assert site.deliver() == 0
    assert "the secret of store_deploy:outbox:it is none" in site.fault()
    assert not text or text not in site.fault()


def test_a_secret_is_nowhere_in_the_ledger(site, web):
    site.webhook(web.url)
    site.change()
    web.answer = lambda *_: 500
    site.deliver()
    for path in (site.folder / "state").iterdir():
        assert SECRET.encode() not in path.read_bytes()


def test_a_ca_that_is_not_there_is_told(site, tls):
    crt, key = tls
    with Web(server_context(crt, key)) as web:
        site.webhook(web.url, ca_file="/nowhere/ca.crt")
        site.change()
        site.deliver()
    assert "the CA cannot be read from /nowhere/ca.crt" in site.fault()


def test_a_secret_of_somebody_elses_is_not_used(site, web):
    site.webhook(web.url)
    os.chown(site.folder / "secret", 65534, 65534)
    site.change()
    assert site.deliver() == 0
    assert site.fault().startswith(f"{site.folder}/secret is somebody else's; chown root")


def test_what_a_server_repeats_of_a_secret_url_is_told_to_nobody(site, caplog):
    def echo(connection):
        connection.sendall(connection.recv(65536).partition(b"\r\n")[0] + b"\r\n\r\n")

    with raw(echo) as port:
        site.receiver(chat_file=site.file("room", f"http://127.0.0.1:{port}/T0/hunter2"))
        site.change()
        assert site.deliver() == 0
    assert "it does not speak HTTP" in site.fault()
    assert "hunter2" not in site.fault() + caplog.text


# Rooms


def test_a_room_is_told_in_one_message(site, web):
    site.receiver(chat_file=site.file("room", web.url))
    site.change("0815")
    site.change("0816", reason="x" * 5000)
    site.change("0817")
    assert site.deliver() == 3
    (told,) = web.taken()
    assert told["text"].splitlines() == [
        "store 0815: failed (was booting): it is late",
        "and 2 more changes",
    ]


def test_what_others_wrote_calls_nobody_in_a_room(site, web):
    site.receiver(chat_file=site.file("room", web.url))
    site.change(reason="<!channel> <https://example.com|mend & go>")
    site.deliver()
    (told,) = web.taken()
    assert told["text"].endswith("&lt;!channel&gt; &lt;https://example.com|mend &amp; go&gt;")


@pytest.mark.parametrize("url", ["", "http://chat.example.com/hook", "zzz"])
def test_a_room_without_a_good_url_is_told_and_its_url_is_not(site, url):
    site.receiver(chat_file=site.file("room", url))
    site.change()
    assert site.deliver() == 0
    assert site.fault().startswith("store_deploy:outbox:it names no URL of a room; allowed: https")
    assert not url or url not in site.fault()


# What an operator does


def test_the_outbox_is_shown_tried_again_and_dropped(site, web):
    site.webhook(web.url)
    web.answer = lambda *_: 500
    site.change()
    site.deliver()
    ((row),) = office.shown(site.opts, "it")
    assert (row["kind"], row["waiting"], row["set_aside"]) == ("webhook", 1, 0)
    assert [each["store"] for each in row["notices"]] == ["0815"]
    assert row["next_try"] is not None
    web.answer = lambda *_: 200
    assert office.act(site.opts, "it", retry=True, drop=False) == {
        "receiver": "it",
        "tried_again": 1,
    }
    assert site.deliver() == 1
    assert office.act(site.opts, "it", retry=False, drop=True) == {"receiver": "it", "dropped": 0}


@pytest.mark.parametrize(
    ("receiver", "retry", "drop", "reason"),
    [
        ("other", True, False, "there is no receiver other"),
        (None, True, False, "no receiver is named"),
        ("it", True, True, "both retry and drop are asked for"),
    ],
)
def test_what_cannot_be_done_is_refused(site, web, receiver, retry, drop, reason):
    site.webhook(web.url)
    with pytest.raises(Refused, match=reason):
        office.act(site.opts, receiver, retry, drop)


def test_a_receiver_that_is_none_any_more_is_named_and_can_be_forgotten(site, web):
    site.webhook(web.url)
    site.change()
    web.answer = lambda *_: 500
    site.deliver()
    site.opts["store_deploy"]["outbox"] = {}
    ((fault, mend),) = office.faults(site.opts)
    assert fault == "it is no receiver any more, and its notices are kept: 1"
    assert "salt-run deploy.outbox it drop=True" in mend
    with pytest.raises(Refused, match="no receiver any more"):
        office.act(site.opts, "it", retry=True, drop=False)
    assert office.act(site.opts, "it", retry=False, drop=True)["dropped"] == 1
    assert list(office.faults(site.opts)) == []
