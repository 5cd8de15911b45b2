# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store list's file: from bytes to what it says."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from storelib.errors import Refused
from storemaster.deployment.store_list import columns, csv_file, yaml_file
from storemaster.deployment.store_list.columns import is_secret
from storemaster.deployment.store_list.rows import StoreList

LARGEST = 64 * 1024**2
"""Bytes that a list may have; 10,000 stores are 2 MiB."""

KINDS = {".csv": csv_file, ".tsv": csv_file, ".yaml": yaml_file, ".yml": yaml_file}


def kind_of(path: Path) -> Any:
    """Return what reads and writes such a file. Raises :class:`Refused` if it is of no kind."""
    if path.suffix.lower() not in KINDS:
        raise Refused(
            f"{path.name} is no store list by its name", f"allowed: a name in {', '.join(KINDS)}"
        )
    return KINDS[path.suffix.lower()]


def read(path: Path) -> StoreList:
    """Read a file. Raises :class:`Refused` if that cannot be done; faults in it are noted."""
    kind = kind_of(path)
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "is not there"
            raise Refused(f"{path} {what}", "name a file that the master's user can read")
        if path.stat().st_size > LARGEST:
            what = f"{path} is larger than {LARGEST // 1024**2} MiB: that is no store list"
            raise Refused(what, "name another file")
        content = path.read_bytes()
    except OSError as err:
        hint = "let the master's user read it"
        raise Refused(f"{path} cannot be read: {err.strerror}", hint) from err
    if not content.strip():
        raise Refused(f"{path} is empty", "name a store list; docs/stores.md says what it has")
    text, encoding = _decoded(path, content, "cp1252" if kind is csv_file else "")
    found: StoreList = kind.read(text)
    if encoding == "cp1252":
        found.note = f"{path.name} is not UTF-8: it is read as the Latin-1 of a spreadsheet"
    return found


def of_text(text: object) -> StoreList:
    """
    Read a list that comes as text: YAML if its first line is ``---`` or ends with a colon, or CSV.

    Raises :class:`Refused` if it is none, or has what must not be seen: what is said to a runner is
    an event on the master's bus.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise Refused("text is no store list", "docs/stores.md says what one has")
    first = text.lstrip("\ufeff \r\n").splitlines()[0].rstrip()
    kind: Any = yaml_file if first == "---" or first.endswith(":") else csv_file
    found: StoreList = kind.read(text)
    own = [columns.flat(row.own) for row in (*found.rows, *found.groups.values())]
    secret = sorted({name for values in own for name in values if is_secret(name)})
    if secret:
        raise Refused(
            f"{', '.join(secret)} may be secret, and what comes as text is seen on the bus",
            "import a file on the master itself, or leave that out",
        )
    return found


def _decoded(path: Path, content: bytes, else_: str) -> tuple[str, str]:
    """
    Return the text of a file, and its encoding.

    else_
        What it is taken for if it is not UTF-8, as spreadsheets save it; empty for nothing.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    line = 1
    for encoding in ("utf-16",) if marked else ("utf-8-sig", *filter(None, [else_])):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as err:
            line = content[: err.start].count(b"\n") + 1
            continue
        if "\0" not in text:
            return text, encoding
        line = text[: text.index("\0")].count("\n") + 1
        break
    raise Refused(f"{path} is no text in line {line}", "save it as UTF-8, then try again")
