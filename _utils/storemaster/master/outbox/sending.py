# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Has each receiver told what is due, apart from the others and from all deployments."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from storelib import files
from storelib.errors import StoreDeployError
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Notice, Outbox
from storemaster.deployment.receivers import Receiver
from storemaster.master import settings
from storemaster.master.outbox import chat, mail, name_servers, webhook
from storemaster.master.outbox.connecting import Send, Unwanted

log = logging.getLogger(__name__)

WRITE_S = 1.0
"""How often what was told is written down: a master that is killed tells that much again."""

LOOK_S = 10.0
"""How long the ledger is kept open at most, but for the last notice: it may be put back."""


class Kind(NamedTuple):
    """How receivers of a kind are told."""

    sender: Callable[[dict, Receiver], Send]
    """Returns what tells one, with its secrets read; raises :class:`Refused`."""
    rests_s: float
    """How long after a message the next one waits, for all that comes until then."""
    one_by_one: bool


KINDS = {
    "webhook": Kind(webhook.sender, 0, one_by_one=True),
    "mail": Kind(mail.sender, 60, one_by_one=False),
    "chat": Kind(chat.sender, 5, one_by_one=False),
    "dns": Kind(name_servers.sender, 0, one_by_one=True),
}


def deliver(opts: dict, receiver: Receiver) -> int:
    """
    Tell a receiver what is due; return how many notices it took.

    Another process that is at it is left alone. Raises :class:`LedgerError`.
    """
    path = settings.ledger_path(opts)
    with (
        # First, for it makes the folder.
        Ledger(path) as ledger,
        files.locked(path.with_name(f"outbox-{receiver.name}.lock"), 0) as held,
    ):
        if not held:
            return 0
        outbox = Outbox(ledger, receiver.name)
        while outbox.collect(receiver.wants):
            pass
        return _sent(opts, receiver, outbox)


def _sent(opts: dict, receiver: Receiver, outbox: Outbox) -> int:
    kind, found = KINDS[receiver.kind], outbox.due(time.time())
    due = [each for each in found if receiver.wants(each)]
    if len(due) < len(found):
        # As of addresses that the settings do not name any more.
        outbox.forget([each for each in found if each not in due])
    if not due:
        return 0
    try:
        send = kind.sender(opts, receiver)
    except Exception as err:
        outbox.failed(due[:1], _told(receiver, err), time.time())
        return 0
    return _in_turn(receiver, kind, outbox, send, due)


def _in_turn(
    receiver: Receiver, kind: Kind, outbox: Outbox, send: Send, due: Sequence[Notice]
) -> int:
    """Send what is due until the receiver fails; return how much it took."""
    began = wrote = time.monotonic()
    told: list[Notice] = []
    held: set[str] = set()
    count, rests_until = 0, 0.0
    try:
        for batch in _batches(receiver, kind, due):
            if held & {each.change.store for each in batch}:
                # Nothing of a store overtakes what was not taken of it.
                continue
            try:
                send(batch)
            except Exception as err:
                alone = isinstance(err, Unwanted)
                _write(outbox, told, rests_until)
                outbox.failed(batch, _told(receiver, err), time.time(), alone)
                if not alone:
                    break
                held |= {each.change.store for each in batch}
                continue
            told += batch
            count += len(batch)
            rests_until = time.time() + kind.rests_s if kind.rests_s else 0
            now = time.monotonic()
            if now - wrote >= WRITE_S:
                _write(outbox, told, rests_until)
                wrote = now
            if now - began >= LOOK_S:
                break
    finally:
        _write(outbox, told, rests_until)
    return count


def _write(outbox: Outbox, told: list[Notice], rests_until: float) -> None:
    if told:
        outbox.told(told, rests_until)
        told.clear()


def _told(receiver: Receiver, err: Exception) -> str:
    """Return what is in the way of a notice."""
    if isinstance(err, StoreDeployError):
        fault = f"{err.reason}; {err.hint}" if err.hint else err.reason
        log.warning("%s is not told, and tried again: %s", receiver.name, fault)
        return fault
    log.error("%s", receiver.name, exc_info=err)
    return f"{type(err).__name__}, which the master's log has"


def _batches(
    receiver: Receiver, kind: Kind, notices: Sequence[Notice]
) -> Iterable[Sequence[Notice]]:
    """
    Split what is due into what is sent at once, the oldest first.

    In one message goes what has the same addresses; what was tried before, as it was then.
    """
    if kind.one_by_one:
        return [[each] for each in notices]
    found: dict[object, list[Notice]] = {}
    for each in notices:
        to = receiver.addresses(each) if receiver.kind == "mail" else ()
        found.setdefault((to, each.tried), []).append(each)
    return found.values()
