# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The pump: calls the runner for whatever is due.

It has no logic of its own. Salt restarts it if it dies; without it the schedule does the same,
slower.

:depends: runner ``deploy``
"""

import logging
import time
from typing import TYPE_CHECKING

import salt.utils.event
from salt.exceptions import SaltDeserializationError

from storelib.errors import StoreDeployError

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]
    __runners__: dict[str, Any]

log = logging.getLogger(__name__)

MENDING_S = 5
"""Pause after a fault, so that a full disk is not filled with its own log."""


def start(interval=0.25):
    """
    Pump until the master ends.

    interval
        Seconds between two looks at the ledger, while nothing happens on the bus.
    """
    with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=True) as bus:
        looked, told = 0.0, {}
        while True:
            try:
                # Any event: while Salt waits for one with some tag it goes by the time of day, and
                # a clock that is set back by hours would make it wait for hours.
                event = bus.get_event(wait=interval, full=True)
                now, tag = time.monotonic(), event["tag"] if event else ""
                # Salt tells of a return before it has stored it: some are there a moment later.
                again = [minion for minion, at in told.items() if now - at >= interval]
                for minion in again:
                    del told[minion]
                    __runners__["deploy.notify"](minion=minion, eager=False)
                if tag.startswith("salt/job/") and "/ret/" in tag:
                    minion = tag.rpartition("/")[2]
                    if __runners__["deploy.notify"](minion=minion, eager=False):
                        told[minion] = now
                elif event and not again and now - looked < interval:
                    continue
                __runners__["deploy.reconcile"](sweep=False)
                looked = time.monotonic()
            except SaltDeserializationError:
                # On Salt 3006 a tag with an empty line, from any minion, cannot be read.
                log.warning("an event on the bus could not be read")
            except StoreDeployError as err:
                log.error("%s; %s", err.reason, err.hint)
                time.sleep(MENDING_S)
