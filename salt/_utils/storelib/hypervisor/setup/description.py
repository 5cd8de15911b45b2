# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether pillar ``store_hypervisor`` describes a hypervisor that this machine can become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storelib.errors import Fault
from storelib.hypervisor.setup import bridge

VIRT_TYPES = ("auto", "kvm", "qemu", "xen")

KEYS: Mapping[str, tuple[type, ...]] = {
    "virt_type": (str,),
    "packages": (list,),
    "virt_packages": (dict,),
    "services": (dict,),
    "service": (str, list, type(None)),
    "bridge": (dict, type(None)),
    "pool": (dict, type(None)),
    "default_network": (bool,),
}
"""What may be said, and of which type."""

NAMES = {str: "a text", list: "a list", dict: "a mapping", bool: "true or false"}


def check(settings: Mapping[str, Any]) -> None:
    """Raise :class:`Fault` that says all that is wrong with pillar and machine, in one sentence."""
    wrong = list(_wrong(settings))
    if wrong:
        raise Fault(f"store_hypervisor is not right: {'; '.join(wrong)}", "correct the pillar")


def _wrong(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if key not in KEYS:
            yield f"{key} is not known; known are {', '.join(KEYS)}"
        elif not isinstance(value, KEYS[key]):
            allowed = " or ".join(NAMES[kind] for kind in KEYS[key] if kind in NAMES)
            yield f"{key} is {value!r}, not {allowed}"
    if settings.get("virt_type", "auto") not in VIRT_TYPES:
        yield f"virt_type is {settings['virt_type']!r}, not one of {', '.join(VIRT_TYPES)}"
    if isinstance(pool := settings.get("pool"), dict):
        yield from _wrong_pool(pool)
    if isinstance(wanted := settings.get("bridge"), dict):
        yield from _wrong_bridge(wanted)


def _wrong_pool(pool: Mapping[str, Any]) -> Iterator[str]:
    if unknown := sorted(set(pool) - {"name", "path"}):
        yield f"pool.{unknown[0]} is not known; known are name, path"
    if not isinstance(pool.get("name"), str) or not pool["name"]:
        yield f"pool.name is {pool.get('name')!r}, not a text"
    path = pool.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        yield f"pool.path is {path!r}, not an absolute path"
    elif Path(path).exists() and not Path(path).is_dir():
        yield f"pool.path is {path}, which is no folder"


def _wrong_bridge(wanted: Mapping[str, Any]) -> Iterator[str]:
    if unknown := sorted(set(wanted) - {"name", "port", "undo_after_s"}):
        yield f"bridge.{unknown[0]} is not known; known are name, port, undo_after_s"
        return
    try:
        bridge.check(**{"name": "br0", **wanted})
    except Fault as fault:
        yield str(fault)
