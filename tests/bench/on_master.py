# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The part of the benchmark that runs beside the master, on the lab's machine.

    on_master.py starts MINION      prints `listening`, then when that minion's start event came
    on_master.py doorbell STORE N   prints what N rings of an active store cost, as JSON
"""

import json
import random
import statistics
import sys
import time

import salt.config
import salt.runner
import salt.utils.event

from storemaster.deployment.ledger import Ledger
from storemaster.master import settings

MASTER = "/etc/salt/master"
PATIENCE_S = 600


def starts(minion):
    """Print when the minion's next start event was on the bus, in seconds since the epoch."""
    opts = salt.config.master_config(MASTER)
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=True) as bus:
        bus.connect_pub()
        print("listening", flush=True)
        event = bus.get_event(
            wait=PATIENCE_S, tag=f"salt/minion/{minion}/start", match_type="fnmatch"
        )
        print(time.time() if event else "never", flush=True)


def doorbell(store, rings):
    """Print how long notify takes, and how long a ring and an event take to end in a step."""
    opts = salt.config.master_config(MASTER)
    notify = salt.runner.RunnerClient(opts).functions["deploy.notify"]
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:
        took = [_timed(lambda: notify(store=store)) for _ in range(rings)]
        rung = [_until_stepped(opts, store, lambda: notify(store=store)) for _ in range(rings)]
        fired = [
            _until_stepped(opts, store, lambda: bus.fire_event({}, f"store/{store}/guest/bench"))
            for _ in range(rings)
        ]
    found = {"notify_s": took, "notify_to_step_s": rung, "event_to_step_s": fired}
    print(json.dumps({name: _summary(times) for name, times in found.items()}))


def _timed(act):
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _until_stepped(opts, store, ring):
    # At no fixed place between two looks of the pump at the ledger.
    time.sleep(0.5 + random.random() / 2)
    with Ledger(settings.ledger_path(opts)) as ledger:
        before = ledger.get(store).revision

        def act():
            ring()
            deadline = time.monotonic() + PATIENCE_S
            # The step of this store only notes that it waits: it ends as soon as it begins.
            while ledger.get(store).revision == before and time.monotonic() < deadline:
                time.sleep(0.002)

        return _timed(act)


def _summary(times):
    return {
        "median": round(statistics.median(times), 4),
        "max": round(max(times), 4),
        "n": len(times),
    }


if __name__ == "__main__":
    if sys.argv[1] == "starts":
        starts(sys.argv[2])
    else:
        doorbell(sys.argv[2], int(sys.argv[3]))
