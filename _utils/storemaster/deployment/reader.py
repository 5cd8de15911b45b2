# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a pillar is read by the field table: key by key, with every fault noted."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from types import NoneType
from typing import Any

from storemaster.deployment import fields, forms
from storemaster.deployment.fields import PART, PARTS, PROBES, REQUIRED, Field, Kind
from storemaster.deployment.formats import shown

Found = ChainMap[str, Any]
"""What was read so far of a mapping, and of those that it is in."""
NOTHING: Found = ChainMap()


class Reader:
    """Reads by the table and notes each fault with its path; a faulty value reads as ``None``."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def fault(self, path: str, value: object, allowed: str, wrong: str = "") -> None:
        """Note a value that is not allowed."""
        self.told(path, _shown(value), allowed, wrong)

    def told(self, path: str, text: str, allowed: str, wrong: str = "") -> None:
        """Note what is not allowed, in words."""
        because = f", {wrong}" if wrong else ""
        told = f"{path or 'store_server'} is {text}{because}, allowed: {allowed}"
        self.faults.append((path, told))

    def is_faulty(self, path: str) -> bool:
        """Say whether a fault was noted at a path, or below it."""
        return any(each == path or each.startswith(f"{path}.") for each, _ in self.faults)

    def mapping(
        self, data: object, path: str = "", above: Found = NOTHING, where: str | None = None
    ) -> dict[str, Any]:
        """
        Read a mapping.

        path
            Where it is in the pillar, for messages.
        above
            What was read before it, of the mapping that it is in.
        where
            Where it is in the table, if that is not the same.
        """
        if not isinstance(data, Mapping):
            self.fault(path, data, PART.allowed)
            data = {}
        known = fields.under(path if where is None else where)
        values: dict[str, Any] = {}
        found = ChainMap(values, *above.maps)
        for key, field in known.items():
            default = field.default(found) if callable(field.default) else field.default
            value = forms.given(field.kind, data.get(key, forms.EMPTY))
            value = default if isinstance(value, str) and value == forms.EMPTY else value
            values[key] = self._value(field, value, default, _joined(path, key), found)
        for key, value in data.items():
            if key not in known:
                # Misspelt may be what holds secrets, guest_pillar say: only numbers are shown.
                text = str(value) if isinstance(value, (int, float)) else _kind_of(value)
                at = _joined(path, shown(str(key))[1:-1])
                self.told(at, text, f"no such key; known: {sorted(known)}")
        return values

    def _value(self, field: Field, value: Any, default: Any, path: str, found: Found) -> Any:
        if field.kind is PART:
            return self.mapping(value, path, found)
        as_is = value is default and default is not REQUIRED
        if not as_is and not self._fits(field.kind, value, path, found):
            return None
        if field.kind is PARTS or field.kind is PROBES:
            where = f"{field.path}[]"
            items = [(path + at, item) for at, item in forms.items(field.kind, value)]
            if field.kind is PARTS and isinstance(value, Mapping):
                for name, (at, item) in zip(value, items, strict=True):
                    if isinstance(item, Mapping) and item["name"] != name:
                        self.fault(
                            f"{at}.name", item["name"], f"{shown(name)}, as its key, or none"
                        )
            return tuple(self.mapping(item, at, found, where) for at, item in items)
        return tuple(value) if isinstance(value, list) else value

    def _fits(self, kind: Kind, value: Any, path: str, found: Found) -> bool:
        """Say whether a value is of a kind; what is wrong with it is noted."""
        beside = [found[key] for key in kind.beside]
        unquoted = isinstance(value, (NoneType, bool, int, float))
        if unquoted and kind.schema.get("type") == "string":
            # Who wrote 0417, no or 52:54:00:12:34:56 does not see what YAML makes of it.
            self.fault(path, value, kind.allowed, "which is no text to YAML: quote it")
        elif value is REQUIRED or not kind.good(value, *beside):
            told = _kind_of(value) if kind.secret else _shown(value)
            self.told(path, told, kind.allowed)
        elif because := kind.wrong(value, *beside):
            self.fault(path, value, kind.allowed, because)
        else:
            return True
        return False


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: object) -> str:
    return "missing" if value is REQUIRED else shown(value)


def _kind_of(value: object) -> str:
    """Say what a value is that must not be shown."""
    kinds = ((str, "a text"), (Mapping, "a mapping"), ((list, tuple), "a list"))
    return next((kind for types, kind in kinds if isinstance(value, types)), shown(value))
