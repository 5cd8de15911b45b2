# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Data disks: new ones are made beside the old server, old ones are looked at and never touched."""

import contextlib
import os
import subprocess

import pytest
from on_hypervisor import GIB, changes, contents, dumped, follow, holds, qemu_img, written

MIB = 1024**2
MORE = {"name": "more", "size_gib": 3}


def as_it_is(path):
    """By what a file or a link is known not to have been touched: not by when it was read."""
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def whole(path):
    """The same of a file, and what is in it."""
    return *as_it_is(path), path.read_bytes()


@pytest.fixture
def old(done, spec, place):
    """A server that runs and has the data disk ``data``; the next one shall have ``more``, too."""
    done("stage", "define", "start")
    spec["data_disks"] = [*spec["data_disks"], MORE]
    return place.data_disk("data")


def test_a_new_data_disk_is_made_beside_the_old_server_and_only_renamed_into_its_place(
    done, connection, place, ready, old, impatient
):
    before = whole(old), connection.lookupByName("store-0815").ID()
    facts = done("prepare", generation=2)
    made, final = ready.folder / "data-more.qcow2", place.data_disk("more")
    assert [(each["path"], each["exists"]) for each in facts["data_disks"]] == [
        (str(old), True),
        (str(made), True),
    ]
    assert facts["data_disks"][1]["virtual_size"] == 3 * GIB
    assert made.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in ready.folder.iterdir()) == [
        *("data-more.qcow2", "disk.qcow2", "prepared.json", "seed.iso")
    ]
    assert not final.exists()
    assert (whole(old), connection.lookupByName("store-0815").ID()) == before
    size = sum(path.stat().st_blocks * 512 for path in ready.folder.iterdir())
    assert done("facts", generation=2)["prepared"]["size"] == size
    inode = made.stat().st_ino

    done("clear", generation=2)
    assert not final.exists()
    facts = done("define", generation=2)
    assert final.stat().st_ino == inode
    assert facts["domain"]["disks"][:3] == [str(place.disk), str(old), str(final)]
    assert old.stat().st_ino == before[0][0]
    assert not ready.folder.exists()
    done("start", "finish", generation=2)


def test_the_trial_names_the_new_data_disk_and_none_of_a_server(
    done, connection, place, ready, old, monkeypatch
):
    seen = []
    real = type(connection).domainXMLToNative

    def looked(self, *arguments):
        disks = dumped(connection, ready.trial).iterfind("devices/disk/source")
        seen.extend(source.get("file") for source in disks)
        return real(self, *arguments)

    monkeypatch.setattr(type(connection), "domainXMLToNative", looked)
    done("prepare", generation=2)
    new = str(ready.folder / "data-more.qcow2")
    assert seen == [str(ready.disk), str(ready.disk), new, str(ready.seed)]


@pytest.mark.parametrize("then", ["discard", "restore", "retire"])
def test_a_new_data_disk_that_was_prepared_goes_with_the_deployment(
    done, place, ready, old, then, impatient
):
    done("prepare", "clear", generation=2)
    assert (ready.folder / "data-more.qcow2").exists()
    arguments = {"restore": {"of": 1}, "retire": {"remove": True}}.get(then, {})
    done(then, generation=2, **arguments)
    assert not ready.folder.exists()
    assert not place.data_disk("more").exists()
    assert old.exists()


def test_what_came_to_be_in_the_place_of_a_prepared_data_disk_stays(done, place, ready):
    done("stage", "prepare")
    data = place.data_disk("data")
    qemu_img("create", "-f", "qcow2", data, "5G")
    written(data, 0x33)
    before = whole(data)
    done("clear")
    assert done("define")["data_disks"][0]["virtual_size"] == 5 * GIB
    assert whole(data) == before
    assert holds(data, 0x33)
    assert not ready.folder.exists()


def test_a_data_disk_that_an_older_version_did_not_prepare_is_made_by_define(done, place, ready):
    key = done("stage", "prepare")["public_key"]
    (ready.folder / "data-data.qcow2").unlink()
    done("clear")
    assert done("define")["public_key"] == key
    assert place.data_disk("data").exists()


def test_a_data_disk_that_is_not_prepared_any_more_is_made_anew(done, ready):
    key = done("stage", "prepare")["public_key"]
    made = ready.folder / "data-data.qcow2"
    made.unlink()
    assert done("prepare")["public_key"] != key
    assert made.exists()


def test_prepared_data_disks_survive_a_define_that_is_killed_at_any_line(
    done, spec, place, ready, killed
):
    spec["data_disks"] = [*spec["data_disks"], MORE]
    names = [each["name"] for each in spec["data_disks"]]
    done("stage")
    for kill in range(50):
        generation = kill + 1
        key = done("prepare", generation=generation)["public_key"]
        inodes = [(ready.folder / f"data-{name}.qcow2").stat().st_ino for name in names]
        cut = killed(kill, lambda: done("define", generation=generation))  # noqa: B023
        facts = done("define", generation=generation)
        assert facts["public_key"] == key
        assert [place.data_disk(name).stat().st_ino for name in names] == inodes
        assert not ready.folder.exists()
        assert not list(place.pool.glob(".*.new"))
        done("clear", generation=generation + 1)
        for name in names:
            place.data_disk(name).unlink()
        if not cut:
            break
    assert kill > 10, "too few changes seen: the test watches the wrong calls"


