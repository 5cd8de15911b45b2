# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a store list is told as a whole, each in one sentence with its place."""

import pathlib
import re

import pytest
import store_lists
import yaml
from store_lists import SHARED, a_list, faults, numbered

from storelib.errors import Refused
from storemaster.deployment import fields
from storemaster.deployment.store_list import columns, csv_file, reading, spreadsheets

REPO = pathlib.Path(__file__).parents[2]
HEAD = "hypervisor,store,memory_mib,interfaces.eth0.address,interfaces.eth0.gateway\n"
GOOD = "hv-1,0417,4096,10.4.17.10/24,10.4.17.1\nhv-2,0418,,,\n"


@pytest.fixture
def told(tmp_path):
    """Return what is told of a list with this text."""

    def told(text, name="stores.csv", **more):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return faults(path, tmp_path, **more)

    return told


def stores(path):
    return [row.own["store"] for row in reading.read(path).rows]


def test_a_good_list_has_no_faults(told):
    assert told(HEAD + GOOD) == []


# As text


def test_a_list_that_comes_as_text_is_read_as_the_file_would_be():
    assert [row.own["store"] for row in reading.of_text(HEAD + GOOD).rows] == ["0417", "0418"]
    text = "---\nstores:\n  - {hypervisor: hv-1, store: '0417'}\n"
    assert [row.own["store"] for row in reading.of_text(text).rows] == ["0417"]
    assert [row.own["store"] for row in reading.of_text(text[4:]).rows] == ["0417"]


@pytest.mark.parametrize("text", ["", " \n", None, 417, "\0", ["hv-1"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(Refused, match="text is no store list"):
        reading.of_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "hypervisor,store,guest_pillar\nhv-1,0417,{till: s3cr3t}\n",
        "stores:\n  - {hypervisor: hv-1, store: '0417', guest_pillar: {till: s3cr3t}}\n",
    ],
)
def test_a_list_that_comes_as_text_has_no_secrets(text):
    with pytest.raises(Refused, match="guest_pillar") as refused:
        reading.of_text(text)
    assert "s3cr3t" not in f"{refused.value.reason} {refused.value.hint}"


# Columns


def test_every_field_of_the_table_has_a_column_or_is_only_a_part_of_one():
    parts = {field.path for field in fields.TABLE if field.kind in (fields.PART, fields.PARTS)}
    parts |= {"verify", "interfaces[].name", "data_disks[].name"}
    for field in fields.TABLE:
        column = field.path.replace("verify[]", "verify").replace("[]", ".eth0.100")
        column = column.replace("STATE", "booting")
        found = columns.field_of(column)
        assert found is (None if field.path in parts else field), column


@pytest.mark.parametrize(
    "column",
    *[
        [
            *(
                "",
                ".",
                "cpu",
                "store.x",
                "image",
                "interfaces",
                "interfaces.eth0",
                "interfaces..mac",
            ),
            *("interfaces.-.mac", "interfaces.eth0.name", "verify", "verify.http", "verify.x.tcp"),
            *("timeouts.STATE", "timeouts.deployed", "start.x", "guest_pillar.x"),
        ]
    ],
)
def test_what_is_no_field_is_no_column(column):
    assert columns.field_of(column) is None


def test_the_page_has_every_column_that_there_is():
    page = (REPO / "docs" / "stores.md").read_text()
    named = set(re.findall(r"(?m)^\| `([^`]+)` ", page))
    assert named == {*columns.BESIDE, *columns.SHAPES}


def test_a_list_by_name_is_what_a_mapping_by_name_is():
    listed = {"interfaces": [{"name": "eth0", "source": "br0"}], "verify": [{"tcp": 1}, {"tcp": 2}]}
    by_name = {"interfaces": {"eth0": {"source": "br0"}}, "verify": {"tcp": [1.0, 2.0]}}
    flat = {"interfaces.eth0.source": "br0", "verify.tcp": [1, 2]}
    assert columns.flat(listed) == columns.flat(by_name) == flat
    assert columns.nested(flat) == columns.named(listed)


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("memory_mib", "4096", 4096),
        ("memory_mib", "4096.0", "4096.0"),
        ("memory_mib", "04096", "04096"),
        ("auto_deploy", "TRUE", True),
        ("auto_deploy", "WAHR", "WAHR"),
        ("store", "0417", "0417"),
        ("interfaces.eth0.dns", "10.1.2.1, 10.1.2.2;10.1.2.3 10.1.2.4", None),
        ("start.backoff_s", "1 2 x", [1, 2, "x"]),
        ("verify.command", "test -d /a; b, c\nd e", ["test -d /a; b, c", "d e"]),
        ("verify.command", '["a\\nb"]', ["a\nb"]),
        ("guest_pillar", '{"tills": 4}', {"tills": 4}),
        ("guest_pillar", "tills: 4", "tills: 4"),
    ],
)
def test_a_cell_means_a_value_of_its_columns_kind(column, text, value):
    found = columns.from_cell(columns.field_of(column), text)
    assert found == (value if value is not None else [f"10.1.2.{n}" for n in range(1, 5)])


