# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the outbox and does with it, and what of it is wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from storelib.errors import LedgerError, Refused
from storemaster.deployment import outbox
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Outbox
from storemaster.deployment.receivers import DNS
from storemaster.deployment.times import lasting
from storemaster.deployment.views import when
from storemaster.master import settings
from storemaster.master.configuration import Fault
from storemaster.master.outbox.sending import KINDS

SHOWN = 1000
"""Notices of a receiver that are shown at most."""

SILENT_S = 900
"""How long a receiver fails before it is a fault of the installation."""


def shown(opts: dict, receiver: str | None) -> list[dict[str, Any]]:
    """Return a row for each receiver, or for one, with its notices."""
    kinds = {each.name: each.kind for each in settings.outbox(opts)}
    with Ledger(settings.ledger_path(opts)) as ledger:
        known = outbox.receivers(ledger)
        names = sorted({*kinds, *known}) if receiver is None else [_named(receiver, kinds, known)]
        rows = [_row(name, kinds.get(name, ""), known.get(name)) for name in names]
        if receiver is not None:
            notices = Outbox(ledger, receiver).waiting()
            rows[0]["notices"] = [
                each | {"at": when(each["at"]), "next_try": when(each["next_try"] or None)}
                for each in notices[:SHOWN]
            ]
    return rows


def _row(name: str, kind: str, told: dict[str, Any] | None) -> dict[str, Any]:
    told = told or {"waiting": 0, "set_aside": 0, "fault": "", "next_try": 0, "oldest": None}
    return {
        "receiver": name,
        "kind": kind,
        "waiting": told["waiting"],
        "set_aside": told["set_aside"],
        "oldest": when(told["oldest"]),
        "fault": told["fault"],
        "next_try": when(told["next_try"] or None) if told["fault"] else None,
    }


def _named(receiver: str, kinds: dict[str, str], known: dict[str, Any]) -> str:
    if receiver not in kinds and receiver not in known:
        names = ", ".join(sorted({*kinds, *known})) or "none"
        raise Refused(
            f"there is no receiver {receiver}",
            f"the receivers of store_deploy:outbox: {names}",
        )
    return receiver


def act(opts: dict, receiver: str | None, retry: bool, drop: bool) -> dict[str, Any]:
    """Have a receiver's notices tried again, or forget what was set aside of them."""
    if retry and drop:
        raise Refused("both retry and drop are asked for", "one of them at a time")
    if receiver is None:
        raise Refused("no receiver is named", "name one: salt-run deploy.outbox shows them")
    kinds = {each.name: each.kind for each in settings.outbox(opts)}
    with Ledger(settings.ledger_path(opts)) as ledger:
        _named(receiver, kinds, outbox.receivers(ledger))
        of_one = Outbox(ledger, receiver)
        if retry:
            if receiver not in kinds:
                raise Refused(
                    f"{receiver} is no receiver any more, so nothing is sent",
                    f"name it in {_where(receiver)} again, or forget its notices: "
                    f"salt-run deploy.outbox {receiver} drop=True",
                )
            return {"receiver": receiver, "tried_again": of_one.again()}
        return {"receiver": receiver, "dropped": of_one.drop(everything=receiver not in kinds)}


def _where(receiver: str) -> str:
    return "store_deploy:dns" if receiver == DNS else "store_deploy:outbox"


def faults(opts: dict) -> Iterator[Fault]:
    """Find receivers that cannot be told, or have not been for long."""
    named = settings.outbox(opts)
    for each in named:
        try:
            KINDS[each.kind].sender(opts, each)
        except Refused as err:
            yield f"{each.name} is told nothing: {err.reason}", err.hint
        except Exception as err:
            # Of an sdb module, say.
            yield f"{each.name} is told nothing: {type(err).__name__}: {err}", "see to its secret"
    known: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(LedgerError), Ledger(settings.ledger_path(opts)) as ledger:
        known = outbox.receivers(ledger)
    now, names = time.time(), {each.name for each in named}
    for name, told in known.items():
        see = f"salt-run deploy.outbox {name}"
        if name not in names:
            yield (
                f"{name} is no receiver any more, and its notices are kept: "
                f"{told['waiting'] + told['set_aside']}",
                f"name it in {_where(name)} again, or forget them: {see} drop=True",
            )
        elif told["set_aside"]:
            yield (
                f"{name} was not told for a day, and notices were given up "
                f"({told['set_aside']}): {told['fault'] or 'by now it is told again'}",
                f"see them: {see}; then {see} retry=True, or {see} drop=True",
            )
        elif told["fault"] and now - (told["failing_since"] or now) > SILENT_S:
            yield (
                f"{name} has not taken notices for {lasting(now - told['failing_since'])}: "
                f"{told['fault']}",
                f"mend that; {see} retry=True has it tried at once",
            )