def test_a_prepare_that_is_killed_at_any_line_leaves_no_new_data_disk_to_a_discard(
    done, place, ready, old, killed
):
    before = whole(old)
    for kill in range(50):
        generation = kill + 2
        cut = killed(kill, lambda: done("prepare", generation=generation))  # noqa: B023
        assert done("discard", generation=generation)["left"] == []
        assert not ready.folder.exists()
        assert not place.data_disk("more").exists()
        if not cut:
            break
    assert kill > 10, "too few changes seen: the test watches the wrong calls"
    assert whole(old) == before


def test_a_data_disk_takes_nothing_of_the_room_for_a_first_boot(done, refused, spec, pool, ready):
    spec |= {"clone": "cow", "data_disks": []}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100m", "tmpfs", pool], check=True)
    try:
        done("stage", "prepare")
        done("discard")
        usage = os.statvfs(pool)
        used = (usage.f_blocks - usage.f_bavail) * usage.f_frsize
        size = used + 1024 * MIB + 16 * 1024
        subprocess.run(["mount", "-o", f"remount,size={size}", pool], check=True)
        spec["data_disks"] = [MORE]
        before = contents(pool)
        assert refused("prepare") == (f"no free disk in {pool}: 1024 MiB needed, 1023 MiB free")
        assert contents(pool) == before
    finally:
        subprocess.run(["umount", pool], check=True)


# Data disks that are there


def made(data, *words):
    """Make the data disk; what encrypts gives up on a busy machine, see test_store_hypervisor."""
    for _ in range(20):
        with contextlib.suppress(subprocess.CalledProcessError):
            qemu_img("create", *words, data, "1M")
            break
    assert data.exists()


def raw(data, base):
    made(data, "-f", "raw")
    return f"the data disk {data} is not in the format qcow2"


def encrypted(data, base):
    kind = ("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
    made(data, "-f", "qcow2", "--object", "secret,id=s,data=x", *kind)
    return f"the data disk {data} is encrypted, which no guest here could open"


def corrupt(data, base):
    made(data, "-f", "qcow2")
    with data.open("r+b") as file:
        # The second of the header's incompatible features.
        file.seek(79)
        file.write(b"\2")
    return f"the data disk {data} is marked as corrupt"


def without_its_backing_file(data, base):
    made(base, "-f", "qcow2")
    made(data, "-f", "qcow2", "-F", "qcow2", "-b", base)
    base.unlink()
    return f"the data disk {data} needs {base}, which is not there"


def without_the_backing_file_of_its_backing_file(data, base):
    middle = base.with_name("middle.qcow2")
    made(base, "-f", "qcow2")
    made(middle, "-f", "qcow2", "-F", "qcow2", "-b", base)
    made(data, "-f", "qcow2", "-F", "qcow2", "-b", middle)
    base.unlink()
    return (
        f"the data disk {data} cannot be opened with all that it needs: qemu-img failed: "
        f"qemu-img: Could not open '{base}': Could not open '{base}': No such file or directory"
    )


def without_its_data_file(data, base):
    made(data, "-f", "qcow2", "-o", f"data_file={base}")
    base.unlink()
    return f"the data disk {data} needs {base}, which is not there"


def a_link_to_nothing(data, base):
    data.symlink_to(base)
    return f"the data disk {data} is a link to {base}, which is not there"


BAD = [
    *(raw, encrypted, corrupt, without_its_backing_file),
    *(without_the_backing_file_of_its_backing_file, without_its_data_file, a_link_to_nothing),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_data_disk_that_no_server_could_open_fails_before_the_old_server_is_touched(
    done, call, connection, pool, place, old, bad
):
    base = pool / "base.qcow2"
    sentence = bad(place.data_disk("more"), base)
    before = changes(connection, pool), as_it_is(place.data_disk("more"))
    (told,) = done("facts", source=True, generation=2)["refused"]
    assert told.startswith(f"{sentence}: ")
    made = call("prepare", generation=2)
    assert made["error"] == sentence
    assert made["hint"] != "see the minion's log on the hypervisor and mend it"
    assert (changes(connection, pool), as_it_is(place.data_disk("more"))) == before
    if bad in (raw, corrupt):
        follow(made["hint"])
        assert done("prepare", generation=2)["disk"]["exists"]


def test_a_link_that_leads_nowhere_meanwhile_is_not_replaced_by_a_new_data_disk(
    done, refused, place
):
    data = place.data_disk("data")
    data.symlink_to("/srv/unmounted/data.qcow2")
    done("stage")
    assert "is a link to /srv/unmounted/data.qcow2" in refused("define")
    assert data.is_symlink()
    assert not data.exists()


def on_qcow2(data, base):
    made(base, "-f", "qcow2")
    made(data, "-f", "qcow2", "-F", "qcow2", "-b", base)


def on_raw(data, base):
    made(base, "-f", "raw")
    made(data, "-f", "qcow2", "-F", "raw", "-b", base)


def with_data_file(data, base):
    made(data, "-f", "qcow2", "-o", f"data_file={base}")


def a_link(data, base):
    made(base, "-f", "qcow2")
    data.symlink_to(base)


@pytest.mark.parametrize("good", [on_qcow2, on_raw, with_data_file, a_link])
def test_a_data_disk_may_need_what_is_there(done, pool, place, ready, old, good, impatient):
    data, base = place.data_disk("more"), pool / "base.qcow2"
    good(data, base)
    before = whole(data), whole(base)
    facts = done("prepare", generation=2)
    assert facts["data_disks"][1]["path"] == str(data)
    done("clear", "define", generation=2)
    assert (whole(data), whole(base)) == before
    assert not ready.folder.exists()
