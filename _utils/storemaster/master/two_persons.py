# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Acts that wait for a second person, where ``store_deploy:two_persons`` names them."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from storelib.errors import Refused
from storemaster.deployment import approvals, requests, verbs
from storemaster.deployment.actor import acting
from storemaster.deployment.approvals import Request
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Record
from storemaster.deployment.views import when
from storemaster.master import operator_requests, roles, settings

LENGTH = 253
"""Of an argument: a minion ID may be as long."""

_agreed: ContextVar[bool] = ContextVar("agreed", default=False)


CHECKS: dict[str, Callable[[Record, Ledger, float], object]] = {
    "cancel": lambda record, ledger, now: verbs.cancel(record),
    "prune": lambda record, ledger, now: None,
    "redeploy": lambda record, ledger, now: verbs.store(record, now, True),
    "retire": lambda record, ledger, now: verbs.retire(record),
    "rollback": lambda record, ledger, now: verbs.rollback(record, ledger),
}
"""What refuses an act that could not be done now, before anybody is asked to agree."""


def asked(opts: dict, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Write down that who calls asks for an act, if it wants a second person; return what to tell.

    Of who asks once more for what waits already, it is the same request. ``None`` if nobody else
    has to agree, or somebody has.
    """
    act = approvals.act(verb, arguments)
    if not act or _agreed.get() or act not in settings.two_persons(opts):
        return None
    store, who, now = arguments.get("store"), acting().who, time.time()
    if store is None:
        raise Refused(f"two persons are wanted for {act}, of one store at a time", "name a store")
    for name, value in arguments.items():
        # It is shown to whoever agrees, and stands in the history.
        if not isinstance(value, (bool, int, float, type(None))) and not _is_word(value):
            raise Refused(f"{name} is {value!r}", "allowed where two persons are wanted: one word")
    with operator_requests.open_ledger(opts) as ledger:
        if ledger.get(store) is None and act == "redeploy":
            return None
        record = operator_requests.found(ledger, store)
        CHECKS[act](record, ledger, now)
        until = now + approvals.LIFETIME_S
        request = Request(store, record.generation, verb, dict(arguments), who, until)
        there = [
            each
            for each in ledger.requests(record, now)
            if each.is_of(who) and each.words == request.words
        ]
        if there:
            request = there[0]
        else:
            ledger.ask(request, now)
            _note(opts, store, f"{request.words}: waits for another person, request {request.id}")
    return {
        "store": store,
        "waits_for": f"another person than {who}, who may do that, too",
        "request": request.id,
        "until": when(request.until),
        "approve": f"salt-run deploy.approve {store} {request.id}",
    }


@contextlib.contextmanager
def approved(opts: dict, store: str, request_id: object) -> Iterator[Request]:
    """
    Agree, as who calls, to what somebody else has asked for, once; the act is to be done within.

    Raises :class:`Refused` if there is no such request, it is one's own, or one may not do that.
    """
    who, now = acting().who, time.time()
    none = Refused(
        f"no request {request_id!r} of store {store} waits",
        f"each is carried out once and void after a day: salt-run deploy.explain {store}",
    )
    with operator_requests.open_ledger(opts) as ledger:
        record = operator_requests.found(ledger, store)
        waiting = [each for each in ledger.requests(record, now) if each.id == request_id]
        if not waiting:
            raise none
        (request,) = waiting
        if request.is_of(who):
            raise Refused(
                f"{who} asked for it, and another person has to agree",
                f"have somebody else say salt-run deploy.approve {store} {request.id}",
            )
        roles.check(opts, request.verb, request.arguments)
        if not ledger.take(request):
            raise none
        _note(opts, store, f"{request.words}: approved, asked for by {request.who}")
    before = _agreed.set(True)
    try:
        yield request
    finally:
        _agreed.reset(before)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= LENGTH


def _note(opts: dict, store: str, text: str) -> None:
    operator_requests.change(opts, store, functools.partial(requests.note, text=text))
