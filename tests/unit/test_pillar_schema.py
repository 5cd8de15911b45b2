# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the pillar takes and refuses what the spec takes and refuses."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from test_spec import FAULTY, LEAST, SENSELESS, SENSIBLE, STATIC, pillar
from tests import pages

from storelib.errors import SpecError
from storemaster.deployment import fields, spec

REPO = Path(__file__).parents[2]
SCHEMA = json.loads((REPO / "pillar" / "store_server.schema.json").read_text())
WHOLE = Draft7Validator(SCHEMA)
PART = Draft7Validator({**SCHEMA["definitions"]["part"], "definitions": SCHEMA["definitions"]})
STORES = REPO / "pillar" / "stores"
FILES = [STORES / "defaults.sls", *STORES.glob("*.yaml")]


def refused(given, validator=WHOLE):
    # As the editor sees it: what YAML has no word for, such as a tuple, is not in it.
    plain = json.loads(json.dumps({"store_server": given}))
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(plain)]


def test_the_schema_is_one():
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_of_a_part_is_taken_and_leads_editors_to_the_schema(path):
    text = path.read_text()
    assert refused(yaml.safe_load(text)["store_server"], PART) == []
    (line,) = [line for line in text.splitlines() if line.startswith("# yaml-language-server:")]
    name, _, pointer = line.partition("$schema=")[2].partition("#")
    assert json.loads((path.parent / name).read_text()) == SCHEMA
    assert pointer == "/definitions/part"


def test_the_examples_together_are_a_whole():
    merged = {}
    for path in FILES:
        merged |= yaml.safe_load(path.read_text())["store_server"]
        assert bool(refused(merged)) is (path != FILES[-1])
    merged["image"]["sha256"] = "5e" * 32
    assert spec.from_pillar(merged, "hv-0815")


def test_the_examples_say_where_they_belong_what_is_usually_there():
    for path in FILES:
        scope = fields.SHARED if path.stem == "defaults" else fields.OWN
        keys = yaml.safe_load(path.read_text())["store_server"]
        assert {fields.under("")[key].scope for key in keys} == {scope}


def test_the_example_of_the_docs_is_taken():
    (text,) = re.findall(r"(?s)```yaml\n(store_server:.*?)```", pages.TEXT)
    example = yaml.safe_load(text)["store_server"]
    assert refused(example) == []
    assert spec.from_pillar(example, "hv-0815")


TAKEN = [
    *(pillar(**given) for given in SENSIBLE),
    LEAST,
    pillar(interfaces=[STATIC], verify=[{"tcp": 22}, {"command": "true\n"}]),
    pillar(firmware="efi", os_type="hvm", virt_type="kvm"),
    pillar(os_type="xen", timeouts={"booting": 1, "queued": None}, guest_pillar={"a": [None]}),
    pillar(image__sha256="0" * 63 + "1", start__backoff_s=[0]),
    spec.from_pillar(pillar(interfaces=[STATIC], virt_type="xen"), "hv-0815").as_dict(),
]


@pytest.mark.parametrize("given", TAKEN, ids=str)
def test_what_the_spec_takes_the_schema_takes(given):
    assert spec.from_pillar(given, "hv-0815")
    assert refused(given) == []


def test_a_part_lacks_what_another_part_has_and_no_more():
    assert refused({}, PART) == []
    assert refused({"image": {"sha256": "5e" * 32}}, PART) == []
    assert refused({"interfaces": [{"source": "br0"}]}, PART)
    assert refused({"colour": "red"}, PART)


@pytest.mark.parametrize("key", LEAST)
def test_the_schema_misses_what_the_spec_misses(key):
    given = copy.deepcopy(LEAST)
    del given[key]
    assert refused(given) == [f"$.store_server: {key!r} is a required property"]


@pytest.mark.parametrize("field", fields.TABLE, ids=lambda field: field.path)
def test_a_value_of_a_wrong_type_is_refused_at_each_key(field):
    *above, key = field.path.replace("STATE", "booting").split(".")
    disks = [{"name": "data", "size_gib": 1}]
    given = pillar(start={}, timeouts={}, interfaces=[dict(STATIC)], data_disks=disks, verify=[{}])
    part = given
    for each in above:
        part = part[each.removesuffix("[]")]
        part = part[0] if each.endswith("[]") else part
    part[key] = 1.5 if "mapping" in field.kind.allowed else {"no": "good"}
    with pytest.raises(SpecError):
        spec.from_pillar(given, "hv-0815")
    assert any(told.partition(":")[0].endswith(f".{key}") for told in refused(given))


SHAPES = {
    "data_disks": ({"data": {"size_gib": 9}}, {"data": {}}, {"data": {"size_gib": 9, "x": 1}}),
    "interfaces": ({"eth0": {"source": "br0"}}, {}, {"eth0": {"source": "br0", "mac": "x"}}),
    "verify": ({"tcp": [22], "service": ["sshd"]}, {"tcp": [65536]}, {"http": [80]}),
}
"""As a form saves it: one that is good, others that are not."""


@pytest.mark.parametrize("key", SHAPES)
def test_what_a_form_saves_in_place_of_a_list_is_taken_and_refused_as_by_the_spec(key):
    good, *bad = (pillar(**{key: value}) for value in SHAPES[key])
    spec.from_pillar(good, "hv-0815")
    assert refused(good) == []
    for given in bad:
        assert refused(given)
        with pytest.raises(SpecError):
            spec.from_pillar(given, "hv-0815")


BAD = {
    **{kind: [given] for kind, (given, _) in FAULTY.items()},
    **{kind: [pillar(**given) for given, *_ in cases] for kind, cases in SENSELESS.items()},
}
LAX = {
    # Only to Python's own validator: to an editor $ is the end of a text, not of its last line.
    "line end in the store",
    "image with a line end",
    # Keys that must differ from each other, or fit together by more than their texts.
    "data disks of one name",
    "gateway of another IP version",
    "gateway outside the network",
    "interfaces of one name",
    "two interfaces that are at odds",
    # What is made of another key.
    "host name longer than the kernel takes",
    "minion ID that is no host name",
    # Arithmetic with addresses and seconds.
    "a gateway that is none",
    "a name server that is none",
    "a start that outlasts its state",
    "an address at an end of its network",
    "an address of nobody, of many or of oneself",
    "an address with a prefix that is none",
    # What is right by syntax, and not wanted.
    "a URL that leads nowhere",
    "a URL with credentials",
    "a checksum that stands for one",
    "a data disk that would be taken for another",
    "a hardware address that no card has",
    "a host name that is none",
    "a master that no guest finds",
    "a name that no interface can have",
}
"""Kinds of which the schema takes some: where it cannot say the rule, the spec alone refuses."""


@pytest.mark.parametrize("kind", BAD)
def test_what_the_spec_refuses_the_schema_refuses_where_it_can_say_so(kind):
    for given in BAD[kind]:
        with pytest.raises(SpecError):
            spec.from_pillar(given, "hv-0815")
    taken = [given for given in BAD[kind] if not refused(given)]
    assert bool(taken) is (kind in LAX), taken
