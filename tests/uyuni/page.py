# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stand-in for what Uyuni does with a form, written from what was measured on its own code.

The page (what it shows, what it saves), the number rule of the server, and the merge of its
ext_pillar. No Uyuni server takes part in a test.
"""

import copy
import json
import re


class NotSaved(Exception):
    """The page refuses to save."""


def elements(layout):
    """Return the fields of a group: what is not about the group itself."""
    return {key: each for key, each in layout.items() if not key.startswith("$")}


def default(element):
    if element.get("$type") == "group":
        return {key: default(each) for key, each in elements(element).items()}
    if element.get("$type") == "edit-group":
        # Where there is nothing an item is shown as a sample.
        sample = default(element["$prototype"])
        none = {"": sample} if "$key" in element["$prototype"] else [sample]
        return copy.deepcopy(element.get("$default", none))
    if element.get("$type") == "select":
        # What a browser shows first.
        return element.get("$default", element["$values"][0])
    return element.get("$default", "")


def shown(element, *layers):
    """Return what a page begins with: of each field what the last of the layers has."""
    given = [layer for layer in layers if layer is not None]
    if element.get("$type") == "group":
        return {
            key: shown(each, *(layer.get(key) for layer in given))
            for key, each in elements(element).items()
        }
    return copy.deepcopy(given[-1]) if given else default(element)


def saved(element, filled, path="store_server"):
    """Return what the page stores of what was filled in; raise NotSaved if it does not."""
    kind = element.get("$type", "text")
    if kind == "group":
        found = {
            key: saved(each, filled.get(key, default(each)), f"{path}.{key}")
            for key, each in elements(element).items()
        }
        return {key: each for key, each in found.items() if each is not None}
    if kind == "edit-group":
        return _saved_items(element, filled, path)
    if element.get("$required") and not filled:
        raise NotSaved(f"{path} is required")
    # Tried on empty and on hidden fields, too; its anchors bind to the ends of an alternation.
    pattern = element.get("$match", "")
    if kind == "text" and pattern and not re.search(f"^{pattern}$", str(filled)):
        raise NotSaved(f"{path} is {filled!r}, not {pattern}")
    return filled


def _saved_items(element, filled, path):
    prototype = element["$prototype"]
    if "$key" in prototype:
        if any(not key for key in filled):
            raise NotSaved(f"{path} has an item without a name")
        # Keys that look like whole numbers come first, whatever order they were filled in.
        keys = sorted(
            filled, key=lambda key: (not key.isdecimal(), int(key) if key.isdecimal() else 0)
        )
        return {key: saved(prototype, filled[key], f"{path}.{key}") for key in keys}
    items = [saved(prototype, each, f"{path}[]") for each in filled]
    # A list that was emptied by hand is not saved at all.
    return items or None


def stored(value, listed=False):
    """
    Return what the server stores.

    JSON has doubles only, and whole ones are mended in maps; the database sorts keys.
    """
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key), key.encode()))
        return {key: stored(value[key], listed) for key in keys}
    if isinstance(value, list):
        return [stored(each, True) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if listed else value
    return value


def merged(element, group, system):
    """Return what the ext_pillar makes of a form's data: of each field the last that has it."""
    if element.get("$type") == "group":
        group, system = group or {}, system or {}
        return {
            key: merged(each, group.get(key), system.get(key))
            for key, each in elements(element).items()
        }
    return next((each for each in (system, group) if each is not None), element.get("$default", ""))


def adjusted(layout, data):
    """Return it without what is empty and optional, in mappings by name, too."""
    found = {}
    for key, element in elements(layout).items():
        value = data.get(key, "")
        if element["$type"] == "group":
            value = adjusted(element, data.get(key, {}))
        elif element["$type"] == "edit-group" and "$key" in element["$prototype"]:
            items = value.items() if isinstance(value, dict) else ()
            value = {name: adjusted(element["$prototype"], item) for name, item in items}
        if value or not element.get("$optional"):
            found[key] = value
    return found


def pillar(layout, group, system):
    """Return what a minion gets of a formula."""
    return adjusted(layout, merged(layout, group, system))


def recursed(one, other):
    """Return two pillars merged as Salt merges mappings."""
    both = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = recursed(one[key], other[key])
    return both


def through_json(value):
    return json.loads(json.dumps(value))


def on_page(form, filled, *layers, samples=False):
    """
    Fill in a page that begins with ``layers``, and save it; return what is stored.

    samples
        Whether the items that it shows without a name are left there.
    """
    fields = recursed(shown(form, *layers), filled)
    for key in () if samples else ("data_disks", "interfaces"):
        fields[key].pop("", None)
    return through_json(stored(saved(form, fields)))
