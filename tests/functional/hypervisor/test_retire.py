# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.retire, on a real libvirt."""

from on_hypervisor import (
    attached,
    contents,
    holds,
    qemu_img,
)


def test_retire_only_lists_what_a_store_has(done, connection, place, aside, nvram):
    done("define", "start", generation=2)
    nvram.write_text("boot order")
    place.console.with_suffix(".log.0").write_text("earlier")
    before = contents(place.pool), connection.lookupByName("store-0815").ID()
    facts = done("retire", generation=2)
    assert [(each["what"], each.get("name", each.get("path"))) for each in facts["found"]] == [
        ("domain", "store-0815"),
        ("disk", str(place.disk)),
        ("nvram", str(nvram)),
        ("seed", str(place.seed)),
        ("console", str(place.console)),
        ("console", f"{place.console}.0"),
        ("set_aside", str(aside)),
    ]
    sizes = {each["what"]: each["size"] for each in facts["found"]}
    assert sizes["disk"] == place.disk.stat().st_blocks * 512
    assert sizes["set_aside"] > 64 * 1024
    (kept,) = facts["kept"]
    assert (kept["what"], kept["path"]) == ("data_disk", str(place.data_disk("data")))
    assert (facts["removed"], facts["left"]) == ([], [])
    assert (contents(place.pool), connection.lookupByName("store-0815").ID()) == before


def test_a_retired_store_leaves_its_data_disks_and_the_image(done, connection, place, aside):
    done("define", "start", generation=2)
    listed = done("retire", generation=2)
    facts = done("retire", generation=2, remove=True)
    assert facts["removed"] == facts["found"]
    assert {each["what"] for each in listed["found"]} == {each["what"] for each in facts["found"]}
    assert facts["left"] == []
    assert [each["path"] for each in facts["kept"]] == [str(place.data_disk("data"))]
    assert connection.listAllDomains() == []
    cached = [place.image.with_suffix(suffix) for suffix in (".lock", ".qcow2", ".verified")]
    assert [path for path in contents(place.pool) if path.is_file()] == [
        *cached,
        place.data_disk("data"),
    ]
    assert holds(place.data_disk("data"), 0x33)
    assert not place.console.exists()
    again = done("retire", generation=2, remove=True)
    assert (again["found"], again["removed"]) == ([], [])
    assert [each["path"] for each in again["kept"]] == [str(place.data_disk("data"))]


def test_a_store_is_retired_with_all_data_disks_that_its_definitions_name(
    done, connection, spec, place, impatient
):
    spec["data_disks"] += [{"name": "old", "size_gib": 1}, {"name": "older", "size_gib": 1}]
    done("stage", "define", "clear")
    spec["data_disks"] = spec["data_disks"][:2]
    done("define", generation=2)
    spec["data_disks"] = spec["data_disks"][:1]
    other = place.pool / "store-0815-notours.qcow2"
    alien = place.pool / "by-hand.qcow2"
    for disk in (other, alien):
        qemu_img("create", "-f", "qcow2", disk, "1M")
    attached(connection, alien)
    facts = done("retire", generation=2, data_disks=True, remove=True)
    names = [each["path"] for each in facts["removed"] if each["what"] == "data_disk"]
    assert names == [str(place.data_disk(name)) for name in ("data", "old", "older")]
    assert (facts["left"], facts["kept"]) == ([], [])
    assert sorted(place.pool.glob("*.qcow2")) == [alien, other]


def test_a_disk_of_another_domain_is_not_retired(done, connection, place, impatient):
    done("stage", "define")
    disk = place.data_disk("data")
    attached(connection, disk, name="store-0815-data")
    facts = done("retire", data_disks=True, remove=True)
    (kept,) = facts["kept"]
    assert (kept["path"], kept["why"]) == (
        str(disk),
        "it is a disk of the domain store-0815-data",
    )
    assert disk.exists()
    assert [domain.name() for domain in connection.listAllDomains()] == ["store-0815-data"]


def test_a_server_in_another_pool_is_not_retired(done, refused, spec, pool, connection):
    done("stage", "define")
    spec["pool"] = str(pool / "new")
    (pool / "new").mkdir()
    assert "is " + str(pool / "store-0815.qcow2") in refused("retire", remove=True)
    assert connection.lookupByName("store-0815")


def test_a_server_that_cannot_be_retired_goes_on_running(done, refused, connection, pool):
    done("stage", "define", "start")
    before = connection.lookupByName("store-0815").ID()
    (pool / "other.qcow2").write_bytes(b"QFI\xfb damaged")
    assert refused("retire", remove=True).startswith("qemu-img failed: ")
    assert connection.lookupByName("store-0815").ID() == before


def test_where_a_store_has_nothing_nothing_is_retired(done):
    facts = done("retire", remove=True)
    lists = [facts[key] for key in ("found", "removed", "left", "kept")]
    assert lists == [[], [], [], []]
