# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: F401
"""
What is not ours is never touched, whatever it is called and however it is used.

On a real libvirt and QEMU, through Salt's real loader, as in ``test_store_hypervisor.py``.
"""

import json
import os
import pathlib
import subprocess
import time
from xml.etree import ElementTree

import libvirt
import pytest
from on_hypervisor import aside_of, contents, dated, dumped, follow, holds, left, qemu_img, written

from storelib.hypervisor import in_use

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("impatient")]


@pytest.fixture
def hasty(monkeypatch):
    """Do not wait for a process that will not close its file."""
    monkeypatch.setattr(in_use, "PATIENCE_S", 0.3)


@pytest.fixture
def elsewhere(pool):
    """A folder beside the pool, on the same file system."""
    folder = pool.parent / "elsewhere"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def shop(connection, pool):
    """The pool, as libvirt's storage pool ``shop``."""
    made = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>shop</name><target><path>{pool}</path></target></pool>"
    )
    made.create()
    yield made
    if made.isActive():
        made.destroy()
    made.undefine()


def virsh(*arguments):
    return subprocess.run(
        ["virsh", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def disk_xml(source, kind="file", driver="qcow2", device="disk"):
    """Return the XML of a disk with that source element."""
    target = "<target dev='hdd' bus='ide'/>" if device == "cdrom" else "<target dev='vdz'/>"
    return (
        f"<disk type='{kind}' device='{device}'><driver name='qemu' type='{driver}'/>"
        f"{source}{target}{'<readonly/>' if device == 'cdrom' else ''}</disk>"
    )


def look(connection, disk, metadata="", name="look"):
    """Define another domain, which has the disk."""
    return connection.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory>{metadata}"
        f"<os><type>hvm</type></os><devices>{disk}</devices></domain>"
    )


def by_file(file, folder):
    return disk_xml(f"<source file='{file}'/>")


def by_device(file, folder):
    return disk_xml(f"<source dev='{file}'/>", "block")


def by_volume(file, folder):
    return disk_xml(f"<source pool='shop' volume='{file.name}'/>", "volume")


def as_cdrom(file, folder):
    return disk_xml(f"<source file='{file}'/>", driver="raw", device="cdrom")


def by_symlink(file, folder):
    (folder / "link").symlink_to(file)
    return disk_xml(f"<source file='{folder / 'link'}'/>")


def by_link(file, folder):
    (folder / "link").hardlink_to(file)
    return disk_xml(f"<source file='{folder / 'link'}'/>")


def by_chain(file, folder):
    middle, top = folder / "middle", folder / "top"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", file, middle)
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", middle.name, top)
    return disk_xml(f"<source file='{top}'/>")


def by_options(file, folder):
    """The backing file is named as QEMU's options are."""
    named = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": str(file)}})
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", f"json:{named}", folder / "top")
    return disk_xml(f"<source file='{folder / 'top'}'/>")


def by_definition(file, folder):
    """The chain is in the definition only: the file does not know it."""
    qemu_img("create", "-f", "qcow2", folder / "top", "1M")
    below = (
        f"<backingStore type='file'><format type='qcow2'/><source file='{file}'/></backingStore>"
    )
    return disk_xml(f"<source file='{folder / 'top'}'/>{below}")


WAYS = [by_file, by_device, by_volume, as_cdrom, by_symlink, by_link]
CHAINS = [by_chain, by_options, by_definition]

# who uses a disk


@pytest.mark.parametrize("way", WAYS + CHAINS)
def test_a_data_disk_that_another_domain_uses_in_any_way_is_not_retired(
    done, connection, place, elsewhere, shop, way
):
    done("stage", "define")
    disk = place.data_disk("data")
    written(disk, 0x33)
    shop.refresh()
    look(connection, way(disk, elsewhere))
    for remove in (False, True):
        (kept,) = done("retire", data_disks=True, remove=remove)["kept"]
        assert (kept["path"], kept["why"]) == (str(disk), "it is a disk of the domain look")
    assert holds(disk, 0x33)
    assert [domain.name() for domain in connection.listAllDomains()] == ["look"]


@pytest.mark.parametrize("way", [by_file, by_symlink, by_chain])
def test_a_data_disk_that_another_domain_uses_is_given_to_no_new_server(
    done, refused, connection, place, elsewhere, way
):
    done("stage", "define")
    disk = place.data_disk("data")
    other = look(connection, way(disk, elsewhere))
    for step in ("prepare", "clear"):
        assert refused(step, generation=2) == (
            f"{disk} is not touched: it is a disk of the domain look"
        )
    assert sorted(domain.name() for domain in connection.listAllDomains()) == ["look", "store-0815"]
    (told,) = done("facts", source=True, generation=2)["refused"]
    assert told.startswith(f"{disk} is not touched: it is a disk of the domain look: ")
    other.undefine()
    assert done("facts", source=True, generation=2)["refused"] == []
    done("prepare", "clear", generation=2)


def test_a_volume_of_a_pool_that_is_stopped_is_a_disk_too(done, connection, place, shop):
    done("stage", "define")
    look(connection, by_volume(place.data_disk("data"), None))
    shop.destroy()
    (kept,) = done("retire", data_disks=True, remove=True)["kept"]
    assert kept["why"] == "it is a disk of the domain look"
    assert place.data_disk("data").exists()


def test_a_disk_that_a_running_domain_was_given_for_this_run_is_kept(done, connection, place):
    done("stage", "define")
    disk = place.data_disk("data")
    transient = connection.createXML(
        "<domain type='qemu'><name>look</name><memory>65536</memory><os><type>hvm</type></os>"
        f"<devices>{by_file(disk, None)}</devices></domain>"
    )
    (kept,) = done("retire", data_disks=True, remove=True)["kept"]
    assert kept["why"] == "it is a disk of the domain look"
    transient.destroy()
    defined = look(connection, "")
    defined.create()
    plugged = by_file(disk, None).replace("dev='vdz'", "dev='sda' bus='usb'")
    defined.attachDeviceFlags(plugged, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert str(disk) not in defined.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    (kept,) = done("retire", data_disks=True, remove=True)["kept"]
    assert kept["why"] == "it is a disk of the domain look"
    assert disk.exists()


def test_an_external_data_file_is_kept_with_the_disk_that_names_it(done, connection, place, pool):
    done("stage", "define")
    disk = pool / "look.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={place.data_disk('data')}", disk, "1M")
    (kept,) = done("retire", data_disks=True, remove=True)["kept"]
    assert (kept["path"], kept["why"]) == (
        str(place.data_disk("data")),
        f"it is the backing file of {disk}",
    )


def test_what_a_guest_wrote_to_its_raw_disk_is_believed_by_nobody(done, connection, place, pool):
    done("stage", "define")
    disk = pool / "look.raw"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", place.data_disk("data"), disk)
    look(connection, disk_xml(f"<source file='{disk}'/>", driver="raw"))
    assert done("retire", data_disks=True, remove=True)["kept"] == []


def test_a_disk_on_the_network_is_nobodys_file(done, connection, place):
    done("stage", "define")
    source = f"<source protocol='nbd' name='{place.disk}'><host name='127.0.0.1'/></source>"
    look(connection, disk_xml(source, "network"))
    assert done("retire", remove=True)["left"] == []
    assert not place.disk.exists()


def test_the_trial_of_a_definition_uses_nothing(done, connection, place):
    done("stage", "define")
    look(connection, by_file(place.disk, None), name="store-0815+trial")
    assert done("clear", generation=2)["set_aside"]


def uses(connection, disk, folder):
    look(connection, by_volume(disk, folder))
    return "it is a disk of the domain look"


def is_made_from(connection, disk, folder):
    look(connection, by_chain(disk, folder))
    return "it is a disk of the domain look"


USES = [uses, is_made_from]


@pytest.mark.parametrize("use", USES)
def test_a_system_disk_that_another_domain_uses_is_not_set_aside(
    done, call, refused, connection, place, elsewhere, shop, use
):
    done("stage", "define", "start")
    shop.refresh()
    before, run = contents(place.pool), connection.lookupByName("store-0815").ID()
    why = use(connection, place.disk, elsewhere)
    for step in ("prepare", "clear"):
        assert refused(step, generation=2) == f"{place.disk} is not touched: {why}"
    assert (contents(place.pool), connection.lookupByName("store-0815").ID()) == (before, run)
    follow(call("clear", generation=2)["hint"])
    assert done("clear", generation=2)["set_aside"]


@pytest.mark.parametrize("use", USES)
def test_a_new_server_whose_disk_another_domain_uses_is_not_discarded(
    done, refused, connection, place, elsewhere, shop, use
):
    done("stage", "define", "start")
    shop.refresh()
    before, run = contents(place.pool), connection.lookupByName("store-0815").ID()
    why = use(connection, place.disk, elsewhere)
    assert refused("discard") == f"{place.disk} is not touched: {why}"
    assert (contents(place.pool), connection.lookupByName("store-0815").ID()) == (before, run)
    connection.lookupByName("look").undefine()
    assert done("discard")["left"] == []


@pytest.mark.parametrize("use", USES)
def test_a_set_aside_disk_that_another_domain_uses_is_neither_pruned_nor_put_back(
    done, refused, connection, aside, elsewhere, use
):
    pool = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>shop</name><target><path>{aside}</path></target></pool>"
    )
    why = use(connection, aside / "disk.qcow2", elsewhere)
    (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"]
    assert (kept["path"], kept["why"]) == (str(aside), why)
    assert refused("restore", generation=2, of=1) == f"{aside} is not touched: {why}"
    assert holds(aside / "disk.qcow2", 0x11)
    pool.destroy()


def test_what_a_process_has_open_is_not_touched(done, refused, connection, place, aside, hasty):
    done("define", generation=2)
    held = subprocess.Popen(["sleep", "900"], stdin=place.disk.open("rb"))
    other = subprocess.Popen(["sleep", "900"], stdin=(aside / "disk.qcow2").open("rb"))
    try:
        who = f"the process {held.pid} (sleep) has it open"
        before = contents(place.pool)
        for step, generation in (("clear", 3), ("discard", 2)):
            assert refused(step, generation=generation) == f"{place.disk} is not touched: {who}"
        (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"]
        assert kept["why"] == f"the process {other.pid} (sleep) has it open"
        assert contents(place.pool) == before
        why = {each["path"]: each["why"] for each in done("retire", generation=2)["kept"]}
        assert why[str(place.disk)] == who
    finally:
        for process in (held, other):
            process.kill()
            process.wait()
    assert done("clear", generation=3)["set_aside"]


def test_what_a_loop_device_has_open_is_not_touched(done, call, place, hasty):
    done("stage", "define")
    command = ["losetup", "--find", "--show", place.disk]
    device = subprocess.check_output(command, text=True).strip()
    made = call("clear", generation=2)
    assert made["error"] == f"{place.disk} is not touched: it is behind the device {device}"
    follow(made["hint"])
    assert done("clear", generation=2)["set_aside"]


def test_a_process_that_has_only_just_a_look_is_waited_for(done, place):
    done("stage", "define")
    with place.disk.open("rb") as opened, subprocess.Popen(["sleep", "1"], stdin=opened):
        opened.close()
        assert done("clear", generation=2)["set_aside"]


def test_the_guest_itself_is_not_somebody_else(done, connection, place, hasty):
    done("stage", "define", "start")
    facts = done("retire", data_disks=True)
    assert facts["kept"] == []
    assert done("clear", generation=2)["set_aside"]


# snapshots


def snapshot(target):
    """Let a backup program make an external snapshot of one disk."""
    other = {"vda": "vdb", "vdb": "vda"}[target]
    virsh(
        *("snapshot-create-as", "store-0815", "backup", "--disk-only", "--no-metadata"),
        *("--diskspec", f"{target},snapshot=external", "--diskspec", f"{other},snapshot=no"),
    )


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_a_server_with_a_snapshot_is_not_touched_until_it_is_committed(
    done, call, connection, place, target, runs
):
    disk = {"vda": place.disk, "vdb": place.data_disk("data")}[target]
    done("stage", "define", *(["start"] if runs else []))
    snapshot(target)
    top = disk.with_suffix(".backup")
    assert top.exists()
    before = contents(place.pool), dumped(connection), connection.lookupByName("store-0815").ID()
    for step, arguments in (
        ("prepare", {"generation": 2}),
        ("clear", {"generation": 2}),
        ("discard", {}),
        ("retire", {"data_disks": True, "remove": True}),
    ):
        made = call(step, **arguments)
        assert made["error"] == (f"the disk {target} of store-0815 is a snapshot, {top}, of {disk}")
        assert f"virsh blockcommit store-0815 {target} --active --pivot" in made["hint"]
    assert contents(place.pool) == before[0]
    assert connection.lookupByName("store-0815").ID() == before[2]
    if not runs:
        virsh("start", "store-0815")
    virsh("blockcommit", "store-0815", target, "--active", "--pivot")
    assert done("clear", "define", generation=2)["disk"]["exists"]


def test_a_data_disk_that_was_moved_by_hand_is_not_replaced_by_what_it_was(
    done, call, connection, place, elsewhere
):
    done("stage", "define")
    disk = place.data_disk("data")
    moved = elsewhere / disk.name
    subprocess.run(["cp", disk, moved], check=True)
    text = connection.lookupByName("store-0815").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.defineXML(text.replace(str(disk), str(moved)))
    made = call("clear", generation=2)
    assert made["error"] == f"the data disk of store-0815 is {moved}, not {disk}"
    assert made["hint"].endswith(f"mv {moved} {disk}; virsh edit store-0815")


# other names


@pytest.mark.parametrize("runs", [True, False])
def test_a_server_that_was_renamed_by_hand_keeps_its_disk(done, call, connection, place, runs):
    done("stage", "define")
    written(place.disk, 0x11)
    virsh("domrename", "store-0815", "store-0815-old")
    renamed = connection.lookupByName("store-0815-old")
    if runs:
        renamed.create()
    before = contents(place.pool), renamed.ID()
    for step, arguments in (
        ("prepare", {"generation": 2}),
        ("clear", {"generation": 2}),
        ("define", {"generation": 2}),
        ("discard", {}),
        ("start", {}),
        ("retire", {"remove": True}),
    ):
        made = call(step, **arguments)
        assert made["error"] == (
            "the server of store 0815 is there under another name: store-0815-old"
        )
        assert made["hint"].endswith("virsh domrename store-0815-old store-0815")
    assert done("discard", generation=2)["left"] == [], "it is another deployment's"
    assert (contents(place.pool), connection.lookupByName("store-0815-old").ID()) == before
    if runs:
        renamed.destroy()
    assert holds(place.disk, 0x11)
    follow(made["hint"])
    assert done("clear", generation=2)["set_aside"]


def test_a_renamed_server_without_our_metadata_keeps_its_disk(done, refused, connection, place):
    done("stage", "define")
    connection.lookupByName("store-0815").undefine()
    look(connection, by_file(place.disk, None))
    why = "it is a disk of the domain look"
    assert refused("clear", generation=2) == f"{place.disk} is not touched: {why}"
    kept = done("retire", generation=2, remove=True)["kept"]
    assert why in [each["why"] for each in kept if each["what"] == "disk"]
    assert place.disk.exists()


def test_a_copy_of_the_server_stands_in_nobodys_way(done, connection, place, pool):
    done("stage", "define")
    metadata = ElementTree.tostring(dumped(connection).find("metadata"), encoding="unicode")
    qemu_img("create", "-f", "qcow2", pool / "copy.qcow2", "1M")
    look(connection, by_file(pool / "copy.qcow2", None), metadata, "copy")
    for _ in range(2):
        assert done("clear", generation=2)["set_aside"]


# order of what is set aside


@pytest.fixture
def set_aside(done, place):
    """Deploy and set aside so many servers, of deployments 1, 2, ..; return their folders."""

    def set_aside(number):
        done("stage")
        for generation in range(1, number + 1):
            done("define", generation=generation)
            done("clear", generation=generation + 1)
        return [pathlib.Path(each["path"]) for each in done("facts")["set_asides"]]

    return set_aside


def at(name, days):
    """Return the folder's name with the date of so many days ago."""
    date = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(time.time() - days * 86400))
    return f"{name.rpartition('-g')[0]}-g{name.rpartition('-g')[2].partition('-')[0]}-{date}"


def test_set_aside_servers_are_in_the_order_of_their_number_whatever_the_clock_said(
    done, place, set_aside
):
    first, second = set_aside(2)
    assert [first.name.partition("-")[0], second.name.partition("-")[0]] == ["0001", "0002"]
    dated(first, at(first.name, 1))
    dated(second, at(second.name, 20000))
    legacy = place.set_asides / "g7-2026-01-31T080000Z"
    legacy.mkdir()
    (place.set_asides / "g8-2025-01-31T080000Z").mkdir()
    listed = done("facts")["set_asides"]
    assert [each["generation"] for each in listed] == [8, 7, 1, 2]
    assert [each["number"] for each in listed] == [0, 0, 1, 2]
    done("define", generation=3)
    assert aside_of(done("clear", generation=4)).name.startswith("0003-g3-")


def test_the_newest_of_a_deployment_is_put_back_though_the_clock_was_wrong(
    done, place, set_aside, nvram
):
    set_aside(1)
    done("define")
    written(place.disk, 0x12)
    newer = aside_of(done("clear", generation=2))
    newer = dated(newer, at(newer.name, 20000))
    assert done("restore", generation=2, of=1)["set_aside"] == str(newer)
    assert holds(place.disk, 0x12)


@pytest.mark.parametrize(
    ("ages", "pruned"),
    [
        # A clock that was long behind when the second, the newest or both were set aside.
        ([100, 20000, 5], [0, 1]),
        ([5, 20000], []),
        ([100, 20000], [0, 1]),
        ([100, 20000, 20000, 5, 20000], [0, 1, 2]),
        # A clock that was ahead: what came next says how old it is at least.
        ([-9000, 100, 5], [0, 1]),
        ([100, -9000, 5], [0]),
        ([100, 50, -9000], [0, 1]),
    ],
)
def test_a_wrong_clock_lets_no_younger_server_be_pruned(done, place, ages, pruned):
    place.set_asides.mkdir(parents=True)
    folders = [place.set_asides / at(f"{n:04}-g1-", age) for n, age in enumerate(ages, 1)]
    for folder in folders:
        folder.mkdir()
    facts = done("prune", generation=2, older_than_s=30 * 86400, remove=True)
    assert [each["path"] for each in facts["removed"]] == [str(folders[n]) for n in pruned]


# what cannot be read


def bad_date(folder):
    return folder.rename(
        folder.with_name("0001-g1-2026-13-45T256199Z")
    ), "2026-13-45T256199Z is no date"


def bad_generation(folder):
    text = (folder / "domain.xml").read_text()
    (folder / "domain.xml").write_text(text.replace('generation="1"', 'generation="one"'))
    return folder, "its domain.xml names no deployment by its number"


def bad_xml(folder):
    (folder / "domain.xml").write_text("<domain")
    return folder, "its domain.xml is damaged"


def bad_json(folder):
    (folder / "set-aside.json").write_text("{")
    return folder, "its set-aside.json is damaged"


def odd_json(folder):
    (folder / "set-aside.json").write_text("[1]")
    return folder, "its set-aside.json is damaged"


def odd_name(folder):
    return folder.rename(
        folder.with_name("of-the-boss")
    ), "its name is not one of a set-aside server's"


def no_folder(folder):
    path = folder.with_name("0001-g1-2026-01-31T080000Z")
    subprocess.run(["rm", "-r", folder], check=True)
    path.write_text("nothing")
    return path, "Not a directory"


@pytest.mark.parametrize("suffix", ["", ".partial", ".restoring"])
@pytest.mark.parametrize(
    "fault", [bad_date, bad_generation, bad_xml, bad_json, odd_json, odd_name, no_folder]
)
def test_what_is_set_aside_and_cannot_be_read_is_named_and_left(
    done, refused, connection, place, aside, fault, suffix
):
    folder, why = fault(aside)
    folder = folder.rename(folder.with_name(folder.name + suffix))
    before = sorted(folder.rglob("*"))
    for step, arguments in (
        ("facts", {"generation": 2}),
        ("define", {"generation": 2}),
        ("clear", {"generation": 3}),
        ("facts", {"generation": 3}),
    ):
        facts = done(step, **arguments)
    (named,) = [each for each in facts["set_asides"] if each["unreadable"]]
    assert (named["path"], named["unreadable"], named["complete"]) == (str(folder), why, False)
    assert refused("restore", generation=3, of=1).startswith(
        "no server of deployment 1 of store-0815 is set aside; set aside are: 000"
    )
    for step, arguments in (
        ("prune", {"older_than_s": 0, "remove": True}),
        ("retire", {"data_disks": True, "remove": True}),
    ):
        (kept,) = done(step, generation=3, **arguments)["kept"]
        assert (kept["path"], kept["why"]) == (str(folder), f"unreadable: {why}")
    assert sorted(folder.rglob("*")) == before
    assert connection.listAllDomains() == []
    assert [path for path in place.pool.glob("*.qcow2")] == []


def test_a_domain_whose_metadata_cannot_be_read_is_not_ours(done, refused, connection, place):
    done("stage", "define")
    text = connection.lookupByName("store-0815").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.defineXML(text.replace('generation="1"', 'generation="one"'))
    before = contents(place.pool)
    for step, arguments in (
        *((step, {}) for step in ("prepare", "clear", "define", "start", "finish")),
        ("restore", {"of": 1}),
        ("retire", {"remove": True}),
    ):
        assert "does not belong to store 0815" in refused(step, **arguments)
    assert done("discard")["left"] == []
    assert not done("facts")["domain"]["ours"]
    assert contents(place.pool) == before


# undefined by hand


@pytest.fixture
def undefined(done, connection, place):
    """A server of deployment 1 that runs and is in no definition."""
    done("stage", "define", "start")
    virsh("undefine", "store-0815")
    return connection.lookupByName("store-0815")


def test_a_server_that_was_undefined_while_it_ran_is_discarded(done, connection, place, undefined):
    facts = done("discard")
    assert (facts["domain"], facts["left"]) == ({"exists": False}, [])
    assert connection.listAllDomains() == []
    assert left(place) == []


def test_a_server_that_was_undefined_while_it_ran_is_set_aside_whole(
    done, connection, place, undefined
):
    uuid = undefined.UUIDString()
    put = aside_of(done("clear", generation=2))
    assert ElementTree.parse(put / "domain.xml").findtext("uuid") == uuid
    assert {path.name for path in put.iterdir()} == {
        *("disk.qcow2", "domain.xml", "minion.pub", "set-aside.json"),
    }
    assert connection.listAllDomains() == []
    assert done("restore", generation=2, of=1)["domain"]["ours"]
    assert done("start", generation=2, of=1)["state"] == "running"


def test_a_server_that_was_undefined_while_it_ran_is_retired(done, connection, place, undefined):
    assert not undefined.isPersistent()
    assert done("retire")["found"][0]["what"] == "domain"
    assert not undefined.isPersistent(), "a look changes nothing"
    facts = done("retire", data_disks=True, remove=True)
    assert (facts["left"], facts["kept"]) == ([], [])
    assert connection.listAllDomains() == []


def test_a_server_that_was_undefined_while_it_ran_is_finished_with_a_definition(
    done, connection, place, undefined
):
    done("start")
    assert done("finish")["autostart"]
    assert connection.lookupByName("store-0815").isPersistent()


@pytest.mark.parametrize("step", ["clear", "discard", "retire"])
def test_a_definition_that_goes_meanwhile_is_no_fault(done, connection, place, step, monkeypatch):
    """Stands in for somebody who undefines the server at the same time."""
    done("stage", "define", "start")
    undefine = libvirt.virDomain.undefineFlags

    def twice(domain, flags):
        undefine(domain, flags)
        return undefine(domain, flags)

    monkeypatch.setattr(libvirt.virDomain, "undefineFlags", twice)
    done(step, **({"remove": True} if step == "retire" else {}))
    monkeypatch.undo()
    assert connection.listAllDomains() == []
    assert not place.disk.exists()


# paused


def test_a_guest_that_is_paused_goes_on(done, connection):
    done("stage", "define", "start")
    domain = connection.lookupByName("store-0815")
    run = domain.ID()
    domain.suspend()
    facts = done("start")
    assert (facts["state"], facts["id"], facts["errors"]) == ("running", run, [])


def test_a_guest_that_is_paused_again_says_why(done, refused, connection, monkeypatch):
    """Stands in for a guest that writes to a full disk as soon as it goes on."""
    done("stage", "define", "start")
    domain = connection.lookupByName("store-0815")
    domain.suspend()
    monkeypatch.setattr(libvirt.virDomain, "resume", lambda _: 0)
    assert refused("start").endswith("did not start in 3 attempts: it is paused")
    full = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
    monkeypatch.setattr(libvirt.virDomain, "state", lambda _: full)
    assert refused("start").endswith(": it is paused, for its disk cannot be written")
