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
from storemaster.deployment.naming import Address
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
    import dns.tsig
    import dns.update

    HAS_DNSPYTHON = True
except ImportError:
    HAS_DNSPYTHON = False

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""How long a name server may take for one answer."""

WHERE = "store_deploy:dns"

LEAST = 16
"""Bytes that a key has at least."""


class NotOurs(Unwanted):
    """The name is somebody else's."""


def sender(opts: dict, receiver: Receiver) -> Send:
    """
    Return what sets the names of stores that were deployed, and takes away those of others.

    Raises :class:`Refused` if dnspython or the key is missing.
    """
    if not HAS_DNSPYTHON:
        raise Refused(
            f"dnspython is not there, which {WHERE} needs",
            "install python3-dnspython, or dnspython with salt-pip, for the Python that runs Salt",
        )
    zones = Zones(receiver.told, credentials.read(opts, receiver.told, "key", "the key", WHERE))

    def send(notices: Sequence[Notice]) -> None:
        with Ledger(settings.ledger_path(opts)) as ledger:
            for notice in notices:
                record, change = ledger.get(notice.change.store), notice.change
                # What has gone on since then is told by its own notice.
                of_it = (change.generation, change.state)
                if record and (record.generation, record.state) == of_it:
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
        self._key = dns.tsig.Key(
            dns.name.from_text(told["key_name"]), raw, told.get("algorithm", "hmac-sha256")
        )

    def follow(self, ledger: Ledger, record: Record) -> None:
        """Set the names of a store that is deployed, or take them away."""
        try:
            wanted = self._wanted(record)
        except Fault as err:
            raise Unwanted(err.reason, err.hint) from None
        for name in sorted(set(ledger.names(record.store)) - set(wanted)):
            if naming.zone_of(name, self.told["zones"]):
                self._set(name, record.store, [])
            ledger.forget_name(record.store, name)
        for name, records in wanted.items():
            # Before: who is killed in between takes it away later.
            ledger.note_name(record.store, name)
            self._set(name, record.store, records)

    def _wanted(self, record: Record) -> dict[str, list[tuple[str, str]]]:
        """Return kind and text of the records of each name of a store."""
        if record.state != lifecycle.DEPLOYED.name:
            return {}
        zones = self.told["zones"]
        name = naming.hostname(record, zones)
        found = naming.addresses(record, self.told["networks"])
        wanted = {name: [(_kind(each), str(each)) for each in found]}
        for each in found:
            if naming.zone_of(each.reverse_pointer, zones):
                wanted[each.reverse_pointer] = [("PTR", f"{name}.")]
        return wanted

    def _set(self, name: str, store: str, records: list[tuple[str, str]]) -> None:
        """Give a name these records and no others, if it is ours or nobody's."""
        marker = f'"{naming.marker(store)}"'

        def ours(update: dns.update.UpdateMessage, relative: Any) -> None:
            update.present(relative, "TXT", marker)
            for kind in ("A", "AAAA", "PTR"):
                update.delete(relative, kind)
            if not records:
                update.delete(relative, "TXT", marker)
            for kind, text in records:
                update.add(relative, self._ttl, kind, text)

        def nobodys(update: dns.update.UpdateMessage, relative: Any) -> None:
            update.absent(relative)
            update.add(relative, self._ttl, "TXT", marker)
            for kind, text in records:
                update.add(relative, self._ttl, kind, text)

        if self._done(name, ours) or not records or self._done(name, nobodys):
            return
        raise NotOurs(
            f"{name} is in the DNS already and has no mark of store {store}'s",
            f"if it is to be the store's, remove its records there, or add the TXT record {marker}",
        )

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
        code = answer.rcode()
        if code in (dns.rcode.NXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN, dns.rcode.YXRRSET):
            return False
        if code != dns.rcode.NOERROR:
            raise Undelivered(
                f"the name server refuses to change {name} in {zone}: {dns.rcode.to_text(code)}",
                f"let the key {self.told['key_name']} update A, AAAA, PTR and TXT there",
            )
        return True

    def _asked(self, message: dns.message.Message) -> dns.message.Message:
        """Send a message to the first server that answers."""
        faults = []
        for server in self.told["servers"]:
            host, _, port = server.partition("#")
            try:
                return dns.query.tcp(message, host, TIMEOUT_S, int(port or 53))
            except dns.tsig.PeerError as err:
                raise Undelivered(
                    f"the name server {server} does not take the key {self.told['key_name']}: "
                    f"{type(err).__name__}",
                    f"correct key, key_name or algorithm of {WHERE}, or its clock",
                ) from None
            except (OSError, EOFError, dns.exception.DNSException) as err:
                late = isinstance(err, dns.exception.Timeout)
                faults.append(f"{server}: {'no answer' if late else err or type(err).__name__}")
        raise Undelivered(f"no name server answers: {'; '.join(faults)}")


def _kind(address: Address) -> str:
    return "A" if address.version == 4 else "AAAA"
