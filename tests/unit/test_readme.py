# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does."""

import ast
import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import pages

from storelib.errors import SpecError
from storemaster.deployment import lifecycle, spec
from storemaster.master import settings

REPO = Path(__file__).parents[2]
README = pages.TEXT

PILLAR = {
    "store": "0815",
    "image": {"source": "salt://images/store-server.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
    "data_disks": [{"name": "data", "size_gib": 1}],
    "interfaces": [{"name": "eth0", "source": "br0"}],
    "verify": [{"tcp": 22}],
    "start": {},
    "timeouts": {},
}
EMPTY = r"<!-- \1 -->\n\n"
NO_SUCH = re.compile(r"([\w.\[\]]+) is 1, allowed: no such key; known: (\[.*?\])")


def rows(chapter):
    """Return the rows of the tables in a chapter, cells without their Markdown."""
    lines = [
        line for line in pages.chapter(chapter).splitlines() if line.lstrip().startswith("| `")
    ]
    return [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]


REFERENCE = {row[0].strip("`"): row[1:] for row in rows("Pillar reference")}


def place_of(path, pillar):
    """Return the mapping in the pillar and the key in it; ``[]`` is the list's first item."""
    *parents, key = path.replace("[]", ".0").replace("STATE", "booting").split(".")
    part = pillar
    for parent in parents:
        part = part[int(parent) if parent.isdecimal() else parent]
    return part, key


def pillar_with(path, value):
    pillar = copy.deepcopy(PILLAR)
    part, key = place_of(path, pillar)
    part[key] = value
    return pillar


def pillar_without(path):
    pillar = copy.deepcopy(PILLAR)
    part, key = place_of(path, pillar)
    part.pop(key, None)
    return pillar


def faults(pillar):
    with pytest.raises(SpecError) as refused:
        spec.from_pillar(pillar, "hv-0815")
    return refused.value.reason.removeprefix("pillar store_server of hv-0815 is wrong: ")


def known_keys(where):
    """Return the keys that the code knows in a mapping of the pillar, from its own complaint."""
    path = f"{where}.nonsense".lstrip(".")
    (told,) = NO_SUCH.findall(faults(pillar_with(path, 1)))
    return ast.literal_eval(told[1])


def test_the_pillar_reference_has_every_key_and_no_other():
    mappings = ("", "image", "start", "data_disks[]", "interfaces[]", "verify[]")
    known = {f"{where}.{key}".lstrip(".") for where in mappings for key in known_keys(where)}
    assert set(REFERENCE) == known | {"timeouts.STATE"}
    assert known_keys("timeouts") == sorted(lifecycle.FOLLOWS)


@pytest.mark.parametrize("key", REFERENCE)
def test_what_the_reference_allows_is_what_the_code_says(key):
    wrong = 1 if "mapping" in REFERENCE[key][1] else {"no": "good"}
    path = key.replace("[]", "[0]").replace("STATE", "booting")
    told = [
        fault.partition(", allowed: ")[2]
        for fault in faults(pillar_with(key, wrong)).split("; ")
        if fault.startswith(f"{path} is ")
    ]
    assert told[0] == REFERENCE[key][1]


@pytest.mark.parametrize("key", [key for key, row in REFERENCE.items() if "`" in row[0]])
def test_a_default_of_the_reference_changes_nothing_when_it_is_written_down(key):
    left_out = spec.from_pillar(pillar_without(key), "hv-0815")
    literal = REFERENCE[key][0].strip("`")
    try:
        default = json.loads(literal)
    except ValueError:
        default = literal.format(**left_out.as_dict())
    assert spec.from_pillar(pillar_with(key, default), "hv-0815") == left_out


@pytest.mark.parametrize("key", [key for key, row in REFERENCE.items() if row[0] == "required"])
def test_a_required_key_of_the_reference_is_missed(key):
    assert f"{key.replace('[]', '[0]')} is missing" in faults(pillar_without(key))


def test_the_example_of_the_reference_is_accepted():
    yaml = pytest.importorskip("yaml")
    (example,) = re.findall(r"(?s)```yaml\n(store_server:.*?)```", README)
    assert spec.from_pillar(yaml.safe_load(example)["store_server"], "hv-0815").store == "0815"


MADE = [
    *("README.md", "tests/README.md", "docs/operate.md", "docs/pillar.md", "docs/stores.md"),
    "pillar/store_server.schema.json",
]


@pytest.mark.parametrize("page", MADE)
def test_what_is_made_of_lifecycle_field_table_and_budgets_is_as_they_are(page, tmp_path):
    text = (REPO / page).read_text()
    made = tmp_path / Path(page).name
    made.write_text(re.sub(r"(?s)<!-- (\w+) -->\n.*?\n(?=<!-- /\1)|\A{.*", EMPTY, text))
    assert made.read_text() != text
    subprocess.run([sys.executable, REPO / "tests" / "diagram.py", made], check=True)
    assert made.read_text() == text, "make diagram"


def test_the_readme_is_short_and_every_link_leads_somewhere():
    assert len((REPO / "README.md").read_text().splitlines()) <= 150
    for path in pages.FILES:
        text = path.read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), f"{path.name}: {target}"
            heads = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert not anchor or anchor in anchors, f"{path.name}: {target}"


def test_the_table_of_verbs_has_every_verb_with_its_arguments():
    told = {cells[0].strip("`").split()[0]: cells[0] for cells in rows("Verbs")}
    tree = ast.parse((REPO / "_runners" / "deploy.py").read_text())
    verbs = {
        each.name.rstrip("_"): each
        for each in tree.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
    }
    assert set(told) == set(verbs)
    for name, verb in verbs.items():
        *_, words = told[name].strip("`").partition(" ")
        optional = dict(zip(reversed(verb.args.args), reversed(verb.args.defaults), strict=False))
        expected = [
            rf"\[{arg.arg}={default_shown(optional[arg])}\]" if arg in optional else arg.arg.upper()
            for arg in verb.args.args
        ]
        assert re.fullmatch(" ".join(expected), words), name


def default_shown(default):
    """Return what a default looks like in a synopsis: a placeholder where it is None."""
    return "[A-Z]+" if ast.unparse(default) == "None" else ast.unparse(default)


INSTALLATION = {row[0].strip("`"): row[1].strip("`") for row in rows("The master")}


def test_the_settings_have_the_defaults_that_the_readme_says():
    assert INSTALLATION["state_dir"] == str(settings.state_dir({}))
    assert INSTALLATION["max_active"] == str(settings.max_active({}))
    assert settings.hypervisor_id({}, "0815") is None
    assert INSTALLATION["hypervisor_id"] == "none"


def test_every_file_of_the_masters_configuration_is_explained():
    assert {path.name for path in (REPO / "master.d").iterdir()} <= set(INSTALLATION)


def test_the_readme_names_only_targets_that_make_has():
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (REPO / "Makefile").read_text()))
    assert set(re.findall(r"`make ([a-z0-9-]+)", README)) <= targets


@pytest.mark.parametrize("folder", ["_utils", "tests", "kiwi", "salt", "pillar"])
def test_the_readme_names_only_files_that_exist(folder):
    named = re.findall(rf"`({folder}/(?:[\w./-]*(?:/|\.\w+))?)`", README)
    assert named
    assert [path for path in named if not (REPO / path).exists()] == []
