# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Tell that a hypervisor has reached its highstate.

:depends: ``storelib`` (``_utils/``)
"""

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from salt.utils.state import gen_tag

from storelib import files
from storelib.hypervisor import bell

if TYPE_CHECKING:
    from typing import Any

    __lowstate__: list[dict[str, Any]]
    __opts__: dict[str, Any]
    __pillar__: dict[str, Any]
    __running__: dict[str, Any]
    __salt__: dict[str, Any]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def reported(name):
    """
    Leave the marker of a highstate that has ended well, and ring the doorbell of its store.

    It is rung again, by the minion's own schedule, until the master acknowledges it.

    Give it ``order: last``. It fails, and leaves no marker, if a state of this run has failed or
    has not ended, whether it runs in parallel or was ordered after this one.

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
