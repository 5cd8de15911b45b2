# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a deployment knows: each thing has its field, and says who sees it and when it is over."""

import ast
import dataclasses
import json
import pathlib

import pytest

from storemaster.deployment import evidence
from storemaster.deployment.evidence import FIELDS, NOTHING, Evidence

SOURCE = pathlib.Path(evidence.__file__)
OLD = {
    "autosign_tried": True,
    "boot_ids": [],
    "cleanup_failed": ["hv-0815: /pool/store-0815.qcow2"],
    "data_disks": False,
    "fence": {"hv-old": {"until": 7.0, "runs": False}},
    "hypervisor": {"machine_id": "m"},
    "old_public_key": "",
    "outage_s": 0.0,
    "public_key": "pem",
    "runs": False,
    "set_aside": None,
}
"""As a version wrote it that knew no fields, with all that is known and yet looks like nothing."""


def test_each_field_has_a_sentence():
    (made,) = (node for node in ast.parse(SOURCE.read_text()).body if _is_the_class(node))
    said = {
        node.target.id: after.value.value
        for node, after in zip(made.body, made.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert said.keys() == {each.name for each in dataclasses.fields(Evidence)}
    assert [name for name, text in said.items() if not text.strip().endswith(".")] == []
    assert [name for name in FIELDS if "\n" in said[name]] == []


def _is_the_class(node):
    return isinstance(node, ast.ClassDef) and node.name == "Evidence"


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_says_whether_the_operator_sees_it_and_nothing_unheard_of(name):
    said = dict(FIELDS[name].metadata)
    assert isinstance(said.pop("shown"), bool)
    assert said in ({}, {"forgotten": True})


def test_each_field_is_used():
    used = set()
    for path in SOURCE.parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path != SOURCE else ():
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.keyword):
                used.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
    assert FIELDS.keys() - used == set()


def test_a_misspelt_name_fails_at_once():
    with pytest.raises(TypeError, match="boots_ids"):
        dataclasses.replace(NOTHING, boots_ids=[])
    with pytest.raises(AttributeError, match="boots_ids"):
        assert "boots_ids" in NOTHING


def test_what_is_not_known_is_neither_written_nor_shown():
    assert NOTHING.plain() == NOTHING.shown() == {}
    assert [name for name in FIELDS if name in NOTHING] == []


def test_what_an_older_version_wrote_is_read_and_written_as_it_was():
    read = Evidence.read(json.loads(json.dumps(OLD)))
    assert read.plain() == OLD
    assert [name for name in OLD if name not in read] == []
    assert [name for name in FIELDS if name in read and name not in OLD] == []


def test_what_is_known_and_looks_like_nothing_is_shown_all_the_same():
    shown = ("boot_ids", "cleanup_failed", "data_disks", "hypervisor", "outage_s", "set_aside")
    assert Evidence.read(OLD).shown() == {name: OLD[name] for name in shown}


def test_what_another_version_knows_is_kept_and_not_shown():
    # Two versions may be at work on one ledger, until the master is started again.
    read = Evidence.read({**OLD, "weather": "fine", "unknown": 5})
    assert read.plain() == {**OLD, "weather": "fine", "unknown": 5}
    assert read.shown() == Evidence.read(OLD).shown()
    changed = dataclasses.replace(read, boot_ids=["a"])
    assert Evidence.read(changed.plain()) == changed
    assert changed.kept().unknown == {"weather": "fine", "unknown": 5}


def test_a_retry_forgets_what_was_of_the_failure_and_keeps_the_rest():
    every = Evidence(**dict.fromkeys(FIELDS, "known"))
    kept = every.kept()
    forgotten = {name for name in FIELDS if name not in kept}
    assert {name: getattr(kept, name) for name in FIELDS if name in kept} == dict.fromkeys(
        FIELDS.keys() - forgotten, "known"
    )
    assert forgotten == {
        *("cleared", "intrusion", "settled", "cleaned", "quiet", "discarded"),
        *("highstate_test", "probe_tries", "probe_again_at"),
        *("failure", "mended", "late", "fence", "runs", "started", "removed", "cleanup_failed"),
        *("locked_out", "autosign_tried", "suffices", "readmitted", "without_modules"),
    }


def test_no_key_is_ever_shown():
    every = Evidence(**dict.fromkeys(FIELDS, "known"))
    assert [name for name in every.shown() if name.endswith("key")] == []
