# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The columns of a store list, which are the fields of the field table by their paths.

What has a name stands by it, as on a form's page: ``interfaces.eth0.address``; a column of
``verify`` has all the probes of its kind. So both forms of a list, and what is in a pillar, become
one flat mapping of columns to values, and that can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from storemaster.deployment import fields, formats, forms
from storemaster.deployment.fields import ANYTHING, PART, PARTS, PROBES, TABLE, Field

HYPERVISOR, GROUP, HYPERVISOR_MAC = "hypervisor", "group", "hypervisor_mac"
BESIDE = {
    HYPERVISOR: "minion ID of the store's hypervisor; required",
    GROUP: "name of the group that the store is in",
    HYPERVISOR_MAC: "hardware address of a hypervisor that Uyuni does not know yet",
}
"""Columns that are no field of the store's own, and what they mean."""

GUEST_PILLAR = "guest_pillar"
"""The field whose keys are the site's own."""

NAMED = tuple(field.path for field in TABLE if field.kind is PARTS)
PROBED = tuple(field.path for field in TABLE if field.kind is PROBES)

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
SEPARATED = re.compile(r"[\s,;]+")

Own = dict[str, Any]
"""What a store has of its own, as ``store_server`` has it; lists of mappings by name."""


def parts(column: str) -> list[str]:
    """Return the keys that lead to a column's value; a name may have dots in it."""
    where, _, key = column.rpartition(".")
    top, _, name = where.partition(".")
    return [top, name, key] if top in NAMED and name else column.split(".")


def field_of(column: str) -> Field | None:
    """Return the field whose value a column has, ``None`` if there is no such column."""
    *where, key = parts(column)
    if where and where[0] in NAMED:
        good = len(where) == 2 and key != "name" and formats.NAME.fullmatch(where[1])
        return fields.under(f"{where[0]}[]").get(key) if good else None
    if where and where[0] in PROBED:
        return fields.under(f"{where[0]}[]").get(key) if len(where) == 1 else None
    field = fields.under(".".join(where)).get(key)
    return field if field and field.kind not in (PART, PARTS, PROBES) else None


def shape(field: Field) -> str:
    """Return a field's column as it is documented."""
    for path in PROBED:
        if field.where == f"{path}[]":
            return field.path.replace("[]", "")
    return field.path.replace("[]", ".NAME")


SHAPES = {
    shape(field): field
    for field in TABLE
    if field.kind not in (PART, PARTS, PROBES)
    and not field.path.endswith("[].name")
    and field.path not in BESIDE
}
"""All columns that are fields, with NAME and STATE where they have one."""

PLAIN = tuple(field.path for field in TABLE if field_of(field.path))
"""Columns whose names have no name or state in them."""


def order(column: str) -> tuple[int, list[str], int]:
    """Return what columns are sorted by: the field table, and names where they are of one kind."""
    beside, paths = list(BESIDE), [field.path for field in TABLE]
    if column in beside:
        return beside.index(column) - len(beside), [], 0
    field = field_of(column)
    top, *rest = parts(column)
    place = paths.index(top) if top in paths else len(paths)
    return place, rest[:-1], paths.index(field.path) if field else 0


def nested(values: Mapping[str, Any]) -> Own:
    """Return values by their columns as ``store_server`` has them."""
    own: Own = {}
    for column, value in values.items():
        *where, key = parts(column)
        part: Any = own
        for each in where:
            part = part.setdefault(each, {}) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part[key] = value
        else:
            # What a faulty pillar has: a key with dots, beside one that is no mapping.
            own[column] = value
    return own


def in_order(own: Mapping[str, Any]) -> Own:
    """Return ``store_server`` as it is written: in the table's order, without what is not given."""
    given = nested(flat(own))
    return {key: given[key] for key in sorted(given, key=order)}


