# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What tells this guest from another one, and how far its deployment is."""

from __future__ import annotations

from storelib.guest import deployment, identity, leftovers
from storelib.guest.minion import Facts, Minion


def boots(minion: Minion, store: str, generation: int) -> Facts:
    """Note this boot; return all that were noted, who this is, and by which settings it goes."""
    return {
        "boots": deployment.noted_boots(),
        "cleaned": leftovers.cleaned(),
        "handed_over": deployment.handed_over(store, generation),
        "config": {"master": minion.master, **minion.config},
        **_identity(minion),
    }


def facts(minion: Minion) -> Facts:
    """Return who this is, and what is left of the deployment."""
    return {
        **_identity(minion),
        "addresses": minion.addresses() + minion.addresses6(),
        "host_keys": identity.host_keys(),
        "root_size_mib": identity.root_size_mib(),
        "startup_configured": leftovers.startup_configured(),
        "left": leftovers.left(),
    }


def _identity(minion: Minion) -> Facts:
    return {
        **identity.identity(),
        "minion_id": minion.id,
        "salt_version": minion.salt_version,
    }
