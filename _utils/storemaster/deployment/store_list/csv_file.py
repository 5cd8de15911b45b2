# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store list as CSV, as spreadsheets of different countries write it, and back."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from storelib.errors import Refused
from storemaster.deployment.formats import shown
from storemaster.deployment.store_list import columns
from storemaster.deployment.store_list.columns import BESIDE, HYPERVISOR
from storemaster.deployment.store_list.rows import Fault, Place, Row, StoreList

DELIMITERS = ",;\t"
SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
"""A first line of spreadsheets, for spreadsheets."""


def letter(number: int) -> str:
    """Return how a spreadsheet names a column, counted from 0."""
    name = ""
    while number >= 0:
        number, rest = divmod(number, 26)
        name, number = chr(ord("A") + rest) + name, number - 1
    return name


def read(text: str) -> StoreList:
    """Read the text of a CSV file."""
    found = StoreList(bare=True)
    first, given = 1, ""
    if match := SEPARATOR.match(text):
        text, first, given = text[match.end() :], 2, match[1]
    records = _records(text, given or _delimiter(text), first, found.faults)
    line, cells = next(records, (first, []))
    heads = _heads(line, cells, found.faults)
    if HYPERVISOR not in heads:
        told = (
            f"no column is called {HYPERVISOR}; the first line names the columns, separated by "
            "commas, semicolons or tabs"
        )
        found.faults = [Fault(told, Place(line))]
        return found
    width, unnamed = len(cells), {n for n, cell in enumerate(cells) if not cell.strip()}
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            told = f"{len(cells)} cells, where the first line has {width}"
            found.faults.append(Fault(told, Place(line)))
            continue
        for number in [n for n in unnamed if cells[n].strip()]:
            unnamed.remove(number)
            place = Place(line, letter(number))
            found.faults.append(Fault("a value is in a column without a name", place))
        found.rows.append(_row(line, cells, heads))
    if not found.rows and not found.faults:
        found.faults.append(Fault("no store follows the first line", Place(line)))
    return found


def _delimiter(text: str) -> str:
    """Return what separates the first line into the most columns, if one is the hypervisor's."""

    def split(delimiter: str) -> list[str]:
        _, cells = next(_records(text, delimiter, 1, []), (1, []))
        heads = [cell.strip() for cell in cells]
        return heads if HYPERVISOR in heads else []

    return max(DELIMITERS, key=lambda delimiter: len(split(delimiter)))


def _records(
    text: str, delimiter: str, line: int, faults: list[Fault]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each record, with the line where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = line - 1
    try:
        for cells in reader:
            yield line, cells
            line = before + reader.line_num + 1
    except csv.Error as err:
        told = f"the cells from here on cannot be told apart: {err} (is a quote not closed?)"
        faults.append(Fault(told, Place(line)))


def _heads(line: int, cells: list[str], faults: list[Fault]) -> dict[str, int]:
    """Return the columns, each with its number; those that are none are told."""
    heads: dict[str, int] = {}
    for number, cell in enumerate(cells):
        head, place = cell.strip(), Place(line, letter(number))
        if head in heads:
            faults.append(Fault(f"{head} is a column twice", place))
        elif head in BESIDE or columns.field_of(head):
            heads[head] = number
        elif head:
            faults.append(Fault(f"{shown(head)} is no column{_meant(head)}", place))
    return heads


def _meant(head: str) -> str:
    known = [*BESIDE, *columns.PLAIN]
    similar = difflib.get_close_matches(head.lower(), known, 1)
    meant = f", did you mean {similar[0]}?" if similar else ";"
    return f"{meant} docs/stores.md has all of them"


def _row(line: int, cells: list[str], heads: Mapping[str, int]) -> Row:
    texts = {head: cells[number].strip() for head, number in heads.items()}
    values: dict[str, Any] = {}
    for head, text in texts.items():
        field = columns.field_of(head)
        if text and field and head not in BESIDE:
            values[head] = columns.from_cell(field, text)
    beside = {head: text for head, text in texts.items() if text and head in BESIDE}
    at = {head: Place(line, letter(number)) for head, number in heads.items()}
    return Row(Place(line), columns.nested(values), beside, at)


def written(rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """
    Return a list of stores as CSV.

    rows
        Of each store the columns beside the field table, and its flat values.
    """
    rows = list(rows)
    used = {column for beside, values in rows for column in (*beside, *values)}
    unfit = sorted(each for each in used if each not in BESIDE and not columns.field_of(each))
    if unfit:
        raise Refused(f"CSV has no column for {', '.join(unfit)}", "name a file that ends in .yaml")
    heads = sorted(used | {HYPERVISOR}, key=columns.order)
    known = {head: columns.field_of(head) if head not in BESIDE else None for head in heads}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for beside, values in rows:
        writer.writerow(
            columns.to_cell(field, values.get(head)) if field else beside.get(head, "")
            for head, field in known.items()
        )
    return text.getvalue()
