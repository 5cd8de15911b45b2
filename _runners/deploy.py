# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Deploy store servers, from nothing to verified.

Each public function is a verb of the operator. On success it returns plain data and the exit
status is 0. Otherwise it returns ``error`` (what is wrong) and ``hint`` (what to do), and the exit
status is 1.

:depends: ``storelib`` (``_utils/``)
"""

import functools
import inspect
import logging
import sys
import time
from typing import TYPE_CHECKING

from storelib import flow, lifecycle, spec, views
from storelib.errors import Refused, StoreDeployError
from storelib.master import doctor as physician
from storelib.master import office

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __opts__: dict[str, Any]

log = logging.getLogger(__name__)

__func_alias__ = {"list_": "list"}


def _verb(function):
    """
    Make a verb of ``function``: whatever is refused becomes plain data and exit status 1.

    Salt gives exit status 0 to a wrong argument, so that is found here, and only a ``retcode`` in
    both places fails ``salt-run`` as well as an orchestration (measured on 3006.25 and 3008.3).
    """

    @functools.wraps(function)
    def verb(*args, **kwargs):
        __context__["retcode"] = 0
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("__")}
        parameters = inspect.signature(function).parameters
        try:
            try:
                bound = inspect.signature(function).bind(*args, **kwargs)
            except TypeError as err:
                name = function.__name__.rstrip("_")
                usage = f"salt-run deploy.{name}{inspect.signature(function)}"
                raise Refused(f"deploy.{name}: {err}", f"usage: {usage}") from err
            optional = "store" in parameters and parameters["store"].default is None
            if "store" in bound.arguments and not (optional and bound.arguments["store"] is None):
                bound.arguments["store"] = spec.store_id(
                    spec.as_typed(bound.arguments["store"], sys.argv)
                )
            answer = function(*bound.args, **bound.kwargs)
        except StoreDeployError as err:
            answer = {"error": err.reason, "hint": err.hint, "retcode": 1}
        if isinstance(answer, dict) and answer.get("retcode"):
            __context__["retcode"] = 1
        return answer

    # Salt would see the signature of ``function`` and refuse an unknown argument by itself.
    del verb.__wrapped__
    return verb


@_verb
def store(store, hypervisor=None, redeploy=False, wait=True, timeout=None):
    """
    Deploy a store's server and watch until it is verified.

    Killing the command changes nothing: the deployment goes on to its end.

    store
        ID of the store, quoted if it could be read as a number: ``"'0417'"``.

    hypervisor
        Minion ID of the store's hypervisor. Default: the one that the ledger remembers, else the
        one that ``store_deploy:hypervisor_id`` in the master's configuration makes of the ID.

    redeploy
        Replace the server of a store that is deployed. Its disk, definition and key are set aside.

    wait
        Watch the deployment; ``False`` returns the record at once.

    timeout
        Seconds to watch at most. The deployment goes on after that.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.store "'0815'"
    """
    _flags(redeploy=redeploy, wait=wait)
    _number(timeout=timeout)
    return _watched(office.request(__opts__, store, hypervisor, redeploy), wait, timeout)


def _flags(**flags):
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise Refused(f"{name} is {value!r}", "allowed: True | False")


def _number(**numbers):
    for name, value in numbers.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and (not number or value < 0):
            raise Refused(f"{name} is {value!r}", "allowed: a number, not below 0")


def _watched(record, wait, timeout):
    """Return the record as it is when it has ended, or at once."""
    store = record.store
    if not wait:
        return views.record(record)
    record = office.watch(__opts__, record, timeout, _tell)
    answer = views.record(record)
    if record.state != "deployed":
        still = "still " if record.active else ""
        answer["error"] = f"store {store} is {still}{record.state}"
        if record.state == "failed":
            answer["error"] = record.reason
        answer["hint"] = record.next_action or f"salt-run deploy.explain {store}"
        answer["retcode"] = 1
    return answer


def _tell(line):
    """Show a line of progress, apart from the answer."""
    print(line, file=sys.stderr, flush=True)


@_verb
def plan(store, hypervisor=None, redeploy=False):
    """
    Say what ``deploy.store`` would do, from the hypervisor's facts, touching nothing.

    ``outage_s_expected`` is for how long the store will be without a server.

    store
        ID of the store.

    hypervisor
        Minion ID of the hypervisor; default as for ``deploy.store``.

    redeploy
        As it will be said to ``deploy.store``.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.plan "'0815'"
    """
    _flags(redeploy=redeploy)
    answer = office.plan(__opts__, store, hypervisor, redeploy)
    return {**answer, "retcode": 1} if answer["faults"] else answer


@_verb
def status(store):
    """
    Return the store's record.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.status "'0815'" --out=json
    """
    with office.ledger(__opts__) as books:
        return views.record(office.found(books, store))


@_verb
def list_(state=None):
    """
    List the deployments.

    state
        Only those in this state.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.list state=failed
    """
    if state is not None and state not in lifecycle.STATES:
        raise Refused(f"{state!r} is no state", f"allowed: {', '.join(lifecycle.STATES)}")
    with office.ledger(__opts__) as books:
        records = books.all() if state is None else books.in_states([state])
        return [views.row(record, time.time()) for record in records]


@_verb
def history(store):
    """
    Return the store's timeline: states, times, seconds spent, reasons.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.history "'0815'"
    """
    with office.ledger(__opts__) as books:
        office.found(books, store)
        return views.timeline(books.history(store), time.time())


@_verb
def explain(store):
    """
    Say why the deployment is where it is, what happens at its deadline and what you can do.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.explain "'0815'"
    """
    with office.ledger(__opts__) as books:
        return views.explain(office.found(books, store), time.time())


@_verb
def cancel(store):
    """
    Stop the store's deployment, or give up a failed one, and remove what was made of the server.

    The old server, if there was one, stays set aside. While the hypervisor is away the deployment
    is ``cancelling``, and is cancelled when it is back.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.cancel "'0815'"
    """
    return views.record(office.change(__opts__, store, flow.cancel))


@_verb
def hold(store):
    """
    Let the store's deployment rest before its next step, with its deadline stopped.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.hold "'0815'"
    """
    return views.record(office.change(__opts__, store, flow.hold))


@_verb
def release(store):
    """
    Let a held deployment go on.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.release "'0815'"
    """
    return views.record(office.change(__opts__, store, flow.release))


@_verb
def retry(store):
    """
    Go on with a failed deployment, at the earliest step that is needed.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.retry "'0815'"
    """
    return views.record(office.change(__opts__, store, flow.retry))


@_verb
def rollback(store, wait=True, timeout=None):
    """
    Put the store's set-aside server back: the newest one that was ever verified.

    Its disk, definition, NVRAM and key come back to their places; the server that is there now is
    set aside, so that a second rollback brings it back. It is over when the old server's minion
    answers. Refused if the set-aside server is on another hypervisor.

    store
        ID of the store.

    wait
        Watch it; ``False`` returns the record at once.

    timeout
        Seconds to watch at most. The rollback goes on after that.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.rollback "'0815'"
    """
    _flags(wait=wait)
    _number(timeout=timeout)
    return _watched(office.change(__opts__, store, flow.rollback), wait, timeout)


@_verb
def retire(store, remove=False, data_disks=False):
    """
    Remove a store's servers for good: the running one, what was set aside, its key.

    Without ``remove`` it shows what would be removed, and touches nothing.

    store
        ID of the store.

    remove
        Do it. Nothing brings them back.

    data_disks
        Remove the data disks, too.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.retire "'0815'"
        salt-run deploy.retire "'0815'" remove=True
    """
    _flags(remove=remove, data_disks=data_disks)
    if not remove:
        return office.would_retire(__opts__, store, data_disks)
    verb = functools.partial(flow.retire, data_disks=data_disks)
    return views.record(office.change(__opts__, store, verb))


@_verb
def prune(older_than_days, store=None, remove=False):
    """
    Remove set-aside servers that are older than that, on the hypervisors of all stores.

    Without ``remove`` it shows what would be removed. Disks that another one is made from stay,
    and so do data disks and cached images. Stores with a deployment under way are left alone.

    older_than_days
        Age in days, counted from the time when the server was set aside.

    store
        Only of this store.

    remove
        Do it. Nothing brings them back.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.prune 90
        salt-run deploy.prune 90 remove=True
    """
    _flags(remove=remove)
    if older_than_days is None:
        raise Refused("older_than_days is None", "allowed: a number, not below 0")
    _number(older_than_days=older_than_days)
    rows = office.prune(__opts__, older_than_days * 24 * 3600, store, remove)
    if any("error" in row or row.get("left") for row in rows):
        failing = ", ".join(row["store"] for row in rows if "error" in row or row.get("left"))
        hint = "see their rows; then the same command again"
        return {
            "error": f"not all was looked at: store {failing}",
            "hint": hint,
            "stores": rows,
            "retcode": 1,
        }
    return {"stores": rows}


@_verb
def adopt(store, hypervisor=None, apply=False):
    """
    Show what the store's hypervisor really has, and take it into the ledger: server, deployment,
    key, set-aside servers.

    For a ledger that was lost, or that comes from a backup while the store has gone on. The server
    is not touched. Without ``apply`` nothing is changed. It is refused if another key is accepted
    than the server's; if none is, the server's is accepted.

    store
        ID of the store.

    hypervisor
        Minion ID of the hypervisor; default as for ``deploy.store``.

    apply
        Do it.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.adopt "'0815'"
        salt-run deploy.adopt "'0815'" apply=True
    """
    _flags(apply=apply)
    return office.adopt(__opts__, store, hypervisor, apply)


@_verb
def doctor(hypervisors=True):
    """
    Check the installation and say how to mend each fault, with progress where there are many
    hypervisors.

    hypervisors
        ``True``: those of the ledger are asked, too. ``False``: none. Or a minion ID, or a list of
        them, whether the ledger knows them or not.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.doctor
    """
    faults = physician.faults(__opts__, hypervisors, _tell)
    return {"faults": faults, "retcode": 1} if faults else {"faults": []}


def notify(store=None, minion=None, ready=False, eager=True):
    """
    Ring the doorbell: have a deployment looked at now. All that reactors call.

    store, minion
        Whose deployment: hints, looked up in the ledger and believed no further.

    ready
        The minion says that it is a ready hypervisor, so its pillar is looked up, too.

    eager
        The minion has just come up, so what it did not answer is asked again at once.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.notify minion=store-0815
    """
    hints = [hint if isinstance(hint, str) else None for hint in (store, minion)]
    try:
        return office.notify(__opts__, *hints, ready=ready is True, eager=eager is True)
    except Refused as err:
        log.error("%s; %s", err.reason, err.hint)
        return False


@_verb
def advance(store):
    """
    Advance one deployment as far as it goes without waiting.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.advance "'0815'"
    """
    with office.ledger(__opts__) as books, office.world(__opts__) as master:
        office.found(books, store)
        record = office.advance(__opts__, master, books, store)
        return {"store": store, "state": record.state if record else "another process is at it"}


def reconcile(sweep=True):
    """
    Advance whatever is under way: the sweeper, which the master's schedule calls.

    sweep
        ``False``: only what is due or was rung for. So the engine calls it.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.reconcile
    """
    try:
        if "store_deploy.world" not in __context__:
            __context__["store_deploy.world"] = office.SaltWorld(__opts__)
        return office.reconcile(__opts__, __context__["store_deploy.world"], sweep)
    except Refused as err:
        if not sweep:
            # The engine pauses.
            raise
        log.error("%s; %s", err.reason, err.hint)
        return {"error": err.reason, "hint": err.hint, "retcode": 1}
