# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store list becomes form data, groups and profiles of Uyuni, and nothing else is lost there."""

import pathlib

import pytest
import store_lists
from store_lists import a_list, applied, looked
from tests.uyuni import page as uyuni_page
from uyuni_api import ApiFault, FakeUyuni

from storelib.errors import StoreDeployError
from storemaster.deployment import spec
from storemaster.deployment.store_list import columns
from storemaster.master.store_list_uyuni import UyuniTarget

IMAGE = {"source": "salt://images/x.qcow2", "sha256": "5e" * 32}
DEFAULTS = {"image": IMAGE, "master": "uyuni.example.com", "memory_mib": 4096}
NORTH = {
    "hypervisor": "hv-1",
    "store": "0417",
    "group": "north",
    "interfaces.eth0.address": "10.4.17.10/24",
    "interfaces.eth0.gateway": "10.4.17.1",
}


@pytest.fixture
def uyuni():
    """An organisation with two hypervisors, and the group north that has the defaults."""
    made = FakeUyuni("hv-1", "hv-2", "till-7")
    made.call("systemgroup.create", "north", "stores")
    made.call("systemgroup.create", "tills", "tills")
    made.call("formula.setFormulasOfGroup", 10, ["store-defaults"])
    made.call("formula.setGroupFormulaData", 10, "store-defaults", {"store_server": DEFAULTS})
    made.calls.clear()
    return made


@pytest.fixture
def imported(tmp_path, uyuni):
    """Import these stores, without faults; return the comparison and the bytes written."""

    def imported(*rows):
        path = a_list(tmp_path / "stores.csv", rows)
        uyuni.calls.clear()
        return applied(path, UyuniTarget(uyuni))

    return imported


@pytest.fixture
def text(tmp_path, uyuni):
    """Import this YAML; return the comparison and the faults, or with ``apply`` the bytes."""

    def text(content, apply=False):
        path = tmp_path / "stores.yaml"
        path.write_text(content)
        uyuni.calls.clear()
        if apply:
            return applied(path, UyuniTarget(uyuni))
        found, faults = looked(path, UyuniTarget(uyuni))
        return found, [str(each) for each in faults]

    return text


def own(uyuni, name):
    return uyuni.named(name)["data"].get("store-server", {}).get("store_server")


def test_a_store_is_written_and_a_second_run_writes_nothing(imported, uyuni):
    found, written = imported(NORTH)
    assert [(each.name, each.new) for each in found.changes] == [("hv-1", True)]
    assert written > 0
    eth0 = {"address": "10.4.17.10/24", "gateway": "10.4.17.1"}
    assert own(uyuni, "hv-1") == {"store": "0417", "interfaces": {"eth0": eth0}}
    assert uyuni.members("north") == {1000}
    found, written = imported(NORTH)
    assert (found.unchanged, written, uyuni.written()) == (["hv-1"], 0, [])


def test_what_a_system_has_already_is_kept(imported, uyuni):
    uyuni.call("formula.setFormulasOfServer", 1000, ["locale", "prometheus-exporters"])
    uyuni.systems[1000]["data"]["locale"] = {"timezone": "CET"}
    imported(NORTH)
    assert uyuni.call("formula.getFormulasByServerId", 1000) == [
        *("locale", "prometheus-exporters", "store-server")
    ]
    assert uyuni.call("formula.getSystemFormulaData", 1000, "locale") == {"timezone": "CET"}


def test_a_list_of_formulas_that_lost_one_is_told(imported, uyuni):
    uyuni.systems[1000]["formulas"] = ["locale"]
    assign = uyuni._assign
    uyuni._assign = lambda holder, names: assign(holder, [n for n in names if n != "locale"])
    with pytest.raises(StoreDeployError, match="to add store-server, it has no locale"):
        imported(NORTH)


def test_data_that_are_others_when_they_are_read_back_are_told(imported, uyuni):
    uyuni.formula_getSystemFormulaData = lambda sid, formula: {"store_server": {"store": "1"}}
    with pytest.raises(StoreDeployError, match="hv-1: Uyuni has other data of store-server"):
        imported(NORTH)


