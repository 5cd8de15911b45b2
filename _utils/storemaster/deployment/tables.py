# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What an operator reads on a terminal of 80 columns, where no data in a format was asked for.

Salt's own outputter shows it: a list with a dash for each row, a mapping sorted by its keys (Salt
3008 loses any other order), and an exit status of 1 takes a mapping that has ``retcode``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storemaster.deployment import lifecycle
from storemaster.deployment.record import Change, Line, Record
from storemaster.deployment.times import lasting
from storemaster.deployment.views import NAMED, Plan, timeline

WIDTH = 79
"""Columns of a terminal that a line of ours may take."""

IN_A_LIST = WIDTH - len("- ")
"""The same where Salt shows a list."""

UNDER_A_KEY = WIDTH - len("    ")
"""The same where it shows what a key has."""

COLUMN = UNDER_A_KEY - len("old server  ")
"""The same of a plan's second column."""

SHOWN = 20
"""Stores of one kind that are named of a list's."""

TYPED = re.compile(
    r"(?:salt-run|salt-key|systemctl|virsh|qemu-img|losetup|chgrp|chmod|chown|rm|mv|cp|sed|kill) "
    r"|(?:salt|salt-call) \S+ \w+\.\w|(?:ln|install|df) -|\S+ -m pip "
)
"""How a command begins that is to be typed."""

_COMMAND = re.compile(rf"(?<![\w/-])(?:{TYPED.pattern})(?:(?!; |, [a-z]| \().)*")
_TIED = "\N{NO-BREAK SPACE}"
"""What holds the words of a command together meanwhile."""


def table(records: Sequence[Line | Record], now: float) -> list[str]:
    """Return the list as people read it: a line each, cut where a terminal ends."""
    heads = _aligned([[r.store, r.state, lasting(now - r.since)] for r in records])
    lines = [f"{head}{_where(r)}" for head, r in zip(heads, records, strict=True)]
    return [line if len(line) <= IN_A_LIST else f"{line[: IN_A_LIST - 4]} ..." for line in lines]


def _where(this: Line | Record) -> str:
    """Say where the server is, and why it is not further."""
    why = " ".join(this.reason.split())
    if this.failed_in and not why.startswith(this.failed_in):
        why = f"{this.failed_in}: {why}"
    return f"{this.hypervisor}: {why}" if why else this.hypervisor


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the beginning of a line for each row, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def story(changes: Sequence[Change], now: float) -> list[str]:
    """Return the history as people read it."""
    rows = timeline(changes, now)
    took = ["" if row["took_s"] is None else lasting(row["took_s"]) for row in rows]
    heads = _aligned(
        [[row["at"], row["state"], each] for row, each in zip(rows, took, strict=True)]
    )
    return [_wrapped(head, _told(row), IN_A_LIST) for head, row in zip(heads, rows, strict=True)]


def _told(row: Mapping[str, Any]) -> str:
    """Return why a state was entered, and by whom, if that was somebody."""
    by = f"({row['actor']}, {row['way']})" if row["actor"] else ""
    return " ".join(filter(None, [row["reason"], by]))


def progress(change: Change, began: float) -> str:
    """Return what a change is shown as while it is watched."""
    told = change.state in (lifecycle.FAILED.name, change.previous)
    what = change.reason if told else lifecycle.STATES[change.state].happens
    return _wrapped(f"{max(0.0, change.at - began):8.1f} s  {change.state:<19}  ", what)


def waiting(reason: str, seconds: float) -> str:
    """Return what a reason is shown as that has held on for a while."""
    return _wrapped(f"{max(0.0, seconds):8.1f} s    ", reason)


def plan(this: Plan) -> dict[str, Any]:
    """Return a plan as people read it: what would be made, then what is in the way."""
    ways = [("fault", _fault(*each, COLUMN)) for each in this.faults] or [("faults", "none")]
    shown: dict[str, Any] = {"plan": _rows([*this.about(), *this.would, *ways])}
    if this.spec:
        shown |= {"spec": this.spec, "steps": _rows(this.steps)}
    return shown


