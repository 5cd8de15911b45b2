# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The outbox: tells the site's receivers of each change of a deployment's state.

A process of its own, with a thread for each receiver, so that none waits for another one, and no
deployment for any. It has no logic of its own. Salt restarts it if it dies.

:depends: ``storelib`` and ``storemaster`` (``_utils/``)
"""

import logging
import threading
import time
from typing import TYPE_CHECKING

from storelib.errors import Refused, StoreDeployError
from storemaster.master import heartbeat, settings
from storemaster.master.outbox import sending

if TYPE_CHECKING:
    from typing import Any

    __opts__: dict[str, Any]

log = logging.getLogger(__name__)

MENDING_S = 5
"""Pause after a fault, so that a full disk is not filled with its own log."""


def _tell(opts, receiver, interval):
    while True:
        pause = interval
        try:
            sending.deliver(opts, receiver)
        except StoreDeployError as err:
            log.error("%s: %s; %s", receiver.name, err.reason, err.hint)
            pause = MENDING_S
        except Exception:
            log.exception("%s", receiver.name)
            pause = MENDING_S
        time.sleep(pause)


def start(interval=1.0):
    """
    Tell until the master ends.

    interval
        Seconds between two looks at the ledger.
    """
    try:
        settings.check(__opts__, "outbox", "dns")
    except Refused as err:
        log.error("%s; %s", err.reason, err.hint)
    for receiver in settings.usable_receivers(__opts__):
        threading.Thread(
            target=_tell, args=(__opts__, receiver, interval), name=receiver.name, daemon=True
        ).start()
    while True:
        heartbeat.beat(__opts__, heartbeat.OUTBOX)
        time.sleep(heartbeat.BEAT_S)
