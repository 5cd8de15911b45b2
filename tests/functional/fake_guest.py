# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A minion's real loader over the shipped file roots, and a folder that stands for a guest's disk.

Nothing of Salt is replaced. Only the reboot itself is: the tests count the orders.
"""

import json
import pathlib
import types
import uuid

import pytest
import salt._logging
import salt.config
import salt.loader

from storelib import report
from storelib.guest import power, root

REPO = pathlib.Path(__file__).resolve().parents[2]
BOOTSTRAP = {"store": "0815", "generation": 1}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site's own states and top file, searched before the shipped ones."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="session")
def masterless(tmp_path_factory, site):
    """Options of a minion without a master that has fetched the shipped modules."""
    root = tmp_path_factory.mktemp("minion")
    config = root / "minion"
    settings = {
        "id": "store-0815",
        "root_dir": str(root),
        "file_client": "local",
        "file_roots": {"base": [str(site), str(REPO / "salt")]},
        "pillar_roots": {"base": [str(site / "pillar")]},
    }
    config.write_text(json.dumps(settings))
    # Salt would write each warning to standard error once more, after pytest's last line.
    salt._logging.shutdown_temp_handler()
    opts = salt.config.minion_config(str(config))
    opts["grains"] = salt.loader.grains(opts)
    salt.loader.minion_mods(opts)["saltutil.sync_all"]()
    return opts


@pytest.fixture
def minion(masterless):
    """That minion's options, and its context and execution modules for one test."""
    context = {}
    utils = salt.loader.utils(masterless, context=context)
    modules = salt.loader.minion_mods(masterless, context=context, utils=utils)
    return types.SimpleNamespace(opts=masterless, context=context, modules=modules)


class FakeGuest:
    """A guest's disk in a folder, with its first boot under way."""

    def __init__(self, root):
        self.root = root
        self.reboots = 0
        self.boot_ids = []
        self.write("/etc/store-deploy/bootstrap.json", json.dumps(BOOTSTRAP))
        self.write("/etc/hostname", "store-0815\n")
        self.write("/proc/sys/kernel/hostname", "store-0815\n")
        self.boot()

    def write(self, path, text):
        at = self.at(path)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)

    def at(self, path):
        return self.root / path.lstrip("/")

    def boot(self):
        """Let the kernel come up once more."""
        self.boot_ids.append(str(uuid.uuid4()))
        self.write("/proc/sys/kernel/random/boot_id", self.boot_ids[-1] + "\n")

    def files(self):
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A guest on its first boot."""
    machine = FakeGuest(tmp_path / "guest")
    monkeypatch.setattr(root, "ROOT", machine.root)

    def count():
        machine.reboots += 1

    monkeypatch.setattr(power, "reboot_soon", count)
    return machine


@pytest.fixture
def call(minion, machine):
    """Call a function of the module; return its report as the runner opens it."""

    def call(function, **kwargs):
        returned = minion.modules[f"provisioning_helper.{function}"](
            store="0815", generation=1, **kwargs
        )
        json.dumps(returned)
        opened = report.opened(returned, "0815", 1, function)
        assert minion.context["retcode"] == (0 if opened.ok else 1)
        assert opened.ok or opened.hint
        return opened

    return call


@pytest.fixture
def stub(minion):
    """Let another function answer for one of Salt's; the modules are this test's own."""
    return minion.modules.__setitem__
