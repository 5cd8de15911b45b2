# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The bell of a hypervisor that says it is ready: decided on, or kept until it can be.

It is the only bell whose loss would matter. What was decided on, refusals too, is acknowledged;
otherwise the hypervisor rings again.
"""

from __future__ import annotations

import logging
import time

from storelib.errors import Conflict, LedgerError, PillarError, StoreDeployError
from storemaster.deployment import engine, lifecycle, new_hardware, requests
from storemaster.deployment.actor import EVENT, Actor, act_as
from storemaster.deployment.doorbell import Bell
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.deployment.spec import from_pillar
from storemaster.deployment.step_context import Waiting
from storemaster.master import settings
from storemaster.master.salt_master import SaltMaster

log = logging.getLogger(__name__)


def stores_of(opts: dict, master: SaltMaster, ledger: Ledger, bell: Bell) -> list[str] | None:
    """Return the stores that a bell is about, ``None`` if it has to be answered later."""
    if bell.ready:
        try:
            with act_as(Actor(bell.name, EVENT)):
                _look(opts, master, ledger, bell.name)
        except Conflict as err:
            # Another process has the store: it is done soon.
            log.info("%s", err)
            return None
        except (PillarError, LedgerError, Waiting) as err:
            log.warning("%s says that it is ready, and is looked at again: %s", bell.name, err)
            ledger.put_off(bell, time.time())
            return None
        except StoreDeployError as err:
            log.warning("%s says that it is ready: %s; %s", bell.name, err.reason, err.hint)
        except Exception:
            # A minion's word must not stop the pump.
            log.exception("%s says that it is ready", bell.name)
            ledger.put_off(bell, time.time())
            return None
    record = ledger.get(bell.name)
    return [each.store for each in ([record] if record else ledger.of_minion(bell.name))]


def _look(opts: dict, master: SaltMaster, ledger: Ledger, minion: str) -> None:
    """Look at a minion that says it is a ready hypervisor: what does its pillar say?"""
    known = ledger.of_minion(minion)
    if any(each.active and each.hypervisor == minion for each in known):
        # Its deployment is under way, and looks for itself.
        return
    states = set(master.keys(minion))
    if states & {"pending", "denied"} and ACCEPTED not in states:
        raise Waiting(f"its key is {', '.join(sorted(states))}")
    if ACCEPTED not in states:
        return
    pillar = master.store_server(minion)
    if pillar is None:
        return
    spec = from_pillar(pillar, minion)
    record = ledger.get(spec.store)
    if record is not None and record.state != lifecycle.RETIRED.name:
        with engine.locked(settings.state_dir(opts) / "locks", spec.store) as held:
            if not held:
                raise Conflict(f"store {spec.store} is at work")
            new_hardware.note_ready(
                master, ledger, record, minion, spec.auto_deploy, settings.max_active(opts)
            )
    elif record is None and spec.auto_deploy:
        log.info("%s: %s is ready, auto_deploy", spec.store, minion)
        begun = requests.begin(ledger, time.time(), spec, minion, "event")
        master.looked_at(begun.deployment, minion, pillar)


def acknowledge(master: SaltMaster, minion: str) -> None:
    """Tell a hypervisor that its bell was heard and decided on; else it rings again."""
    try:
        if ACCEPTED in master.keys(minion):
            master.publish(master.new_jid(), minion, "store_hypervisor.acknowledge", {})
    except Exception as err:
        # It rings again.
        log.info("%s was not told that its bell was heard: %s", minion, err)
