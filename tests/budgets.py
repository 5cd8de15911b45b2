#!/usr/bin/env python3
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
How long each part of the tests may take, how long it took, and why it failed.

usage: budgets.py FOLDER SECONDS    print what the parts of a run have noted there, and the whole

A part's note is one line: Salt line, part, seconds, exit status; what it printed is beside it, in a
file of the same name and .log. The seconds are for a machine of 2 processors without KVM on which
the parts run side by side.
"""

import re
import sys
from pathlib import Path

BUDGETS = {
    "unit": (
        350,
        "150 s to 320 s; on 3006 50 s",
        "thousands of short tests, most with a ledger in a file",
    ),
    "functional": (
        1500,
        "790 s to 1450 s",
        "Salt's loader, `salt-run` (a second or more a call), qemu-img",
    ),
    "packaging": (
        150,
        "45 s alone, 95 s beside others",
        "two builds of each package, `salt-run deploy.doctor` for each way to install",
    ),
    "e2e": (
        1600,
        "1130 s alone, 1580 s with the making of its image",
        "a real guest, which boots three times in each deployment",
    ),
    "hypervisor": (
        1500,
        "1240 s with the making of its image",
        "a guest that boots six times and whose network is taken away from it four times",
    ),
    "uyuni": (
        900,
        "310 s alone",
        "a real guest, which boots three times",
    ),
    "test_time.py": (1100, "940 s", "processes that stand still, limits that are waited for"),
    "test_page.py": (
        600,
        "420 s",
        "a real browser; the proxy slows log-ins down; axe-core in each view",
    ),
    "test_restored.py": (
        1100,
        "340 s on 3008, 1090 s on 3006",
        "deployments that go on after their ledger was put back",
    ),
    "other": (
        450,
        "70 s to 400 s",
        "starts of master and minions, deployments side by side",
    ),
}
"""Seconds, those that were seen, and where they go. Other files of integration/ are all alike."""

WHOLE = (
    3000,
    "2740 s",
    "all parts side by side, the longest ones begin first",
)


MANY, WIDTH = 20, 300
"""How many lines tell why a part failed, and how long each of them may be."""


def budget_s(part: str) -> int:
    """Return the seconds that a part may take; 0 if it has no budget."""
    alike = part.startswith("test_") and part not in BUDGETS
    return BUDGETS.get("other" if alike else part, (0,))[0]


def rows() -> list[tuple[str, str, str, str]]:
    """Return part, budget, what was seen and where the time goes, as words."""
    names = {part: f"`{part}`" for part in BUDGETS} | {"other": "other files of `integration/`"}
    told = [(names[part], *row) for part, row in BUDGETS.items()] + [("`make test`", *WHOLE)]
    return [(name, f"{budget} s", seen, why) for name, budget, seen, why in told]


def table(notes: list[str], whole_s: int) -> str:
    """Return what was noted as a table, the longest part first."""
    parts = []
    for note in notes:
        salt, part, seconds, status = note.split()
        parts.append((int(seconds), f"{salt} {part}", budget_s(part), status != "0"))
    parts.sort(reverse=True)
    lines = [f"{'part':<36}{'seconds':>8}{'budget':>8}"]
    for seconds, part, budget, failed in [*parts, (whole_s, "all, side by side", WHOLE[0], False)]:
        told = "  failed" if failed else "  over its budget" if seconds > budget > 0 else ""
        lines.append(f"{part:<36}{seconds:>8}{budget or '-':>8}{told}")
    return "\n".join(lines)


def reasons(printed: str) -> list[str]:
    """Return the lines of what a part printed that tell why it failed, the first ones."""
    told = re.findall(r"^(?:E   |FAILED |ERROR |make).*", printed, re.MULTILINE)
    # Tests that failed for the same reason say so one after the other.
    return [line[:WIDTH] for line in dict.fromkeys(told)][:MANY] or printed.splitlines()[-MANY:]


def main(folder: Path, whole_s: int) -> None:
    """Print the table of a run, and what is known of the parts that failed."""
    notes = {path.stem: path.read_text() for path in sorted(folder.glob("*.note"))}
    print(table(list(notes.values()), whole_s))
    for name, note in notes.items():
        if note.split()[-1] != "0":
            print(f"\n{name} failed:")
            print("\n".join(reasons((folder / f"{name}.log").read_text(errors="replace"))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
