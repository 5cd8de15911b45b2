# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a night can bring to a deployment into a real guest."""

from collections.abc import Callable
from typing import Any

from tests.e2e.stores import Stores

KILL_MINION = "systemctl kill --signal=KILL salt-minion"

FAULTS: dict[str, Callable[[Stores], object]] = {
    "the master is killed": lambda stores: stores.kill_and_start("salt-master"),
    "libvirtd is killed": lambda stores: stores.kill_and_start("libvirtd"),
    "the guest's power is cut": lambda stores: stores.virsh("reset", "store-0815"),
    "the guest's minion is killed": lambda stores: stores.sh("0815", KILL_MINION, patience=5),
    "the hypervisor's minion is killed": lambda stores: stores.kill_and_start("salt-minion"),
}


def suffered(stores: Stores, generation: int, plan: dict[str, str]) -> Any:
    """
    Deploy store 0815, with a fault as soon as it is in a state; return the outcome of its status.

    plan
        Name of the fault, by state, in the order of the lifecycle.
    """
    # Salt 3006 ends a salt-run with a traceback if its master was killed meanwhile.
    outcome = stores.deploy("0815", "redeploy=True", "wait=False")
    assert outcome.status == 0, outcome
    for state, fault in plan.items():
        stores.entered("0815", generation, state)
        FAULTS[fault](stores)
    stores.entered("0815", generation, "deployed", "failed", seconds=3600)
    outcome = stores.salt_run("deploy.status", "'0815'")
    assert outcome.answer["state"] == "deployed", outcome
    return outcome
