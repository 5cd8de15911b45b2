# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.prepare, on a real libvirt."""

import contextlib
import json
import re
import subprocess
import time
from xml.etree import ElementTree

import libvirt
import pytest
from on_hypervisor import (
    GIB,
    Killed,
    aside_of,
    changes,
    dumped,
    follow,
    foreign,
    holds,
    raised,
    seed_documents,
    untouched,
    written,
)

from storemaster.deployment import suitability


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_a_new_server_is_made_ready_beside_the_old_one_which_runs_on(
    done, connection, spec, place, ready, tmp_path, clone, impatient
):
    spec["clone"] = clone
    done("stage", "define")
    written(place.disk, 0x11)
    done("start")
    old = connection.lookupByName("store-0815")
    before = old.ID(), old.XMLDesc(), dumped(connection).findtext("uuid")
    seeds = place.seed.read_bytes()

    facts = done("prepare", generation=2)
    assert (old.ID(), old.XMLDesc(), dumped(connection).findtext("uuid")) == before
    assert place.seed.read_bytes() == seeds
    assert [domain.name() for domain in connection.listAllDomains()] == ["store-0815"]
    assert facts["trial"] is None
    assert facts["domain"]["state"] == "running"
    assert facts["disk"]["virtual_size"] == 2 * GIB
    assert facts["disk"]["backing"] == (str(place.image) if clone == "cow" else None)
    assert facts["seed"] == {"path": str(ready.seed), "exists": True}
    assert json.loads(ready.note.read_text())["public_key"] == facts["public_key"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in ready.folder.iterdir()}
    assert modes == {"disk.qcow2": 0o600, "seed.iso": 0o600, "prepared.json": 0o600}
    assert "PRIVATE" not in ready.note.read_text()
    inodes = [path.stat().st_ino for path in (ready.disk, ready.seed)]

    cleared = done("clear", generation=2)
    assert cleared["off_for_s"] >= 0
    defined = done("define", generation=2)
    assert [path.stat().st_ino for path in (place.disk, place.seed)] == inodes
    assert defined["public_key"] == facts["public_key"]
    assert defined["domain"]["uuid"] != before[2]
    documents = seed_documents(place, tmp_path / "seed")
    assert json.dumps(facts["public_key"]) in documents["user-data"]
    assert not ready.folder.exists()
    assert holds(place.disk, 0x5A)
    assert holds(aside_of(cleared) / "disk.qcow2", 0x11)
    done("start", "finish", generation=2)


def test_preparing_again_changes_nothing(done, ready):
    facts = done("stage", "prepare")
    before = untouched(*ready.folder.iterdir())
    assert sorted(facts.pop("took_s")) == ["check", "trial"]
    again = done("prepare")
    assert again.pop("took_s") == {}
    assert again == facts
    assert untouched(*ready.folder.iterdir()) == before


@pytest.mark.parametrize("changed", ["generation", "spec", "master", "disk", "seed"])
def test_what_was_not_prepared_for_just_this_is_made_anew(done, spec, ready, changed):
    before = done("stage", "prepare")["public_key"]
    generation, master = 1, "MASTER"
    if changed == "generation":
        generation = 2
    elif changed == "spec":
        spec["hostname"] = "store-0815.example.org"
    elif changed == "master":
        master = "ANOTHER MASTER"
    else:
        getattr(ready, changed).unlink()
    facts = done("prepare", generation=generation, master_public_key=master)
    assert facts["public_key"] != before
    assert facts["disk"]["exists"]
    assert facts["seed"]["exists"]


