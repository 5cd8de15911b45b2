# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.finish, on a real libvirt."""

from xml.etree import ElementTree

import libvirt
from on_hypervisor import (
    dumped,
)


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


def test_a_drive_that_closes_its_tray_again_is_asked_again(done, place, monkeypatch):
    """Stands in for a guest that resets the drive in the wrong moment, which a busy one does."""
    done("stage", "define", "start")
    update, refusals = libvirt.virDomain.updateDeviceFlags, [libvirt.libvirtError("tray")]

    def once_refused(*arguments):
        if refusals:
            raise refusals.pop()
        return update(*arguments)

    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", once_refused)
    assert not done("finish")["inserted"]
    assert not refusals


def test_the_console_shows_its_last_lines(done, place):
    done("stage", "define")
    assert done("console")["lines"] == []
    place.console.write_bytes(b"\xff first\r\n" + b"x" * 100_000 + b"\r\nlast but one\r\nlast\r\n")
    assert done("console", lines=2)["lines"] == ["last but one", "last"]
