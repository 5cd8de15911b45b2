# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.facts, on a real libvirt."""

import os
import pathlib


def test_facts_of_a_hypervisor_that_has_all(done, spec, pool, place, connection):
    found = done("facts")
    assert found["libvirt"]["reachable"]
    assert found["libvirt"]["uri"] == "qemu:///system"
    assert found["virt_types"] == (["kvm", "qemu"] if os.access("/dev/kvm", os.W_OK) else ["qemu"])
    assert found["virt_type"] == "qemu"
    assert found["virt_module"]
    assert found["tools_missing"] == []
    assert found["sources_missing"] == []
    assert found["free_memory_mib"] > 64
    assert found["pool"]["path"] == str(pool)
    assert found["pool"]["exists"]
    assert found["pool"]["free_mib"] > 64
    assert found["domain"] == {"exists": False}
    for what, path in (("disk", place.disk), ("seed", place.seed), ("image", place.image)):
        assert found[what]["path"] == str(path)
        assert not found[what]["exists"]
    assert found["boot_id"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert list(pool.iterdir()) == [], "facts only read"


def test_facts_name_missing_bridges_and_networks(done, spec):
    spec["interfaces"] = [
        {"name": "eth0", "type": "bridge", "source": "br9", "mac": "", "address": "dhcp"},
        {"name": "eth1", "type": "bridge", "source": "lo", "mac": "", "address": "dhcp"},
        {"name": "eth2", "type": "network", "source": "shop", "mac": "", "address": "dhcp"},
    ]
    assert done("facts")["sources_missing"] == ["bridge br9", "bridge lo", "network shop"]


def test_facts_without_libvirt_say_why(done, libvirtd):
    libvirtd.stop()
    try:
        found = done("facts")
    finally:
        libvirtd.start()
    assert not found["libvirt"]["reachable"]
    assert "Failed to connect socket" in found["libvirt"]["why"]
    assert found["domain"] is None
    assert found["pool"]["exists"], "what needs no libvirt is still answered"


def test_facts_of_a_missing_pool(done, spec):
    spec["pool"] = "/var/lib/libvirt/images/none"
    assert done("facts")["pool"] == {"path": spec["pool"], "exists": False, "free_mib": 0}
    spec["pool"] = "none"
    found = done("facts")
    assert found["pool"] == {"path": None, "exists": False, "free_mib": 0}
    assert found["pool_error"] == "libvirt has no pool named none"


def test_a_pool_may_be_named_as_libvirt_does(done, spec, pool, connection):
    made = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>shop</name><target><path>{pool}</path></target></pool>"
    )
    spec["pool"] = "shop"
    try:
        assert done("facts")["pool"]["path"] == str(pool)
        assert done("stage", "define")["disk"]["path"] == str(pool / "store-0815.qcow2")
    finally:
        made.undefine()


def test_facts_hold_the_marker_of_the_highstate(done):
    marker = pathlib.Path("/var/lib/store-deploy/highstate.json")
    assert done("facts")["marker"] is None
    marker.write_text('{"boot_id": "1", "result": true}')
    try:
        assert done("facts")["marker"] == {"boot_id": "1", "result": True}
    finally:
        marker.unlink()
