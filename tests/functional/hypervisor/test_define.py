# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.define, on a real libvirt."""

import json
import pathlib
import subprocess

import pytest
import salt.crypt
from cryptography.hazmat.primitives import serialization
from on_hypervisor import (
    GIB,
    OURS,
    dumped,
    globals_of,
    holds,
    qemu_img,
    seed_documents,
    sha256,
    untouched,
    written,
)

from storelib.hypervisor import virt_init


def test_a_domain_is_defined_as_the_pillar_says(done, connection, place):
    facts = done("stage", "clear", "define")
    defined = dumped(connection)
    assert defined.get("type") == "qemu"
    assert defined.findtext("memory") == str(64 * 1024)
    assert defined.findtext("vcpu") == "1"
    assert [
        (disk.get("device"), disk.find("source").get("file"), disk.find("target").get("bus"))
        for disk in defined.iterfind("devices/disk")
    ] == [
        ("disk", str(place.disk), "virtio"),
        ("disk", str(place.data_disk("data")), "virtio"),
        ("cdrom", str(place.seed), "ide"),
    ]
    (interface,) = defined.iterfind("devices/interface")
    assert interface.get("type") == "user"
    assert interface.find("mac").get("address") == "52:54:00:12:34:56"
    assert interface.find("model").get("type") == "virtio"
    assert not connection.lookupByName("store-0815").isActive()
    assert facts["domain"]["ours"]
    assert facts["domain"]["generation"] == 1
    assert facts["domain"]["state"] == "shut off"


def test_bridge_and_network_are_connected_as_the_pillar_says(
    done, connection, spec, bridge, network
):
    macs = ["52:54:00:12:34:57", "52:54:00:12:34:58"]
    spec["interfaces"] = [
        {"name": "eth0", "type": "bridge", "source": bridge, "mac": macs[0], "address": "dhcp"},
        {"name": "eth1", "type": "network", "source": network, "mac": macs[1], "address": "dhcp"},
    ]
    assert done("facts")["sources_missing"] == []
    done("stage", "define", "start")
    assert [
        (
            interface.get("type"),
            interface.find("source").attrib,
            interface.find("mac").get("address"),
            interface.find("model").get("type"),
        )
        for interface in dumped(connection).iterfind("devices/interface")
    ] == [
        ("bridge", {"bridge": bridge}, macs[0], "virtio"),
        ("network", {"network": network}, macs[1], "virtio"),
    ]
    # The kernel has both on the bridge.
    assert len(list(pathlib.Path(f"/sys/class/net/{bridge}/brif").iterdir())) == 2


def test_nothing_of_the_domain_listens_on_the_network(done, connection, place):
    done("stage", "define", "start")
    live = dumped(connection, flags=0)
    assert not live.findall("devices/graphics")
    (serial,) = live.iterfind("devices/serial")
    assert serial.get("type") == "pty"
    assert serial.find("log").get("file") == str(place.console)
    assert place.console.exists()
    listening = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True).stdout
    assert "qemu" not in listening


def test_libvirt_keeps_whose_the_domain_is(done, connection):
    facts = done("stage", "define")
    element = dumped(connection).find(f"metadata/{{{OURS}}}deployment")
    assert element.attrib == {"store": "0815", "generation": "1", "id": "g1-d"}
    assert element.findtext(f"{{{OURS}}}public-key") == facts["public_key"]
    assert done("facts")["domain"]["public_key"] == facts["public_key"]


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_the_disk_is_the_image_grown_to_its_size(done, spec, place, clone):
    spec["clone"] = clone
    facts = done("stage", "define")
    found = json.loads(qemu_img("info", "--output=json", place.disk))
    assert found["virtual-size"] == facts["disk"]["virtual_size"] == 2 * GIB
    assert found.get("full-backing-filename") == (str(place.image) if clone == "cow" else None)
    assert holds(place.disk, 0x5A)
    assert place.disk.stat().st_mode & 0o777 == 0o600
    assert sha256(place.image) == spec["image"]["sha256"]
    done("start")