def test_what_the_pages_store_is_what_a_list_wrote(imported, uyuni):
    """Opening a system's page and saving it, with nothing touched."""
    imported(NORTH)
    forms = [uyuni.forms[name]["store_server"] for name in ("store-defaults", "store-server")]
    data = own(uyuni, "hv-1")
    filled = uyuni_page.shown(forms[1], data)
    filled["data_disks"].pop("", None)
    saved = uyuni_page.stored(uyuni_page.saved(forms[1], filled))
    uyuni.systems[1000]["data"]["store-server"] = {"store_server": saved}
    found, _ = imported({**NORTH, "auto_deploy": False})
    assert found.unchanged == ["hv-1"]
    # What the pillar is then, is what the spec was tried with.
    parts = [uyuni_page.pillar(forms[0], DEFAULTS, {}), uyuni_page.pillar(forms[1], {}, saved)]
    made = spec.from_pillar(uyuni_page.recursed(*parts), "hv-1")
    assert (made.memory_mib, made.interfaces[0].source) == (4096, "br0")


def test_what_is_emptied_goes_and_is_shown(imported, uyuni):
    imported({**NORTH, "cpus": 8})
    found, _ = imported(NORTH)
    assert [dict(each.differs) for each in found.changes] == [{"cpus": ("8", "(not given)")}]
    assert "cpus" not in own(uyuni, "hv-1")


def test_a_hypervisor_that_is_no_system_waits_or_gets_a_profile(imported, uyuni):
    new = {**NORTH, "hypervisor": "hv-9"}
    found, written = imported(new)
    assert (list(found.waiting), written, uyuni.written()) == (["hv-9"], 0, [])
    assert "is no system of Uyuni yet" in found.waiting["hv-9"]
    with_mac = {**new, "hypervisor_mac": "52:54:00:00:00:09"}
    found, written = imported(with_mac)
    profile = uyuni.named("hv-9")
    assert (profile["minion"], profile["mac"]) == ("", "52:54:00:00:00:09")
    assert own(uyuni, "hv-9")["store"] == "0417"
    assert uyuni.members("north") == {1003}
    assert imported(with_mac)[0].unchanged == ["hv-9"]
    # When it is registered, it is the same system.
    profile["minion"] = "hv-9"
    assert imported(new)[0].unchanged == ["hv-9"]


def test_a_hardware_address_of_another_profile_is_told_before_anything_is_written(text, uyuni):
    uyuni.call("system.createSystemProfile", "x", {"hwAddress": "52:54:00:00:00:09"})
    row = "- {hypervisor: hv-9, store: '1', group: north, hypervisor_mac: '52:54:00:00:00:09'}\n"
    _, faults = text(row)
    assert faults == [
        "line 1, column 64: hypervisor_mac 52:54:00:00:00:09 is that of the profile x"
    ]
    assert uyuni.written() == []
    _, faults = text((row + row.replace("-9", "-8").replace("'1'", "'2'")).replace(":09", ":0a"))
    assert faults == [
        "line 2, column 64: hypervisor_mac 52:54:00:00:00:0a is also in line 1, column 3"
    ]


def test_a_hardware_address_of_a_registered_system_is_told_with_its_hypervisor(imported, uyuni):
    sid = uyuni.register("x", mac="52:54:00:00:00:09")
    new = {**NORTH, "hypervisor": "hv-9", "hypervisor_mac": "52:54:00:00:00:09"}
    with pytest.raises(StoreDeployError, match=r"hv-9: 1100: System.*; 0 of 1 were written"):
        imported(new)
    assert uyuni.named("x")["minion"] == "x"
    assert sorted(uyuni.systems) == [1000, 1001, 1002, sid]


def test_a_store_that_changes_its_group_is_in_one_of_them(imported, uyuni, text):
    imported(NORTH)
    text(
        "groups: {south: {image: {source: /x, sha256: '" + "5e" * 32 + "'}, master: m}}\n"
        "stores: [{hypervisor: hv-1, store: '0417', group: south}]",
        apply=True,
    )
    assert (uyuni.members("north"), uyuni.members("south")) == (set(), {1000})
    found, _ = imported({**NORTH, "group": "north"})
    assert found.changes[0].differs["group"] == ("'south'", "'north'")
    # Where no group is named, nothing is changed.
    without = {key: value for key, value in NORTH.items() if key != "group"}
    found, written = imported(without)
    assert (found.unchanged, written) == (["hv-1"], 0)


