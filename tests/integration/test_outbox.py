# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Receivers are told of a real master's deployments, whoever of them, or the master, goes away."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest
import store_site
from tests.receiving import Mail, Web

SECRET = pathlib.Path("/etc/salt/lab-receiver")
STORE = "told"
DOCS = store_site.CHECKOUT / "docs"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """The example of a receiver in the docs: what it was told, and how to end and start it."""
    SECRET.touch(0o600)
    SECRET.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    receiver = Receiver(port, tmp_path_factory.mktemp("inventory") / "changes")
    receiver.start()
    yield receiver
    receiver.kill()


class Receiver:
    def __init__(self, port, file):
        self.url = f"http://127.0.0.1:{port}/"
        self.argv = [sys.executable, DOCS / "receiver.py", str(port), SECRET, file]
        self.file = file
        self.port = port

    def start(self):
        self.process = subprocess.Popen(self.argv, stderr=subprocess.DEVNULL)
        store_site.until(self._listens, 30, "the receiver listens")

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def told(self, store):
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [told for line in lines if (told := json.loads(line))["store"] == store]


@pytest.fixture(scope="module")
def mail():
    with Mail() as server:
        yield server


@pytest.fixture(scope="module")
def dead():
    """A receiver that takes nothing."""
    with Web() as server:
        server.answer = lambda *_: 503
        yield server


@pytest.fixture(scope="module")
def told(site, inventory, mail, dead):
    """A master that tells three receivers; one of them is of no use."""
    site.master.kill()
    of_mail = {"server": f"127.0.0.1:{mail.port}", "sender": "salt@example.com", "tls": "none"}
    site.master.start(
        engines=[{"store_outbox": {}}],
        store_deploy={
            "outbox": {
                "inventory": {"webhook": inventory.url, "secret_file": str(SECRET)},
                "dead": {"webhook": dead.url, "secret_file": str(SECRET)},
                "desk": {
                    **of_mail,
                    "mail": [],
                    "addresses": {"carol": "carol@example.com"},
                    "states": ["deployed"],
                },
            }
        },
    )
    store_site.until(
        lambda: len(rows(site)) == 3 and not any(row["oldest"] for row in rows(site)),
        60,
        "the receivers are known",
    )
    yield site
    site.master.kill()
    site.master.start()


def rows(site):
    return site.salt_run("outbox").answer


def keyed(data):
    return data["generation"], data["state"], data["at"]


@pytest.fixture(scope="module")
def deployed(told):
    """A deployment that the shell's user carol asks for; while it runs the master is killed."""
    told.describe("hv-told", STORE)
    told.start_hypervisors("hv-told")
    with told.events(f"store/{STORE}/deploy/") as heard:
        asked = subprocess.run(
            ["salt-run", "deploy.store", STORE, "wait=False"],
            env={**store_site.ENVIRONMENT, "SUDO_USER": "carol"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert asked.returncode == 0, asked.stdout
        told.entered(STORE, "deployed")
        store_site.until(
            lambda: any(tag.endswith("/deployed") for tag, _ in heard), 60, "the last event"
        )
    return heard


def test_what_the_bus_is_told_the_receiver_is_told_in_order(told, inventory, deployed):
    events = [data for _, data in deployed]
    known = [keyed(change) for change in events]
    store_site.until(
        lambda: [keyed(each) for each in inventory.told(STORE)] == known,
        30,
        lambda: f"{inventory.told(STORE)} is {known}",
    )
    ours = {"_stamp"}
    plain = [{k: v for k, v in each.items() if k not in ours} for each in events]
    assert inventory.told(STORE) == plain


def test_who_asked_is_told_the_end_by_mail(told, mail, deployed):
    (sent,) = store_site.until(lambda: mail.mails, 60, "the mail")
    addresses, content = sent
    assert addresses == ["carol@example.com"]
    assert f"Subject: store {STORE}: deployed".encode() in content


def test_the_dead_one_is_shown_and_holds_nobody_up(told, deployed):
    (row,) = [each for each in rows(told) if each["receiver"] == "dead"]
    assert row["waiting"] == len(deployed)
    assert row["fault"].endswith("it answers 503 Service Unavailable")
    shown = subprocess.run(
        ["salt-run", "deploy.outbox", "dead"], capture_output=True, text=True, check=True
    ).stdout
    assert "it answers 503" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("awaiting_hypervisor") == 1


def test_what_happened_while_receiver_and_master_were_away_is_told_then(told, inventory, deployed):
    inventory.kill()
    before = len(inventory.told(STORE))
    assert told.salt_run("retire", STORE, "remove=True").status == 0
    told.entered(STORE, "retired")
    told.master.kill()
    told.master.process = None
    store_site.Daemon.start(told.master)
    store_site.until(told.master._listens, 60, "the master listens")
    inventory.start()
    told.salt_run("outbox", "inventory", "retry=True")
    store_site.until(
        lambda: (
            [each["state"] for each in inventory.told(STORE)[before:]] == ["retiring", "retired"]
        ),
        60,
        lambda: inventory.told(STORE)[before:],
    )


def test_the_dead_one_is_told_all_once_it_answers(told, dead, deployed):
    dead.answer = lambda *_: 200
    assert told.salt_run("outbox", "dead", "retry=True").status == 0
    expected = [change.state for change in told.history(STORE)]
    store_site.until(
        lambda: [each["state"] for each in dead.taken() if each["store"] == STORE] == expected,
        60,
        lambda: dead.taken(),
    )
    keys = [headers["idempotency-key"] for headers, _, status in dead.posts if status == 200]
    assert len(keys) == len(set(keys))


def test_a_verb_that_is_refused_ends_so(told):
    done = told.salt_run("outbox", "nobody", "drop=True")
    assert done.status == 1
    assert done.sentences == (
        "there is no receiver nobody",
        "the receivers of store_deploy:outbox: dead, desk, inventory",
    )