def stripped(own: Mapping[str, Any]) -> Own:
    """Return ``store_server`` without the keys that have an empty text: they are not given."""
    return {
        key: stripped(value) if isinstance(value, Mapping) and key != GUEST_PILLAR else value
        for key, value in own.items()
        if not (isinstance(value, str) and value == forms.EMPTY)
    }


def named(own: Mapping[str, Any]) -> Own:
    """Return ``store_server`` with its lists of mappings by name; what is faulty stays as it is."""
    return {str(key): _named(key, value) for key, value in own.items()}


def _named(key: str, value: Any) -> Any:
    items = [value] if not isinstance(value, (list, tuple)) else value
    if not items or not all(isinstance(item, Mapping) for item in items):
        return value
    if key in NAMED and isinstance(value, Mapping):
        return {name: _without_its_name(name, rest) for name, rest in value.items()}
    if key in NAMED:
        names = [item.get("name") for item in items]
        good = all(isinstance(name, str) and formats.NAME.fullmatch(name) for name in names)
        if good and len(set(names)) == len(names):
            return {item["name"]: _without_its_name(item["name"], item) for item in items}
    if key in PROBED and not isinstance(value, Mapping) and all(len(item) == 1 for item in items):
        probes: dict[str, list[Any]] = {}
        for probe, each in (pair for item in items for pair in item.items()):
            probes.setdefault(probe, []).append(each)
        return probes
    return value


def _without_its_name(name: str, rest: Any) -> Any:
    if not isinstance(rest, Mapping):
        return rest
    return {key: value for key, value in rest.items() if (key, value) != ("name", name)}


def flat(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given in ``store_server``, by its columns."""
    found: dict[str, Any] = {}
    for key, value in named(own).items():
        field = fields.under("").get(key)
        inner = field is not None and field.kind in (PART, PARTS, PROBES)
        if not inner or not isinstance(value, Mapping):
            found[key] = value
            continue
        for name, rest in value.items():
            if key in NAMED and isinstance(rest, Mapping):
                found |= {f"{key}.{name}.{each}": of for each, of in rest.items()}
            else:
                found[f"{key}.{name}"] = rest
    return {column: _as_known(column, value) for column, value in stripped(found).items()}


def _as_known(column: str, value: Any) -> Any:
    """Return a number as a form saves it as the whole number that it is."""
    field = field_of(column)
    if field is None or isinstance(value, Mapping):
        return value
    if field.where in [f"{each}[]" for each in PROBED] and isinstance(value, (list, tuple)):
        return [forms.given(field.kind, each) for each in value if each != forms.EMPTY]
    return forms.given(field.kind, list(value) if isinstance(value, tuple) else value)


def is_secret(column: str) -> bool:
    """Say whether the value may be one that must not be shown."""
    field = field_of(column)
    return field is None or field.kind.secret


def several(field: Field) -> Mapping[str, Any] | None:
    """Return the schema of an item where a column has several."""
    if field.where in [f"{each}[]" for each in PROBED]:
        return field.kind.schema
    items: Mapping[str, Any] | None = field.kind.schema.get("items")
    return items


def from_cell(field: Field, text: str) -> Any:
    """Return the value that a cell's text means; what it cannot mean stays a text."""
    item = several(field)
    if field.kind is ANYTHING or (item is not None and text.startswith("[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if item is None:
        return _single(field.kind.schema, text)
    lines = field.path.endswith(".command")
    split = text.splitlines() if lines else SEPARATED.split(text)
    return [_single(item, each.strip()) for each in split if each.strip()]


def _single(schema: Mapping[str, Any], text: str) -> Any:
    if schema.get("type") == "integer" and WHOLE.fullmatch(text):
        return int(text)
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def to_cell(field: Field, value: Any) -> str:
    """Return the text of a cell that means the value."""
    if isinstance(value, str) or value is None:
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = ("\n" if field.path.endswith(".command") else " ").join(map(str, value))
        if text and from_cell(field, text) == value:
            return text
    return json.dumps(value)