def test_the_private_key_is_in_the_seed_and_nowhere_else(done, place, pool, tmp_path, minion_opts):
    facts = done("stage", "define")
    assert place.seed.stat().st_mode & 0o777 == 0o600
    assert facts["seed"] == {"path": str(place.seed), "exists": True, "mode": "0600"}
    documents = seed_documents(place, tmp_path / "seed")
    assert set(documents) == {"user-data", "meta-data", "network-config"}
    label = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", place.seed],
        *(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert label.stdout.strip() == "cidata"
    files = {
        each["path"]: each["content"]
        for each in json.loads(documents["user-data"].partition("\n")[2])["write_files"]
    }
    pair = tmp_path / "minion.pem", tmp_path / "minion.pub"
    pair[0].write_text(files["/etc/salt/pki/minion/minion.pem"])
    pair[1].write_text(files["/etc/salt/pki/minion/minion.pub"])
    assert pair[1].read_text() == facts["public_key"]
    signature = salt.crypt.sign_message(str(pair[0]), b"said")
    assert salt.crypt.verify_signature(str(pair[1]), b"said", signature)
    public = serialization.load_pem_public_key(pair[1].read_bytes())
    assert public.key_size == minion_opts["keysize"]
    secret = pair[0].read_text().splitlines()[5]
    found = subprocess.run(
        ["grep", "-rlF", secret, pool, "/run", "/etc", "/var/log", minion_opts["root_dir"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == [str(place.seed)]


def test_defining_again_changes_nothing(done, place):
    facts = done("stage", "define")
    before = untouched(place.disk, place.seed, place.data_disk("data"))
    assert done("define") == facts
    assert untouched(place.disk, place.seed, place.data_disk("data")) == before


def test_another_deployment_or_a_running_guest_is_not_defined_over(done, refused, place):
    done("stage", "define")
    assert "of deployment 1 is there (shut off)" in refused("define", generation=2)
    done("start")
    assert "of deployment 1 is there (running)" in refused("define")


def test_a_disk_that_may_have_a_server_on_it_is_not_overwritten(done, refused, connection, place):
    done("stage", "define", "start", "finish")
    connection.lookupByName("store-0815").destroy()
    written(place.disk, 0x77)
    assert refused("define") == "the domain store-0815 lacks a file"
    connection.lookupByName("store-0815").undefine()
    assert refused("define") == f"there is a disk {place.disk} already"
    assert holds(place.disk, 0x77)


def test_what_virt_init_says_is_not_believed(done, refused, stub):
    done("stage")
    stub(virt__init=lambda **_: True)
    assert refused("define") == "virt.init did not define the domain store-0815"


def test_a_missing_virt_module_is_one_sentence(done, refused, modules, monkeypatch):
    done("stage")
    only = {name: modules[name] for name in ("config.get", "cp.get_file")}
    monkeypatch.setitem(globals_of(modules), "__salt__", only)
    assert refused("define") == "Salt's module virt is not loaded on the hypervisor"


def test_an_image_that_was_not_staged_is_not_used(refused, spec):
    assert refused("define") == f"the image {spec['image']['sha256']} is not in the cache"


def test_a_virtualization_that_the_hypervisor_lacks_is_refused(done, refused, spec):
    done("stage")
    spec["virt_type"] = "xen"
    assert "cannot run xen guests of OS type hvm" in refused("define")


@pytest.mark.parametrize(
    ("virt_type", "os_type", "expected"),
    [
        ("kvm", "hvm", {"cpu": {"maximum": 1, "mode": "host-passthrough"}, "consoles": None}),
        ("qemu", "hvm", {"cpu": 1, "serials": [{"type": "pty"}]}),
        ("xen", "hvm", {"hypervisor": "xen", "os_type": "hvm", "serials": [{"type": "pty"}]}),
        ("xen", "xen", {"os_type": "xen", "serials": None, "consoles": [{"type": "pty"}]}),
        ("xen", "xenpvh", {"os_type": "xenpvh", "consoles": [{"type": "pty"}]}),
    ],
)
def test_virt_init_is_told_all_that_it_would_guess(spec, place, virt_type, os_type, expected):
    arguments = virt_init.arguments(spec | {"os_type": os_type}, place, virt_type)
    assert arguments.items() >= expected.items()
    assert (arguments["start"], arguments["seed"]) == (False, False)
    assert (arguments["disk"], arguments["nic"], arguments["graphics"]) == (None, None, None)
    models = [interface.get("model") for interface in arguments["interfaces"]]
    assert models == ([None] if virt_type == "xen" else ["virtio"])
    assert arguments["disks"][-1]["device"] == ("cdrom" if os_type == "hvm" else "disk")
