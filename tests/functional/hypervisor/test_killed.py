# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Each step can be repeated, wherever it was killed."""

import json
import pathlib

import pytest
from on_hypervisor import (
    GIB,
    holds,
    left,
    seed_documents,
    written,
)

from storelib.hypervisor import preparation

pytestmark = pytest.mark.thorough


def test_clear_goes_on_after_being_killed_at_any_line(done, place, killed):
    done("stage")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    for generation in range(1, 50):
        key = done("define", generation=generation)["public_key"]
        written(place.disk, generation)
        place.nvram.write_text("boot order")
        cut = killed(generation - 1, lambda: done("clear", generation=generation + 1))  # noqa: B023
        facts = done("clear", generation=generation + 1)
        put = facts["set_aside"]
        assert put in facts["set_asides"]
        aside = pathlib.Path(put["path"])
        assert put["generation"] == generation
        assert {path.name for path in aside.iterdir()} == {
            *("disk.qcow2", "domain.xml", "nvram.fd", "minion.pub", "set-aside.json"),
        }
        assert holds(aside / "disk.qcow2", generation)
        assert (aside / "minion.pub").read_text() == key
        assert not facts["domain"]["exists"]
        assert not place.disk.exists()
        if not cut:
            break
    assert generation > 8, "too few changes seen: the test watches the wrong calls"
    assert not list(place.set_asides.glob("*.partial"))


@pytest.mark.parametrize("then", ["restore", "clear"])
def test_a_restore_goes_on_or_is_taken_back_after_being_killed_at_any_line(
    done, connection, place, killed, aside, then
):
    key = (aside / "minion.pub").read_text()
    for changes in range(40):
        (put,) = done("facts")["set_asides"]
        cut = killed(changes, lambda: done("restore", generation=2, of=1))
        if then == "restore":
            facts = done("restore", generation=2, of=1)
            assert facts["set_aside"] == put["path"]
            assert facts["public_key"] == key
            assert facts["domain"]["autostart"]
            assert holds(place.disk, 0x11)
            assert place.nvram.read_text() == "boot order"
            assert place.set_asides.exists()
            assert list(place.set_asides.iterdir()) == []
        facts = done("clear", generation=2, public_key="ANOTHER KEY")
        (again,) = done("facts")["set_asides"]
        assert facts["set_asides"] == [again]
        assert again["generation"] == 1
        assert set(again["files"]) == set(put["files"])
        folder = pathlib.Path(again["path"])
        assert holds(folder / "disk.qcow2", 0x11)
        assert (folder / "nvram.fd").read_text() == "boot order"
        assert (folder / "minion.pub").read_text() == key
        assert connection.listAllDomains() == []
        assert not any(path.exists() for path in (place.disk, place.nvram, place.restored))
        if not cut:
            break
    assert changes > 9, "too few changes seen: the test watches the wrong calls"


def test_a_store_is_retired_after_being_killed_at_any_line(
    done, connection, spec, place, nvram, killed, impatient
):
    done("stage")
    named = [{"name": "data", "size_gib": 1}, {"name": "old", "size_gib": 1}]
    for changes in range(40):
        spec["data_disks"] = named
        done("define", "clear")
        done("define", generation=2)
        nvram.write_text("boot order")
        place.console.write_text("last words")
        spec["data_disks"] = named[:1]
        arguments = {"generation": 2, "data_disks": True, "remove": True}
        cut = killed(changes, lambda: done("retire", **arguments))  # noqa: B023
        facts = done("retire", **arguments)
        assert (facts["left"], facts["kept"]) == ([], [])
        assert connection.listAllDomains() == []
        assert left(place) == []
        assert list(place.pool.glob("*.qcow2")) == []
        assert not place.set_asides.exists()
        assert not place.console.exists()
        if not cut:
            break
    assert changes > 12, "too few changes seen: the test watches the wrong calls"


def test_what_a_killed_prune_leaves_is_not_restored(done, refused, aside, place, killed):
    whole, refusals = {path.name for path in aside.iterdir()}, 0
    for changes in range(20):
        cut = killed(changes, lambda: done("prune", generation=2, older_than_s=0, remove=True))
        (folder,) = place.set_asides.iterdir() if cut else [place.set_asides]
        if cut and {path.name for path in folder.iterdir()} != whole:
            assert "lacks" in refused("restore", generation=2, of=1)
            refusals += 1
        assert done("prune", generation=2, older_than_s=0, remove=True)["left"] == []
        assert done("facts")["set_asides"] == []
        if not cut:
            break
        done("define")
        place.nvram.write_text("boot order")
        done("clear", generation=2)
    assert refusals > 3, "too few changes seen: the test watches the wrong calls"


