# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The field table of the pillar as two forms of Uyuni: one for all stores of a group, one for a store.

Which fields each has is in :mod:`storemaster.deployment.form_pages`. The syntax is Uyuni's
(uyuni-docs, "Formulas with Forms").
"""

import json
import re
from typing import Any

import yaml

from storemaster.deployment import fields, lifecycle
from storemaster.deployment.form_pages import DEFAULTS, KEY, OTHER_DEFAULTS, SERVER, SHOWN, TIMEOUTS

Form = dict[str, Any]

LICENCE = """\
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# Made from the field table: make diagram
"""
FORMULAS = {
    DEFAULTS: {
        "description": "What the servers of all stores of a group have in common (store-deploy)",
        "group": "store_deploy",
        "pillar_only": True,
        "transactional": {"mode": "disabled"},
    },
    SERVER: {
        "description": "The server of one store, on this hypervisor (store-deploy)",
        "group": "store_deploy",
        "after": [DEFAULTS],
        # A transaction would ring before the reboot that makes its work real.
        "transactional": {"mode": "disabled"},
    },
}

NEEDED = {DEFAULTS: ("image.source", "image.sha256", "master"), SERVER: ("store",)}
"""What no page may be saved without; a browser refuses 0 and false there, too."""


def form(formula: str) -> Form:
    """Return a form, as its ``form.yml`` has it."""
    return {KEY: {"$name": "Store server", "$type": "group", **part(formula, "")}}


def part(formula: str, where: str) -> Form:
    """Return the fields of a mapping that are on a page."""
    known = [field for field in fields.TABLE if field.where == where]
    made = {field.path.rpartition(".")[2]: element(formula, field) for field in known}
    if where == "timeouts":
        (field,) = known
        return {state: element(formula, field, state) for state in TIMEOUTS}
    return {key: value for key, value in made.items() if value}


def element(formula: str, field: fields.Field, state: str = "") -> Form:
    """Return a field of a page; empty if it is not on it."""
    shown = SHOWN[formula]
    if field.path not in shown and not state:
        return {}
    told = {"$name": label(field, state), "$help": help_text(field, state)}
    if field.kind is fields.PART:
        return {**told, "$type": "group", **part(formula, field.path)}
    if field.kind is fields.PARTS:
        # A mapping by name: of a list the last one saved counts as a whole, and a sample is saved.
        key = fields.under(f"{field.path}[]")["name"]
        name = {"$name": "Name", "$type": "text", "$match": pattern(key), "$default": ""}
        prototype = {"$type": "group", "$key": name, **part(formula, f"{field.path}[]")}
        begins = OTHER_DEFAULTS.get((formula, field.path))
        given = {"$default": begins} if begins else {}
        told["$help"] += ". Remove the item without a name, if you need none"
        return {**told, "$type": "edit-group", "$minItems": 0, **given, "$prototype": prototype}
    if field.kind is fields.PROBES:
        return {**told, "$type": "group", **part(formula, f"{field.path}[]")}
    if field.where == "verify[]":
        return {**told, "$type": "edit-group", "$minItems": 0, "$prototype": single(formula, field)}
    if field.path in ("interfaces[].dns", "system_groups"):
        item = {"$type": "text", "$default": "", "$optional": True}
        return {**told, "$type": "edit-group", "$minItems": 0, "$prototype": item}
    return {**told, **single(formula, field)}


def single(formula: str, field: fields.Field) -> Form:
    """Return how a single value is filled in."""
    schema, default = field.kind.schema, field.default
    given = not (default is None or default is fields.REQUIRED or callable(default))
    if "enum" in schema:
        # What was never saved has its $default, and a browser shows the first one without it.
        values = [each for each in schema["enum"] if (field.path, each) not in NOT_SHOWN]
        begins = OTHER_DEFAULTS.get((formula, field.path), default)
        return {"$type": "select", "$values": values, "$default": begins}
    if schema["type"] == "boolean":
        return {"$type": "boolean", "$default": default}
    if schema["type"] == "integer":
        bounds = {"$min": schema["minimum"], "$max": schema["maximum"]}
        if formula == DEFAULTS and given:
            return {"$type": "number", **bounds, "$default": default}
        # An emptied one is dropped, and the group's counts.
        return {"$type": "number", **bounds, "$optional": True}
    made: Form = {"$type": "text", "$default": default if formula == DEFAULTS and given else ""}
    if field.path in NEEDED[formula]:
        return {**made, "$required": True, "$match": pattern(field)}
    return {**made, "$optional": True, "$match": pattern(field)}


NOT_SHOWN = {("interfaces[].type", "user")}
"""Choices that are for tests."""


def pattern(field: fields.Field) -> str:
    """
    Return what a text must be to a browser, which puts it between ``^`` and ``$``.

    Bracketed, because that binds to an alternation's ends; open to an empty text, because hidden
    and optional fields are tried, too.
    """
    plain = re.sub(r"^\^\((.*)\)\$$", r"\1", field.kind.schema["pattern"], flags=re.DOTALL)
    return f"(?:{plain})?"


def label(field: fields.Field, state: str) -> str:
    """Return the heading of a field."""
    key = state or field.path.rpartition(".")[2]
    for unit in ("mib", "gib", "s"):
        key = re.sub(rf"_{unit}$", f" ({unit.replace('mib', 'MiB').replace('gib', 'GiB')})", key)
    words = key.replace("_", " ")
    words = {"mac": "MAC address", "dns": "DNS servers", "cpus": "CPUs", "tcp": "TCP ports"}.get(
        words, words[0].upper() + words[1:]
    )
    return words if not state else f"{words} (s)"


def help_text(field: fields.Field, state: str) -> str:
    """Return what is told beside a field: plain text, and what is allowed."""
    meaning = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", field.meaning).replace("`", "")
    if state:
        limit = lifecycle.STATES[state].limit_s
        return f"{lifecycle.STATES[state].happens}: {meaning}; {limit} unless given"
    return f"{meaning}. Allowed: {field.kind.allowed}"


EXAMPLES = {
    DEFAULTS: {
        "image": {"source": "salt://images/store-server.qcow2", "sha256": "0" * 63 + "1"},
        "memory_mib": 4096,
        "interfaces": {"eth0": {"type": "bridge", "source": "br0"}},
        "master": "uyuni.example.com",
        "minion": "venv-salt-minion",
        "verify": {"tcp": [22], "service": ["sshd"]},
    },
    SERVER: {
        "store": "0417",
        "auto_deploy": True,
        "interfaces": {
            "eth0": {"address": "10.4.17.10/24", "gateway": "10.4.17.1", "dns": ["10.4.17.1"]}
        },
    },
}
"""What ``pillar.example`` shows; merged they describe a store."""


class Indented(yaml.SafeDumper):
    """Lists in a mapping stand further in than its keys, as everywhere here."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def files() -> dict[str, str]:
    """Return the files of both formulas, by their paths."""
    made = {}
    for formula, metadata in FORMULAS.items():
        parts = {
            "form.yml": form(formula),
            "metadata.yml": metadata,
            "pillar.example": {KEY: EXAMPLES[formula]},
        }
        for name, content in parts.items():
            # Through JSON: the table's tuples are no YAML.
            plain = json.loads(json.dumps(content))
            text = yaml.dump(plain, Dumper=Indented, sort_keys=False, width=80)
            made[f"{formula}/{name}"] = LICENCE + text
    return made
