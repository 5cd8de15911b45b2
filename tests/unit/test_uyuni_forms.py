# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The forms for Uyuni: what is filled in on their pages is what the spec reads."""

import json
import random
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests import uyuni_forms
from tests.uyuni import page as uyuni_page
from tests.uyuni.page import NotSaved

from storemaster.deployment import fields, spec

REPO = Path(__file__).parents[2]
FOLDER = REPO / "uyuni"
FORMS = {
    name: yaml.safe_load((FOLDER / name / "form.yml").read_text())["store_server"]
    for name in uyuni_forms.FORMULAS
}
DEFAULTS, SERVER = FORMS["store-defaults"], FORMS["store-server"]
KEYS = {
    *("$name", "$type", "$help", "$default", "$optional", "$required", "$match", "$values"),
    *("$min", "$max", "$minItems", "$prototype", "$key"),
}
TYPES = {"group", "edit-group", "text", "number", "boolean", "select"}


def walked(element, path="store_server"):
    yield path, element
    for key, each in uyuni_page.elements(element).items():
        yield from walked(each, f"{path}.{key}")
    if "$prototype" in element:
        yield from walked(element["$prototype"], f"{path}[]")
        if "$key" in element["$prototype"]:
            yield f"{path}[].$key", element["$prototype"]["$key"]


ELEMENTS = [
    pytest.param(element, id=f"{name}:{path}")
    for name, form in FORMS.items()
    for path, element in walked(form)
]


def test_the_files_are_what_the_table_makes_of_them():
    there = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.*")}
    assert there == uyuni_forms.files(), "make diagram"


@pytest.mark.parametrize("formula", uyuni_forms.SHOWN)
def test_what_is_on_a_page_is_in_the_table(formula):
    assert set(uyuni_forms.SHOWN[formula]) <= {field.path for field in fields.TABLE}


def test_what_is_on_no_page_is_left_out_on_purpose():
    shown = {path for paths in uyuni_forms.SHOWN.values() for path in paths}
    named = {"data_disks[].name", "interfaces[].name", "timeouts.STATE"}
    left_out = {field.path for field in fields.TABLE} - shown - named
    assert left_out == {"start.backoff_s", "guest_pillar"}


@pytest.mark.parametrize("element", ELEMENTS)
def test_an_element_has_none_of_the_traps(element):
    kind = element["$type"]
    assert kind in TYPES
    assert {key for key in element if key.startswith("$")} <= KEYS
    if kind == "select":
        assert element["$default"] in element["$values"]
        assert all(isinstance(each, str) for each in element["$values"])
    if kind == "text":
        # Or the API takes any type, and a text that was never saved has no value.
        assert isinstance(element["$default"], str)
    if kind == "boolean":
        # Both drop a false.
        assert not {"$optional", "$required"} & element.keys()
    if kind == "number" and ("$optional" in element or "$required" in element):
        assert element["$min"] > 0
    if kind == "edit-group":
        assert "$prototype" in element


def test_a_browser_takes_each_pattern_and_an_empty_text():
    """Both halves in one engine of JavaScript, with the flag that the page sets."""
    patterns = [e.values[0]["$match"] for e in ELEMENTS if "$match" in e.values[0]]
    script = (
        "for (const p of JSON.parse(process.argv[1]))"
        " if (!new RegExp('^' + p + '$', 'u').test('')) throw p"
    )
    done = subprocess.run(
        ["node", "-e", script, json.dumps(patterns)], capture_output=True, text=True, check=False
    )
    assert len(patterns) > 15
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("interfaces[].address", "dhcp", "dhcpXX"),
        ("interfaces[].mac", "52:54:00:12:34:56", "52:54:00:12:34:56x"),
        ("pool", "default", "a/b"),
        ("image.sha256", "0" * 64, "0" * 65),
    ],
)
def test_a_pattern_is_about_the_whole_text(path, good, bad):
    (field,) = [field for field in fields.TABLE if field.path == path]
    pattern = f"^{uyuni_forms.pattern(field)}$"
    assert re.search(pattern, good)
    assert not re.search(pattern, bad)