def faults(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the doctor found as people read it."""
    width, rows = UNDER_A_KEY - len("- "), []
    for each in found:
        # The sentence names the first of many.
        named = ", ".join(each.get("hypervisors", ())[NAMED:])
        more = [_wrapped("and: ", named, width)] if named else []
        rows.append("\n".join([_fault(each["fault"], each["mend"], width), *more]))
    return {"faults": rows or "none"}


def outbox(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the receivers as people read them, and what waits for one of them."""
    heads = _aligned([[row["receiver"], row["kind"] or "gone", _count(row)] for row in rows])
    lines = [_wrapped(head, row["fault"], IN_A_LIST) for head, row in zip(heads, rows, strict=True)]
    notices = [each for row in rows for each in row.get("notices", ())]
    kept = _aligned(
        [
            [each["at"], each["store"], each["state"], "set aside" if each["set_aside"] else ""]
            for each in notices
        ]
    )
    return lines + [
        _wrapped(head, each["fault"], IN_A_LIST)
        for head, each in zip(_cut(kept), notices, strict=False)
    ]


def _count(row: dict[str, Any]) -> str:
    aside = f", {row['set_aside']} set aside" if row["set_aside"] else ""
    return f"{row['waiting']} waiting{aside}"


def store_list(told: dict[str, Any]) -> dict[str, Any]:
    """Return what an import would change, or has changed, as people read it."""
    rows = [("new", each) for each in _cut([_named(each) for each in told["new"]])]
    rows += [("changed", each) for each in _cut([_change(each) for each in told["changed"]])]
    rows += [("vanished", each) for each in _cut([_named(each) for each in told["vanished"]])]
    rows += [
        ("waiting", each) for each in _cut([f"{e['name']}: {e['why']}" for e in told["waiting"]])
    ]
    rows.append(("unchanged", f"{len(told['unchanged']):,}"))
    return {"stores": _rows([*rows, ("written", told["said"])])}


def _named(each: dict[str, Any]) -> str:
    return f"{each['name']} ({each['store']})" if each["store"] else each["name"]


def _change(each: dict[str, Any]) -> str:
    differs = [f"{key} {of['is']} -> {of['becomes']}" for key, of in each["changes"].items()]
    return f"{_named(each)}: {', '.join(differs)}"


def _cut(lines: list[str]) -> list[str]:
    """Return the first of many lines, and say how many follow."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {more:,} more: --out=json names all"] if more > 0 else ())]


def list_faults(told: Sequence[str]) -> list[str]:
    """Return the faults of a store list as people read them."""
    return [_wrapped("", each, UNDER_A_KEY - len("- ")) for each in told]


def _fault(told: str, mend: str, width: int) -> str:
    """Return a fault, and below it each thing that is to be done on a line of its own."""
    lines = [_wrapped("", told, width)]
    # Between quotes it is part of a name.
    for step in re.split(r"; (?=(?:[^']*'[^']*')*[^']*$)", mend) if mend else ():
        lines.append(_wrapped("mend: " if len(lines) == 1 else " " * 6, step, width))
    return "\n".join(lines)


def _rows(told: Iterable[tuple[str, str]]) -> str:
    """Return rows of two columns, the second one wrapped."""
    rows = list(told)
    heads = _aligned([[head] for head, _ in rows])
    lines = []
    for head, (_, text) in zip(heads, rows, strict=True):
        first, *others = text.splitlines()
        lines.append(_wrapped(head, first, UNDER_A_KEY))
        lines += [" " * len(head) + line for line in others]
    return "\n".join(lines)


def _wrapped(head: str, text: str, width: int = WIDTH) -> str:
    """
    Put ``text`` beside its head, in lines that a terminal does not break.

    No word is broken, and no command: who copies two lines of it would run the first by itself.
    """
    if not text:
        return head.rstrip()
    return textwrap.fill(
        _COMMAND.sub(lambda command: command[0].replace(" ", _TIED), text),
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(_TIED, " ")
