# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.clear, on a real libvirt."""

import pathlib
import re
import subprocess
import time
from xml.etree import ElementTree

import libvirt
import pytest
from on_hypervisor import (
    GIB,
    OURS,
    Killed,
    foreign,
    holds,
    raised,
    written,
)


def test_clearing_an_empty_hypervisor_changes_nothing(done):
    facts = done("clear")
    assert facts["set_aside"] is None
    assert not facts["domain"]["exists"]


def test_an_old_server_is_set_aside_as_a_whole(done, connection, place, impatient):
    key = done("stage", "define")["public_key"]
    done("start")
    old = connection.lookupByName("store-0815")
    uuid = old.UUIDString()
    old.setAutostart(True)
    written_through = place.disk.stat().st_ino
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")

    facts = done("clear", generation=2)
    aside = pathlib.Path(facts["set_aside"]["path"])
    assert re.fullmatch(r"0001-g1-\d{4}-\d\d-\d\dT\d{6}Z", aside.name)
    assert aside.parent == place.own / "set-aside" / "store-0815"
    assert set(facts["set_aside"]["files"]) == {
        *("disk.qcow2", "domain.xml", "nvram.fd", "minion.pub", "set-aside.json"),
    }
    assert (aside / "disk.qcow2").stat().st_ino == written_through
    assert (aside / "nvram.fd").read_text() == "boot order"
    assert (aside / "minion.pub").read_text() == key
    assert ElementTree.parse(aside / "domain.xml").findtext("uuid") == uuid
    assert aside.stat().st_mode & 0o777 == 0o700
    assert not facts["domain"]["exists"]
    assert [place.disk.exists(), place.seed.exists(), place.nvram.exists()] == [False] * 3
    assert connection.listAllDomains() == []
    assert done("clear", generation=2)["set_aside"] == facts["set_aside"]


def test_nvram_on_another_file_system_is_set_aside_too(done, place, monkeypatch):
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place.nvram.parent], check=True)
    try:
        place.nvram.write_text("boot order")
        with monkeypatch.context() as patch:
            # Killed after the copy, before the original goes.
            patch.setattr(pathlib.Path, "unlink", raised(Killed))
            with pytest.raises(Killed):
                done("clear")
        put = done("clear")["set_aside"]
        assert not place.nvram.exists()
        assert pathlib.Path(put["path"], "nvram.fd").read_text() == "boot order"
    finally:
        subprocess.run(["umount", place.nvram.parent], check=True)


def test_a_redeployed_server_gets_its_data_disk_and_a_key_of_its_own(done, place, impatient):
    old = done("stage", "define")
    written(place.data_disk("data"), 0x33)
    inode = place.data_disk("data").stat().st_ino
    done("start")
    new = done("clear", "stage", "define", generation=2)
    assert place.data_disk("data").stat().st_ino == inode
    assert holds(place.data_disk("data"), 0x33)
    assert str(place.data_disk("data")) in new["domain"]["disks"]
    assert new["public_key"] != old["public_key"]
    done("start", "finish", generation=2)


def test_a_data_disk_keeps_its_size(done, spec, place, impatient):
    done("stage", "define")
    spec["data_disks"] = [{"name": "data", "size_gib": 5}]
    facts = done("clear", "define", generation=2)
    assert facts["data_disks"][0]["virtual_size"] == 1 * GIB


def test_a_guest_that_obeys_is_not_switched_off(done, connection, monkeypatch):
    """Stands in for a guest with an operating system: it ends when asked to."""
    done("stage", "define", "start")
    asked = []

    def shutdown(domain):
        asked.append(domain.name())
        destroy(domain)

    destroy = libvirt.virDomain.destroy
    monkeypatch.setattr(libvirt.virDomain, "shutdown", shutdown)
    monkeypatch.setattr(libvirt.virDomain, "destroy", lambda _: pytest.fail("switched off"))
    done("clear", generation=2)
    assert asked == ["store-0815"]


def test_the_masters_copy_of_the_key_is_used_where_the_domain_has_none(done, place):
    done("stage", "define")
    subprocess.run(["virsh", "undefine", "store-0815"], check=True, capture_output=True)
    facts = done("clear", generation=2, public_key="OLD KEY")
    aside = pathlib.Path(facts["set_aside"]["path"])
    assert (aside / "minion.pub").read_text() == "OLD KEY"
    assert (aside / "disk.qcow2").exists()
    assert not place.disk.exists()


def test_a_clearing_that_another_deployment_ends_is_that_deployments(done, killed):
    done("stage", "define")
    assert killed(4, lambda: done("clear", generation=2))
    (put,) = done("clear", generation=3)["set_asides"]
    assert put["generation"] == 1


def test_a_clearing_tells_of_all_that_was_ever_set_aside(done):
    """Or a record that missed an earlier one, as a cancel makes it, would miss it for ever."""
    done("stage", "define")
    done("clear", generation=2)
    facts = done("clear", generation=3)
    assert facts["set_aside"] is None
    assert [each["generation"] for each in facts["set_asides"]] == [1]


def test_what_a_killed_attempt_left_of_the_seed_is_removed(done, place):
    done("stage", "define")
    left = [
        place.seed.with_name(f".{place.seed.name}.new"),
        place.disk.with_name(f".{place.disk.name}.new"),
    ]
    for path in left:
        path.write_text("half")
    done("clear", generation=2)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        f"<metadata><sd:deployment xmlns:sd='{OURS}' store='0816' generation='1'/></metadata>",
    ],
    ids=["without-metadata", "of-another-store"],
)
def test_a_domain_that_is_not_ours_is_never_touched(
    done, refused, connection, pool, metadata, place
):
    domain = foreign(connection, metadata)
    before = domain.XMLDesc(), domain.ID()
    done("stage")
    for step, arguments in (
        *((step, {}) for step in ("prepare", "clear", "define", "start", "finish")),
        ("restore", {"of": 1}),
        ("retire", {"remove": True}),
    ):
        assert refused(step, **arguments) == (
            "the domain store-0815 on this hypervisor does not belong to store 0815"
        )
    assert done("discard")["left"] == [], "nothing here is this deployment's"
    assert not done("facts")["domain"]["ours"]
    assert (domain.XMLDesc(), domain.ID()) == before
    assert [path.name for path in pool.iterdir()] == [".store-deploy"]
    assert not place.set_asides.exists()


def test_a_server_in_another_pool_is_not_cleared(done, refused, spec, pool, connection):
    done("stage", "define")
    spec["pool"] = str(pool / "new")
    (pool / "new").mkdir()
    assert f"is {pool}/store-0815.qcow2, not {pool}/new/store-0815.qcow2" in refused("clear")
    assert connection.lookupByName("store-0815")


def test_facts_list_all_that_was_set_aside(done, aside, place, killed):
    done("define", generation=2)
    assert killed(4, lambda: done("clear", generation=3))
    first, second = done("facts", generation=3)["set_asides"]
    assert (first["path"], first["generation"], first["cleared_for"]) == (str(aside), 1, "g2-d")
    assert (first["complete"], second["complete"]) == (True, False)
    assert (second["generation"], second["cleared_for"]) == (2, "g3-d")
    assert aside.name.endswith(f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime(first['at']))}")
    assert first["size"] == sum(path.stat().st_blocks * 512 for path in aside.iterdir())
    assert first["size"] >= 64 * 1024
