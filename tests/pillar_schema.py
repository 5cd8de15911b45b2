# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The field table of the pillar as JSON Schema, so that editors complete and check a store's YAML.

It is draft-07, which is what yaml-language-server reads. Its root is the pillar of a store as a
whole; ``#/definitions/part`` is one file of several that Salt merges, in which nothing is missing.
"""

import json
import re
from typing import Any

from storemaster.deployment import fields, formats, lifecycle

Schema = dict[str, Any]

XEN_TYPES = {"os_type": {"enum": ["xen", "xenpvh"]}}
RULES: dict[str, Schema] = {
    "": {
        "allOf": [
            {
                "if": {"required": ["os_type"], "properties": XEN_TYPES},
                "then": {"properties": {"virt_type": {"enum": ["xen", "auto"]}}},
            },
            {
                "if": {"required": ["firmware"], "properties": {"firmware": {"const": "efi"}}},
                "then": {"properties": {"os_type": {"const": "hvm"}}},
            },
        ]
    },
    "interfaces": {"minItems": 1, "minProperties": 1},
    "interfaces[]": {
        "allOf": [
            {
                "if": {"required": ["type"], "properties": {"type": {"const": "user"}}},
                "then": {"properties": {"source": {"type": "null"}}},
                "else": {"required": ["source"], "properties": {"source": {"type": "string"}}},
            },
            {
                "if": {"properties": {"type": {"const": "bridge"}}},
                "then": {"properties": {"source": {"pattern": f"^({formats.NAME.pattern})$"}}},
            },
            {
                "if": {"properties": {"address": {"const": "dhcp"}}},
                "then": {"properties": {"gateway": {"type": "null"}, "dns": {"maxItems": 0}}},
            },
        ]
    },
    "verify[]": {
        "oneOf": [
            {"required": [key], "properties": {key: {"not": {"type": "null"}}}}
            for key in fields.under("verify[]")
        ]
    },
}
"""What is wrong only together, as far as JSON Schema can say it; by the path of the mapping."""


def whole() -> Schema:
    """Return the schema."""
    store = {"$ref": "#/definitions/store_server"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "The pillar of a store; its reference is docs/pillar.md",
        "type": "object",
        "required": ["store_server"],
        "properties": {"store_server": {"allOf": [store, missing("")]}},
        "definitions": {
            "part": {
                "description": "One of the files that the pillar of a store is merged from",
                "type": "object",
                "properties": {"store_server": store},
            },
            "store_server": mapping(""),
        },
    }


def mapping(where: str) -> Schema:
    """Return the schema of a mapping of the table."""
    known = fields.under(where)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: value(key, field) for key, field in known.items()},
        **RULES.get(where, {}),
    }


def missing(where: str) -> Schema:
    """Return what a mapping must have, and the mappings in it."""
    known = fields.under(where)
    needed = {key: field for key, field in known.items() if field.default is fields.REQUIRED}
    parts = {key: missing(key) for key, field in needed.items() if field.kind is fields.PART}
    return {"required": list(needed), **({"properties": parts} if parts else {})}


def value(key: str, field: fields.Field) -> Schema:
    """Return the schema of a key."""
    meaning = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", field.meaning)
    told: Schema = {"description": f"{meaning}. Allowed: {field.kind.allowed}"}
    default = field.default
    if field.path == "timeouts.STATE":
        told["description"] = f"{key}, {lifecycle.STATES[key].happens}: {told['description']}"
        default = lifecycle.STATES[key].limit_s or None
    if not (default is None or default is fields.REQUIRED or callable(default)):
        told["default"] = default
    made = {**told, **field.kind.schema, **RULES.get(field.path, {})}
    if field.kind is fields.PART:
        return {**told, **mapping(field.path)}
    if field.kind in (fields.PARTS, fields.PROBES):
        return {**made, "type": ["array", "object"], **several(field)}
    if "pattern" in made:
        made["patternErrorMessage"] = f"allowed: {field.kind.allowed}"
    return {**made, "type": [made["type"], "null"]} if field.default is None else made


def several(field: fields.Field) -> Schema:
    """Return what a list has, and what a form saves in its place: a mapping."""
    where = f"{field.path}[]"
    item, needed = mapping(where), missing(where)["required"]
    if field.kind is fields.PROBES:
        lists = {
            key: {"type": "array", "items": each.kind.schema}
            for key, each in fields.under(where).items()
        }
        return {"items": item, "properties": lists, "additionalProperties": False}
    named = {**item, "required": [key for key in needed if key != "name"]}
    return {"items": {**item, "required": needed}, "additionalProperties": named}


def as_text() -> str:
    """Return the schema as its file has it."""
    return json.dumps(whole(), indent=1) + "\n"
