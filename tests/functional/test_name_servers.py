# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store's name follows its server in a real BIND 9, and nobody else's name is touched."""

import base64
import dataclasses
import os
import secrets
import shutil
import socket
import subprocess
import time

import dns.message
import dns.query
import dns.rcode
import pytest
from outbox_site import Told

from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.master import settings
from storemaster.master.outbox import name_servers, office

ZONE, REVERSE, SIX = "stores.example.com", "2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"
KEY, ADMIN = "store-deploy", "site-admin"
OURS = '"heritage=store-deploy,store=0815"'
SOON_S = 30


class Bind:
    """A BIND of one's own, with zones that a key may update."""

    def __init__(self, folder):
        self.folder = folder
        self.secret = base64.b64encode(secrets.token_bytes(32)).decode()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server = f"127.0.0.1#{self.port}"
        self.process = None

    def start(self, forward="A AAAA TXT"):
        """Start it; the key may update as docs/dns.md has it, or less."""
        for zone in (ZONE, REVERSE, SIX):
            path = self.folder / zone
            if not path.exists():
                path.write_text(
                    "$TTL 300\n@ SOA ns.example.net. root.example.net. 1 300 300 300 5\n"
                    "@ NS ns.example.net.\n"
                )
        zones = "".join(
            f'zone "{zone}" {{ type primary; file "{self.folder}/{zone}"; update-policy {{ '
            f"grant {KEY} zonesub {kinds}; grant {ADMIN} zonesub ANY; }}; }};\n"
            for zone, kinds in ((ZONE, forward), (REVERSE, "PTR TXT"), (SIX, "PTR TXT"))
        )
        keys = "".join(
            f'key "{key}" {{ algorithm hmac-sha256; secret "{self.secret}"; }};\n'
            for key in (KEY, ADMIN)
        )
        (self.folder / "named.conf").write_text(
            f'{keys}options {{ directory "{self.folder}"; listen-on port {self.port} '
            f"{{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; "
            f'dnssec-validation no; pid-file "{self.folder}/pid"; '
            f'session-keyfile "{self.folder}/session.key"; }};\ncontrols {{ }};\n{zones}'
        )
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["named", "-g", "-c", self.folder / "named.conf"], stdout=log, stderr=log
            )
        until(lambda: self.ask(ZONE, "SOA"), "named answers")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def ask(self, name, kind):
        """Return the records of a name."""
        message = dns.message.make_query(name, kind)
        try:
            answer = dns.query.tcp(message, "127.0.0.1", 5, self.port)
        except OSError:
            return []
        return sorted(each.to_text() for found in answer.answer for each in found)


def until(fact, what):
    deadline = time.monotonic() + SOON_S
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {SOON_S} s: {what}"
        time.sleep(0.05)
    return found


@pytest.fixture
def bind(tmp_path):
    if not shutil.which("named"):
        pytest.fail("this needs BIND: make packages")
    folder = tmp_path / "bind"
    folder.mkdir()
    bind = Bind(folder)
    bind.start()
    yield bind
    bind.stop()


class Site(Told):
    """A site whose receiver is a name server."""

    def __init__(self, folder, bind):
        self.key = folder / "key"
        self.key.touch(0o600)
        self.key.write_text(f"{bind.secret}\n")
        self.dns = {
            "servers": [bind.server],
            "zones": [ZONE, REVERSE, SIX],
            "networks": ["192.0.2.0/24", "2001:db8::/32"],
            "key_name": KEY,
            "key_file": str(self.key),
        }
        super().__init__({"store_deploy": {"state_dir": str(folder / "state"), "dns": self.dns}})
        self.deliver()

    def becomes(
        self, state, *addresses, store="0815", generation=None, hostname="", static="", **told
    ):
        """Let a store get into a state, with what its server has told."""
        probes = {"results": [], "addresses": list(addresses)}
        with Ledger(settings.ledger_path(self.opts)) as ledger:
            old = ledger.get(store)
            made = Record(
                store=store,
                generation=generation or (old.generation if old else 1),
                state=state,
                since=time.time(),
                deadline=None,
                hypervisor="hv",
                minion_id=f"store-{store}",
                spec={
                    "hostname": hostname or f"store-{store}.{ZONE}",
                    "interfaces": [{"name": "eth0", "address": static or "dhcp"}],
                },
                began=1.0,
                requested_by="operator",
                revision=old.revision if old else 0,
                evidence=dataclasses.replace(
                    old.evidence if old else Evidence(),
                    **{"probes": probes, **told},
                ),
            )
            ledger.save(made, "so it is")
        return self.deliver()


