# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.finish, on a real libvirt."""

import json
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
from on_hypervisor import (
    dumped,
)

from storelib.hypervisor import domains


def test_the_seed_is_taken_away_for_good(done, connection, place):
    done("stage", "define", "start")
    domain = connection.lookupByName("store-0815")
    run = domain.ID()
    for _ in range(2):
        facts = done("finish")
        assert str(place.seed) not in domain.XMLDesc()
        assert dumped(connection).findall("devices/disk[@device='cdrom']") == []
        assert not place.seed.exists()
        assert domain.autostart()
        assert (facts["inserted"], facts["defined"], facts["autostart"]) == (False, False, True)
    assert connection.lookupByName("store-0815").ID() == run


def test_a_seed_on_a_disk_is_taken_away_too(done, connection, place):
    """Stands in for Xen without an emulated CD drive; QEMU gives up a USB disk as readily."""
    done("stage", "define")
    defined = dumped(connection)
    (seed,) = defined.findall("devices/disk[@device='cdrom']")
    seed.set("device", "disk")
    seed.find("target").attrib.update(dev="sdz", bus="usb")
    seed.remove(seed.find("address"))
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))
    done("start")
    domain = connection.lookupByName("store-0815")
    assert str(place.seed) in domain.XMLDesc()
    facts = done("finish")
    assert str(place.seed) not in domain.XMLDesc()
    assert str(place.seed) not in ElementTree.tostring(dumped(connection), encoding="unicode")
    assert (facts["inserted"], facts["defined"]) == (False, False)


def test_a_drive_whose_tray_the_guest_closed_unseen_is_emptied(done, connection, place):
    """A guest that resets its drive closes the tray, and libvirt goes on with an open one."""
    done("stage", "define", "start")
    domain = connection.lookupByName("store-0815")
    domain.destroy()
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def drive():
        answer = json.loads(
            libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-block"}', 0)
        )
        return next(block for block in answer["return"] if "tray_open" in block)

    opened = {"execute": "blockdev-open-tray", "arguments": {"id": drive()["qdev"], "force": True}}
    libvirt_qemu.qemuMonitorCommand(domain, json.dumps(opened), 0)
    assert drive()["tray_open"]
    domain.resume()
    # The firmware resets the drives that it looks for.
    assert domains.awaited(lambda: not drive()["tray_open"], 60)
    assert "tray='open'" in domain.XMLDesc()
    assert not done("finish")["inserted"]
    assert "inserted" not in drive()


def test_the_console_shows_its_last_lines(done, place):
    done("stage", "define")
    assert done("console")["lines"] == []
    place.console.write_bytes(b"\xff first\r\n" + b"x" * 100_000 + b"\r\nlast but one\r\nlast\r\n")
    assert done("console", lines=2)["lines"] == ["last but one", "last"]