GROUP = (
    "groups:\n  south:\n    master: uyuni.example.com\n    verify: [{tcp: 22}, {service: sshd}]\n"
    "    image: {source: salt://images/x.qcow2, sha256: '" + "5e" * 32 + "'}\n"
    "stores:\n  - {hypervisor: hv-2, store: '0418', group: south}\n"
)


def test_a_store_in_two_groups_with_defaults_is_taken_out_of_the_other(imported, uyuni):
    imported(NORTH)
    uyuni.call("formula.setFormulasOfGroup", 11, ["store-defaults"])
    uyuni.call("systemgroup.addOrRemoveSystems", "tills", [1000], True)
    found, _ = imported(NORTH)
    assert found.changes[0].differs == {"group": ("'north, tills'", "'north'")}
    assert (uyuni.members("north"), uyuni.members("tills")) == ({1000}, set())
    assert imported(NORTH)[0].unchanged == ["hv-1"]


def test_a_group_that_gets_the_defaults_by_the_list_is_one_of_those(text, uyuni):
    for name in ("north", "tills"):
        uyuni.call("systemgroup.addOrRemoveSystems", name, [1000], True)
    content = GROUP.replace("south", "tills") + "  - {hypervisor: hv-1, store: '1', group: north}\n"
    text(content, apply=True)
    assert (uyuni.members("north"), uyuni.members("tills")) == ({1000}, {1001})
    text(content, apply=True)
    assert uyuni.written() == []


def test_other_groups_of_a_system_are_left_alone(imported, uyuni):
    uyuni.call("systemgroup.addOrRemoveSystems", "tills", [1000], True)
    imported(NORTH)
    assert (uyuni.members("north"), uyuni.members("tills")) == ({1000}, {1000})


def test_many_stores_are_put_into_their_group_by_one_call(imported, uyuni):
    imported(NORTH, {**NORTH, "hypervisor": "hv-2", "store": "0418", **address(18)})
    moves = [each for each in uyuni.calls if each[0] == "systemgroup.addOrRemoveSystems"]
    assert moves == [("systemgroup.addOrRemoveSystems", "north", [1000, 1001], True)]


def test_a_group_of_the_list_becomes_a_group_with_the_defaults(text, uyuni):
    found, _ = text(GROUP, apply=True)
    assert [each.name for each in found.changes] == ["group south", "hv-2"]
    assert uyuni.members("south") == {1001}
    data = uyuni.groups["south"]["data"]["store-defaults"]["store_server"]
    assert data["verify"] == {"tcp": [22], "service": ["sshd"]}
    assert data["group"] == "south"
    found, written = text(GROUP, apply=True)
    assert (found.unchanged, written, uyuni.written()) == (["group south", "hv-2"], 0, [])
    found, written = text(GROUP.replace("tcp: 22", "tcp: 23"), apply=True)
    (change,) = found.changes
    assert dict(change.differs) == {"verify.tcp": ("[22]", "[23]")}


def test_the_example_of_a_list_for_uyuni_is_one_without_faults(tmp_path):
    path = pathlib.Path(__file__).resolve().parents[2] / "pillar/examples/uyuni.csv"
    uyuni = FakeUyuni("hv-0417.example.com", "hv-0418.example.com")
    for name in ("stores-north", "stores-south"):
        gid = uyuni.call("systemgroup.create", name, "stores")["id"]
        uyuni.call("formula.setFormulasOfGroup", gid, ["store-defaults"])
        uyuni.call("formula.setGroupFormulaData", gid, "store-defaults", {"store_server": DEFAULTS})
    found, faults = looked(path, UyuniTarget(uyuni))
    assert faults == []
    assert len(found.changes) == 3


