# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Stores from a list into the pillar's files or Uyuni's forms, and back."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import salt.pillar
import salt.utils.dictupdate

from storelib import files
from storelib.errors import PillarError, Refused
from storemaster.deployment.store_list import checking, columns, comparing, pillar_files, reading
from storemaster.deployment.store_list.comparing import SECRET, Comparison
from storemaster.deployment.store_list.pillar_files import KEY, PillarFiles
from storemaster.deployment.store_list.rows import Faulty, StoreList
from storemaster.deployment.store_list.targets import Target, Tell
from storemaster.master import settings, uyuni
from storemaster.master.store_list_uyuni import UyuniTarget

PILLAR, UYUNI = "pillar", "uyuni"
FOLDER, DEFAULTS = "stores", "defaults"
LOCK = "store-list.lock"


def import_(
    opts: dict,
    file: object,
    apply: bool,
    target: str,
    folder: object,
    shared_networks: bool,
    tell: Tell,
    text: object = None,
) -> dict[str, Any]:
    """
    Compare a store list with what is described, and write what differs if ``apply``.

    Raises :class:`Faulty` if anything is wrong in it, and nothing is written then.
    """
    if file is not None and text is not None:
        raise Refused("both file and text are given", "one of them is the list")
    path = Path("text") if text is not None else _path("FILE", file)
    stores = reading.read(path) if text is None else reading.of_text(text)
    if stores.note:
        tell(stores.note)
    with _locked(opts, apply), _opened(opts, target, folder, apply) as there:
        there.know(stores, tell)
        faults = checking.check(stores, there, shared_networks, tell)
        if faults:
            raise Faulty(path.name, faults)
        found, faults = comparing.compare(stores, there, tell)
        if faults:
            raise Faulty(path.name, faults)
        written = there.write([each.row for each in found.changes], tell) if apply else 0
    return _told(path, target, found, apply, written)


def export(opts: dict, file: object, target: str, folder: object, tell: Tell) -> dict[str, Any]:
    """Write what is described as a list, or return it where no file is named."""
    path = None if file is None else _path("FILE", file)
    kind: Any = reading.kind_of(path) if path else None
    if path and path.exists():
        raise Refused(f"{path} is there already", "remove it, or name another file")
    with _opened(opts, target, folder, False) as there:
        there.know(StoreList(), tell)
        rows = there.others(())
    odd = [name for name, row in rows.items() if not row.own]
    if odd:
        raise Refused(
            f"what is described of {', '.join(odd)} is no plain YAML", "move it away meanwhile"
        )
    listed = [(row.beside, columns.flat(row.own)) for row in rows.values()]
    if not path:
        return {"stores": [{**beside, **_shown(values)} for beside, values in listed]}
    text = kind.written(listed)
    try:
        # A guest_pillar may hold secrets.
        files.replace(path, text.encode(), 0o600)
    except OSError as err:
        hint = "name one in a folder that the master's user can write to"
        raise Refused(f"{path} cannot be written: {err.strerror}", hint) from err
    return {"file": str(path), "stores": len(listed)}


def _shown(values: dict[str, Any]) -> columns.Own:
    """Return a store as an answer may have it, which Salt keeps, and shows on the bus."""
    seen = {name: SECRET if columns.is_secret(name) else of for name, of in values.items()}
    return columns.nested(seen)


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused(f"{name} is {value!r}", "allowed: the path of a file, in quotes")
    return Path(value)


def _told(path: Path, target: str, found: Comparison, apply: bool, written: int) -> dict[str, Any]:
    """Return what was found and done as plain data, with one sentence for people."""
    count = len(found.changes)
    if not count:
        said = "nothing: all is there as the list says"
        if found.waiting:
            said = "nothing: what differs has to wait"
    elif apply:
        said = f"{count:,} of them, {written:,} bytes"
    else:
        said = "nothing; with apply=True: what is new and changed"
    return {
        "file": str(path),
        "target": target,
        "applied": apply,
        "new": [each.as_data() for each in found.changes if each.new],
        "changed": [each.as_data() for each in found.changes if not each.new],
        "unchanged": found.unchanged,
        "vanished": [{"name": name, "store": store} for name, store in found.vanished.items()],
        "waiting": [{"name": name, "why": why} for name, why in found.waiting.items()],
        "bytes_written": written,
        "said": said,
    }


@contextlib.contextmanager
def _locked(opts: dict, apply: bool) -> Iterator[None]:
    """Keep other imports from writing meanwhile."""
    if not apply:
        yield
        return
    state_dir = settings.state_dir(opts)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(state_dir / LOCK, wait_s=0) as held:
        if not held:
            raise Refused("another import is writing", "wait until it has ended, then try again")
        yield


@contextlib.contextmanager
def _opened(opts: dict, target: str, folder: object, write: bool) -> Iterator[Target]:
    """Open what a list is compared with."""
    if target not in (PILLAR, UYUNI):
        raise Refused(f"target is {target!r}", f"allowed: {PILLAR} | {UYUNI}")
    if target == PILLAR:
        where = _folder(opts) if folder is None else _path("folder", folder)
        pillar_files.usable(where, write)
        yield PillarFiles(where, _shared(opts, where), _merge(opts))
        return
    if folder is not None:
        raise Refused("folder is for target=pillar only", "leave it out")
    with uyuni.session(opts) as server:
        yield UyuniTarget(server)


def _folder(opts: dict) -> Path:
    """Return the folder of the stores in the pillar's roots."""
    for roots in (opts.get("pillar_roots") or {}).values():
        for root in roots or ():
            found = Path(root, FOLDER)
            if (found / "init.sls").is_file():
                return found
    raise Refused(
        f"no pillar root has {FOLDER}/init.sls",
        "copy pillar/stores into one, or name the folder that your pillar has: folder=PATH",
    )


def _shared(opts: dict, folder: Path) -> dict[str, Any]:
    """
    Compile what all stores share: ``defaults.sls`` in that folder, for no minion in particular.

    Raises :class:`PillarError` if it does not compile.
    """
    if not (folder / f"{DEFAULTS}.sls").is_file():
        return {}
    roots = {"base": [str(folder.resolve().parent)]}
    pillar = salt.pillar.Pillar({**opts, "pillar_roots": roots}, {}, "stores", "base")
    told, errors = pillar.render_pillar({"base": [f"{folder.resolve().name}.{DEFAULTS}"]})
    if errors:
        raise PillarError(
            f"{folder / DEFAULTS}.sls does not compile: {'; '.join(map(str, errors))}", "mend it"
        )
    return told.get(KEY) or {}


def _merge(opts: dict) -> pillar_files.Merge:
    """Return how Salt merges a store's own pillar over what all share."""
    return functools.partial(
        salt.utils.dictupdate.merge,
        strategy=opts.get("pillar_source_merging_strategy", "smart"),
        renderer=opts.get("renderer", "jinja|yaml"),
        merge_lists=opts.get("pillar_merge_lists", False),
    )
