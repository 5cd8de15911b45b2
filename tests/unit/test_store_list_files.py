# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store list becomes files of the pillar; only untouched ones of our own are replaced."""

import json
import pathlib

import jinja2
import pytest
import store_lists
import yaml
from store_lists import SHARED, a_list, anything, applied, generated, looked, numbered

from storelib.errors import Refused, StoreDeployError
from storemaster.deployment import spec, tables
from storemaster.deployment.store_list import (
    checking,
    columns,
    pillar_files,
    reading,
    targets,
    yaml_file,
)
from storemaster.deployment.store_list.pillar_files import PillarFiles
from storemaster.master import store_lists as verbs

WHOLE = {
    "image.source": SHARED["image"]["source"],
    "image.sha256": SHARED["image"]["sha256"],
    "master": SHARED["master"],
    "interfaces.eth0.source": "br0",
}
"""What all stores share, where nothing else says it."""
ROW = {"hypervisor": "hv-1", "store": "0417", "memory_mib": 4096}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "stores"
    made.mkdir()
    return made


@pytest.fixture
def target(folder):
    return PillarFiles(folder, SHARED)


@pytest.fixture
def imported(tmp_path, target):
    """Import these stores, without faults; return the comparison and the bytes written."""

    def imported(*rows, name="stores.yaml"):
        return applied(a_list(tmp_path / name, rows), target)

    return imported


@pytest.fixture
def refused(tmp_path, target):
    """Return what forbids to import these stores."""

    def refused(*rows):
        return [str(each) for each in looked(a_list(tmp_path / "x.yaml", rows), target)[1]]

    return refused


