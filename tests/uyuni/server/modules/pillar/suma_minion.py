# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stand-in for Uyuni's ext_pillar of this name, written from what that was seen to do.

In the place of the database stands a JSON file: ``systems`` by minion ID, each with ``pillar``, its
``groups`` and ``formulas`` (data by formula); and ``groups``, each with its ``formulas``.
"""

import json
import logging
import sys
from pathlib import Path

import yaml

sys.path.insert(0, "/srv/store-deploy")

from tests.uyuni import page

log = logging.getLogger(__name__)

DATABASE = Path("/srv/susemanager/database.json")
METADATA = Path("/srv/formula_metadata")


def ext_pillar(minion_id, pillar, *args):
    """Return what Uyuni has of a system: next to nothing, and no error, if it does not know it."""
    try:
        database = json.loads(DATABASE.read_text())
    except OSError:
        log.error("the database does not answer")
        return {"formulas": []}
    system = database["systems"].get(minion_id)
    if system is None:
        return {"formulas": []}
    told = {"org_id": 1, "mgr_server": "uyuni.example.com", **system.get("pillar", {})}
    layers = {}
    for group in system.get("groups", ()):
        for name, data in database["groups"][group]["formulas"].items():
            layers[name] = [data, None]
    for name, data in system.get("formulas", {}).items():
        layers[name] = [layers.get(name, [None])[0], data]
    told["formulas"] = []
    for name, (group, own) in layers.items():
        layout = yaml.safe_load((METADATA / name / "form.yml").read_text())
        metadata = yaml.safe_load((METADATA / name / "metadata.yml").read_text())
        (key,) = layout
        told = page.recursed(
            told,
            {
                key: page.pillar(
                    layout[key], *(data.get(key) if data else None for data in (group, own))
                )
            },
        )
        if not metadata.get("pillar_only"):
            told["formulas"].append(name)
    return told
