# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The steps: one function for each state that moves by itself.

A step returns the evidence that its state is over, raises ``Waiting`` as long as it is not, and
``Fault`` if it never will be. It can be called again after a crash at any of its lines.
"""

from __future__ import annotations

from collections.abc import Callable

from storemaster.deployment.evidence import Found
from storemaster.deployment.step_context import StepContext
from storemaster.deployment.steps import installing, leaving, restoring

STEPS: dict[str, Callable[[StepContext], Found]] = {
    step.__name__: step
    for step in (
        installing.awaiting_hypervisor,
        installing.queued,
        installing.staging,
        installing.preparing,
        installing.clearing,
        installing.defining,
        installing.starting,
        installing.booting,
        installing.rebooting,
        installing.configuring,
        installing.restarting,
        installing.verifying,
        installing.finishing,
        restoring.rolling_back,
        leaving.cancelling,
        leaving.retiring,
    )
}