@pytest.mark.parametrize("then", ["prepare", "discard"])
def test_prepare_goes_on_or_is_discarded_after_being_killed_at_any_line(
    done, connection, spec, place, killed, tmp_path, then
):
    ready = preparation.of(place)
    done("stage", "define", "start")
    before = connection.lookupByName("store-0815").ID()
    for changes in range(50):
        generation = changes + 2
        cut = killed(changes, lambda: done("prepare", generation=generation))  # noqa: B023
        if then == "prepare":
            facts = done("prepare", generation=generation)
            assert holds(ready.disk, 0x5A)
            seed = seed_documents(ready, tmp_path / str(changes))["user-data"]
            assert json.dumps(facts["public_key"]) in seed
            assert len(list(ready.folder.iterdir())) == 3
        else:
            assert done("discard", generation=generation)["left"] == []
            assert not ready.folder.exists()
        assert [each.name() for each in connection.listAllDomains()] == ["store-0815"]
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        assert connection.lookupByName("store-0815").ID() == before
        if not cut:
            break
    assert changes > 10, "too few changes seen: the test watches the wrong calls"


def test_define_of_a_prepared_server_goes_on_after_being_killed_at_any_line(
    done, place, killed, tmp_path
):
    ready = preparation.of(place)
    done("stage")
    for changes in range(50):
        generation = changes + 1
        key = done("prepare", generation=generation)["public_key"]
        inode = ready.disk.stat().st_ino
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        facts = done("define", generation=generation)
        assert (facts["public_key"], place.disk.stat().st_ino) == (key, inode)
        seed = seed_documents(place, tmp_path / str(changes))["user-data"]
        assert json.dumps(key) in seed
        assert not ready.folder.exists()
        assert not place.intent.exists()
        assert done("define", generation=generation) == facts
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 8, "too few changes seen: the test watches the wrong calls"


def test_define_goes_on_after_being_killed_at_any_line(done, place, killed, tmp_path):
    done("stage")
    written_once = None
    for changes in range(50):
        generation = changes + 1
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        facts = done("define", generation=generation)
        assert facts["domain"]["ours"]
        assert facts["disk"]["virtual_size"] == 2 * GIB
        assert holds(place.disk, 0x5A)
        seed = seed_documents(place, tmp_path / str(changes))["user-data"]
        assert json.dumps(facts["public_key"]) in seed
        assert done("define", generation=generation) == facts
        written_once = written_once or place.data_disk("data").stat().st_ino
        assert place.data_disk("data").stat().st_ino == written_once
        assert not place.intent.exists()
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        assert not list(place.pool.glob(".*.new"))
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 12, "too few changes seen: the test watches the wrong calls"


def test_discard_goes_on_after_being_killed_at_any_line(done, connection, place, killed):
    done("stage")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    for changes in range(20):
        generation = changes + 1
        done("define", "start", generation=generation)
        place.nvram.write_text("boot order")
        cut = killed(changes, lambda: done("discard", generation=generation))  # noqa: B023
        assert not done("discard", generation=generation)["domain"]["exists"]
        assert left(place) == []
        assert connection.listAllDomains() == []
        if not cut:
            break
    assert changes > 5, "too few changes seen: the test watches the wrong calls"


def test_a_define_that_was_killed_at_any_line_is_discarded(done, connection, place, killed):
    done("stage")
    for changes in range(50):
        generation = changes + 1
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        done("discard", generation=generation)
        assert left(place) == []
        assert connection.listAllDomains() == []
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        if not cut:
            break
    assert changes > 10, "too few changes seen: the test watches the wrong calls"


def test_finish_goes_on_after_being_killed_at_any_line(done, connection, place, killed, impatient):
    done("stage")
    for changes in range(20):
        generation = changes + 1
        done("define", "start", generation=generation)
        cut = killed(changes, lambda: done("finish", generation=generation))  # noqa: B023
        facts = done("finish", generation=generation)
        assert (facts["inserted"], facts["defined"], facts["autostart"]) == (False, False, True)
        assert not place.seed.exists()
        connection.lookupByName("store-0815").destroy()
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 3, "too few changes seen: the test watches the wrong calls"
