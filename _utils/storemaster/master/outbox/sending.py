# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Has each receiver told what is due, apart from the others and from all deployments."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from storelib import files
from storelib.errors import LedgerError, StoreDeployError
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Notice, Outbox
from storemaster.deployment.receivers import Receiver
from storemaster.master import settings
from storemaster.master.outbox import chat, mail, webhook

log = logging.getLogger(__name__)

WRITE_S = 1.0
"""How often what was told is written down: a master that is killed tells that much again."""

LOOK_S = 10.0
"""How long the ledger is kept open at most, but for the last notice: it may be put back."""


class Kind(NamedTuple):
    """How receivers of a kind are told."""

    send: Callable[[dict, Receiver, Sequence[Notice]], None]
    check: Callable[[dict, Receiver], None]
    rests_s: float
    """How long after a message the next one waits, for all that comes until then."""
    one_by_one: bool


KINDS = {
    "webhook": Kind(webhook.send, webhook.check, 0, one_by_one=True),
    "mail": Kind(mail.send, mail.check, 60, one_by_one=False),
    "chat": Kind(chat.send, chat.check, 5, one_by_one=False),
}


def deliver(opts: dict, receiver: Receiver) -> int:
    """
    Tell a receiver what is due; return how many notices it took.

    Another process that is at it is left alone. Raises :class:`LedgerError` only.
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
    kind, began = KINDS[receiver.kind], time.monotonic()
    told: list[Notice] = []
    count, wrote = 0, began
    rests_until = 0.0
    try:
        for batch in _batches(receiver, kind, outbox.due(time.time())):
            if fault := _fault(opts, receiver, kind, batch):
                log.warning("%s is not told, and tried again: %s", receiver.name, fault)
                _write(outbox, told, rests_until)
                outbox.failed(batch, fault, time.time())
                break
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


def _fault(opts: dict, receiver: Receiver, kind: Kind, batch: Sequence[Notice]) -> str:
    """Send a batch; return what is in its way."""
    try:
        kind.send(opts, receiver, batch)
    except LedgerError:
        raise
    except StoreDeployError as err:
        return f"{err.reason}; {err.hint}" if err.hint else err.reason
    except Exception as err:
        log.exception("%s", receiver.name)
        return f"{type(err).__name__}: {err}"
    return ""


def _batches(
    receiver: Receiver, kind: Kind, notices: Sequence[Notice]
) -> Iterator[Sequence[Notice]]:
    """Split what is due into what is sent at once: in one message who has the same addresses."""
    if kind.one_by_one:
        yield from ([each] for each in notices)
        return

    def to(notice: Notice) -> tuple[str, ...]:
        return receiver.addresses(notice) if receiver.kind == "mail" else ()

    for _, batch in itertools.groupby(sorted(notices, key=to), key=to):
        yield list(batch)