# Files


ENCODED = {
    "UTF-8": (HEAD + GOOD).encode(),
    "a BOM": (HEAD + GOOD).encode("utf-8-sig"),
    "UTF-16, as a spreadsheet's Unicode text": (HEAD + GOOD).replace(",", "\t").encode("utf-16"),
    "semicolons": (HEAD + GOOD).replace(",", ";").encode(),
    "tabs": (HEAD + GOOD).replace(",", "\t").encode(),
    "a line for spreadsheets": b"sep=;\r\n" + (HEAD + GOOD).replace(",", ";").encode(),
    "CRLF": (HEAD + GOOD).replace("\n", "\r\n").encode(),
    "CR": (HEAD + GOOD).replace("\n", "\r").encode(),
    "no last line end": (HEAD + GOOD).strip().encode(),
    "blank lines": (HEAD + "\n,,,,\n" + GOOD + "\n\n").encode(),
    "quotes": re.sub(r"([^,\n]+)", r'"\1"', HEAD + GOOD).encode(),
    "spaces around": (HEAD + GOOD).replace(",", " , ").encode(),
}


@pytest.mark.parametrize("content", ENCODED.values(), ids=ENCODED)
def test_a_list_is_read_however_a_spreadsheet_saves_it(told, tmp_path, content):
    assert told(content) == []
    assert stores(tmp_path / "stores.csv") == ["0417", "0418"]


def test_what_is_not_utf_8_is_taken_for_a_spreadsheets_latin_1(told, tmp_path):
    text = 'hypervisor,store,guest_pillar\nhv-1,0417,"{""town"": ""K\u00f6ln""}"\n'
    assert told(text.encode("latin-1")) == []
    found = reading.read(tmp_path / "stores.csv")
    assert found.rows[0].own["guest_pillar"] == {"town": "K\u00f6ln"}
    assert "is not UTF-8" in found.note
    (tmp_path / "stores.csv").write_bytes(text.encode())
    assert reading.read(tmp_path / "stores.csv").note == ""


