# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What Uyuni's form page makes of a value, taken back to what was filled in.

The page saves an emptied field as an empty text, a number as one with a decimal point, and lists of
mappings best as mappings by name (uyuni-docs: "Formulas with Forms"). A pillar that was written by
hand has the plain shapes; both mean the same. Whatever else is wrong stays wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storemaster.deployment.fields import PARTS, PROBES, Kind

EMPTY = ""
"""What an emptied field is saved as: it is not given."""


def given(kind: Kind, value: Any) -> Any:
    """Return a value as the table knows it, :data:`EMPTY` if it is not given."""
    if isinstance(value, Mapping) and not value and kind in (PARTS, PROBES):
        # The last item was taken away.
        return ()
    if kind.schema.get("type") == "integer":
        return _whole(value)
    if isinstance(value, list) and (item := kind.schema.get("items")):
        whole = item.get("type") == "integer"
        return [_whole(each) if whole else each for each in value if each != EMPTY]
    return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def items(kind: Kind, value: Any) -> Iterator[tuple[str, Any]]:
    """Return the mappings of a list, however it is saved, each with where it is."""
    if not isinstance(value, Mapping):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif kind is PARTS:
        for name, rest in value.items():
            own = {"name": name} if isinstance(rest, Mapping) and not rest.get("name") else {}
            yield f".{name}", {**rest, **own} if isinstance(rest, Mapping) else rest
    else:
        for probe, values in value.items():
            if isinstance(values, (list, tuple)):
                yield from (
                    (f".{probe}[{i}]", {probe: v}) for i, v in enumerate(values) if v != EMPTY
                )
            elif values != EMPTY:
                # No list: let it be told as it is.
                yield f".{probe}", values
