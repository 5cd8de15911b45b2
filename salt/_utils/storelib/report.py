# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Reports: what a minion's module tells the runner after an act.

Each report is made by :func:`made` on the minion and read by :func:`opened` on the master, and
nowhere else, so that one place decides what a report is and whether it is believed.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from storelib import __version__, seal
from storelib.errors import Fault

log = logging.getLogger(__name__)

ODD = "see the traceback in that minion's log; if the machine is in order, report it as a fault"

SAID = 200
"""How much of an exception's own words is told; the first line only, for it may hold anything."""

CORE = "storelib"
MODULES = ("provisioning_helper.py", "store_hypervisor.py")
"""Where our code is, on a minion."""


class NotAReport(ValueError):
    """The job returned something else: an error text of Salt's, or another module's data."""


class Unsealed(NotAReport):
    """It looks like a report, and anybody may have sent it."""


@dataclass(frozen=True)
class Report:
    """A report that the master has read and believes."""

    store: str
    generation: int
    step: str
    ok: bool
    error: str
    hint: str
    facts: dict[str, Any]
    version: str
    nonce: str
    seal: str


TYPES = {
    "store": str,
    "generation": int,
    "step": str,
    "ok": bool,
    "error": str,
    "hint": str,
    "facts": dict,
    "version": str,
    "nonce": str,
    "seal": str,
}
"""Exactly these, as a job's return is any minion's word."""


def made(
    store: str | Mapping[str, Any],
    generation: int,
    step: str,
    facts: Mapping[str, Any],
    error: str = "",
    hint: str = "",
) -> dict[str, Any]:
    """
    Make the report of one act.

    store
        ID of the store, or the spec that holds it.
    generation
        Number of the deployment that asked.
    step
        Name of the function that acted, such as ``define``.
    facts
        What was read back after the act.
    error, hint
        What is wrong and what the operator can do, one sentence each; empty if nothing is.
    """
    return {
        "store": store if isinstance(store, str) else store["store"],
        "generation": generation,
        "step": step,
        "ok": not error,
        "error": error,
        "hint": hint,
        "facts": dict(facts),
        "version": __version__,
        "nonce": "",
        "seal": "",
    }


def on(
    act: Callable[[], Mapping[str, Any]],
    store: str | Mapping[str, Any],
    generation: int,
    step: str,
    nonce: str,
    shared: str,
) -> dict[str, Any]:
    """
    Act, and return the sealed report on it, whatever is raised.

    act
        Returns the facts that were read back, or raises :class:`storelib.errors.Fault`.
    store, generation, step
        As for :func:`made`.
    nonce, shared
        As for :func:`sealed`.
    """
    facts, error, hint = dict[str, Any](), "", ""
    try:
        facts = dict(act())
    except Fault as fault:
        facts, error, hint = dict(fault.facts), str(fault), fault.hint
    except (Exception, SystemExit) as err:  # parts of Salt mean to end a command
        log.exception("%s: %s", store if isinstance(store, str) else store.get("store"), step)
        error, hint = unforeseen(step, err)
    return sealed(made(store, generation, step, facts, error, hint), nonce, shared)


def sealed(report: Mapping[str, Any], nonce: str, shared: str) -> dict[str, Any]:
    """
    Return the report with its seal; without one if the minion has no secret yet.

    nonce
        What the master sent with its question, so that no old report can be told again.
    shared
        The secret that the minion shares with the master.
    """
    # What the master reads has been through JSON's types: tuples are lists there, keys strings.
    try:
        text = json.dumps(report, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as err:
        error = f"{report['step']} found what no report can hold: {err}"
        text = json.dumps({**report, "ok": False, "facts": {}, "error": error, "hint": ODD})
    # Salt sends no half characters, such as a file name that is no UTF-8 has.
    whole = text.encode(errors="replace")
    content = {**json.loads(whole), "nonce": nonce, "seal": ""}
    return {**content, "seal": seal.of(content, shared) if shared else ""}


def unforeseen(step: str, err: BaseException) -> tuple[str, str]:
    """Return error and hint for an exception that nobody thought of: what it was, and where."""
    try:
        said = next(iter(str(err).splitlines()), "")[:SAID]
    except Exception:
        said = ""
    said = "".join(filter(str.isprintable, said))
    places = (
        (PurePath(frame.f_code.co_filename), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(err.__traceback__)
    )
    ours = [(path, line, name) for path, line, name in places if _ours(path)]
    where = ""
    if ours:
        path, line, name = ours[-1]
        inside = path.parts[path.parts.index(CORE) :] if CORE in path.parts else [path.name]
        where = f" ({'/'.join(inside)}:{line}, in {name})"
    return f"{step} broke: {type(err).__name__}{said and ': '}{said}{where}", ODD


def _ours(path: PurePath) -> bool:
    return CORE in path.parts or path.name in MODULES


def believed(returned: object, nonces: Sequence[str], shared: str) -> bool:
    """Say whether a report is sealed by the minion that was asked, and answers this question."""
    return (
        isinstance(returned, Mapping)
        and returned.get("nonce") in nonces
        and seal.holds({**returned, "seal": ""}, str(returned.get("seal")), shared)
    )


def opened(returned: object, store: str, generation: int, step: str) -> Report:
    """
    Read what a job returned as the report that was asked for.

    Raises :class:`NotAReport` if it is anything else.
    """
    if not isinstance(returned, Mapping):
        raise NotAReport(f"{step} returned no report but: {str(returned)[:300]}")
    types = {key: type(value) for key, value in returned.items()}
    if types != TYPES or returned["ok"] == bool(returned["error"]):
        raise NotAReport(f"{step} returned no report but: {str(dict(returned))[:300]}")
    report = Report(**returned)
    if (report.store, report.generation, report.step) != (store, generation, step):
        raise NotAReport(
            f"{step} for store {store}, deployment {generation}, was answered with a report on "
            f"{report.step}, store {report.store}, deployment {report.generation}"
        )
    return report
