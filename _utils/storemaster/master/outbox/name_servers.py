# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A store's name in the DNS, by signed updates (RFC 2136, RFC 8945).

Each name that is ours has a TXT record that says so. It is looked for by the name server itself, in
the update that changes the name, so that a name of somebody else's is never touched. By dnspython:
Salt 3008 has no module for updates any more.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Sequence
from typing import Any

from storelib.errors import Fault, Refused
from storemaster.deployment import lifecycle, naming
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Notice
from storemaster.deployment.receivers import Receiver
from storemaster.deployment.record import Record
from storemaster.master import credentials, settings
from storemaster.master.outbox.connecting import Send, Undelivered, Unwanted

try:
    import dns.exception
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdatatype
    import dns.tsig
    import dns.update

    # Version 2, or a newer one.
    HAS_DNSPYTHON = hasattr(dns.update, "UpdateMessage")
except ImportError:
    HAS_DNSPYTHON = False

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""How long a name server may take for one answer."""

WHERE = "store_deploy:dns"

DEPLOYED = lifecycle.DEPLOYED.name

ELSEWHERE = ("NOTAUTH", "NOTIMP", "SERVFAIL")
"""Answers after which another server is asked."""

LEAST = 16
"""Bytes that a key has at least."""


def sender(opts: dict, receiver: Receiver) -> Send:
    """
    Return what sets the names of stores that were deployed, and takes away those of others.

    Raises :class:`Refused` if dnspython or the key is missing.
    """
    if not HAS_DNSPYTHON:
        raise Refused(
            f"dnspython 2 is not there, which {WHERE} needs",
            "install python3-dnspython, or dnspython with salt-pip, for the Python that runs Salt",
        )
    zones = Zones(receiver.told, credentials.read(opts, receiver.told, "key", "the key", WHERE))

    def send(notices: Sequence[Notice]) -> None:
        with Ledger(settings.ledger_path(opts)) as ledger:
            for notice in notices:
                record, change = ledger.get(notice.change.store), notice.change
                if record is None:
                    continue
                now = (record.generation, record.state)
                # What has gone on since then is told by its own notice; a server that is gone is
                # gone, whatever is made in its place.
                gone = change.state != DEPLOYED and record.state != DEPLOYED
                if gone or now == (change.generation, change.state):
                    zones.follow(ledger, record)

    return send


class Zones:
    """The zones that are updated, and how."""

    def __init__(self, told: Any, secret: str) -> None:
        try:
            raw = base64.b64decode(secret.strip(), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) < LEAST:
            raise Refused(
                f"the key of {WHERE} is none: it has {len(raw)} bytes",
                "allowed: base64, as tsig-keygen prints it as secret",
            )
        self.told = told
        self._servers = list(told["servers"])
        self._key = dns.tsig.Key(
            dns.name.from_text(told["key_name"]), raw, told.get("algorithm", "hmac-sha256")
        )

    def follow(self, ledger: Ledger, record: Record) -> None:
        """Set the names of a store that is deployed, or take them away."""
        store, zones = record.store, self.told["zones"]
        try:
            wanted = self._wanted(record)
        except (Fault, ValueError) as err:
            reason, hint = getattr(err, "reason", str(err)), getattr(err, "hint", "")
            raise Unwanted(reason, hint) from None
        if wanted is None:
            log.info("%s: its server was never asked for its addresses: its name stays", store)
            return
        known = set(ledger.names(store))
        if not wanted:
            # A ledger from a backup, or one that was lost, may not know it.
            known.add(str(record.spec["hostname"]).rstrip(".").lower())
        for name in sorted(known - set(wanted)):
            if not naming.zone_of(name, zones):
                log.warning("%s: no zone of %s has %s any more: it stays", store, WHERE, name)
                continue
            self._take_away(name, store)
            ledger.forget_name(store, name)
        for name, records in wanted.items():
            # Before: who is killed in between takes it away later.
            ledger.note_name(store, name)
            self._set(name, store, records)

    def _wanted(self, record: Record) -> dict[str, list[tuple[str, str]]] | None:
        """Return kind and text of the records of each name of a store."""
        if record.state != DEPLOYED:
            return {}
        zones = self.told["zones"]
        name = naming.hostname(record, zones)
        found = naming.addresses(record, self.told["networks"])
        if found is None:
            return None
        wanted = {name: [("A" if each.version == 4 else "AAAA", str(each)) for each in found]}
        for each in found:
            if naming.zone_of(each.reverse_pointer, zones):
                wanted[each.reverse_pointer] = [("PTR", f"{name}.")]
        return wanted

    def _set(self, name: str, store: str, records: list[tuple[str, str]]) -> None:
        """Give a name these records and no others, if it is ours or nobody's."""
        marker, texts = _quoted(naming.marker(store)), self._texts(name)

        def fill(update: dns.update.UpdateMessage, relative: dns.name.Name) -> None:
            if marker in texts:
                self._ours(update, relative, texts)
            else:
                update.absent(relative)
                update.add(relative, self._ttl, "TXT", marker)
            for kind, text in records:
                update.add(relative, self._ttl, kind, text)

        if self._done(name, fill):
            return
        if marker in texts:
            raise Undelivered(f"{name} was changed by somebody else at the same time")
        raise Unwanted(
            f"{name} is in the DNS already and has no mark of store {store}'s",
            f"if it is to be the store's, remove its records there, or add the TXT record {marker}",
        )

    def _take_away(self, name: str, store: str) -> None:
        """Take our records from a name, if it is ours."""
        marker, texts = _quoted(naming.marker(store)), self._texts(name)

        def fill(update: dns.update.UpdateMessage, relative: dns.name.Name) -> None:
            self._ours(update, relative, texts)
            update.delete(relative, "TXT", marker)

        if marker in texts and not self._done(name, fill):
            raise Undelivered(f"{name} was changed by somebody else at the same time")

    @staticmethod
    def _ours(update: dns.update.UpdateMessage, relative: dns.name.Name, texts: list[str]) -> None:
        """Change a name only while its TXT records are these, and take its addresses away."""
        for text in texts:
            update.present(relative, "TXT", text)
        # What a key may change there need not be more than that.
        reverse = str(relative).endswith(".arpa.")
        for kind in ("PTR",) if reverse else ("A", "AAAA"):
            update.delete(relative, kind)

    @property
    def _ttl(self) -> int:
        return int(self.told.get("ttl", naming.TTL_S))

    def _done(self, name: str, fill: Callable[[dns.update.UpdateMessage, Any], None]) -> bool:
        """Send an update; say whether its prerequisite held."""
        zone = naming.zone_of(name, self.told["zones"])
        update = dns.update.UpdateMessage(
            zone, keyring={self._key.name: self._key}, keyname=self._key.name
        )
        fill(update, dns.name.from_text(name))
        answer = self._asked(update)
        code = dns.rcode.to_text(answer.rcode())
        if code in ("NXRRSET", "NXDOMAIN", "YXDOMAIN", "YXRRSET"):
            return False
        if code != "NOERROR":
            raise Unwanted(
                f"the name server refuses to change {name} in {zone}: {code}",
                f"let the key {self.told['key_name']} update A, AAAA or PTR, and TXT there"
                if code == "REFUSED"
                else f"see to servers and zones of {WHERE}, and to the name server's log",
            )
        return True

    def _texts(self, name: str) -> list[str]:
        """Return the TXT records of a name, as they are written in a zone."""
        answer = self._asked(dns.message.make_query(dns.name.from_text(name), "TXT"))
        sets = [each for each in answer.answer if each.rdtype == dns.rdatatype.TXT]
        return [record.to_text() for each in sets for record in each]

    def _asked(self, message: dns.message.Message) -> dns.message.Message:
        """Send a message to the first server that answers."""
        faults, last = [], None
        for server in list(self._servers):
            host, _, port = server.partition("#")
            try:
                answer = dns.query.tcp(message, host, TIMEOUT_S, int(port or 53))
            except dns.tsig.PeerError as err:
                raise Undelivered(
                    f"the name server {server} does not take the key {self.told['key_name']}: "
                    f"{type(err).__name__}",
                    f"correct key, key_name or algorithm of {WHERE}, or its clock",
                ) from None
            except (OSError, EOFError, dns.exception.DNSException) as err:
                late = isinstance(err, dns.exception.Timeout)
                faults.append(f"{server}: {'no answer' if late else err or type(err).__name__}")
                continue
            last = answer
            if dns.rcode.to_text(answer.rcode()) not in ELSEWHERE:
                # It is asked first from now on.
                self._servers.remove(server)
                self._servers.insert(0, server)
                break
        if last is None:
            raise Undelivered(f"no name server answers: {'; '.join(faults)}")
        return last


def _quoted(text: str) -> str:
    return f'"{text}"'
