#!/usr/bin/env python3
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Write the lifecycle's diagram and its table of states into a README, between their markers.

usage: diagram.py README
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_utils"))
from storelib import lifecycle
from storelib.times import lasting


def table() -> str:
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
    return "\n".join(map(line, (heads, ["---"] * len(heads), *rows)))


def line(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def main(readme: Path) -> None:
    """Rewrite what is between the markers."""
    text = readme.read_text()
    parts = {"lifecycle": f"```mermaid\n{lifecycle.diagram()}\n```", "states": table()}
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        text = re.sub(f"(?s){begin}.*?{end}", lambda _, new=begin + part + end: new, text)
    readme.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
