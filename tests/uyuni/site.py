# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a master of Uyuni has beside ours, on a machine of tests: see ``server/`` for what it is."""

import contextlib
import json
import pathlib
import shutil

import yaml
from tests.uyuni import page

HERE = pathlib.Path(__file__).parent
FORMS = HERE.parents[1] / "uyuni"
FORMULAS = ("store-defaults", "store-server")
SUSEMANAGER_CONF = HERE / "susemanager.conf"

SILENT = "Uyuni gives no pillar to"


class UyuniSite:
    """Modules, states and database of a server that manages a group ``stores``."""

    def __init__(self, root="/"):
        self.susemanager = pathlib.Path(root, "srv/susemanager")
        self.database = self.susemanager / "database.json"
        shutil.copytree(HERE / "server", self.susemanager)
        for formula in FORMULAS:
            metadata = pathlib.Path(root, "srv/formula_metadata", formula)
            shutil.copytree(FORMS / formula, metadata)

    def describe(self, minion, defaults, own):
        """Fill in both pages, and register the hypervisor."""
        forms = {
            formula: {"store_server": page.on_page(_layout(formula), filled)}
            for formula, filled in zip(FORMULAS, (defaults, own), strict=True)
        }
        group = {"formulas": {"store-defaults": forms["store-defaults"]}}
        self._write({"groups": {"stores": group}, "systems": {}})
        # What the formula would install is there; it has a classic minion, as its site would say.
        ready = {
            "mgr_avoid_venv_salt_minion": True,
            "store_hypervisor": {"packages": ["qemu-utils"], "service": ""},
        }
        formulas = {"store-server": forms["store-server"]}
        self.register(minion, groups=["stores"], formulas=formulas, pillar=ready)

    def register(self, minion, **data):
        """Do what ends a registration: a row, and a file of the system's own."""
        with self.changed() as database:
            database["systems"][minion] = data
        (self.susemanager / f"salt/packages/packages_{minion}.sls").write_text("{}\n")

    def forget(self, minion):
        """Have a system not be registered, as one that comes anew."""
        with self.changed() as database:
            del database["systems"][minion]

    @contextlib.contextmanager
    def changed(self):
        """Yield the database, and write what becomes of it."""
        database = json.loads(self.database.read_text())
        yield database
        self._write(database)

    def _write(self, database):
        new = self.database.with_suffix(".new")
        new.write_text(json.dumps(database))
        new.replace(self.database)

    @contextlib.contextmanager
    def database_away(self):
        """Have the database not answer for a while."""
        away = self.database.rename(self.database.with_suffix(".away"))
        try:
            yield
        finally:
            away.rename(self.database)


def _layout(formula):
    return yaml.safe_load((FORMS / formula / "form.yml").read_text())["store_server"]
