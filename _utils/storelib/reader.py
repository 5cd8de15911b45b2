# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How a mapping of the pillar is read: key by key, with every fault noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from storelib.formats import shown

REQUIRED: Any = object()


class Reader:
    """Reads one mapping key by key and notes each fault; a faulty key reads as ``None``."""

    def __init__(self, data: object, where: str, faults: list[str]) -> None:
        self.where = where
        self.faults = faults
        self.seen: set[str] = set()
        if not isinstance(data, Mapping):
            self.fault("", data, "a mapping of keys to values")
            data = {}
        self.data = data

    def fault(self, key: str, value: object, allowed: str, wrong: str = "") -> None:
        """Note a value that is not allowed."""
        self.told(key, "missing" if value is REQUIRED else shown(value), allowed, wrong)

    def told(self, key: str, text: str, allowed: str, wrong: str = "") -> None:
        """Note what is not allowed, in words."""
        path = ".".join(filter(None, (self.where, key))) or "store_server"
        because = f", {wrong}" if wrong else ""
        self.faults.append(f"{path} is {text}{because}, allowed: {allowed}")

    def get(
        self,
        key: str,
        default: Any,
        good: Callable[[Any], object],
        allowed: str,
        wrong: Callable[[Any], str] = lambda _: "",
    ) -> Any:
        """Read a value that is ``good`` by syntax, and of which ``wrong`` has nothing to say."""
        self.seen.add(key)
        value = self.data.get(key, default)
        if value is default and default is not REQUIRED:
            return default
        if value is REQUIRED or not good(value):
            self.fault(key, value, allowed)
        elif because := wrong(value):
            self.fault(key, value, allowed, because)
        else:
            return value
        return None

    def text(
        self,
        key: str,
        good: Callable[[str], object],
        allowed: str,
        default: Any,
        wrong: Callable[[str], str] = lambda _: "",
    ) -> Any:
        """Read a text."""
        value = self.data.get(key, default)
        if value is not default and isinstance(value, (NoneType, bool, int, float)):
            # Who wrote 0417, no or 52:54:00:12:34:56 does not see what YAML makes of it.
            self.seen.add(key)
            return self.fault(key, value, allowed, "which is no text to YAML: quote it")
        return self.get(key, default, lambda v: isinstance(v, str) and good(v), allowed, wrong)

    def integer(self, key: str, low: int, high: int, default: Any) -> Any:
        """Read a whole number."""
        return self.get(
            key, default, lambda v: is_int(v) and low <= v <= high, f"a whole number {low}..{high}"
        )

    def choice(self, key: str, *choices: str) -> Any:
        """Read one of ``choices``; the first is the default."""
        return self.get(key, choices[0], lambda v: v in choices, " | ".join(choices))

    def part(self, key: str, default: Any) -> Reader:
        """Read a mapping."""
        self.seen.add(key)
        where = ".".join(filter(None, (self.where, key)))
        return Reader(self.data.get(key, default), where, self.faults)

    def parts(self, key: str, default: Any, allowed: str) -> list[Reader]:
        """Read a list of mappings."""
        values = self.get(key, default, lambda v: isinstance(v, (list, tuple)), allowed) or []
        where = ".".join(filter(None, (self.where, key)))
        return [Reader(value, f"{where}[{i}]", self.faults) for i, value in enumerate(values)]

    def end(self) -> None:
        """Note every key that was not read."""
        for key, value in self.data.items():
            if key not in self.seen:
                # Misspelt may be what holds secrets, guest_pillar say: only numbers are shown.
                text = str(value) if isinstance(value, (int, float)) else kind_of(value)
                self.told(shown(str(key))[1:-1], text, f"no such key; known: {sorted(self.seen)}")


def is_int(value: object) -> bool:
    """Say whether that is a whole number; a boolean is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def kind_of(value: object) -> str:
    """Say what a value is that must not be shown."""
    kinds = ((str, "a text"), (Mapping, "a mapping"), ((list, tuple), "a list"))
    return next((kind for types, kind in kinds if isinstance(value, types)), shown(value))
