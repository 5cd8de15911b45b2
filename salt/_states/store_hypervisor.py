# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Make a minion a hypervisor, take that back, and tell that it has reached its highstate.

:depends: ``storelib`` (``_utils/``)
"""

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from salt.utils.state import gen_tag

from storelib import files
from storelib.errors import Fault
from storelib.hypervisor import bell
from storelib.hypervisor.setup import boot, bridge, cleaning, description, made, pool
from storelib.hypervisor.setup.outcome import Outcome

if TYPE_CHECKING:
    from typing import Any

    __lowstate__: list[dict[str, Any]]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __running__: dict[str, Any]
    __salt__: dict[str, Any]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def checked(name, settings):
    """
    Fail, with all that is wrong in one sentence, unless this machine can become what is described.

    It changes nothing. The other states of ``store_hypervisor`` require it.

    name
        Any text.

    settings
        Pillar ``store_hypervisor``, over the distribution's defaults.

    Example:

    .. code-block:: yaml

        look first:
          store_hypervisor.checked:
            - settings: {virt_type: kvm, bridge: {name: br0, port: eth0}}

    """

    def act(dry):
        description.check(settings)
        return Outcome("it can be made so")

    return _of(name, act)


def noted(name, packages=(), services=()):
    """
    Note what is not there yet, before other states see to it, so that ``cleaned`` knows.

    name
        Any text.

    packages
        Names of packages.

    services
        Names of services; noted are those that do not run or are not started with the machine.

    Example:

    .. code-block:: yaml

        note what was not there:
          store_hypervisor.noted:
            - services: [libvirtd]

    """

    def act(dry):
        missing = {
            "packages": [each for each in packages if not __salt__["pkg.version"](each)],
            "services": [each for each in services if not _serves(each)],
        }
        new = {what: made.lacking(what, names) for what, names in missing.items()}
        new = {what: names for what, names in new.items() if names}
        if not dry:
            for what, names in new.items():
                made.note_names(what, names)
        changes = {what: {"old": None, "new": names} for what, names in new.items()}
        return Outcome("what was not there is noted" if new else "nothing new is missing", changes)

    return _of(name, act)


def pool_running(name, path):
    """
    Have a libvirt pool of type dir, active and started with libvirt.

    name
        Name of the pool. One of that name with another path is refused.

    path
        Its folder, which is made if it is not there.

    Example:

    .. code-block:: yaml

        default:
          store_hypervisor.pool_running:
            - path: /var/lib/libvirt/images

    """
    return _of(name, lambda dry: pool.pool(_uri(), name, Path(path), dry))


def network_off(name):
    """
    Stop a network of libvirt's own and let it not be started again. It stays defined.

    name
        Name of the network. One that a domain needs is refused.

    Example:

    .. code-block:: yaml

        default:
          store_hypervisor.network_off: []

    """
    return _of(name, lambda dry: pool.network_off(_uri(), name, dry))


def bridged(name, port=None, undo_after_s=bridge.UNDO_AFTER_S):
    """
    Have a bridge that takes a network card's place in the network, and that card in it.

    The change undoes itself, whatever becomes of the minion, unless the minion's master was reached
    again over the bridge. It is made with the tool that configures the card: NetworkManager,
    wicked, systemd-networkd or ifupdown.

    name
        Name of the bridge, at most 15 characters.

    port
        Name of the card; by default the interface of the default route.

    undo_after_s
        Seconds after which the change is undone, 20 to 600.

    Example:

    .. code-block:: yaml

        br0:
          store_hypervisor.bridged:
            - port: eth0

    """
    return _of(name, lambda dry: bridge.bridged(name, port, _masters(), undo_after_s, dry))


def booted_by_xen(name):
    """
    Have GRUB boot Xen by default, and Linux where Xen cannot be loaded. It does not reboot.

    name
        Any text.

    Example:

    .. code-block:: yaml

        boot entry:
          store_hypervisor.booted_by_xen: []

    """
    return _of(name, lambda dry: boot.by_xen(dry))


def cleaned(name):
    """
    Take back what the states of ``store_hypervisor`` made here, as it was noted.

    It refuses while a domain, a disk or a set-aside server is there. No file of a pool is touched,
    and packages stay.

    name
        Any text.

    Example:

    .. code-block:: yaml

        no hypervisor any more:
          store_hypervisor.cleaned: []

    """

    def end_service(service):
        return __salt__["service.stop"](service), __salt__["service.disable"](service)

    def act(dry):
        store = __pillar__.get("store_server") or {}
        return cleaning.cleaned(_uri(), store, _masters(), end_service, dry)

    return _of(name, act)


def _of(name, act):
    """Return what a state returns of an act, which is given whether to change nothing."""
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        outcome = act(__opts__["test"])
    except (Fault, OSError) as err:
        hint = getattr(err, "hint", "")
        return {**ret, "result": False, "comment": f"{err}{hint and f': {hint}'}"}
    result = None if __opts__["test"] and outcome.changes else True
    return {**ret, "result": result, "changes": outcome.changes, "comment": outcome.comment}


def _uri():
    return __salt__["config.get"]("virt:connection:uri", None)


def _masters():
    """Return names or addresses of this minion's masters, each with the port that it listens on."""
    known = __opts__.get("master") or []
    names = known if isinstance(known, list) else [known]
    return [(_bare(str(each)), int(__opts__["master_port"])) for each in names]