FAULTS = {
    "a group that is none": (
        "- {hypervisor: hv-1, store: '1', group: nroth}",
        "line 1, column 41: group is 'nroth', no system group of Uyuni and none of this list "
        "(groups with store-defaults: north)",
    ),
    "what is of a group": (
        "- {hypervisor: hv-1, store: '1', group: north, virt_type: kvm}",
        "line 1, column 59: virt_type is not on the page of store-server: give it to the store's",
    ),
    "what is of a store": (
        GROUP.replace("master:", "hostname: x\n    master:"),
        "line 3, column 15: hostname is not on the page of store-defaults: give it to each store",
    ),
    "a guest's pillar": (
        "- {hypervisor: hv-1, store: '1', group: north, guest_pillar: {a: 1}}",
        "line 1, column 62: guest_pillar is not on the page of store-server: the guest is a system",
    ),
    "what is on no page": (
        "- {hypervisor: hv-1, store: '1', group: north, start: {backoff_s: [1]}}",
        "line 1, column 67: start.backoff_s is not on the page of store-server: leave it out",
    ),
    "a limit that is on no page": (
        GROUP.replace("master:", "timeouts: {rebooting: 7}\n    master:"),
        "line 3, column 27: timeouts.rebooting is not on the page of store-defaults: leave it out",
    ),
    "no group at all": (
        "- {hypervisor: hv-1, store: '1'}",
        "line 1, column 3: image.source is missing",
    ),
    "a value that the API would take": (
        "- {hypervisor: hv-1, store: '1', group: north, cpus: 0}",
        "line 1, column 54: cpus is 0, allowed: a whole number 1..512",
    ),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_what_uyuni_cannot_have_is_told_before_anything_is_written(text, uyuni, content, message):
    _, faults = text(content)
    assert any(fault.startswith(message) for fault in faults), faults
    assert uyuni.written() == []


def test_vanished_stores_are_shown_and_stay(imported, uyuni):
    imported(NORTH, {**NORTH, "hypervisor": "hv-2", "store": "0418", **address(18)})
    found, written = imported(NORTH)
    assert (found.vanished, written, uyuni.written()) == ({"hv-2": "0418"}, 0, [])
    assert own(uyuni, "hv-2")["store"] == "0418"


def address(number):
    return {
        "interfaces.eth0.address": f"10.4.{number}.10/24",
        "interfaces.eth0.gateway": f"10.4.{number}.1",
    }


def test_a_fault_in_between_is_told_and_the_next_run_goes_on(imported, uyuni):
    rows = [NORTH, {**NORTH, "hypervisor": "hv-2", "store": "0418", **address(18)}]
    uyuni.fails["formula.setSystemFormulaData"] = 1
    with pytest.raises(StoreDeployError) as told:
        imported(*rows)
    assert told.value.reason == (
        "hv-2: formula.setSystemFormulaData: the database is away; 1 of 2 were written before"
    )
    assert told.value.hint
    uyuni.fails.clear()
    found, _ = imported(*rows)
    assert (found.unchanged, [each.name for each in found.changes]) == (["hv-1"], ["hv-2"])


def test_a_server_without_the_forms_is_told_so(imported, uyuni):
    del uyuni.forms["store-server"]
    with pytest.raises(StoreDeployError, match="Uyuni has no formula store-server"):
        imported(NORTH)


def test_a_fault_of_the_server_is_not_hidden(imported, uyuni):
    uyuni.fails["system.getMinionIdMap"] = 0
    with pytest.raises(ApiFault):
        imported(NORTH)


def test_what_was_exported_changes_nothing_when_it_is_imported(imported, tmp_path, uyuni):
    imported(NORTH, {**NORTH, "hypervisor": "hv-2", "store": "0418", "cpus": 3, **address(18)})
    target = UyuniTarget(uyuni)
    target.know(store_lists.reading.StoreList(), store_lists.silent)
    rows = target.others(()).values()
    path = tmp_path / "out.csv"
    text = store_lists.csv_file.written([(row.beside, columns.flat(row.own)) for row in rows])
    path.write_text(text)
    assert text.splitlines()[0].startswith("hypervisor,group,store,cpus,")
    found, written = applied(path, UyuniTarget(uyuni))
    assert (found.unchanged, found.vanished, written) == (["hv-1", "hv-2"], {}, 0)


@pytest.mark.thorough
def test_3000_stores_are_written_and_a_second_run_writes_nothing(imported, uyuni):
    rows = [{**row, "group": "north"} for row in store_lists.numbered(3000)]
    uyuni.systems.clear()
    for row in rows:
        uyuni.register(row["hypervisor"])
        row["interfaces.eth0.source"] = "br0"
    found, written = imported(*rows)
    assert (len(found.changes), written > 0) == (3000, True)
    found, written = imported(*rows)
    assert (len(found.unchanged), written, uyuni.written()) == (3000, 0, [])