NOT_TO_BE_PREPARED = {
    "cpus": (
        {"cpus": 300},
        r"cpus is 300, a guest there can have 255 \(machine type pc-i440fx-[\d.]+\)",
    ),
    "mac": (
        {
            "interfaces": [
                {"name": "eth0", "type": "user", "mac": "01:00:5e:00:00:01", "address": "dhcp"}
            ]
        },
        "libvirt refuses the new server: XML error: expected unicast mac address, found multicast "
        "'01:00:5e:00:00:01'",
    ),
    "virt_type": ({"virt_type": "xen"}, "the hypervisor cannot run xen guests of OS type hvm; .*"),
    "disk_gib": (
        {"disk_gib": 0.5},
        r"the disk \(0.5 GiB\) is smaller than the image \(1 GiB\)",
    ),
    "disk_gib2": ({"disk_gib": 10**9}, "qemu-img failed: .*"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("wrong", "sentence"), NOT_TO_BE_PREPARED.values(), ids=NOT_TO_BE_PREPARED)
def test_what_the_hypervisor_cannot_have_fails_before_the_old_server_is_touched(
    done, refused, connection, spec, pool, wrong, sentence, old
):
    done("stage", *(("define", "start") if old else ()))
    before = changes(connection, pool)
    with_fault = {**spec, **wrong}
    spec.update(with_fault)
    assert re.fullmatch(sentence, refused("prepare", generation=2))
    assert changes(connection, pool) == before


def test_a_firmware_that_the_hypervisor_lacks_fails_before_the_old_server_is_touched(
    done, refused, connection, spec, pool, firmware
):
    done("stage", "define", "start")
    before = changes(connection, pool)
    spec["firmware"] = "efi"
    assert done("facts")["capabilities"]["firmwares"] == []
    assert refused("prepare", generation=2) == "firmware is efi, and the hypervisor has none"
    assert changes(connection, pool) == before


def test_a_firmware_that_is_there_is_tried_and_leaves_nothing(done, connection, spec, pool, ready):
    spec["firmware"] = "efi"
    facts = done("facts")["capabilities"]
    assert "efi" in facts["firmwares"]
    assert facts["max_cpus"] == 255
    done("stage", "prepare")
    assert connection.listAllDomains() == []
    assert not ready.nvram.exists()
    done("clear", "define", "start")


@pytest.mark.parametrize("cut_short", [False, True])
def test_what_the_firmware_of_the_old_server_remembers_survives_a_trial_beside_it(
    done, connection, spec, place, ready, monkeypatch, cut_short
):
    spec["firmware"] = "efi"
    if "efi" not in done("facts")["capabilities"]["firmwares"]:
        pytest.skip("there is no UEFI for guests here")
    done("stage", "define", "start")
    connection.lookupByName("store-0815").destroy()
    with place.nvram.open("r+b") as file:
        # No firmware writes that.
        file.write(b"boot order")
    before = place.nvram.stat().st_ino, place.nvram.read_bytes()
    for then in ("discard", "clear"):
        with monkeypatch.context() as patch:
            if cut_short:
                patch.setattr(libvirt.virConnect, "domainXMLToNative", raised(Killed))
            with contextlib.suppress(Killed):
                done("prepare", generation=2)
        assert (place.nvram.stat().st_ino, place.nvram.read_bytes()) == before
        facts = done(then, generation=2)
        assert not ready.nvram.exists()
        kept = place.nvram if then == "discard" else aside_of(facts) / "nvram.fd"
        assert (kept.stat().st_ino, kept.read_bytes()) == before
    assert not place.nvram.exists()


def test_what_only_the_command_line_shows_fails_before_the_old_server_is_touched(
    done, refused, connection, pool, monkeypatch
):
    """Stands in for what libvirt defines and then cannot start."""
    done("stage", "define", "start")
    before = changes(connection, pool)

    def refuses(*_):
        raise libvirt.libvirtError("no such device model")

    monkeypatch.setattr(libvirt.virConnect, "domainXMLToNative", refuses)
    assert refused("prepare", generation=2).startswith("libvirt refuses the new server: ")
    assert changes(connection, pool) == before


def test_a_definition_that_is_not_what_was_asked_for_is_refused(
    done, refused, connection, pool, stub, modules
):
    done("stage")
    before = changes(connection, pool)
    stub(virt__init=lambda **asked: modules["virt.init"](**{**asked, "mem": 32}))
    assert "reads back as {'cpus': 1, 'memory_mib': 32" in refused("prepare")
    assert changes(connection, pool) == before


def test_a_pool_without_an_inode_is_called_that(done, refused, pool, place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=14", "tmpfs", pool], check=True)
    try:
        done("stage")
        with contextlib.suppress(OSError):
            for number in range(20):
                (pool / f"ballast{number}").touch()
        told = f"no inode left in {pool}: its file system takes no more files"
        assert not done("facts")["pool"]["inodes_left"]
        for step in ("stage", "prepare", "define"):
            assert refused(step) == told
    finally:
        subprocess.run(["umount", pool], check=True)


def test_a_trial_that_a_kill_left_is_removed_by_whatever_comes_next(
    done, call, connection, place, ready, monkeypatch, impatient
):
    done("stage", "define", "start")
    for step, arguments in (
        ("prepare", {"generation": 2}),
        ("discard", {"generation": 2}),
        ("clear", {"generation": 2}),
        ("define", {"generation": 2}),
        ("retire", {"generation": 2, "remove": True}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(libvirt.virConnect, "domainXMLToNative", raised(Killed))
            with contextlib.suppress(Killed):
                done("prepare", generation=9)
        trial = connection.lookupByName("store-0815+trial")
        assert not trial.autostart()
        assert not trial.isActive()
        assert str(place.disk) not in trial.XMLDesc()
        assert call(step, **arguments)["ok"]
        assert "store-0815+trial" not in [each.name() for each in connection.listAllDomains()]
    assert not ready.folder.exists()


def test_a_domain_that_only_has_the_name_of_a_trial_is_not_touched(done, call, connection, pool):
    done("stage")
    other = foreign(connection, name="store-0815+trial")
    before = changes(connection, pool)
    made = call("prepare")
    assert made["error"] == "there is a domain store-0815+trial, which store-deploy did not make"
    done("discard")
    assert changes(connection, pool) == before
    assert other.isActive()
    other.destroy()
    follow(made["hint"])
    done("prepare")


def test_a_trial_uses_no_disk(done, connection, place, monkeypatch, impatient):
    done("stage", "define", "clear")
    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virConnect, "domainXMLToNative", raised(Killed))
        with contextlib.suppress(Killed):
            done("prepare", generation=2)
    trial = dumped(connection, "store-0815+trial")
    assert str(place.data_disk("data")) not in ElementTree.tostring(trial, encoding="unicode")
    (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"] or [None]
    assert kept is None


@pytest.mark.parametrize("then", ["discard", "restore", "retire"])
def test_what_was_prepared_goes_with_the_deployment(
    done, connection, place, ready, tmp_path, then, impatient
):
    done("stage", "define")
    done("prepare", "clear", generation=2)
    assert ready.seed.exists()
    arguments = {"restore": {"of": 1}, "retire": {"remove": True}}.get(then, {})
    done(then, generation=2, **arguments)
    assert not ready.folder.exists()


def test_the_room_of_a_prepared_disk_is_not_asked_for_twice(done, spec, pool):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1026m", "tmpfs", pool], check=True)
    try:
        done("stage", "prepare")
        free_mib = done("facts")["pool"]["free_mib"]
        assert done("facts")["prepared"]["size"] > 0
        assert suitability.disk_needed_mib(spec, done("facts")) <= free_mib + 1
        subprocess.run(["mount", "-o", "remount,size=1026m", pool], check=True)
        done("stage", "prepare")
    finally:
        subprocess.run(["umount", pool], check=True)


def test_the_old_servers_end_is_told_however_often_clear_is_called(
    done, place, killed, monkeypatch, impatient
):
    done("stage", "define", "start")
    first = done("clear", generation=2)["off_for_s"]
    time.sleep(0.2)
    assert done("clear", generation=2)["off_for_s"] > first
    assert "off_for_s" not in done("clear", generation=3)
    done("define", generation=3)
    assert "off_for_s" not in done("clear", generation=4), "it did not run"
