# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How the network is changed, and changed back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from storelib import files

Commands = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class File:
    """A file as it is to be."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Plan:
    """A change of the network, in three steps: something is ended, files are replaced, begun."""

    files: Mapping[str, File | None]
    """By their paths; ``None`` where none is to be."""

    down: Commands = ()
    up: Commands = ()
    undo_down: Commands = ()
    """The way back, which is gone with the files that were replaced."""

    undo_up: Commands = ()

    def reversed(self, before: Mapping[str, File | None]) -> Plan:
        """Return the change back to these files."""
        return replace(
            self,
            files=before,
            down=self.undo_down,
            up=self.undo_up,
            undo_down=self.down,
            undo_up=self.up,
        )

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def of_plain(known: Mapping[str, Any]) -> Plan:
    """Return the change that :meth:`Plan.plain` was made of."""
    steps = {
        name: tuple(tuple(command) for command in known[name])
        for name in ("down", "up", "undo_down", "undo_up")
    }
    made = {path: File(**file) if file else None for path, file in known["files"].items()}
    return Plan(made, **steps)


def now(path: str) -> File | None:
    """Return a file as it is."""
    try:
        return File(Path(path).read_text(), Path(path).stat().st_mode & 0o7777)
    except FileNotFoundError:
        return None


def before(paths: Iterable[str]) -> dict[str, File | None]:
    """Return files as they are."""
    return {path: now(path) for path in paths}


def put(wanted: Mapping[str, File | None]) -> None:
    """Have files be as they are wanted."""
    for path, file in wanted.items():
        if file is None:
            Path(path).unlink(missing_ok=True)
        else:
            files.write(Path(path), file.text, file.mode)


@dataclass(frozen=True)
class Bridge:
    """What is to be made: a bridge that has one port, and the port's place in the network."""

    name: str
    port: str
    mac: str
    """Of both: whoever knows the machine by it goes on to."""
