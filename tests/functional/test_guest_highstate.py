# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a guest's highstate, through a minion's real loader."""

import json
import os

import pytest

pytest_plugins = ["tests.functional.fake_guest"]


@pytest.fixture
def highstate(site, call):
    """Apply a highstate of the given states."""
    (site / "top.sls").write_text("base: {'*': [site]}\n")

    def apply(states, **kwargs):
        text = states if isinstance(states, str) else json.dumps(states)
        (site / "site.sls").write_text(text)
        return call("highstate", **kwargs)

    return apply


def test_a_highstate_that_holds_is_summed_up(highstate):
    changing = {"test.succeed_with_changes": []}
    answer = highstate({"a": changing, "b": {"test.nop": []}})
    assert answer.ok
    assert answer.facts.pop("duration_s") > 0
    assert answer.facts == {
        "total": 2,
        "changed": 1,
        "failed": [],
        "would_change": [],
        "errors": [],
        "not_yet": False,
    }


def test_what_a_highstate_made_is_on_the_disk_when_it_is_told(highstate, tmp_path, monkeypatch):
    # A power cut after the report took a file of the highstate with it.
    path, synced = tmp_path / "made", []
    monkeypatch.setattr(os, "sync", lambda: synced.append(path.exists()))
    assert highstate({"made": {"file.touch": [{"name": str(path)}]}}).ok
    assert synced == [True]


def test_a_failed_state_is_named(highstate):
    failing = {"test.configurable_test_state": [{"result": False}, {"comment": "x" * 1000}]}
    answer = highstate({"good": {"test.nop": []}, "broken": failing})
    assert answer.error.startswith("the highstate failed in 1 of 2 states, first broken (site): x")
    assert answer.facts["failed"] == [{"id": "broken", "sls": "site", "comment": "x" * 500}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: {test.nop: [", "Rendering SLS", id="YAML"),
        pytest.param("{{ nothing.at.all }}", "Jinja", id="Jinja"),
        pytest.param("a: {test.nop: [{require: [{test: missing}]}]}", "missing", id="requisite"),
    ],
)
def test_a_highstate_that_does_not_compile_is_not_ok(highstate, text, said):
    answer = highstate(text)
    assert not answer.ok
    assert said in answer.error + str(answer.facts["failed"])


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ("{'*': [packages.packages_4711]}", "packages.packages_4711"),
        ("{'*': [other]}", ""),
    ],
    ids=["Uyuni writes it when it registers the minion", "nobody writes it"],
)
def test_a_highstate_that_lacks_a_file_which_comes_by_itself_is_told_apart(call, site, top, said):
    (site / "top.sls").write_text(f"base: {top}\n")
    answer = call("highstate")
    assert not answer.ok
    assert said in answer.error
    assert answer.facts["not_yet"] is bool(said)


def test_without_its_whole_pillar_a_highstate_does_nothing_and_is_told_apart(
    highstate, site, tmp_path
):
    made = tmp_path / "made"
    top = site / "pillar/top.sls"
    top.parent.mkdir()
    top.write_text("base: {'*': [lacks]}\n")
    answer = highstate({"made": {"file.touch": [{"name": str(made)}]}})
    top.unlink()
    assert answer.facts["not_yet"]
    assert answer.error.startswith(
        "the highstate did not run: Pillar failed to render with the following messages: "
        "Specified SLS 'lacks'"
    )
    assert not made.exists()


def test_a_highstate_without_states_is_not_ok(highstate, site):
    (site / "top.sls").write_text("base: {'nobody': [site]}\n")
    answer = highstate({})
    assert not answer.ok
    assert "No Top file" in answer.error


def test_a_dry_run_tells_what_would_change(highstate, tmp_path):
    path = tmp_path / "new"
    answer = highstate({"new": {"file.touch": [{"name": str(path)}]}}, test=True)
    assert answer.ok
    assert answer.facts["would_change"] == ["new"]
    assert not path.exists()


@pytest.mark.parametrize("returned", [{}, {"queued": True, "result": True, "changes": {}}])
def test_an_answer_that_is_no_highstate_is_not_ok(highstate, stub, returned):
    """What Salt answers for a run that it has only put into its queue: a stub says so here."""
    stub("state.apply", lambda **_: returned)
    assert highstate({}).error.startswith("the highstate did not run: it returned {")


def test_a_highstate_waits_for_the_state_run_that_is_under_way(highstate, stub):
    """The list of running jobs is a stub: the first run ends while the second one waits."""
    running = [[{"fun": "state.sls", "jid": "20200101000000000000", "pid": 1}], []]
    stub("saltutil.is_running", lambda fun: running.pop(0) if running else [])
    assert highstate({"a": {"test.nop": []}}).facts["total"] == 1
    assert running == []
