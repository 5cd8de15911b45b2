# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""store_hypervisor.prune, on a real libvirt."""

import time

import pytest
from on_hypervisor import (
    DAY_S,
    aside_of,
    attached,
    dated,
    holds,
    qemu_img,
)


def test_only_old_set_aside_servers_are_pruned(done, aside, place, connection):
    old = dated(aside, time.strftime("g1-%Y-%m-%dT%H%M%SZ", time.gmtime(time.time() - 30 * DAY_S)))
    done("define", generation=2)
    young = aside_of(done("clear", generation=3))
    done("define", generation=3)
    for wanted, age in (([], 31 * DAY_S), ([old], 29 * DAY_S), ([old, young], 0)):
        facts = done("prune", generation=3, older_than_s=age)
        assert [each["path"] for each in facts["found"]] == [str(path) for path in wanted]
        assert (facts["removed"], facts["left"], facts["kept"]) == ([], [], [])
    assert old.exists()
    facts = done("prune", generation=3, older_than_s=29 * DAY_S, remove=True)
    assert facts["removed"] == facts["found"]
    assert [(each["what"], each["path"]) for each in facts["removed"]] == [("set_aside", str(old))]
    assert facts["removed"][0]["size"] >= 64 * 1024
    assert facts["left"] == []
    assert (old.exists(), young.exists(), place.disk.exists()) == (False, True, True)
    assert holds(place.data_disk("data"), 0x33)
    assert done("prune", generation=3, older_than_s=29 * DAY_S, remove=True)["found"] == []


@pytest.mark.parametrize("suffix", [".partial", ".restoring"])
def test_what_a_killed_job_left_is_not_pruned(done, aside, suffix):
    half = dated(aside, f"g1-2020-01-31T080000Z{suffix}")
    assert done("prune", generation=2, older_than_s=0, remove=True)["found"] == []
    assert (half / "disk.qcow2").exists()


def test_a_backing_file_is_not_pruned(done, aside, place, connection, pool):
    disk = aside / "disk.qcow2"
    overlay = pool / "other.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay)
    facts = done("prune", generation=2, older_than_s=0, remove=True)
    (kept,) = facts["kept"]
    assert (kept["path"], kept["why"]) == (str(aside), f"it is the backing file of {overlay}")
    assert facts["found"] == []
    assert holds(overlay, 0x11)
    overlay.unlink()
    attached(connection, disk, name="look")
    (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"]
    assert kept["why"] == "it is a disk of the domain look"
    assert disk.exists()


def test_a_damaged_disk_stops_a_removal_only_if_it_stays(done, refused, aside, pool):
    damaged = pool / "other.qcow2"
    damaged.write_bytes(b"QFI\xfb damaged")
    sentence = refused("prune", generation=2, older_than_s=0, remove=True)
    assert sentence.startswith("qemu-img failed: ")
    assert str(damaged) in sentence
    assert aside.exists()
    damaged.replace(aside / "disk.qcow2")
    assert done("prune", generation=2, older_than_s=0, remove=True)["left"] == []
    assert not aside.exists()


@pytest.mark.parametrize("age", [-1, "30d", None, True, float("nan")])
def test_an_age_that_is_none_is_refused(refused, age):
    assert refused("prune", older_than_s=age) == (
        f"older_than_s is {age!r}, not a number of seconds from 0 up"
    )