@pytest.fixture
def site(tmp_path, bind):
    return Site(tmp_path, bind)


NAME = f"store-0815.{ZONE}"
SEVEN, EIGHT = f"7.{REVERSE}", f"8.{REVERSE}"


def test_a_server_that_is_deployed_has_its_name_and_its_addresses_have_it(site, bind):
    assert site.becomes("deployed", "192.0.2.7", "2001:db8::7", "fe80::1", "10.9.9.9") == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]
    assert bind.ask(NAME, "AAAA") == ["2001:db8::7"]
    assert bind.ask(NAME, "TXT") == [OURS]
    assert bind.ask(SEVEN, "PTR") == [f"{NAME}."]
    assert bind.ask(SEVEN, "TXT") == [OURS]
    six = "7." + "0." * 23 + SIX
    assert bind.ask(six, "PTR") == [f"{NAME}."]


def test_states_before_the_end_change_nothing(site, bind):
    for state in ("booting", "verifying", "failed", "cancelled"):
        assert site.becomes(state, "192.0.2.7") == 0
    assert bind.ask(NAME, "TXT") == []


def test_a_redeployment_changes_the_addresses_and_leaves_no_old_ones(site, bind):
    site.becomes("deployed", "192.0.2.7")
    assert site.becomes("deployed", "192.0.2.8", generation=2) == 1
    assert bind.ask(NAME, "A") == ["192.0.2.8"]
    assert bind.ask(EIGHT, "PTR") == [f"{NAME}."]
    assert bind.ask(SEVEN, "ANY") == []


def test_a_new_hostname_takes_the_old_one_away(site, bind):
    site.becomes("deployed", "192.0.2.7")
    site.becomes("deployed", "192.0.2.7", generation=2, hostname=f"new.{ZONE}")
    assert bind.ask(NAME, "ANY") == []
    assert bind.ask(f"new.{ZONE}", "A") == ["192.0.2.7"]
    assert bind.ask(SEVEN, "PTR") == [f"new.{ZONE}."]


def test_a_server_that_was_put_back_is_named_by_what_it_says_itself(site, bind):
    site.becomes("deployed", "192.0.2.7")
    site.becomes("deployed", "192.0.2.7", generation=2, server={"addresses": ["192.0.2.8"]})
    assert bind.ask(NAME, "A") == ["192.0.2.8"]


def test_a_retired_store_is_gone(site, bind):
    site.becomes("deployed", "192.0.2.7")
    assert site.becomes("retired") == 1
    assert (bind.ask(NAME, "ANY"), bind.ask(SEVEN, "ANY")) == ([], [])


def test_what_is_told_twice_changes_nothing(site, bind):
    site.becomes("deployed", "192.0.2.7")
    before = bind.ask(ZONE, "SOA")
    with Ledger(settings.ledger_path(site.opts)) as ledger:
        zones = name_servers.Zones(site.dns, bind.secret)
        zones.follow(ledger, ledger.get("0815"))
    assert bind.ask(NAME, "A") == ["192.0.2.7"]
    assert bind.ask(ZONE, "SOA") == before


def test_what_was_overtaken_is_not_set(site, bind):
    bind.stop()
    site.becomes("deployed", "192.0.2.7")
    site.becomes("retired")
    bind.start()
    site.hurry()
    site.deliver()
    assert site.waiting() == []
    assert bind.ask(NAME, "ANY") == []


def test_a_server_that_was_adopted_keeps_its_name(site, bind):
    site.becomes("deployed", "192.0.2.7")
    assert site.becomes("deployed", generation=2, probes=None) == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]
    assert site.fault() == ""


