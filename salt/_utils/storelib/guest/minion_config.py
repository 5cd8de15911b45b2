# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""By which settings the minion would go without the bootstrap data."""

from __future__ import annotations

from pathlib import Path

from storelib import seed
from storelib.guest.minion import Minion


def afterwards(minion: Minion) -> str:
    """Return what this minion would go by without the bootstrap data, if it is not as now."""
    main = Path(minion.conf_file)
    config = minion.read_config(minion.conf_file)
    files = main.parent.glob(config.get("default_include", "minion.d/*.conf"))
    ours = [Path(name).name for name in seed.BOOTSTRAP_CONFIGS]
    # As Salt does it.
    stay = sorted(str(path) for path in files if path.name not in ours)
    include = config.get("include", [])
    for each in (stay, include):
        config.update(minion.include_config(each, minion.conf_file))
    masters, name = config.get("master", "salt"), config.get("id") or minion.id
    domain = config.get("append_domain") or ""
    name = name if name.endswith(domain) else f"{name}.{domain}"
    now = minion.master.lower()
    listed = masters if isinstance(masters, list) else [masters]
    told = [] if now in [str(each).lower() for each in listed] else [f"master: {masters}"]
    return ", ".join(told + ([] if name == minion.id else [f"id: {name}"]))
