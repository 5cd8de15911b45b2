# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Salt's cache of compiled pillar (``pillar_cache: True``), which asks for the minion ID only.

Whoever has that ID would get what was compiled for another key. Salt 3008 keeps it in the bank
``pillar`` of ``salt.cache`` and forgets it with the key, unless the next one is there already or
``preserve_minion_cache`` is set; 3006 keeps it in files and never forgets it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import salt.cache

from storemaster.deployment.ledger import Ledger
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import keys


def forget(opts: dict, minion: str) -> None:
    """Have the minion's pillar compiled at the next request, in every environment."""
    for cached, name in _cached(opts):
        if name == minion:
            _drop(opts, cached)


def forget_strangers(opts: dict, ledger: Ledger) -> None:
    """
    Forget the pillar of minions of ours that have not their recorded key.

    Somebody deleted it by hand, and may accept another one.
    """
    for cached, name in _cached(opts):
        recorded = [record.key_of(name) for record in ledger.of_minion(name)]
        accepted = keys.known(opts, name).get(ACCEPTED, "") if recorded else ""
        if recorded and not any(key and keys.same(accepted, key) for key in recorded):
            _drop(opts, cached)


def _cached(opts: dict) -> list[tuple[str, str]]:
    """Return name in the cache and minion ID of each cached pillar."""
    if not opts.get("pillar_cache"):
        return []
    if "pillar.cache_driver" in opts:
        # With a pillar environment it is MINION:ENVIRONMENT.
        return [(name, name.partition(":")[0]) for name in _bank(opts).list("pillar") or ()]
    folder = _folder(opts)
    return [(path.name, path.name) for path in folder.iterdir()] if folder.is_dir() else []


def _drop(opts: dict, cached: str) -> None:
    if "pillar.cache_driver" in opts:
        _bank(opts).flush("pillar", cached)
    else:
        (_folder(opts) / cached).unlink(missing_ok=True)


def _bank(opts: dict) -> Any:
    return salt.cache.factory(opts, driver=opts["pillar.cache_driver"])


def _folder(opts: dict) -> Path:
    return Path(opts["cachedir"]) / "pillar_cache"