def test_a_ledger_that_knows_no_names_takes_the_name_away_too(site, bind):
    site.becomes("deployed", "192.0.2.7")
    with Ledger(settings.ledger_path(site.opts)) as ledger, ledger.writing() as db:
        db.execute("DELETE FROM names")
    assert site.becomes("retired") == 1
    assert bind.ask(NAME, "ANY") == []


def test_a_store_that_was_retired_and_is_made_anew_has_no_name_until_it_is_deployed(site, bind):
    site.becomes("deployed", "192.0.2.7")
    bind.stop()
    site.becomes("retired")
    site.becomes("booting", generation=2)
    bind.start()
    site.hurry()
    assert site.deliver() == 1
    assert bind.ask(NAME, "ANY") == []


def test_a_zone_that_is_not_ours_to_change_any_more_is_left_and_remembered(site, bind):
    site.becomes("deployed", "192.0.2.7")
    site.dns["zones"] = [ZONE]
    assert site.becomes("retired") == 1
    assert (bind.ask(NAME, "ANY"), bind.ask(SEVEN, "PTR")) == ([], [f"{NAME}."])
    with Ledger(settings.ledger_path(site.opts)) as ledger:
        assert ledger.names("0815") == [SEVEN]


# What is not ours


def add(bind, name, kind, text):
    """Write a record as the site does, by hand."""
    told = {"servers": [bind.server], "zones": [ZONE, REVERSE], "key_name": ADMIN}
    zones = name_servers.Zones(told, bind.secret)

    def fill(update, relative):
        update.add(relative, 300, kind, text)

    assert zones._done(name, fill)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("A", "192.0.2.99"), ("TXT", '"of somebody"'), ("CNAME", "www.example.net."), ("MX", "1 m.")],
)
def test_a_name_of_somebody_elses_is_not_touched(site, bind, kind, text):
    add(bind, NAME, kind, text)
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert site.fault().startswith(f"{NAME} is in the DNS already and has no mark of store 0815's")
    assert bind.ask(NAME, kind)[0] in (text, "1 m.")
    assert bind.ask(NAME, "ANY") == bind.ask(NAME, kind)
    # Neither when the store is given up.
    site.becomes("retired")
    assert bind.ask(NAME, kind)


def test_what_others_write_beside_our_mark_stays(site, bind):
    site.becomes("deployed", "192.0.2.7")
    add(bind, NAME, "TXT", '"v=spf1 -all"')
    add(bind, NAME, "MX", "10 mail.example.net.")
    assert site.becomes("deployed", "192.0.2.8", generation=2) == 1
    assert bind.ask(NAME, "A") == ["192.0.2.8"]
    assert bind.ask(NAME, "TXT") == [OURS, '"v=spf1 -all"']
    assert site.becomes("retired") == 1
    assert bind.ask(NAME, "TXT") == ['"v=spf1 -all"']
    assert (bind.ask(NAME, "A"), bind.ask(NAME, "MX")) == ([], ["10 mail.example.net."])


def test_a_name_that_is_handed_over_by_the_mark_is_ours(site, bind):
    add(bind, NAME, "A", "192.0.2.99")
    assert site.becomes("deployed", "192.0.2.7") == 0
    add(bind, NAME, "TXT", OURS)
    site.hurry()
    assert site.deliver() == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]


def test_where_the_pillar_has_the_address_no_other_one_counts(site, bind):
    told = ("192.0.2.7", "192.0.2.1", "2001:db8::1")
    assert site.becomes("deployed", *told, static="192.0.2.7/24") == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]
    assert bind.ask(NAME, "AAAA") == []
    assert site.becomes("deployed", "192.0.2.1", static="192.0.2.7/24", generation=2) == 0
    assert "and is one of its pillar's" in site.fault()


def test_a_guest_that_tells_nonsense_stops_no_other_store(site, bind):
    many = [f"192.0.2.{number}" for number in range(1, 100)]
    for number, told in enumerate([None, "x", 7, [None, {}], ["2001:db8::7%eth0"], many]):
        store = f"09{number:02}"
        assert site.becomes("deployed", store=store, probes={"addresses": told}) == 0
        assert "Error" not in site.fault()
    assert site.becomes("deployed", "192.0.2.7") == 1


