# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The pump: hears the doorbells on the master's bus, and has whatever is due looked at.

It has no logic of its own. Salt restarts it if it dies; without it the schedule does the same,
slower.

:depends: ``storelib`` and ``storemaster`` (``_utils/``)
"""

import contextlib
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

import salt.utils.event
from salt.exceptions import SaltDeserializationError

from storelib.errors import StoreDeployError
from storemaster.deployment import doorbell
from storemaster.master import pump

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]

log = logging.getLogger(__name__)

MENDING_S = 5
"""Pause after a fault, so that a full disk is not filled with its own log."""

STORED_S = 0.02
"""How soon a return is looked for again that was not stored yet when the bus told of it."""

LOOKS = 25
"""How often it is looked for so; the sweep looks for what comes later still."""

AT_ONCE = 1000
"""How many events are heard before what they rang for is looked at."""


def _listen(heard, opts, wait_s):
    """
    Put into a queue what rings, and nothing (``None``) at least every ``wait_s``.

    In a thread of its own: a bus that is asked what waits by now lets Salt 3006 wait a tenth of a
    second for more, so that a busy one would never be drained.
    """
    try:
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=True) as bus:
            while True:
                heard.put(_ring(bus, wait_s))
    except Exception as err:
        heard.put(err)


def _ring(bus, wait_s):
    """Return what the next event rings for; ``None``, also if there is none."""
    try:
        # Any event: while Salt waits for one with some tag it goes by the time of day, and a clock
        # that is set back by hours would make it wait for hours.
        event = bus.get_event(wait=wait_s, full=True)
    except SaltDeserializationError:
        # On Salt 3006 a tag with an empty line, from any minion, cannot be read.
        log.warning("an event on the bus could not be read")
        return None
    return doorbell.of_event(event["tag"], event["data"]) if event else None


def _rings(heard, hurry):
    """Return what rang: all that is there by now, or what comes first, or soon in any case."""
    told = []
    if hurry:
        time.sleep(STORED_S)
    else:
        # Without a time limit, which with some versions of Python would go by the time of day.
        told.append(heard.get())
    with contextlib.suppress(queue.Empty):
        while len(told) < AT_ONCE:
            told.append(heard.get_nowait())
    for each in told:
        if isinstance(each, Exception):
            # Salt starts the engine again.
            raise RuntimeError("the bus cannot be heard") from each
    return [each for each in told if each]


def start(interval=0.25):
    """
    Pump until the master ends.

    interval
        Seconds between two looks at the ledger, while nothing happens on the bus.
    """
    pumping, looked, returns, rings = None, 0.0, {}, []
    heard = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heard, __opts__, interval), daemon=True).start()
    while True:
        try:
            # With what could not be rung for before, once each.
            rings = [*dict.fromkeys(rings), *_rings(heard, returns)]
            pumping = pumping or pump.Pump(__opts__)
            # Salt tells of a return before it has stored it: some are there a moment later.
            waited_for = pumping.open_jobs() if returns else ()
            returns = {
                ring.jid: (ring, looks + 1)
                for ring, looks in returns.values()
                if ring.jid in waited_for and looks < LOOKS
            }
            told = dict.fromkeys([*rings, *(ring for ring, _ in returns.values())])
            rung = pumping.ring(list(told)) if told else False
            returns |= {ring.jid: (ring, 1) for ring in rings if ring.jid}
            rings = []
            if rung or time.monotonic() - looked >= interval:
                pumping.round()
                looked = time.monotonic()
        except StoreDeployError as err:
            log.error("%s; %s", err.reason, err.hint)
            time.sleep(MENDING_S)
