# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Deploy store servers, from nothing to verified.

Each public function is a verb of the operator. On success it returns plain data and the exit
status is 0. Otherwise it returns ``error`` (what is wrong) and ``hint`` (what to do), and the exit
status is 1.

:depends: ``storelib`` and ``storemaster`` (``_utils/``)
"""

import functools
import logging
import sys
import time
from typing import TYPE_CHECKING

from storelib.errors import Refused
from storemaster.deployment import lifecycle, requests, tables, views
from storemaster.deployment.store_list.rows import Faulty
from storemaster.master import doctor as master_doctor
from storemaster.master import (
    listing,
    operator_requests,
    planning,
    pump,
    roles,
    settings,
    store_lists,
    two_persons,
    verb,
)
from storemaster.master.outbox import office

if TYPE_CHECKING:
    from typing import Any

    __context__: dict[str, Any]
    __opts__: dict[str, Any]

log = logging.getLogger(__name__)

__func_alias__ = {"list_": "list", "import_": "import"}


def __init__(opts):
    """Salt by itself ends with exit status 0 where a verb is unknown."""
    verb.refuse_unknown(str(opts.get("fun")), globals())


@verb.verb
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
    verb.flags(redeploy=redeploy, wait=wait)
    verb.number(timeout=timeout)
    return _watched(operator_requests.request(__opts__, store, hypervisor, redeploy), wait, timeout)


def _watched(record, wait, timeout):
    """Return the record as it is when it has ended, or at once."""
    if not wait:
        return operator_requests.shown(__opts__, record)
    record = operator_requests.watch(__opts__, record, timeout, _tell)
    return {**operator_requests.shown(__opts__, record), **views.outcome(record)}


def _changed(store, act, wait=False, timeout=None):
    """Do what an operator says, and watch what comes of it if that is wanted, too."""
    verb.flags(wait=wait)
    verb.number(timeout=timeout)
    return _watched(operator_requests.change(__opts__, store, act), wait, timeout)


def _tell(line):
    """Show a line of progress, apart from the answer."""
    print(line, file=sys.stderr, flush=True)


@verb.verb
def watch(store, timeout=None):
    """
    Watch the store's deployment until it ends, as ``deploy.store`` does, with its exit status.

    It can be said in any shell and at any time; killing it changes nothing. Of a deployment that
    has ended it says so at once.

    store
        ID of the store.

    timeout
        Seconds to watch at most.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.watch "'0815'"
    """
    verb.number(timeout=timeout)
    with operator_requests.open_ledger(__opts__) as ledger:
        record = operator_requests.found(ledger, store)
    return _watched(record, True, timeout)


@verb.verb
def plan(store, hypervisor=None, redeploy=False, full=False):
    """
    Say what ``deploy.store`` would do, from the hypervisor's facts, touching nothing.

    A table, or with ``--out=json`` data, in which ``outage_s_expected`` is for how long the store
    will be without a server.

    store
        ID of the store.

    hypervisor
        Minion ID of the hypervisor; default as for ``deploy.store``.

    redeploy
        As it will be said to ``deploy.store``.

    full
        Tell the whole of what the pillar says, and every state, too.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.plan "'0815'"
    """
    verb.flags(redeploy=redeploy, full=full)
    found = planning.plan(__opts__, store, hypervisor, redeploy, full)
    shown = tables.plan(found) if verb.read_by_people(__opts__) else found.as_data()
    return _with_status(shown, found.faults)


def _with_status(answer, faults):
    """Return the answer so that ``salt-run`` ends with 1 if there are faults."""
    if faults:
        answer["retcode"] = 1
    return answer


@verb.verb
def status(store):
    """
    Return the store's record.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.status "'0815'" --out=json
    """
    with operator_requests.open_ledger(__opts__) as ledger:
        return operator_requests.shown(__opts__, operator_requests.found(ledger, store))


@verb.verb
def list_(state=None, group=None, since=None):
    """
    List the deployments.

    A line each, or with ``--out=json`` all of it as data.

    state
        Only those in this state.
    group
        Only those of this ``group``, as their pillar was when they were last deployed.
    since
        Only those that have changed since this revision: for who asks again and again. The answer
        is the next ``revision``, the ``stores``, whether there are ``more`` to be asked for at
        once, and whether what was known before is void (``anew``); begin with 0.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.list state=failed group=north
    """
    if state is not None and state not in lifecycle.STATES:
        raise Refused(f"{state!r} is no state", f"allowed: {', '.join(lifecycle.STATES)}")
    verb.group(group=group)
    verb.number(since=since)
    with operator_requests.open_ledger(__opts__) as ledger:
        if since is not None:
            return listing.changed(__opts__, ledger, since, state, group)
        lines = roles.seen(__opts__, ledger.lines(state, group))
    if verb.read_by_people(__opts__):
        return tables.table(lines, time.time())
    return [views.row(line, time.time()) for line in lines]


@verb.verb
def whoami():
    """
    Say who calls, and what they may do: role, verbs, and of which stores.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.whoami
    """
    return roles.whoami(__opts__)


@verb.verb
def history(store):
    """
    Return the store's timeline: states, times, time spent, reasons.

    A line each, or with ``--out=json`` all of it as data.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.history "'0815'"
    """
    with operator_requests.open_ledger(__opts__) as ledger:
        operator_requests.found(ledger, store)
        changes = ledger.history(store)
    if verb.read_by_people(__opts__):
        return tables.story(changes, time.time())
    return views.timeline(changes, time.time())


@verb.verb
def note(store, text):
    """
    Write a line into the store's history: a ticket's number, what was shipped.

    Nothing else is changed. Return the store's record.

    store
        ID of the store.

    text
        One line of up to 500 characters.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.note "'0815'" "ticket 4711: new disk"
    """
    return _changed(store, functools.partial(requests.note, text=verb.line(text=text)))


@verb.verb
def approve(store, request):
    """
    Agree to what another person has asked for, where ``store_deploy:two_persons`` wants two; do it.

    Return what the verb returns that was asked for. A request is carried out once.

    store
        ID of the store.

    request
        ID of the request, from the answer to who asked, or from ``deploy.explain``.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.approve "'0815'" bcdfghjk
    """
    with two_persons.approved(__opts__, store, request) as asked:
        # Who agrees does not wait for the end.
        more = {"wait": False} if asked.verb in ("store", "rollback") else {}
        return globals()[asked.verb](**{**asked.arguments, **more})


@verb.verb
def explain(store):
    """
    Say why the deployment is where it is, what happens at its deadline and what you can do.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.explain "'0815'"
    """
    with operator_requests.open_ledger(__opts__) as ledger:
        record = operator_requests.found(ledger, store)
        people = verb.read_by_people(__opts__)
        return views.explain(record, time.time(), ledger, roles.may(__opts__), people)


@verb.verb
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
    return _changed(store, requests.cancel)


@verb.verb
def hold(store):
    """
    Let the store's deployment rest before its next step, with its deadline stopped.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.hold "'0815'"
    """
    return _changed(store, requests.hold)


@verb.verb
def release(store, wait=False, timeout=None):
    """
    Let a held deployment go on.

    store
        ID of the store.

    wait
        Watch it, as ``deploy.store`` does; otherwise the record is returned at once.

    timeout
        Seconds to watch at most.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.release "'0815'"
    """
    return _changed(store, requests.release, wait, timeout)


@verb.verb
def retry(store, wait=False, timeout=None):
    """
    Go on with a failed deployment, at the earliest step that is needed.

    store
        ID of the store.

    wait
        Watch it, as ``deploy.store`` does; otherwise the record is returned at once.

    timeout
        Seconds to watch at most.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.retry "'0815'"
    """
    return _changed(store, requests.retry, wait, timeout)


@verb.verb
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
    return _changed(store, requests.rollback, wait, timeout)


@verb.verb
def retire(store, remove=False, data_disks=False, uyuni=False):
    """
    Remove a store's servers for good: the running one, what was set aside, its key.

    Without ``remove`` it shows what would be removed, and touches nothing.

    store
        ID of the store.

    remove
        Do it. Nothing brings them back.

    data_disks
        Remove the data disks, too.

    uyuni
        Delete the server's profile in Uyuni, too.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.retire "'0815'"
        salt-run deploy.retire "'0815'" remove=True
    """
    verb.flags(remove=remove, data_disks=data_disks, uyuni=uyuni)
    if uyuni:
        # Before anything is removed that only Uyuni would miss.
        settings.uyuni(__opts__)
    if not remove:
        return operator_requests.would_retire(__opts__, store, data_disks, uyuni)
    how = functools.partial(requests.retire, data_disks=data_disks, uyuni=uyuni)
    return _changed(store, how)


@verb.verb
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
    verb.flags(remove=remove)
    if older_than_days is None:
        raise Refused("older_than_days is None", "allowed: a number, not below 0")
    verb.number(older_than_days=older_than_days)
    rows = operator_requests.prune(__opts__, older_than_days * 24 * 3600, store, remove)
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


@verb.verb
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
    verb.flags(apply=apply)
    return operator_requests.adopt(__opts__, store, hypervisor, apply)


@verb.verb
def import_(file=None, apply=False, target="pillar", folder=None, shared_networks=False, text=None):
    """
    Take stores from a list into the pillar or into Uyuni's forms.

    Without ``apply`` it shows what is new, changed, unchanged and vanished, and writes nothing. The
    whole list is checked before; with any fault in it nothing is written. It removes nothing: a
    store that is not in the list is only shown.

    file
        A store list: CSV or YAML, by its name.

    apply
        Write what is new and changed.

    target
        ``pillar``: a file for each hypervisor. ``uyuni``: form data, groups and profiles.

    folder
        Folder of those files; default: ``stores`` in the master's pillar roots.

    shared_networks
        Stores may be in one network; otherwise that is taken for a mistake.

    text
        The list itself, in place of a file, for the API: CSV, or YAML if its first line is ``---``
        or ends with a colon. It must not have a ``guest_pillar``, for all that is said to a runner
        is seen on the master's bus.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.import /var/lib/salt/stores.csv
        salt-run deploy.import /var/lib/salt/stores.csv apply=True
    """
    verb.flags(apply=apply, shared_networks=shared_networks)
    people = verb.read_by_people(__opts__)
    try:
        told = store_lists.import_(
            __opts__, file, apply, target, folder, shared_networks, _tell, text
        )
    except Faulty as err:
        told = [str(each) for each in err.faults]
        faults = tables.list_faults(told) if people else [each.as_data() for each in err.faults]
        return {"error": err.reason, "hint": err.hint, "faults": faults, "retcode": 1}
    return tables.store_list(told) if people else told


@verb.verb
def export(file=None, target="pillar", folder=None):
    """
    Write what the pillar or Uyuni's forms say of the stores as a list that ``deploy.import`` reads.

    file
        CSV or YAML, by its name; it must not be there. Without it the list is the answer, but for
        what ``guest_pillar`` has.

    target, folder
        As for ``deploy.import``.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.export /var/lib/salt/stores.csv
    """
    return store_lists.export(__opts__, file, target, folder, _tell)


@verb.verb
def doctor(hypervisors=True):
    """
    Check the installation and say how to mend each fault, with progress where there are many
    hypervisors.

    A row each, or with ``--out=json`` all of it as data.

    hypervisors
        ``True``: those of the ledger are asked, too. ``False``: none. Or a minion ID, or a list of
        them, whether the ledger knows them or not.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.doctor
    """
    found = master_doctor.faults(__opts__, hypervisors, _tell)
    shown = tables.faults(found) if verb.read_by_people(__opts__) else {"faults": found}
    return _with_status(shown, found)


@verb.verb
def outbox(receiver=None, retry=False, drop=False):
    """
    Show what the site's receivers of changes have not been told yet, and why.

    A row each, or with ``--out=json`` all of it as data.

    receiver
        Show this one's notices, too.

    retry
        Try all of the receiver's notices at once, what was set aside after a day, too.

    drop
        Forget what was set aside for the receiver; all, if it is none any more.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.outbox
        salt-run deploy.outbox erp retry=True
    """
    verb.flags(retry=retry, drop=drop)
    if retry or drop:
        return office.act(__opts__, receiver, retry, drop)
    rows = office.shown(__opts__, receiver)
    return tables.outbox(rows) if verb.read_by_people(__opts__) else rows


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
        with verb.as_caller(globals(), "notify"):
            return pump.notify(__opts__, *hints, ready=ready is True, eager=eager is True)
    except Refused as err:
        log.error("%s; %s", err.reason, err.hint)
        return False


@verb.verb
def advance(store):
    """
    Advance one deployment as far as it goes without waiting.

    store
        ID of the store.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.advance "'0815'"
    """
    with (
        operator_requests.open_ledger(__opts__) as ledger,
        operator_requests.open_master(__opts__) as master,
    ):
        operator_requests.found(ledger, store)
        record = pump.advance(__opts__, master, ledger, store)
        return {"store": store, "state": record.state if record else "another process is at it"}


def reconcile(sweep=True):
    """
    Advance whatever is under way: the sweeper, which the master's schedule calls.

    sweep
        ``False``: only what is due or was rung for, as the engine does it.

    CLI Example:

    .. code-block:: bash

        salt-run deploy.reconcile
    """
    try:
        with verb.as_caller(globals(), "reconcile"):
            if "store_deploy.master" not in __context__:
                __context__["store_deploy.master"] = pump.SaltMaster(__opts__)
            return pump.reconcile(__opts__, __context__["store_deploy.master"], sweep)
    except Refused as err:
        log.error("%s; %s", err.reason, err.hint)
        return {"error": err.reason, "hint": err.hint, "retcode": 1}
