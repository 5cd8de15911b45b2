# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The stand-in for Uyuni's API of ``tests/uyuni``, called without its server."""

import copy
import itertools
import pathlib
import xmlrpc.client

from tests.uyuni import api

from storelib.errors import StoreDeployError

REPO = pathlib.Path(__file__).resolve().parents[2]


class ApiFault(StoreDeployError):
    """What the server answers a call with that it does not like."""


class FakeUyuni(api.Uyuni):
    """An organisation with systems, whose numbers begin with 1000; those of groups with 10."""

    def __init__(self, *minions):
        others = {"locale": {}, "prometheus-exporters": {}}
        super().__init__({**api.layouts(REPO / "uyuni"), **others})
        self._numbers, self._group_numbers = itertools.count(1000), itertools.count(10)
        for name in minions:
            self.register(name)
        self.fails = {}
        """Methods that fail, after so many calls."""

    def call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.fails:
            self.fails[name] -= 1
            if self.fails[name] < 0:
                raise ApiFault(f"{name}: the database is away")
        try:
            method = getattr(self, name.replace(".", "_"))
            return copy.deepcopy(method(*copy.deepcopy(arguments)))
        except xmlrpc.client.Fault as err:
            raise ApiFault(f"{err.faultCode}: {err.faultString}") from err

    def written(self):
        """Return the calls that change anything."""
        reading = ("get", "list")
        return [each for each in self.calls if not each[0].split(".")[1].startswith(reading)]

    def members(self, group):
        """Return the numbers of the systems of a group."""
        return {sid for sid, each in self.systems.items() if group in each["groups"]}
