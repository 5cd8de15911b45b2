# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A stand-in for Uyuni's API, written from its documentation: what it refuses, replaces and forgets.

No Uyuni server takes part in a test.
"""

import copy
import pathlib

import yaml

from storelib.errors import StoreDeployError

REPO = pathlib.Path(__file__).resolve().parents[2]


class ApiFault(StoreDeployError):
    """What the server answers a call with that it does not like."""


class FakeUyuni:
    """An organisation with systems, profiles and groups; ``calls`` are those that were made."""

    def __init__(self, *minions):
        self.calls = []
        self.forms = {
            path.parent.name: yaml.safe_load(path.read_text())
            for path in (REPO / "uyuni").glob("*/form.yml")
        }
        self.names = {*self.forms, "locale", "prometheus-exporters"}
        self.minions = {name: 1000 + number for number, name in enumerate(minions)}
        self.profiles = {}
        self.groups = {}
        self.formulas = {"Server": {}, "Group": {}}
        self.data = {"System": {}, "Group": {}}
        self.fails = {}
        """Methods that fail, after so many calls."""

    def call(self, name, *args):
        self.calls.append((name, *args))
        if name in self.fails:
            self.fails[name] -= 1
            if self.fails[name] < 0:
                raise ApiFault(f"{name}: the database is away")
        method = getattr(self, name.replace(".", "_"), None)
        if method is None:
            raise ApiFault(f"{name}: no such method")
        return copy.deepcopy(method(*copy.deepcopy(args)))

    def written(self):
        """Return the calls that change anything."""
        reading = ("get", "list")
        return [each for each in self.calls if not each[0].split(".")[1].startswith(reading)]

    # Systems and groups

    def system_getMinionIdMap(self):
        return self.minions

    def system_listEmptySystemProfiles(self):
        return [
            {"name": name, "id": sid, "hw_address": [mac]}
            for name, (sid, mac) in self.profiles.items()
        ]

    def system_createSystemProfile(self, name, data):
        macs = [mac for _, mac in self.profiles.values()]
        if name in self.profiles or data["hwAddress"] in macs:
            raise ApiFault("1100: System(s) exist: [2000]")
        self.profiles[name] = (2000 + len(self.profiles), data["hwAddress"])
        return self.profiles[name][0]

    def systemgroup_listAllGroups(self):
        return [{"name": name, "id": gid} for name, (gid, _) in self.groups.items()]

    def systemgroup_listSystemsMinimal(self, name):
        return [{"id": sid} for sid in sorted(self._group(name)[1])]

    def systemgroup_create(self, name, description):
        assert description
        if name in self.groups:
            raise ApiFault(f"the group {name} exists")
        self.groups[name] = (10 + len(self.groups), set())
        return {"id": self.groups[name][0], "name": name}

    def systemgroup_addOrRemoveSystems(self, name, sids, add):
        members = self._group(name)[1]
        for sid in sids:
            self._system(sid)
            members.add(sid) if add else members.discard(sid)
        return 1

    def _group(self, name):
        if name not in self.groups:
            raise ApiFault(f"no group {name}")
        return self.groups[name]

    def _system(self, sid):
        if sid not in {*self.minions.values(), *(sid for sid, _ in self.profiles.values())}:
            raise ApiFault(f"no system {sid}")

    # Formulas

    def formula_listFormulas(self):
        return sorted(self.names)

    def formula_getFormulasByServerId(self, sid):
        self._system(sid)
        return self.formulas["Server"].get(sid, [])

    def formula_getFormulasByGroupId(self, gid):
        return self.formulas["Group"].get(gid, [])

    def formula_setFormulasOfServer(self, sid, formulas):
        self._system(sid)
        return self._assign("Server", "System", sid, formulas)

    def formula_setFormulasOfGroup(self, gid, formulas):
        return self._assign("Group", "Group", gid, formulas)

    def _assign(self, kind, data, number, formulas):
        if unknown := set(formulas) - self.names:
            raise ApiFault(f"no formula {unknown}")
        # It replaces the list, sorted as all formulas are, and deletes the data of what is gone.
        self.formulas[kind][number] = sorted(formulas)
        for key in [key for key in self.data[data] if key[0] == number and key[1] not in formulas]:
            del self.data[data][key]
        return 1

    def formula_getSystemFormulaData(self, sid, formula):
        return self.data["System"].get((sid, formula), {})

    def formula_getGroupFormulaData(self, gid, formula):
        return self.data["Group"].get((gid, formula), {})

    def formula_setSystemFormulaData(self, sid, formula, content):
        self._system(sid)
        inherited = [
            each
            for gid, members in self.groups.values()
            if sid in members
            for each in self.formulas["Group"].get(gid, [])
        ]
        if formula not in [*self.formulas["Server"].get(sid, []), *inherited]:
            raise ApiFault(f"{formula} is not assigned")
        self._check(self.forms[formula], content)
        self.data["System"][sid, formula] = content
        return 1

    def formula_setGroupFormulaData(self, gid, formula, content):
        if formula not in self.formulas["Group"].get(gid, []):
            raise ApiFault(f"{formula} is not assigned")
        self._check(self.forms[formula], content)
        self.data["Group"][gid, formula] = content
        return 1

    def _check(self, layout, content):
        """Look for keys that are not in the form, and classes that are not the default's."""
        for key, value in content.items():
            element = layout.get(key) if not key.startswith("$") else None
            if element is None:
                raise ApiFault(f"{key} is not in the form")
            if element.get("$type") == "group":
                self._check(element, value)
            elif "$key" in element.get("$prototype", {}):
                for item in value.values():
                    self._check(element["$prototype"], item)
            elif "$default" in element and type(value) is not type(element["$default"]):
                raise ApiFault(f"{key} is of another class than its default")
