# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Acts that wait for a second person, where ``store_deploy:two_persons`` names them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from storelib.errors import Refused
from storemaster.deployment import approvals, requests
from storemaster.deployment.actor import acting
from storemaster.deployment.approvals import Request
from storemaster.deployment.views import when
from storemaster.master import operator_requests, roles, settings

_agreed: ContextVar[bool] = ContextVar("agreed", default=False)


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
    with operator_requests.open_ledger(opts) as ledger:
        record = operator_requests.found(ledger, store)
        request = Request(store, verb, dict(arguments), who, now + approvals.LIFETIME_S)
        there = [
            each
            for each in ledger.requests(store, now)
            if each.is_of(who) and each.words == request.words
        ]
        if there:
            request = there[0]
        else:
            ledger.ask(request, now)
            told = f"{request.words}: waits for another person, request {request.id}"
            requests.note(ledger, now, record, told)
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
        waiting = [each for each in ledger.requests(store, now) if each.id == request_id]
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
        requests.note(ledger, now, record, f"{request.words}: approved, asked for by {request.who}")
    before = _agreed.set(True)
    try:
        yield request
    finally:
        _agreed.reset(before)