def _bare(master):
    """Return a master's name or address without the port that may follow it."""
    host, _, port = master.rpartition(":")
    return host.strip("[]") if host and port.isdecimal() and "::" not in host else master


def _serves(service):
    return __salt__["service.enabled"](service) and __salt__["service.status"](service)


def reported(name):
    """
    Leave the marker of a highstate that has ended well, and ring the doorbell of its store.

    It is rung again, by the minion's own schedule, until the master acknowledges it.

    Give it ``order: last``. It fails, and leaves no marker, if a state of this run has failed or
    has not ended, whether it runs in parallel or was ordered after this one; and if the running
    kernel is not the one that pillar ``store_hypervisor:virt_type`` wants: Xen's, or none of Xen's.

    name
        Path of the marker, a JSON file of ``boot_id``, ``finished_at`` (UTC) and ``result``.

    Example:

    .. code-block:: yaml

        tell that this hypervisor is ready:
          store_hypervisor.reported:
            - name: /var/lib/store-deploy/highstate.json
            - order: last

    """
    ret = {"name": name, "result": False, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": "The end of the highstate would be told."}

    results = {tag: chunk["result"] for tag, chunk in __running__.items()}
    failed = [_state_id(tag) for tag, result in results.items() if result is False]
    if failed:
        return {**ret, "comment": f"Not told: failed is {', '.join(failed)}."}

    running = [_state_id(tag) for tag, result in results.items() if result is None]
    to_come = [
        chunk["__id__"]
        for chunk in __lowstate__
        if gen_tag(chunk) not in results and chunk["fun"] != "reported"
    ]
    if running or to_come:
        late = ", ".join(running + to_come)
        return {**ret, "comment": f"Not told: {late} has not ended; require it in this state."}

    wanted = (__pillar__.get("store_hypervisor") or {}).get("virt_type", "auto")
    if why := boot.not_wanted(wanted):
        return {**ret, "comment": f"Not told: {why}."}

    boot_id = BOOT_ID.read_text().strip()
    changes = _leave(Path(name), boot_id)
    # Not by pillar.get: on Salt 3008 it hands asterisks to everyone but templates.
    store = __pillar__.get("store_server", {}).get("store")
    told = "The highstate concerns no store: pillar names none."
    if store:
        bell.rung(Path(name), time.time())
        __salt__["event.send"](f"store/{store}/hypervisor/ready", {"boot_id": boot_id})
        told = f"The highstate was told for store {store}.{_ring_again(Path(name))}"
    return {**ret, "result": True, "changes": changes, "comment": told}


def _ring_again(marker):
    """Have the minion's schedule ring until the master acknowledges; say so if it cannot."""
    if bell.is_silent(marker):
        return ""
    # What it returns is of no use to the master. The splay keeps minions from ringing in time.
    often = {"minutes": 1, "splay": 30, "maxrunning": 1, "return_job": False}
    added = __salt__["schedule.add"](bell.SCHEDULE, function="store_hypervisor.ring", **often)
    if added["result"] or "already exists" in added["comment"]:
        return ""
    return f" It is told once: {added['comment']}"


def _leave(marker, boot_id):
    """Write the marker; return what changed in it, its time aside."""
    try:
        old = json.loads(marker.read_text())["boot_id"]
    except (OSError, ValueError, KeyError, TypeError):
        old = None
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    files.write(marker, json.dumps({"boot_id": boot_id, "finished_at": now, "result": True}) + "\n")
    return {} if old == boot_id else {"boot_id": {"old": old, "new": boot_id}}


def _state_id(tag):
    return tag.split("_|-")[1]