UNREADABLE = {
    "nothing in it": (b"", "stores.csv is empty"),
    "spaces only": (b" \r\n\n", "stores.csv is empty"),
    "zero bytes": (b"hypervisor,store\nhv-1,\0\n", "stores.csv is no text in line 2"),
    "an archive": (b"PK\x03\x04\x00\x00" * 9, "stores.csv is no text in line 1"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_list_is_refused_in_one_sentence(told, content, message):
    with pytest.raises(Refused, match=message):
        told(content)


@pytest.mark.parametrize("name", ["stores.xlsx", "stores", "stores.csv.gz"])
def test_a_file_that_is_no_list_by_its_name_is_refused(told, name):
    with pytest.raises(Refused, match=r"is no store list by its name"):
        told(HEAD + GOOD, name)


def test_a_file_that_is_not_there_or_none_or_too_large_is_refused(tmp_path):
    with pytest.raises(Refused, match="is not there"):
        reading.read(tmp_path / "x.csv")
    (tmp_path / "y.csv").mkdir()
    with pytest.raises(Refused, match="is no file"):
        reading.read(tmp_path / "y.csv")
    with (tmp_path / "z.csv").open("wb") as file:
        file.truncate(reading.LARGEST + 1)
    with pytest.raises(Refused, match="is larger than 64 MiB"):
        reading.read(tmp_path / "z.csv")


SHAPES = {
    "no head": (GOOD, ["line 1: no column is called hypervisor; the first line names"]),
    "a head only": (HEAD, ["line 1: no store follows the first line"]),
    "a column that is none": (
        HEAD.replace("memory_mib", "Memory_MB") + GOOD,
        ["line 1, column C: 'Memory_MB' is no column, did you mean memory_mib?"],
    ),
    "a column twice": (
        HEAD.replace("memory_mib", "store") + GOOD,
        ["line 1, column C: store is a column twice"],
    ),
    "a column without a name": (
        HEAD.replace("memory_mib", "") + GOOD,
        ["line 2, column C: a value is in a column without a name"],
    ),
    "a cell too many": (HEAD + "hv-1,0417,,,,x\n", ["line 2: 6 cells, where the first line has 5"]),
    "a cell too few": (HEAD + "hv-1,0417,\n", ["line 2: 3 cells, where the first line has 5"]),
    "a quote that is not closed": (
        HEAD + 'hv-1,0417,"4096,,\n' + GOOD,
        ["line 2: the cells from here on cannot be told apart"],
    ),
    "a line break in a cell before": (
        HEAD + 'hv-1,0417,4096,"10.4.17.10/24\n",\nhv-2,0418,x,,\n',
        ["line 4, column C: memory_mib is 'x'"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), SHAPES.values(), ids=SHAPES)
def test_a_csv_file_of_the_wrong_shape_is_told_with_its_line(told, text, expected):
    found = told(text)
    assert len(found) == len(expected)
    assert all(map(str.startswith, found, expected)), found


YAMLS = {
    "no YAML": ("stores:\n  }\n", "line 2, column 3: this is no YAML"),
    "a text": ("just text", "line 1, column 1: this is no list, allowed: a list of stores"),
    "nothing": ("# nothing\n", "line 1: no store is in it"),
    "no stores": ("groups: {}\n", "line 1, column 1: this is no list"),
    "a key that is none": ("stores: []\nshops: []\n", "line 2, column 1: 'shops' is neither"),
    "groups as a list": ("groups: [a]\nstores: []\n", "line 1, column 9: groups is no mapping"),
    "a store that is none": ("- hv-1\n", "line 1, column 3: 'hv-1' is no mapping of columns"),
    "a key twice": (
        "- hypervisor: hv-1\n  store: '0417'\n  cpus: 2\n  cpus: 3\n",
        "line 4, column 3: the key 'cpus' is here twice, first in line 3",
    ),
    "an unknown key": (
        "- {hypervisor: hv-1, store: '0417', cpu: 4}\n",
        "line 1, column 42: cpu is 4, allowed: no such key",
    ),
    "a number for a store": (
        "- {hypervisor: hv-1, store: 0417}\n",
        "line 1, column 29: store is 271, which is no text to YAML: quote it",
    ),
    "a date for a store": (
        "- {hypervisor: hv-1, store: 2026-04-17}\n",
        "line 1, column 29: store is '2026-04-17', which looks as if a spreadsheet",
    ),
    "a number for a hypervisor": (
        "- {hypervisor: 7, store: '0417'}\n",
        "line 1, column 16: hypervisor is 7",
    ),
    "a list for a hypervisor": (
        "- {hypervisor: [a], store: '0417', group: [b], hypervisor_mac: {}}\n",
        "line 1, column 16: hypervisor is ['a']",
    ),
    "a wrong address deep inside": (
        "- hypervisor: hv-1\n  store: '0417'\n  interfaces:\n"
        "    - {name: eth0, source: br0, address: 10.1.2.3}\n",
        "line 4, column 42: interfaces.eth0.address is '10.1.2.3'",
    ),
    "a wrong probe": (
        "- hypervisor: hv-1\n  store: '0417'\n  verify:\n    - tcp: 22\n    - tcp: 0\n",
        "line 5, column 12: verify.tcp[1].tcp is 0",
    ),
    "a pillar with a date": (
        "- {hypervisor: hv-1, store: '0417', guest_pillar: {a: !!binary aGk=}}\n",
        "line 1, column 51: guest_pillar cannot be written as it is: a bytes is no plain value",
    ),
    "a pillar with a number as key": (
        "- {hypervisor: hv-1, store: '0417', guest_pillar: {a: {7: 8}}}\n",
        "line 1, column 51: guest_pillar cannot be written as it is: the key 7 is no text",
    ),
    "a group that is none": (
        "groups: {north: {}}\nstores: [{hypervisor: hv-1, store: '0417', group: nroth}]\n",
        "line 2, column 51: group is 'nroth', groups of this list: north",
    ),
    "a group with a fault": (
        "groups: {north: {cpus: 0}}\nstores: [{hypervisor: a, store: '1', group: north}]\n",
        "line 1, column 24: cpus is 0, allowed: a whole number 1..512",
    ),
    "a group with a store's own": (
        "groups: {north: {store: '1'}}\nstores: [{hypervisor: a, store: '1'}]\n",
        "line 1, column 25: store is a store's own, not one of group north",
    ),
    "an alias of itself": (
        "- &a {hypervisor: hv-1, store: '0417', guest_pillar: {x: *a}}\n",
        "line 1, column 3: this is no YAML: found unconstructable recursive node",
    ),
    "a tag of Python": (
        "- !!python/object/apply:os.system [true]\n",
        "line 1, column 3: this is no YAML: could not determine a constructor",
    ),
}


@pytest.mark.parametrize(("text", "message"), YAMLS.values(), ids=YAMLS)
def test_a_yaml_file_is_told_with_line_and_column(told, text, message):
    assert told(text, "stores.yaml")[0].startswith(message)


def test_a_fault_of_a_group_is_told_once(told):
    stores = "".join(f"  - {{hypervisor: h{n}, store: '{n}', group: north}}\n" for n in range(3))
    (fault,) = told(f"groups: {{north: {{cpus: 0}}}}\nstores:\n{stores}", "stores.yaml")
    assert fault.startswith("line 1, column 24: cpus is 0")


def test_what_is_for_uyuni_only_is_told(told):
    (fault,) = told("hypervisor,store,hypervisor_mac\na,1,52:54:00:00:00:01\n")
    assert fault.startswith("line 2, column C: hypervisor_mac is only for target=uyuni")


def test_a_yaml_file_that_is_not_utf_8_is_refused(told):
    with pytest.raises(Refused, match=r"stores.yaml is no text in line 2"):
        told(b"- hypervisor: hv-1\n  store: \xe4\n", "stores.yaml")


def test_what_a_merge_key_brings_is_told_where_it_is_written(told):
    text = "- &a {hypervisor: a, store: '1', cpus: 0}\n- {<<: *a, hypervisor: b, store: '2'}\n"
    found = told(text, "stores.yaml")
    assert [line for line in found if "cpus" in line] == [
        "line 1, column 40: cpus is 0, allowed: a whole number 1..512"
    ] * 2


# Store IDs that a spreadsheet has had

DAMAGED = [
    "1. Apr",
    "17.04.2026",
    "2026-04-17",
    "2026-04-17 00:00:00",
    "17-Apr",
    "Apr-17",
    "4/17/26",
]
COUNTED = ["4.17E+02", "4,17E+02", "417.0", "417,00", "4E+2"]


@pytest.mark.parametrize("store", DAMAGED + COUNTED)
def test_what_a_spreadsheet_made_of_an_id_is_told_as_that(told, store):
    (fault,) = told(f'hypervisor,store\nhv-1,"{store}"\n')
    what = "date" if store in DAMAGED else "number"
    assert fault.startswith(f"line 2, column B: store is '{store}', which looks as if")
    assert f"made a {what} of the ID: format the column as text" in fault


@pytest.mark.parametrize(
    "store", ["0417", "417", "a-1", "mar-17", "store-17", "17-4", "1E5", "2026"]
)
def test_an_id_that_nobody_has_hurt_is_taken(told, store):
    assert spreadsheets.damage(store) == ""
    assert told(f"hypervisor,store\nhv-1,{store}\n") == []


def test_an_id_in_quotes_of_its_own_is_told():
    assert "in CSV an ID has no quotes of its own: 0417" in spreadsheets.damage("'0417'")


def test_an_id_that_lost_its_zero_is_told_and_never_guessed(told):
    (fault,) = told("hypervisor,store\na,0415\nb,0416\nc,417\n")
    assert fault.startswith("line 4, column B: store is 417, with 3 digits where the other IDs")
    assert "write 0417" in fault


def test_one_short_id_among_long_ones_is_told(told):
    (fault,) = told(
        "hypervisor,store\n" + "".join(f"h{n},{n}\n" for n in (417, *range(1000, 1030)))
    )
    assert "store is 417, with 3 digits where the other IDs have 4" in fault


def test_ids_that_count_from_one_have_lost_nothing(told):
    for last in (12, 120, 1200):
        assert told("hypervisor,store\n" + "".join(f"h{n},{n}\n" for n in range(1, last))) == []


def test_a_short_id_that_is_quoted_in_yaml_is_what_was_meant(told):
    text = "".join(f"- {{hypervisor: h{n}, store: '{n}'}}\n" for n in (417, *range(1000, 1030)))
    assert told(text, "stores.yaml") == []


# All of them together


TOGETHER = {
    "a store ID twice": ("a,1,,,\nb,1,,,\n", "line 3, column B: store 1 is also in line 2"),
    "a hypervisor twice": ("a,1,,,\na,2,,,\n", "line 3, column A: hypervisor a is also in line 2"),
    "a server that is a hypervisor": (
        "a,1,,,\nstore-1,2,,,\n",
        "line 2: minion_id is 'store-1', a hypervisor in line 3",
    ),
    "an address twice": (
        "a,1,,10.1.1.2/24,10.1.1.1\nb,2,,10.1.1.2/24,10.1.1.1\n",
        "line 3, column D: interfaces.eth0.address 10.1.1.2 is also in line 2",
    ),
    "an address in another store's network": (
        "a,1,,10.1.1.2/24,10.1.1.1\nb,2,,10.1.1.3/24,10.1.1.1\n",
        "line 3, column D: interfaces.eth0.address is 10.1.1.3/24, in the network of another "
        "store, 10.1.1.2/24 in line 2; if stores share networks, say shared_networks=True",
    ),
    "a network in another store's": (
        "a,1,,10.1.1.2/24,10.1.1.1\nb,2,,10.9.1.3/8,10.0.0.1\n",
        "line 3, column D: interfaces.eth0.address is 10.9.1.3/8, in the network of another store",
    ),
    "a gateway outside": (
        "a,1,,10.1.1.2/24,10.1.2.1\n",
        "line 2, column E: interfaces.eth0.gateway is '10.1.2.1', allowed: an address in the",
    ),
}


@pytest.mark.parametrize(("rows", "message"), TOGETHER.values(), ids=TOGETHER)
def test_what_two_stores_cannot_both_have_is_told_once(told, rows, message):
    (fault,) = told(HEAD + rows)
    assert fault.startswith(message)


def test_a_hardware_address_twice_is_told_also_where_one_of_them_was_derived(told):
    mac = fields.default_mac("0417", "eth0")
    text = f"hypervisor,store,interfaces.eth0.mac\na,0417,\nb,0418,{mac}\nc,0419,{mac}\n"
    assert told(text) == [
        f"line {line}, column C: interfaces.eth0.mac {mac} is also in line 2" for line in (3, 4)
    ]


def test_two_ids_of_which_one_hardware_address_was_made_are_told(told):
    """24 bits: of 10,000 stores a few have the same."""
    (fault,) = told("hypervisor,store\na,4425\nb,5296\n")
    mac = fields.default_mac("4425", "eth0")
    assert fault == (
        f"line 3: interfaces.eth0.mac {mac}, made of the store's ID, is also in line 2: give one "
        "of them another"
    )


def test_stores_may_share_a_network_if_that_is_said(told):
    rows = "a,1,,10.1.1.2/24,10.1.1.1\nb,2,,10.1.1.3/24,10.1.1.1\n"
    assert len(told(HEAD + rows)) == 1
    assert told(HEAD + rows, shared_networks=True) == []


def test_what_all_stores_lack_or_share_is_told_once(told):
    shared = {**SHARED, "image": {**SHARED["image"], "sha256": "0" * 64}}
    (fault,) = told(HEAD + GOOD, shared=shared)
    assert fault.startswith("line 2: image.sha256 is '0000")
    assert fault.endswith("(so in 2 stores: it is what they share, or lack)")
    text = "hypervisor,store,master\na,1,\nb,2,\nc,3,x_y\n"
    first, second = told(text, shared={**SHARED, "master": ""})
    assert first.startswith("line 2, column C: master is missing")
    assert second.startswith("line 4, column C: master is 'x_y'")


def test_defaults_as_a_list_are_merged_as_salt_merges_them(told):
    listed = [{"name": "eth0", "source": "br0"}]
    (fault,) = told(HEAD + GOOD, shared={**SHARED, "interfaces": listed})
    assert fault.startswith("line 2: interfaces.eth0.source is None")


def limits():
    """Yield each column, with texts at its limits and beyond."""
    for column in ("cpus", "memory_mib", "disk_gib", "timeouts.booting"):
        schema = columns.field_of(column).kind.schema
        yield column, schema["minimum"], schema["minimum"] - 1
        yield column, schema["maximum"], schema["maximum"] + 1
        yield column, schema["minimum"], "x"
    yield "minion_id", "m" * 63, "m" * 129
    yield "hostname", "h" * 63, "h" * 64
    yield "auto_deploy", "FALSE", "1"
    yield "image.source", "/x", "x"
    yield "clone", "cow", "link"
    yield "interfaces.eth0.address", "10.1.2.3/32", "10.1.2.3/33"
    yield "interfaces.eth0.mac", "52:54:00:00:00:01", "52-54-00-00-00-01"
    yield "verify.tcp", "65535", "65536"
    yield "guest_pillar", "{}", "[]"


@pytest.mark.parametrize(("column", "good", "bad"), list(limits()), ids=str)
def test_a_value_at_its_limit_is_taken_and_one_beyond_is_told_with_its_column(
    told, column, good, bad
):
    assert told(f"hypervisor,store,{column}\na,1,{good}\n") == []
    (fault,) = told(f"hypervisor,store,{column}\na,1,{bad}\n")
    assert re.match(rf"line 2, column C: {re.escape(column)}\S* is .*, allowed: ", fault)
    assert told(f"hypervisor,store,{column}\na,1,\n") == [], "an empty cell is not given"


def test_an_empty_cell_that_must_not_be_empty_is_told(told):
    assert [fault.split(",")[1] for fault in told("hypervisor,store,cpus\n,1,2\nb,,2\n")] == [
        " column A: hypervisor is missing",
        " column B: store is missing",
    ]


PLANTED = {
    "memory_mib": ("x", "127", "4096.5", "-1", "4 GiB", "99999999"),
    "interfaces.eth0.address": ("10.0.0.0/24", "10.0.999.1/24", "10.1.2.3", "dchp", "::1/128"),
    "interfaces.eth0.gateway": ("10.200.0.1", "gw"),
    "interfaces.eth0.mac": ("52:54:00", "53:54:00:00:00:01", "525400000001"),
    "store": ("4.17E+02", "1. Apr", "417", "a b", "x" * 64),
    "hypervisor": ("hv 1", "*"),
}


def test_25_faults_in_1000_lines_are_all_named_in_one_run(tmp_path):
    rows, expected, line = numbered(1000), [], 10
    for column, values in PLANTED.items():
        for value in values:
            rows[line - 2][column] = value
            if column in ("interfaces.eth0.address",):
                rows[line - 2].pop("interfaces.eth0.gateway")
            expected.append((line, column))
            line += 37
    rows[950]["store"], rows[960]["hypervisor"] = rows[5]["store"], rows[6]["hypervisor"]
    expected += [(952, "store"), (962, "hypervisor")]
    assert len(expected) == 25
    found = faults(a_list(tmp_path / "stores.csv", rows), tmp_path)
    named = [re.match(r"line (\d+), column [A-Z]: ([\w.]+)", fault).groups() for fault in found]
    assert [(int(line), column) for line, column in named] == expected


@pytest.mark.thorough
def test_10000_lines_are_read_and_compared(tmp_path):
    path = a_list(tmp_path / "stores.csv", numbered(10000))
    found, wrong = store_lists.looked(path, store_lists.pillar_files.PillarFiles(tmp_path, SHARED))
    assert (len(found.changes), wrong) == (10000, [])


BITS = (
    *(b"", b"\xff", b"\0", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"- ", b"&a ", b"*a", b"!!"),
    *(b"\n", b"\r", b",", b";", b"\t", b"null", b"0", b"true", b"~", b"1.5", b"<<: ", b"? ", b"| "),
    *(
        b"%",
        b".inf",
        b"9" * 30,
        b"-1",
        b"stores:",
        b"groups:",
        b"name",
        b"!!binary aa",
        b"!!set {a}",
    ),
)


@pytest.mark.parametrize("name", ["kvm-dhcp.csv", "xen-static.csv", "group.yaml"])
def test_no_list_however_broken_is_worth_a_traceback(told, name):
    good = (REPO / "pillar" / "examples" / name).read_bytes()
    refused = 0
    for seed in range(100):
        dice, text = store_lists.dice_of(seed), bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(text))
            text[at : at + dice.choice([0, 1, 2, 5, 20])] = dice.choice(BITS)
        try:
            refused += bool(told(bytes(text), name))
        except Refused:
            refused += 1
    assert refused > 30, "others are whole by chance"


def test_a_column_has_a_spreadsheets_letters():
    assert [csv_file.letter(n) for n in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


def test_the_examples_of_the_page_are_lists_without_faults(told):
    page = (REPO / "docs" / "stores.md").read_text()
    (text,) = re.findall(r"(?s)```\n(hypervisor,.*?)```", page)
    assert told(text) == []
    (text,) = re.findall(r"(?s)```yaml\n(groups:.*?)```", page)
    assert told(text, "stores.yaml") == []


@pytest.mark.parametrize("name", ["kvm-dhcp.csv", "xen-static.csv", "group.yaml"])
def test_the_examples_are_lists_without_faults(tmp_path, name):
    defaults = yaml.safe_load((REPO / "pillar/stores/defaults.sls").read_text())["store_server"]
    defaults["image"]["sha256"] = "5e" * 32
    path = REPO / "pillar" / "examples" / name
    assert faults(path, tmp_path, shared=defaults) == []
    assert len(reading.read(path).rows) == 3
