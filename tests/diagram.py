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


def table() -> str:
    """Return the states as a Markdown table."""
    heads = ("state", "what happens", "over when", "fails after", "what takes it back")
    rows = [
        (f"`{state.name}`", state.happens, state.over, limit(state.limit_s), state.undo)
        for state in lifecycle.STATES.values()
    ]
    return "\n".join(map(line, (heads, ["---"] * len(heads), *rows)))


def line(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def limit(seconds: int) -> str:
    """Return a state's limit as a person would say it, nothing if there is none."""
    if seconds >= lifecycle.HOUR and seconds % lifecycle.HOUR == 0:
        return f"{seconds // lifecycle.HOUR} h"
    return f"{seconds // lifecycle.MINUTE} min" if seconds else ""


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
