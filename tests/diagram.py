#!/usr/bin/env python3
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Write what is made of the product's own tables: parts of a page, between markers, a schema, a form.

usage: diagram.py FILE
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_utils"))
import budgets
import pillar_schema
import uyuni_forms

from storemaster.deployment import fields, form_pages, lifecycle
from storemaster.deployment.store_list import columns
from storemaster.deployment.times import lasting


def states() -> str:
    """Return the states as a Markdown table."""
    heads = ("state", "what happens", "over when", "fails after", "what takes it back")
    rows = [
        (
            f"`{state.name}`",
            state.happens,
            state.over,
            lasting(state.limit_s) if state.limit_s else "",
            state.undo,
        )
        for state in lifecycle.STATES.values()
    ]
    return table(heads, rows)


def reference() -> str:
    """Return the fields of the pillar as a Markdown table."""
    heads = ("key", "default", "allowed", "usually of", "meaning")
    rows = [
        (f"`{field.path}`", default(field), field.kind.allowed, field.scope, field.meaning)
        for field in fields.TABLE
    ]
    return table(heads, rows)


def list_columns() -> str:
    """Return the columns of a store list as a Markdown table."""
    rows = [(f"`{name}`", "", "store", meaning) for name, meaning in columns.BESIDE.items()]
    for name, field in columns.SHAPES.items():
        one = field.kind.schema.get("items") is None
        many = "several, each " if one and columns.several(field) else ""
        page = on_pages(field)
        rows.append((f"`{name}`", f"{many}{field.kind.allowed}", page, field.meaning))
    return table(("column", "allowed", "with Uyuni", "meaning"), rows)


def on_pages(field: fields.Field) -> str:
    """Say on whose page of Uyuni a field is."""
    if field.path == "timeouts.STATE":
        return "group: " + ", ".join(form_pages.TIMEOUTS)
    shown = form_pages.SHOWN
    pages = {"store": form_pages.SERVER, "group": form_pages.DEFAULTS}
    return ", ".join(whose for whose, page in pages.items() if field.path in shown[page])


def default(field: fields.Field) -> str:
    """Return the default of a field in words or as JSON."""
    if field.default is fields.REQUIRED:
        return "required"
    if field.default_told:
        return field.default_told
    text = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return f"`{text}`"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(map(line, (heads, ["---" for _ in heads], *escaped)))


def line(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def main(file: Path) -> None:
    """Rewrite what is between the markers, or the whole schema, or form."""
    if (made := f"{file.parent.name}/{file.name}") in (files := uyuni_forms.files()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files[made])
        return
    if file.suffix == ".json":
        file.write_text(pillar_schema.as_text())
        return
    text = file.read_text()
    parts = {
        "lifecycle": f"```mermaid\n{lifecycle.diagram()}\n```",
        "states": states(),
        "fields": reference(),
        "columns": list_columns(),
        "budgets": table(("part", "budget", "seen", "where the time goes"), budgets.rows()),
    }
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        text = re.sub(f"(?s){begin}.*?{end}", lambda _, new=begin + part + end: new, text)
    file.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
