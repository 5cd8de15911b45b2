# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the pillar that Uyuni gives tells of a minion: whether it is registered there.

Uyuni's ext_pillar ``suma_minion`` gives ``org_id`` to each system that is registered. To others,
and to all while its database does not answer, it gives an empty pillar and no error (read in its
source and measured with it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from storelib.errors import PillarError
from storemaster.deployment import formats
from storemaster.deployment.spec import StoreSpec, guest_pillar
from storemaster.master import config_files, heartbeat
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault

THEIRS, OURS = "suma_minion", "store_deploy"
THEIR_ROOT = "/susemanager"
REGISTERED = "org_id"

CLASSIC, AVOID = "salt-minion", "mgr_avoid_venv_salt_minion"
"""The latter has Uyuni's highstate leave a guest its classic minion; else it replaces it."""


def order(opts: Mapping) -> list[str]:
    """Return the names of the ext_pillars, in the order in which they are asked."""
    return [name for entry in opts.get("ext_pillar") or () for name in entry]


def configured(opts: Mapping) -> bool:
    """Say whether this is a master of Uyuni."""
    return THEIRS in order(opts)


def comes_before(opts: Mapping) -> bool:
    """Say whether what Uyuni gives is known when our ext_pillar is asked."""
    asked = order(opts)
    return THEIRS in asked and asked.index(THEIRS) < asked.index(OURS)


def refuse(opts: Mapping, minion: str, pillar: Mapping) -> None:
    """Raise :class:`PillarError` if Uyuni has not given this minion its pillar."""
    if configured(opts) and REGISTERED not in pillar:
        raise PillarError(
            f"Uyuni gives no pillar to {minion}: its database does not answer, or {minion} is not "
            "registered there (no org_id)",
            f"salt-run pillar.show_pillar {minion} shows it; see that Uyuni's database runs and "
            f"{minion} is among its systems",
        )


def wrong(opts: Mapping, spec: StoreSpec, store_server: object) -> Iterator[Fault]:
    """Find what Uyuni makes of a store's server, though the pillar has it in another way."""
    if not configured(opts):
        return
    if formats.is_ip(spec.master) or "." not in spec.master:
        yield (
            f"master is {spec.master}: by that Uyuni does not know through which proxy a guest "
            "calls, and its first highstate sends it to the server itself",
            "write the full host name by which Uyuni knows the server or proxy (mgr_server in the "
            "hypervisor's pillar)",
        )
    stays = guest_pillar(store_server).get(AVOID, True)
    if spec.minion == CLASSIC and not stays:
        yield (
            f"guest_pillar has {AVOID}: {stays}, so Uyuni's highstate puts the Salt Bundle in the "
            f"place of the guest's {CLASSIC}, and fails where it has no such package",
            "take it out of guest_pillar; or have venv-salt-minion in the image, and in minion",
        )


def faults(opts: dict) -> Iterator[Fault]:
    """Find our configuration where it is merged before Uyuni's own."""
    if not configured(opts):
        return
    if OURS in order(opts) and not comes_before(opts):
        yield (
            f"ext_pillar {OURS} is asked before {THEIRS}: it cannot see whether Uyuni has given a "
            "minion its pillar, and states are applied without it",
            _later(opts, "ext_pillar", OURS),
        )
    roots, ours = opts["file_roots"].get("base", []), str(heartbeat.CHECKOUT / "salt")
    if ours in roots and any(THEIR_ROOT in root for root in roots[roots.index(ours) :]):
        yield (
            f"{ours} comes before Uyuni's own file_roots: where both serve a name, Uyuni's is "
            "hidden",
            _later(opts, "file_roots", ours),
        )


def _later(opts: dict, key: str, text: str) -> str:
    there = config_files.naming(opts, key, text) or Path("the file that names it")
    return f"mv {there} {there.parent / f'zz-{there.name}'}, after susemanager.conf; {RESTART}"