def content(folder):
    """Return all files, with the time when they were written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_new_store_becomes_a_file_and_a_second_run_writes_nothing(imported, folder):
    found, written = imported(ROW)
    assert [(each.name, each.new) for each in found.changes] == [("hv-1", True)]
    (path,) = folder.iterdir()
    assert (path.name, path.stat().st_size) == ("hv-1.yaml", written)
    assert path.stat().st_mode & 0o777 == 0o640
    own = {"store": "0417", "memory_mib": 4096}
    assert yaml.safe_load(path.read_text()) == {"store_server": own}
    before = content(folder)
    found, written = imported(ROW)
    assert (found.changes, found.unchanged, written) == ([], ["hv-1"], 0)
    assert content(folder) == before


def test_what_changed_is_shown_key_by_key_and_what_vanished_stays(imported, folder):
    imported(ROW, {**ROW, "hypervisor": "hv-2", "store": "0418"})
    gone = (folder / "hv-2.yaml").read_bytes()
    changed = {**ROW, "cpus": 4, "interfaces.eth0.source": "br1"}
    del changed["memory_mib"]
    found, written = imported(changed)
    ((change,), none) = found.changes, "(not given)"
    assert dict(change.differs) == {
        "cpus": (none, "4"),
        "memory_mib": ("4096", none),
        "interfaces.eth0.source": (none, "'br1'"),
    }
    assert (found.vanished, written > 0) == ({"hv-2": "0418"}, True)
    assert (folder / "hv-2.yaml").read_bytes() == gone


def test_what_may_be_secret_is_not_shown(imported, target):
    imported({**ROW, "guest_pillar": {"key": "s3cr3t"}})
    found, _ = imported({**ROW, "guest_pillar": {"key": "0th3r"}})
    (change,) = found.changes
    assert dict(change.differs) == {"guest_pillar": ("(not shown)",) * 2}
    assert "s3cr3t" not in json.dumps(change.as_data())


HANDS = {
    "written by hand": (
        "store_server: {store: '0417', memory_mib: 1024}\n",
        "was not written by deploy.import: take what it says into the list, or move it away",
    ),
    "written by hand with Jinja": (
        "store_server: {store: '{{ opts.id }}'}\n{% if x %}{% endif %}",
        "was not written by deploy.import",
    ),
    "of another purpose": ("other: {}\n", "was not written by deploy.import"),
    "empty": ("", "was not written by deploy.import"),
    "no text": (b"\xff\xfe\x00", "was not written by deploy.import"),
}


@pytest.mark.parametrize(("text", "message"), HANDS.values(), ids=HANDS)
def test_a_file_that_is_not_ours_is_named_and_nothing_is_written(refused, folder, text, message):
    path = folder / "hv-1.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = content(folder)
    (told,) = refused(ROW, {**ROW, "hypervisor": "hv-2", "store": "0418"})
    assert f"{path} {message}" in told
    assert content(folder) == before


@pytest.mark.parametrize("change", ["# a note\n", "  cpus: 8\n"])
def test_a_file_of_ours_that_somebody_changed_is_named(imported, refused, folder, change):
    imported(ROW)
    path = folder / "hv-1.yaml"
    path.write_text(path.read_text() + change)
    (told,) = refused({**ROW, "memory_mib": 512})
    assert f"{path} was changed since deploy.import wrote it" in told


def test_a_file_by_hand_that_says_the_same_is_unchanged_and_stays_as_it_is(imported, folder):
    path = folder / "hv-1.yaml"
    path.write_text("# by hand\nstore_server: {memory_mib: 4096.0, store: '0417', pool: ''}\n")
    before = content(folder)
    found, written = imported(ROW)
    assert (found.unchanged, written) == (["hv-1"], 0)
    assert content(folder) == before


def test_a_store_that_is_there_and_not_in_the_list_keeps_what_is_its_own(imported, refused):
    imported(ROW)
    moved = refused({**ROW, "hypervisor": "hv-2"})
    assert (
        moved
        == [
            "line 2, column 5: store 0417 is also that of hv-1, which is not in this list (import "
            "removes nothing: do that before, if it is to go)"
        ]
        or len(moved) == 1
    )
    static = {"interfaces.eth0.address": "10.1.1.2/24", "interfaces.eth0.gateway": "10.1.1.1"}
    imported(ROW, {"hypervisor": "hv-3", "store": "0419", **static})
    other = {"hypervisor": "hv-4", "store": "0420", **static}
    (told,) = refused(other)
    assert "interfaces.eth0.address 10.1.1.2 is also that of hv-3" in told
    (told,) = refused({**other, "interfaces.eth0.address": "10.1.1.3/24"})
    assert "in the network of another store, 10.1.1.2/24 of hv-3" in told


def test_a_groups_values_are_in_the_files_of_its_stores(tmp_path, target, folder):
    path = tmp_path / "stores.yaml"
    path.write_text(
        "groups: {north: {cpus: 4, memory_mib: 4096, interfaces: {eth0: {source: br1}}}}\n"
        "stores:\n"
        "  - {hypervisor: hv-1, store: '1', group: north}\n"
        "  - hypervisor: hv-2\n    store: '2'\n    group: north\n    memory_mib: 8192\n"
        "    interfaces: [{name: eth0, address: 10.1.2.3/24}]\n"
    )
    applied(path, target)
    told = [yaml.safe_load((folder / f"hv-{n}.yaml").read_text())["store_server"] for n in (1, 2)]
    assert told[0]["interfaces"] == {"eth0": {"source": "br1"}}
    assert [each["memory_mib"] for each in told] == [4096, 8192]
    assert [each["group"] for each in told] == ["north", "north"]
    assert told[1]["interfaces"] == {"eth0": {"source": "br1", "address": "10.1.2.3/24"}}
    assert applied(path, target)[1] == 0


def test_a_group_that_has_no_values_of_its_own_is_a_name_and_comes_back(tmp_path, target, folder):
    path = a_list(tmp_path / "stores.csv", [{**ROW, "group": "north"}])
    applied(path, target)
    told = yaml.safe_load((folder / f"{ROW['hypervisor']}.yaml").read_text())["store_server"]
    assert told["group"] == "north"
    (row,) = target.others([]).values()
    assert row.group == "north"
    assert columns.flat(row.own) == {key: ROW[key] for key in ("store", "memory_mib")}


def test_what_cannot_be_written_is_told_with_how_far_it_came(tmp_path, target, folder):
    path = a_list(tmp_path / "stores.csv", numbered(3))
    found, _ = looked(path, target)
    rows = [each.row for each in found.changes]
    (folder / "hv-00001.yaml").mkdir()
    with pytest.raises(StoreDeployError, match=r"hv-00001.yaml could not be written.*1 of 3"):
        target.write(rows, store_lists.silent)
    assert (folder / "hv-00000.yaml").is_file()
    (folder / "hv-00001.yaml").rmdir()
    found, _ = applied(path, target)
    assert found.unchanged == ["hv-00000"]


ODD = [
    *("{7: 8}", "{interfaces: 5}", "{interfaces: [5, {name: [a]}]}", "{verify: [{tcp: 1, x: 2}]}"),
    *("{data_disks: {7: {size_gib: x}}}", "{image: [a], start: x}", "{interfaces: {eth0: 7}}", "5"),
    *(
        "{store: [1], minion_id: {}}",
        "{image: x, image.source: y}",
        "{verify: {tcp: {a: b}, 3: [x]}}",
        "null",
    ),
]


@pytest.mark.parametrize("text", ODD)
def test_whatever_is_in_a_file_by_hand_is_no_traceback(imported, refused, folder, text):
    (folder / "hv-9.yaml").write_text(f"store_server: {text}\n")
    imported(ROW)
    (told,) = refused({**ROW, "hypervisor": "hv-9", "store": "0999"}, ROW)
    assert "hv-9.yaml was not written by deploy.import" in told
    shown = verbs.export({}, None, "pillar", str(folder), store_lists.silent)["stores"]
    assert {each["hypervisor"] for each in shown} >= {"hv-1"}


def test_a_folder_in_the_place_of_a_file_is_told(refused, folder):
    (folder / "hv-1.yaml").mkdir()
    with pytest.raises(Refused, match=r"hv-1.yaml cannot be read: Is a directory"):
        refused(ROW)


@pytest.mark.thorough
def test_3000_stores_are_written_and_a_second_run_writes_0_bytes(tmp_path, target, folder):
    path = a_list(tmp_path / "stores.csv", numbered(3000))
    found, written = applied(path, target)
    assert len(found.changes) == len(list(folder.iterdir())) == 3000
    assert written == sum(each.stat().st_size for each in folder.iterdir())
    found, written = applied(path, target)
    assert (len(found.unchanged), found.changes, written) == (3000, [], 0)


# What is written


def by_salt(text):
    """Return what Salt makes of a pillar file: Jinja, then YAML."""
    return yaml.safe_load(jinja2.Environment().from_string(text).render())


@pytest.mark.parametrize("value", store_lists.NASTY, ids=repr)
def test_a_text_is_written_so_that_jinja_and_yaml_leave_it_as_it_is(value):
    own = {"guest_pillar": {value: {value: [value, {value: value}]}}}
    text = pillar_files.rendered(own)
    assert by_salt(text) == yaml_file.load(text) == {"store_server": own}


@pytest.mark.parametrize("seed", range(50))
def test_whatever_a_guest_pillar_has_is_written_as_it_is(seed):
    dice = store_lists.dice_of(seed)
    own = {"guest_pillar": {"a": [anything(dice, 3) for _ in range(9)]}}
    assert by_salt(pillar_files.rendered(own)) == {"store_server": own}


@pytest.mark.parametrize("value", [1e20, 1.5, -0.0, 1e-7, float("inf"), float("-inf")])
def test_a_number_stays_a_number(value):
    found = by_salt(pillar_files.rendered({"guest_pillar": {"a": value}}))
    assert found["store_server"]["guest_pillar"]["a"] == value


# Out and in again


@pytest.mark.parametrize("suffix", [".csv", ".yaml"])
@pytest.mark.parametrize("seed", range(15))
def test_what_was_exported_changes_nothing_when_it_is_imported(tmp_path, folder, seed, suffix):
    dice = store_lists.dice_of(seed)
    rows = [generated(dice, number) for number in range(20)]
    target = PillarFiles(folder, SHARED)
    found, _ = applied(a_list(tmp_path / "first.yaml", rows), target)
    assert len(found.changes) == 20
    for row in rows:
        own = yaml.safe_load((folder / f"{row['hypervisor']}.yaml").read_text())["store_server"]
        spec.from_pillar(store_lists.pillar_files.merged(SHARED, own), row["hypervisor"])
    out = [(row.beside, columns.flat(row.own)) for row in target.others(()).values()]
    path = tmp_path / f"out{suffix}"
    path.write_text(store_lists.WRITERS[suffix].written(out))
    found, written = applied(path, target)
    assert (len(found.unchanged), found.changes, found.vanished, written) == (20, [], {}, 0)


def test_what_no_column_can_have_is_exported_as_yaml_only(tmp_path, folder):
    (folder / "hv-1.yaml").write_text("store_server: {store: '1', data_disks: []}\n")
    opts = {"store_deploy": {"state_dir": str(tmp_path)}}
    with pytest.raises(Refused, match="CSV has no column for data_disks"):
        verbs.export(opts, str(tmp_path / "x.csv"), "pillar", str(folder), print)
    path = tmp_path / "x.yaml"
    verbs.export(opts, str(path), "pillar", str(folder), print)
    assert path.stat().st_mode & 0o777 == 0o600
    assert applied(path, PillarFiles(folder, SHARED))[1] == 0
    with pytest.raises(Refused, match=r"x.yaml is there already"):
        verbs.export(opts, str(path), "pillar", str(folder), print)
    (folder / "hv-2.yaml").write_text("{% set x %}")
    with pytest.raises(Refused, match="what is described of hv-2 is no plain YAML"):
        verbs.export(opts, None, "pillar", str(folder), print)


# The verb, without a master


@pytest.fixture
def said(tmp_path, folder):
    """Say the verb with its defaults and these arguments."""
    opts = {"store_deploy": {"state_dir": str(tmp_path / "state")}}

    def said(file, apply=False, target="pillar", where=str(folder), shared_networks=False):
        return verbs.import_(opts, file, apply, target, where, shared_networks, store_lists.silent)

    return said


def test_without_apply_nothing_is_written(said, tmp_path, folder):
    path = str(a_list(tmp_path / "stores.csv", numbered(30, **WHOLE)))
    told = said(path)
    assert (len(told["new"]), told["bytes_written"], list(folder.iterdir())) == (30, 0, [])
    assert not (tmp_path / "state").exists()
    told = said(path, apply=True)
    assert told["bytes_written"] == sum(each.stat().st_size for each in folder.iterdir()) > 0
    told = said(path, apply=True)
    assert (told["said"], len(told["unchanged"])) == ("nothing: all is there as the list says", 30)
    json.dumps(told)


def test_people_get_a_table_of_80_columns(said, tmp_path):
    rows = numbered(30, **WHOLE)
    said(str(a_list(tmp_path / "stores.csv", rows[:28])), apply=True)
    for row in rows[:5]:
        row |= {"memory_mib": 512, "cpus": 4, "image.source": "http://images.example.com/x.qcow2"}
    told = said(str(a_list(tmp_path / "stores.csv", rows[:27] + rows[28:])))
    shown = tables.store_list(told)["stores"].splitlines()
    assert [line.split(" ")[0] for line in shown if line[0] != " "] == [
        *["new"] * 2,
        *["changed"] * 5,
        *("vanished", "unchanged", "written"),
    ]
    assert max(map(len, shown)) <= tables.UNDER_A_KEY
    assert shown[0] == "new        hv-00028 (00028)"
    assert shown[2] == "changed    hv-00000 (00000): image.source 'salt://images/x.qcow2' ->"
    told = said(str(a_list(tmp_path / "stores.csv", numbered(60, **WHOLE)[30:])))
    assert "and 10 more: --out=json names all" in tables.store_list(told)["stores"]


WRONG = {
    "a number for the file": ({"file": 417}, "FILE is 417"),
    "a target that is none": ({"target": "salt"}, "target is 'salt'"),
    "a folder that is none": ({"where": "/nowhere"}, "/nowhere is no folder"),
    "no folder at all": ({"where": None}, "no pillar root has stores/init.sls"),
    "a folder for Uyuni": ({"target": "uyuni"}, "folder is for target=pillar only"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_what_was_said_wrongly_is_refused(said, tmp_path, given, message):
    path = str(a_list(tmp_path / "stores.csv", [{**ROW, **WHOLE}]))
    with pytest.raises(Refused, match=message):
        said(**{"file": path, **given})


def test_long_work_tells_how_far_it_is(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(targets, "PAUSE_S", 0)
    told = []
    stores = reading.read(a_list(tmp_path / "stores.csv", numbered(3)))
    checking.check(stores, PillarFiles(folder, SHARED), False, told.append)
    assert told == ["checked: 1 of 3", "checked: 2 of 3", "checked: 3 of 3"]


def test_two_imports_do_not_write_at_once(said, tmp_path):
    path = str(a_list(tmp_path / "stores.csv", [{**ROW, **WHOLE}]))
    with verbs._locked({"store_deploy": {"state_dir": str(tmp_path / "state")}}, True):
        assert said(path)["new"]
        with pytest.raises(Refused, match="another import is writing"):
            said(path, apply=True)


def test_the_stores_of_the_pillars_roots_are_found_and_their_defaults_compiled(tmp_path):
    stores = pathlib.Path(__file__).parents[2] / "pillar" / "stores"
    roots = {"base": [str(tmp_path), str(stores.parent)]}
    assert verbs._folder({"pillar_roots": roots}) == stores
