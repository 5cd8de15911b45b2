# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.restore, on a real libvirt."""

import pathlib
import re

import libvirt
import pytest
from on_hypervisor import (
    Killed,
    aside_of,
    contents,
    dated,
    dumped,
    holds,
    raised,
    written,
)


def test_a_set_aside_server_is_put_back_as_it_was(
    done, refused, connection, place, nvram, impatient
):
    key = done("stage", "define")["public_key"]
    written(place.disk, 0x11)
    written(place.data_disk("data"), 0x33)
    nvram.write_text("boot order")
    uuid, inode = dumped(connection).findtext("uuid"), place.disk.stat().st_ino
    aside = aside_of(done("clear", generation=2))
    done("define", "start", generation=2)
    done("clear", generation=2)

    for _ in range(2):
        facts = done("restore", generation=2, of=1)
        assert facts["set_aside"] == str(aside)
        assert facts["public_key"] == key
        assert (facts["domain"]["generation"], facts["domain"]["state"]) == (1, "shut off")
        assert facts["domain"]["autostart"]
        assert dumped(connection).findtext("uuid") == uuid
        assert (place.disk.stat().st_ino, holds(place.disk, 0x11)) == (inode, True)
        assert holds(place.data_disk("data"), 0x33)
        assert nvram.read_text() == "boot order"
        assert not aside.exists()
    (other,) = done("facts")["set_asides"]
    assert other["generation"] == 2
    for of in (None, 2):
        assert refused("start", generation=2, of=of) == (
            "the domain store-0815 of deployment 2 is not defined"
        )
    assert done("start", generation=2, of=1)["state"] == "running"
    assert done("restore", generation=2, of=1)["domain"]["state"] == "running"
    assert done("discard", generation=2)["domain"]["generation"] == 1


def test_a_restored_server_is_set_aside_like_any_other(done, aside, place):
    done("restore", generation=2, of=1)
    (put,) = done("clear", generation=3)["set_asides"]
    assert put["generation"] == 1
    assert holds(pathlib.Path(put["path"], "disk.qcow2"), 0x11)
    assert done("restore", generation=3, of=1)["set_aside"] == put["path"]


def test_the_one_that_was_set_aside_last_is_restored(done, aside, place):
    old = dated(aside, "g1-2020-01-31T080000Z")
    done("define")
    written(place.disk, 0x12)
    newer = done("clear", generation=2)["set_aside"]["path"]
    assert done("restore", generation=2, of=1)["set_aside"] == newer
    assert holds(place.disk, 0x12)
    assert old.exists()


def test_what_is_not_set_aside_is_not_restored(refused, aside):
    assert refused("restore", generation=3, of=2) == (
        f"no server of deployment 2 of store-0815 is set aside; set aside are: {aside.name}"
    )
    dated(aside, f"{aside.name}.partial")
    assert refused("restore", generation=2, of=1) == (
        f"the clearing that began {aside.name}.partial is not over"
    )


@pytest.mark.parametrize("what", ["domain", "disk", "nvram"])
def test_nothing_is_restored_over_what_is_in_the_place(done, call, aside, place, what):
    if what == "domain":
        done("define", generation=2)
        sentence = "the domain store-0815 of deployment 2 is in the place"
    else:
        file = getattr(place, what)
        file.write_text("somebody's")
        sentence = f"there is a file {file} in the place"
    before = contents(place.pool)
    made = call("restore", generation=2, of=1)
    assert made["error"] == sentence
    assert made["hint"].startswith("salt-run deploy.rollback 0815: ")
    assert contents(place.pool) == before


@pytest.mark.parametrize("part", ["disk.qcow2", "domain.xml", "minion.pub"])
def test_half_a_server_is_not_restored(call, aside, connection, part):
    (aside / part).unlink()
    made = call("restore", generation=2, of=1)
    assert made["error"] == f"{aside} lacks {part}"
    assert made["hint"].endswith("salt-run deploy.store 0815 redeploy=True")
    assert aside.exists()
    assert connection.listAllDomains() == []


def test_a_server_whose_data_disk_is_gone_is_not_restored(refused, aside, place):
    hidden = place.data_disk("data").rename(place.pool / "hidden")
    assert refused("restore", generation=2, of=1) == (
        f"the set-aside server needs {place.data_disk('data')}, which is not there"
    )
    assert aside.exists()
    hidden.rename(place.data_disk("data"))


def test_a_server_of_another_pool_or_store_is_not_restored(refused, aside, spec, pool):
    definition = (aside / "domain.xml").read_text()
    (aside / "domain.xml").write_text(re.sub(r"store=(.)0815", r"store=\g<1>0816", definition))
    assert "is not the definition of a server of store 0815" in refused(
        "restore", generation=2, of=1
    )
    (aside / "domain.xml").write_text(
        definition.replace(f"{pool}/store-0815.qcow2", "/old/store-0815.qcow2")
    )
    assert refused("restore", generation=2, of=1) == (
        f"the system disk of the set-aside server was /old/store-0815.qcow2, "
        f"not {pool}/store-0815.qcow2"
    )


def test_a_restore_that_is_not_over_lets_no_other_begin(done, refused, aside, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virConnect, "defineXML", raised(Killed))
        with pytest.raises(Killed):
            done("restore", generation=2, of=1)
    assert not aside.exists()
    assert refused("restore", generation=2, of=3) == "the restore of deployment 1 is not over"
    assert refused("define", generation=2) == (
        f"the restore that began {aside.name}.restoring is not over"
    )
    (found,) = done("facts")["set_asides"]
    assert not found["complete"]
    assert done("discard", generation=2)["left"] == [], "the disk is the old server's"
