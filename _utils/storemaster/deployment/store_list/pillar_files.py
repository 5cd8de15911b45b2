# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A folder of the pillar with a file for each hypervisor, as ``pillar/stores`` is laid out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from storelib import files
from storelib.errors import Refused, StoreDeployError
from storemaster.deployment import formats
from storemaster.deployment.store_list import columns, yaml_file
from storemaster.deployment.store_list.columns import GROUP, HYPERVISOR, HYPERVISOR_MAC, Own
from storemaster.deployment.store_list.rows import Place, Row, StoreList
from storemaster.deployment.store_list.targets import Progress, Tell, merged

KEY, SUFFIX = "store_server", ".yaml"
HEAD = "# Written by deploy.import, which replaces it only while nobody else has changed it:"
WRITTEN = re.compile(rf"{re.escape(HEAD)} ([0-9a-f]{{64}})\n")
MODE = 0o640
"""Of a new file: a ``guest_pillar`` may hold secrets."""

Merge = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


class PillarFiles:
    """Such a folder as the target of a list: see :class:`targets.Target`."""

    writes_groups = False

    def __init__(self, folder: Path, shared: Mapping[str, Any], merge: Merge = merged) -> None:
        """
        Take the folder.

        shared
            ``store_server`` of what all stores have in common.
        merge
            Merges what a store has of its own over it, as Salt will.
        """
        # As it is, list or mapping: so Salt merges it.
        self.folder, self._shared, self._merge = folder, shared, merge
        self._groups: Mapping[str, Row] = {}
        self._found: dict[Path, Own | None] = {}

    def know(self, stores: StoreList, tell: Tell) -> None:
        """Take the groups: a file has what its store's group has, too."""
        self._groups, self._found = stores.groups, {}

    def faults(self, row: Row) -> Iterator[tuple[str, str]]:
        """Find groups that the list does not describe, and what is for Uyuni only."""
        if row.group and self._groups and str(row.group) not in self._groups:
            known = ", ".join(sorted(self._groups))
            yield GROUP, f"{GROUP} is {formats.shown(row.group)}, groups of this list: {known}"
        if row.mac:
            yield HYPERVISOR_MAC, f"{HYPERVISOR_MAC} is only for target=uyuni: leave it out"

    def own(self, row: Row) -> Own:
        """Return what a store's file has to say."""
        if not row.group:
            return row.own
        group = self._groups.get(row.group) if isinstance(row.group, str) else None
        return merged(group.own if group else {}, {GROUP: row.group, **row.own})

    def whole(self, row: Row) -> Mapping[str, Any]:
        """Return what Salt will make of the file and of what is shared."""
        return self._merge(self._shared, self.own(row))

    def wanted(self, row: Row) -> dict[str, Any]:
        """Return what the file has to say, flat."""
        return columns.flat(self.own(row))

    def had(self, row: Row) -> dict[str, Any] | None:
        """Return what the file says, flat; nothing if that cannot be read."""
        path = self._path(row)
        return columns.flat(self._read(path) or {}) if path.exists() else None

    def others(self, listed: Iterable[str]) -> Mapping[str, Row]:
        """Return the stores of the other files."""
        names = {path.stem: path for path in self.folder.glob(f"*{SUFFIX}")}
        return {
            name: _described(name, columns.named(own))
            for name in sorted(names.keys() - set(listed))
            if (own := self._read(names[name])) is not None
        }

    def waits(self, row: Row) -> str:
        """Say nothing: a file can be written before its hypervisor is there."""
        return ""

    def refuses(self, row: Row, new: bool) -> str:
        """Say whether a file is not ours, or was changed."""
        path = self._path(row)
        if new:
            return ""
        text = path.read_text(errors="replace")
        match = WRITTEN.match(text)
        whose = "was not written by deploy.import"
        if match:
            whose = "was changed since deploy.import wrote it"
            if _checksum(text[match.end() :]) == match[1]:
                return ""
        return f"{path} {whose}: take what it says into the list, or move it away"

    def write(self, rows: Sequence[Row], tell: Tell) -> int:
        """Write the files, each whole or not at all. Raises :class:`StoreDeployError`."""
        written = 0
        progress = Progress(tell, "written", len(rows))
        for number, row in enumerate(rows):
            path = self._path(row)
            content = rendered(self.own(row)).encode()
            try:
                before = path.stat() if path.exists() else None
                mode = before.st_mode & 0o777 if before else MODE
                files.replace(path, content, mode, owner=before)
            except OSError as err:
                raise StoreDeployError(
                    f"{path} could not be written: {err.strerror}; {number:,} of {len(rows):,} "
                    "files were",
                    "mend that, then the same command again: it goes on where it ended",
                ) from err
            written += len(content)
            progress.step()
        return written

    def _path(self, row: Row) -> Path:
        return self.folder / f"{row.hypervisor}{SUFFIX}"

    def _read(self, path: Path) -> Own | None:
        """Return ``store_server`` of a file, ``None`` if it has none; empty if it is not YAML."""
        if path not in self._found:
            self._found[path] = _store_server(path)
        return self._found[path]


def _described(name: str, own: Own) -> Row:
    """Return the store that a hypervisor's file describes."""
    group = {GROUP: own.pop(GROUP)} if own.get(GROUP) else {}
    return Row(Place(0), own, {HYPERVISOR: name, **group})


def _store_server(path: Path) -> Own | None:
    try:
        told = yaml_file.load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError):
        # Salt renders it by Jinja before.
        return {}
    except OSError as err:
        raise Refused(f"{path} cannot be read: {err.strerror}", "mend that, or move it") from err
    own = told.get(KEY) if isinstance(told, Mapping) else None
    return dict(own) if isinstance(own, Mapping) else None


def rendered(own: Own) -> str:
    """Return the text of a store's file."""
    body = "\n".join(yaml_file.lines({KEY: columns.in_order(own)})) + "\n"
    return f"{HEAD} {_checksum(body)}\n{body}"


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def usable(folder: Path, write: bool) -> Path:
    """Return the folder. Raises :class:`Refused` if stores cannot be in it."""
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder", "name that of your pillar's stores: folder=PATH")
    if not os.access(folder, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
        what = "written" if write else "read"
        raise Refused(f"{folder} cannot be {what} by this user", "run it as the master's user")
    return folder
