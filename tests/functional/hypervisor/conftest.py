# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A real libvirt, with one store's server on it."""

import collections
import contextlib
import itertools
import json
import os
import pathlib
import subprocess

import libvirt
import pytest
from on_hypervisor import (
    MACHINE_ID,
    SECRET,
    Killed,
    aside_of,
    globals_of,
    qemu_img,
    sha256,
    written,
)
from web_server import WebServer

from storelib import orders
from storelib.hypervisor import domains, fence, preparation
from storelib.hypervisor.place import CONSOLES, Place


@pytest.fixture
def connection(libvirtd):
    with libvirt.open("qemu:///system") as connection:
        yield connection
    # Anew, for a test may have stopped libvirtd meanwhile.
    with libvirt.open("qemu:///system") as connection:
        for domain in connection.listAllDomains():
            # A guest whose libvirtd was just restarted may end by itself.
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """Do not wait for the disk: no test here sees what a power cut would leave."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def pool():
    """A pool that QEMU's user can reach, unlike pytest's own folders."""
    folder = pathlib.Path("/var/lib/libvirt/images/stores")
    folder.mkdir(parents=True)
    yield folder
    subprocess.run(["rm", "-rf", folder, CONSOLES, fence.NOTES], check=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1G")
    written(path, 0x5A)
    return path


@pytest.fixture
def spec(pool, image):
    return {
        "store": "0815",
        "minion_id": "store-0815",
        "hostname": "store-0815.example.com",
        "image": {"source": str(image), "sha256": sha256(image)},
        "cpus": 1,
        "memory_mib": 64,
        "disk_gib": 2,
        "pool": str(pool),
        "clone": "copy",
        "data_disks": [{"name": "data", "size_gib": 1}],
        "virt_type": "qemu",
        "os_type": "hvm",
        "firmware": "bios",
        "interfaces": [
            {"name": "eth0", "type": "user", "mac": "52:54:00:12:34:56", "address": "dhcp"}
        ],
        "master": "10.0.2.2",
        "minion": "salt-minion",
        "start": {"attempts": 3, "backoff_s": [0], "steady_s": 0.1},
    }


@pytest.fixture
def place(spec):
    return Place(pathlib.Path(spec["pool"]), spec["minion_id"], spec["image"]["sha256"])


@pytest.fixture
def call(modules, context, connection, spec):
    """Call a function of the module and check that report and return code say the same."""

    attempts = itertools.count(1)

    def call(step, generation=1, **arguments):
        if step in ("prepare", "define"):
            arguments.setdefault("master_public_key", "MASTER")
        if step in (*orders.STEPS, "prune") and "order" not in arguments:
            # Of a ledger that knows all, each time as a new attempt: whatever is called may act.
            known = [f"g{number}-d" for number in range(1, 99)]
            last = (999, "retire")
            ours = f"g{generation}-d"
            arguments["order"] = orders.made(ours, next(attempts), known, last)
        function = modules[f"store_hypervisor.{step}"]
        made = function(spec=spec, generation=generation, **arguments)
        json.dumps(made)
        assert (made["step"], made["store"], made["generation"]) == (step, "0815", generation)
        assert made["ok"] is not bool(made["error"])
        assert made["facts"]["machine_id"] == MACHINE_ID.read_text().strip()
        assert context["retcode"] == (0 if made["ok"] else 1)
        if not made["seal"]:
            # Another one after each call; tests/functional/test_fence.py is about it.
            del made["facts"]["note"]
        return made

    return call


@pytest.fixture
def done(call):
    """Call functions one after the other, which must succeed; return the last one's facts."""

    def done(*steps, **arguments):
        for step in steps:
            made = call(step, **arguments)
            assert made["ok"], made["error"]
        return made["facts"]

    return done


@pytest.fixture
def refused(call):
    """Call a function that must fail, and return its sentence."""

    def refused(step, **arguments):
        made = call(step, **arguments)
        assert not made["ok"]
        assert made["hint"]
        assert "\n" not in made["error"]
        return made["error"]

    return refused


@pytest.fixture
def stub(modules, monkeypatch):
    """Put functions in the place of Salt's own, for the module under test only."""

    def stub(**functions):
        stubs = {name.replace("__", "."): function for name, function in functions.items()}
        monkeypatch.setitem(globals_of(modules), "__salt__", collections.ChainMap(stubs, modules))

    return stub


@pytest.fixture
def impatient(monkeypatch):
    """Do not wait a minute for guests that have no operating system to shut down."""
    monkeypatch.setattr(domains, "SHUTDOWN_S", 0.3)


@pytest.fixture
def killed(monkeypatch):
    """Run a step and kill it before its n-th change; return whether it came that far."""

    def killed(changes_allowed, step):
        left = [changes_allowed]

        def watched(function):
            def change(*arguments, **options):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return function(*arguments, **options)

            return change

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", watched(os.rename))
            patch.setattr(os, "unlink", watched(os.unlink))
            patch.setattr(os, "rmdir", watched(os.rmdir))
            patch.setattr(subprocess, "run", watched(subprocess.run))
            for kind, name in (
                (libvirt.virConnect, "defineXML"),
                (libvirt.virConnect, "domainXMLToNative"),
                (libvirt.virDomain, "undefineFlags"),
                (libvirt.virDomain, "setAutostart"),
                (libvirt.virDomain, "destroy"),
                (libvirt.virDomain, "detachDeviceFlags"),
                (libvirt.virDomain, "updateDeviceFlags"),
            ):
                patch.setattr(kind, name, watched(getattr(kind, name)))
            try:
                step()
            except Killed:
                return True
            return False

    return killed


@pytest.fixture
def server(image, monkeypatch):
    """A web server that has the image."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with WebServer(image.read_bytes()) as server:
        yield server


@pytest.fixture
def nvram(place):
    """What the server's firmware remembers."""
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")
    yield place.nvram
    place.nvram.unlink(missing_ok=True)


@pytest.fixture
def aside(done, place, nvram, impatient):
    """The folder of a server of deployment 1, with content on its disks, that was set aside."""
    done("stage", "define")
    written(place.disk, 0x11)
    written(place.data_disk("data"), 0x33)
    return aside_of(done("clear", generation=2))


@pytest.fixture
def secret(modules, monkeypatch):
    """Let the minion have its secret in its pillar."""
    pillar = {"store_deploy": {"secret": SECRET}}
    monkeypatch.setitem(globals_of(modules), "__pillar__", pillar)


@pytest.fixture
def ready(place):
    """The files of a server that is made ready."""
    return preparation.of(place)


@pytest.fixture
def firmware():
    """A hypervisor without UEFI for its guests."""
    for folder in ("/usr/share/qemu/firmware", "/usr/share/OVMF"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    yield
    for folder in ("/usr/share/qemu/firmware", "/usr/share/OVMF"):
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def bridge():
    """A bridge of the machine's own network."""
    subprocess.run(["ip", "link", "add", "br-shop", "type", "bridge"], check=True)
    yield "br-shop"
    subprocess.run(["ip", "link", "delete", "br-shop"], check=True)


@pytest.fixture
def network(connection, bridge):
    """A network of libvirt's that leads to the bridge."""
    network = connection.networkDefineXML(
        f"<network><name>shop</name><forward mode='bridge'/><bridge name='{bridge}'/></network>"
    )
    network.create()
    yield network.name()
    network.destroy()
    network.undefine()
