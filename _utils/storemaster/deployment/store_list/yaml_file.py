# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""YAML as store lists and pillar files have it: read with the place of each value, and written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from storemaster.deployment.formats import shown
from storemaster.deployment.store_list import columns
from storemaster.deployment.store_list.columns import BESIDE, GROUP
from storemaster.deployment.store_list.rows import Fault, Place, Row, StoreList

DEEPEST = 4
"""Mappings in each other whose places are kept: the field table has no more."""

STORES, GROUPS = "stores", "groups"
SHAPE = f"a list of stores, or a mapping with {STORES}, such a list, and {GROUPS}"

Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(Fast):  # type: ignore[misc]
    """As Salt reads YAML: a date is a text."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_scalar)


def load(text: str) -> Any:
    """Return what a YAML file says. Raises :class:`yaml.YAMLError`."""
    return yaml.load(text, Loader=Loader)


def read(text: str) -> StoreList:
    """Read the text of a YAML file."""
    found = StoreList()
    try:
        loader = Loader(text)
        top = loader.get_single_node()
        if top is not None:
            found.faults += _doubles(top)
            _take(found, loader, top)
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        what = str(getattr(err, "problem", None) or err)
        found.faults.append(Fault(f"this is no YAML: {what}", _place(mark) if mark else Place(1)))
    if not found.rows and not found.faults:
        found.faults.append(Fault(f"no store is in it, allowed: {SHAPE}", Place(1)))
    return found


def _take(found: StoreList, loader: Any, top: yaml.Node) -> None:
    """Take stores and groups out of what was read."""
    pairs = top.value if isinstance(top, yaml.MappingNode) else []
    parts = {str(key.value): (key, value) for key, value in pairs}
    for name, (key, _) in parts.items():
        if name not in (STORES, GROUPS):
            told = f"{shown(name)} is neither {STORES} nor {GROUPS}"
            found.faults.append(Fault(told, _place(key.start_mark)))
    if GROUPS in parts:
        _take_groups(found, loader, parts[GROUPS][1])
    stores = parts[STORES][1] if STORES in parts else top
    if not isinstance(stores, yaml.SequenceNode):
        found.faults.append(Fault(f"this is no list, allowed: {SHAPE}", _place(top.start_mark)))
        return
    found.rows = [_row(loader, node, found.faults) for node in stores.value]


def _take_groups(found: StoreList, loader: Any, groups: yaml.Node) -> None:
    if not isinstance(groups, yaml.MappingNode):
        told = f"{GROUPS} is no mapping of names to what each group has"
        found.faults.append(Fault(told, _place(groups.start_mark)))
        return
    for key, node in groups.value:
        row, name = _row(loader, node, found.faults), str(key.value)
        found.faults += [
            row.fault(each, f"{each} is of a store, not of a group") for each in row.beside
        ]
        found.groups[name] = Row(row.place, row.own, {GROUP: name}, row.at, is_group=True)


def _row(loader: Any, node: yaml.Node, faults: list[Fault]) -> Row:
    place = _place(node.start_mark)
    value = loader.construct_object(node, deep=True)
    if not isinstance(value, Mapping):
        faults.append(Fault(f"{shown(value)} is no mapping of columns to values", place))
        value = {}
    # Also where a merge key has brought them; of two the later one counts, as it does in YAML.
    at = {path: _place(mark) for path, mark in _marks(node)}
    own = {str(key): each for key, each in value.items() if key not in BESIDE}
    beside = {key: value[key] for key in BESIDE if key in value}
    return Row(place, columns.named(columns.stripped(own)), beside, at)


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, str(mark.column + 1))


def _marks(node: yaml.Node, path: str = "", depth: int = 0) -> Iterator[tuple[str, yaml.Mark]]:
    """Yield where each value begins, by each of the paths that it can have."""
    yield path, node.start_mark
    if depth == DEEPEST or path == columns.GUEST_PILLAR:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else str(key.value)
            yield from _marks(value, here, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        probes: dict[str, int] = {}
        for number, item in enumerate(node.value):
            yield from _marks(item, f"{path}[{number}]", depth + 1)
            pairs = item.value if isinstance(item, yaml.MappingNode) else []
            known = {str(key.value): value for key, value in pairs}
            if "name" in known:
                yield from _marks(item, f"{path}.{known['name'].value}", depth + 1)
            elif len(known) == 1:
                ((probe, value),) = known.items()
                yield f"{path}.{probe}[{probes.get(probe, 0)}]", value.start_mark
                probes[probe] = probes.get(probe, 0) + 1


def _doubles(node: yaml.Node, depth: int = 0) -> Iterator[Fault]:
    """Find keys that a mapping has twice: YAML would take the last one without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                line = seen[name].start_mark.line + 1
                told = f"the key {shown(name)} is here twice, first in line {line}"
                yield Fault(told, _place(key.start_mark))
            seen[name] = key
            if depth < DEEPEST + 2:
                yield from _doubles(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode) and depth < DEEPEST + 2:
        for item in node.value:
            yield from _doubles(item, depth + 1)


def plain(value: Any) -> str:
    """Say why a value is nothing that YAML and JSON both have; an empty text if it is."""
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            return f"the key {shown(odd[0])} is no text: quote it"
        return next(filter(None, map(plain, value.values())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(plain, value)), "")
    known = value is None or isinstance(value, (str, bool, int, float))
    return "" if known else f"a {type(value).__name__} is no plain value"


# To write it: what Jinja would take for its own is escaped, since Salt renders a pillar by it.
UNSAFE = re.compile(r'["\\]|\{(?=[{%#])|[^ -~]')
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def text(value: str) -> str:
    """Return a text in double quotes."""
    return f'"{UNSAFE.sub(_escaped, value)}"'


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable() and character != "{":
        return character
    number = ord(character)
    digits = "x02" if number < 0x100 else "u04" if number < 0x10000 else "U08"
    return f"\\{digits[0]}{number:{digits[1:]}x}"


def inline(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text(key)}: {inline(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return text(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    # Without a dot YAML 1.1 takes it for a text.
    whole, exponent, rest = repr(value).partition("e")
    return f"{whole if '.' in whole else f'{whole}.0'}{exponent}{rest}"


def lines(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield the lines of a mapping."""
    for key, each in value.items():
        bare = PLAIN_KEY.fullmatch(key) and key.lower() not in NOT_TEXT
        head = f"{indent}{key if bare else text(key)}:"
        if isinstance(each, Mapping) and each:
            yield head
            yield from lines(each, f"{indent}  ")
        else:
            yield f"{head} {inline(each)}"


def written(rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """
    Return a list of stores as YAML.

    rows
        Of each store the columns beside the field table, and its flat values.
    """
    made = [f"{STORES}:"]
    for beside, values in rows:
        first, *others = lines({**beside, **columns.in_order(columns.nested(values))}, "    ")
        made += [f"  - {first.lstrip()}", *others]
    return "\n".join(made) + "\n"
