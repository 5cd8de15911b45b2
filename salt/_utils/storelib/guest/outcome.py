# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a step ends: what is told of it, whether it did its work or not."""

from __future__ import annotations

from collections.abc import Callable

from storelib.errors import Fault
from storelib.guest import deployment
from storelib.guest.minion import Facts


def of(step: str, store: str, generation: int, act: Callable[[], Facts]) -> Facts:
    """
    Return what the step has found.

    Raises :class:`Fault` if it did not do its work, or if the guest is of another deployment:
    nothing is done then.
    """
    try:
        deployment.check_deployment(store, generation)
        return act()
    except OSError as err:
        raise Fault(f"{step} failed in the guest: {err}", "look at the guest's disk") from err