def pillar(group, system, own):
    """Return ``store_server`` as the ext_pillar gives it: defaults of a group, of a system, own."""
    both = (uyuni_page.pillar(DEFAULTS, group, system), uyuni_page.pillar(SERVER, None, own))
    return uyuni_page.recursed(*both)


def read(*data):
    return spec.from_pillar(pillar(*data), "hv-0417")


def example(formula):
    return yaml.safe_load((FOLDER / formula / "pillar.example").read_text())["store_server"]


def test_the_examples_together_describe_a_store():
    both = uyuni_page.recursed(example("store-defaults"), example("store-server"))
    group = uyuni_page.on_page(DEFAULTS, example("store-defaults"))
    own = uyuni_page.on_page(SERVER, example("store-server"))
    assert read(group, None, own) == spec.from_pillar(both, "hv-0417")


LEAST = {
    "image": {"source": "salt://x.qcow2", "sha256": "5e" * 32},
    "master": "uyuni.example.com",
    "interfaces": {"eth0": {"source": "br0"}},
}


@pytest.mark.parametrize("lacks", ["master", "image"])
def test_a_page_without_what_every_store_needs_is_not_saved(lacks):
    with pytest.raises(NotSaved, match=f"{lacks}.* is required"):
        uyuni_page.on_page(DEFAULTS, {key: value for key, value in LEAST.items() if key != lacks})
    with pytest.raises(NotSaved, match="store is required"):
        uyuni_page.on_page(SERVER, {})


def test_what_only_the_group_says_still_counts_after_a_stores_page_was_saved():
    """A system's page saves all that it shows."""
    own = uyuni_page.on_page(SERVER, {"store": "0417"})
    for cpus in (8, 4):
        group = uyuni_page.on_page(
            DEFAULTS, {**LEAST, "cpus": cpus, "data_disks": {"d": {"size_gib": 7}}}
        )
        again = uyuni_page.on_page(SERVER, {}, own)
        found = read(group, None, again)
        assert (found.cpus, found.data_disks[0].size_gib) == (cpus, 7)


def test_what_the_store_says_counts_more_until_it_is_emptied():
    group = uyuni_page.on_page(DEFAULTS, {**LEAST, "cpus": 8})
    own = uyuni_page.on_page(SERVER, {"store": "0417", "cpus": 2, "hostname": "kasse.example.com"})
    found = read(group, None, own)
    assert (found.cpus, found.hostname) == (2, "kasse.example.com")
    emptied = uyuni_page.on_page(SERVER, {"cpus": "", "hostname": ""}, own)
    found = read(group, None, emptied)
    assert (found.cpus, found.hostname) == (8, "store-0417")


def test_a_number_that_is_emptied_for_the_group_has_its_default_again():
    group = uyuni_page.on_page(
        DEFAULTS, {**LEAST, "start": {"steady_s": 0}, "timeouts": {"booting": 60}}
    )
    own = uyuni_page.on_page(SERVER, {"store": "0417"})
    found = read(group, None, own)
    assert (found.start.steady_s, found.timeouts) == (0, {"booting": 60})
    emptied = uyuni_page.on_page(
        DEFAULTS, {"start": {"steady_s": ""}, "timeouts": {"booting": ""}}, group
    )
    found = read(emptied, None, own)
    assert (found.start.steady_s, found.timeouts) == (20, {})


def test_the_sample_that_a_list_shows_is_no_probe():
    group = uyuni_page.on_page(
        DEFAULTS, {**LEAST, "verify": {"tcp": [""], "service": ["sshd", ""]}}
    )
    own = uyuni_page.on_page(SERVER, {"store": "0417", "interfaces": {"eth0": {"dns": [""]}}})
    assert read(group, None, own).verify == ({"service": "sshd"},)


@pytest.mark.parametrize(("form", "filled"), [(DEFAULTS, LEAST), (SERVER, {"store": "0417"})])
def test_a_page_with_an_item_without_a_name_is_not_saved(form, filled):
    with pytest.raises(NotSaved, match="has an item without a name"):
        uyuni_page.on_page(form, filled, samples=True)


def test_a_group_whose_page_says_only_what_it_must_has_stores():
    needed = {key: value for key, value in LEAST.items() if key != "interfaces"}
    found = read(
        uyuni_page.on_page(DEFAULTS, needed), None, uyuni_page.on_page(SERVER, {"store": "0417"})
    )
    assert (found.interfaces[0].source, found.minion) == ("br0", "venv-salt-minion")