def test_another_stores_name_is_not_touched_and_others_are_told(site, bind):
    site.becomes("deployed", "192.0.2.7")
    assert site.becomes("deployed", "192.0.2.8", store="0816", hostname=NAME) == 0
    assert bind.ask(NAME, "A") == ["192.0.2.7"]
    assert site.becomes("deployed", "192.0.2.9", store="0817") == 1


def test_a_guest_cannot_claim_an_address_beyond_the_networks(site, bind):
    for address in ("203.0.113.1", "127.0.0.1", "no address"):
        site.becomes("deployed", address)
        assert "is within store_deploy:dns:networks" in site.fault()
        site.hurry()
    assert bind.ask(NAME, "ANY") == []


def test_a_hostname_in_no_zone_is_told(site):
    for hostname in ("store-0815", "store-0815.example.net", ZONE):
        site.becomes("deployed", "192.0.2.7", hostname=hostname)
        assert f"{hostname} is in none of the zones of store_deploy:dns" in site.fault()
        site.hurry()


def test_where_the_zone_refuses_the_mark_nothing_is_written(site, bind):
    bind.stop()
    bind.start(forward="A AAAA")
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert f"the name server refuses to change {NAME} in {ZONE}: REFUSED" in site.fault()
    assert bind.ask(NAME, "ANY") == []


# When a name server does not do as it should


def test_a_wrong_key_is_told(site, bind):
    site.key.write_text(base64.b64encode(b"x" * 32).decode())
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert f"the name server {bind.server} does not take the key {KEY}: " in site.fault()
    assert bind.secret not in site.fault()
    site.key.write_text(bind.secret)
    site.hurry()
    assert site.deliver() == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]


@pytest.fixture
def nobody():
    """A server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1#{free.getsockname()[1]}"


def test_a_server_that_is_down_is_tried_again_and_the_other_one_asked(site, bind, nobody):
    site.dns["servers"] = [nobody]
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert site.fault().startswith(f"no name server answers: {nobody}: ")
    assert [each["state"] for each in site.waiting()] == ["deployed"]
    site.dns["servers"] = [nobody, bind.server]
    site.hurry()
    assert site.deliver() == 1
    assert bind.ask(NAME, "A") == ["192.0.2.7"]


def test_the_server_that_answers_is_asked_first_from_then_on(site, bind, nobody):
    zones = name_servers.Zones({**site.dns, "servers": [nobody, bind.server]}, bind.secret)
    assert zones._texts(NAME) == []
    assert zones._servers == [bind.server, nobody]


def test_one_that_never_answers_is_given_up(site, monkeypatch):
    monkeypatch.setattr(name_servers, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.dns["servers"] = [f"127.0.0.1#{silent.getsockname()[1]}"]
        assert site.becomes("deployed", "192.0.2.7") == 0
    assert site.fault().endswith("no answer")


def test_without_dnspython_it_is_told(site, monkeypatch):
    monkeypatch.setattr(name_servers, "HAS_DNSPYTHON", False)
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert "dnspython 2 is not there" in site.fault()
    assert [fault for fault, _ in office.faults(site.opts)] == [
        "dns is told nothing: dnspython 2 is not there, which store_deploy:dns needs"
    ]


@pytest.mark.parametrize("text", ["", "short", "c2hvcnQ=", "!"])
def test_a_key_that_is_none_is_told(site, text):
    site.key.write_text(text)
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert "the key of store_deploy:dns is none" in site.fault()


def test_a_key_that_others_may_read_is_not_used(site):
    os.chmod(site.key, 0o644)
    assert site.becomes("deployed", "192.0.2.7") == 0
    assert site.fault().startswith(f"others may read {site.key}")


def test_settings_are_checked():
    told = {"store_deploy": {"dns": {"servers": ["ns.example.com"], "zones": [], "x": 1}}}
    ((fault, _),) = settings.faults(told)
    for part in (
        "servers is ['ns.example.com'], allowed: a list of addresses",
        "zones is [], allowed",
        "x is no key of it",
        "it needs networks",
        "it needs key_file or key",
    ):
        assert part in fault
