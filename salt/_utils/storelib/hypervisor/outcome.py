# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a step ends: what is told of it, whether it did its work or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from storelib.errors import Fault, NotNow
from storelib.hypervisor import domains, fence
from storelib.hypervisor.host import Facts, Spec
from storelib.hypervisor.place import of_system

log = logging.getLogger(__name__)

SEE_LOG = "see the minion's log on the hypervisor and mend it"
"""What to do about a fault of which nothing else is known."""


def of(step: str, spec: Spec, act: Callable[[], Facts]) -> Facts:
    """
    Return what the step has found, and beside it the machine and what is noted of the store.

    Of a step that has to wait for something these are ``waits``, which says for what.

    Raises :class:`Fault`, with the same facts, if it did not do its work.
    """
    fault, facts = None, {}
    try:
        try:
            facts = act()
        except domains.Gone as gone:
            # Each step can be run again; a restart of libvirt must not cost a deployment.
            log.warning("%s: %s: %s", spec["store"], step, gone)
            facts = act()
    except NotNow as err:
        facts = {"waits": str(err)}
    except Fault as err:
        fault, facts = err, {**err.facts}
    except OSError as err:
        pool = Path(spec.get("pool", ""))
        fault = of_system(err, pool if pool.is_absolute() and pool.is_dir() else None)
    machine = fence.machine_id()
    facts = {**facts, "machine_id": machine, "note": fence.shown(spec["store"], machine)}
    if fault:
        log.error("%s: %s: %s", spec["store"], step, fault)
        raise Fault(str(fault), fault.hint or SEE_LOG, facts) from fault
    return facts