TEXTS = {
    "store": ("0417", "a-9"),
    "minion_id": ("srv.example.com",),
    "hostname": ("kasse.example.com",),
    "image.source": ("salt://y.qcow2", "https://images.example.com/z.qcow2"),
    "image.sha256": ("ab" * 32,),
    "pool": ("default", "/srv/pool"),
    "master": ("192.0.2.1", "proxy.example.com"),
    "source": ("br0", "br1"),
    "mac": ("52:54:00:00:00:01",),
    "address": ("dhcp", "10.4.17.10/24"),
    "gateway": ("10.4.17.1",),
    "dns": ("10.4.17.1", "9.9.9.9"),
    "service": ("sshd", "salt-minion"),
    "command": ("true", "test -e /x"),
    "group": ("north", "Läden im Süden"),
    "activation_key": ("1-store", "2-till"),
    "system_groups": ("stores", "north"),
}


def some(chance, element, path):
    """Return what somebody might fill in, as the page takes it; None is left as it is."""
    if element["$type"] == "group":
        found = {k: some(chance, e, f"{path}{k}.") for k, e in uyuni_page.elements(element).items()}
        return {key: value for key, value in found.items() if value is not None}
    if chance.random() < 0.4 and not element.get("$required"):
        return None
    plain = path.rstrip(".")
    if element["$type"] == "edit-group":
        prototype, count = element["$prototype"], chance.randint(0, 2)
        if "$key" in prototype:
            return {f"n{i}": some(chance, prototype, "") for i in range(count)}
        return [some(chance, {**prototype, "$required": True}, plain) for _ in range(count)]
    if element["$type"] == "number":
        return element["$min"] + chance.randint(0, 3)
    if element["$type"] == "boolean":
        return chance.random() < 0.5
    if element["$type"] == "select":
        return chance.choice([each for each in element["$values"] if each not in ("xen", "xenpvh")])
    known = TEXTS.get(plain) or TEXTS.get(plain.rpartition(".")[2])
    return chance.choice(known) if known else None


def meant(*filled):
    """Return the pillar that somebody would write by hand for the same, in its plain shapes."""
    value = {"minion": "venv-salt-minion"}
    for each in filled:
        value = uyuni_page.recursed(value, each)
    for key in ("data_disks", "interfaces"):
        # In the order in which a database of Uyuni has them: the group's, then the store's.
        own = [sorted(each.get(key, ()), key=lambda name: (len(name), name)) for each in filled]
        names = dict.fromkeys(name for names in own for name in names)
        value[key] = [{"name": name, **value[key][name]} for name in names]
    probes = value.get("verify", {})
    value["verify"] = [
        {kind: each} for kind in ("tcp", "service", "command") for each in probes.get(kind, ())
    ]
    return value


@pytest.mark.parametrize("seed", range(200))
def test_what_is_filled_in_saved_opened_again_and_merged_is_what_was_meant(seed):
    chance = random.Random(seed)
    shared, own = some(chance, DEFAULTS, ""), some(chance, SERVER, "")
    for disk in (*shared.get("data_disks", {}).values(), *own.get("data_disks", {}).values()):
        disk.setdefault("size_gib", 9)
    # A card is connected to something; what the store says of one goes with its address.
    cards = {"eth0": {}, **shared.get("interfaces", {})}
    shared["interfaces"] = {name: {"source": "br0", **card} for name, card in cards.items()}
    card = own.get("interfaces", {}).get("n0", {})
    if card.get("address", "dhcp") == "dhcp":
        card = {key: value for key, value in card.items() if key not in ("gateway", "dns")}
    own["interfaces"] = {"eth0": card}
    expected = spec.from_pillar(meant(shared, own), "hv-0417")
    group, system = uyuni_page.on_page(DEFAULTS, shared), uyuni_page.on_page(SERVER, own)
    for _ in range(2):
        assert read(group, None, system) == expected
        group, system = (
            uyuni_page.on_page(DEFAULTS, {}, group),
            uyuni_page.on_page(SERVER, {}, system),
        )
