# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown is plain, complete and free of keys."""

import dataclasses
import json

import pytest

from storelib import lifecycle, views
from storelib.ledger import Change, Job, Ledger, Record
from storelib.times import lasting

PEM = "-----BEGIN PUBLIC KEY-----\nZ3Vlc3Q=\n-----END PUBLIC KEY-----\n"
AT = 1_700_000_000.0
ACTIVE = Record(
    store="0815",
    generation=2,
    deployment="g2-1f",
    state="booting",
    since=AT,
    deadline=AT + 900,
    hypervisor="hv-0815",
    minion_id="store-0815",
    spec={"image": {"source": "/x", "sha256": "5e"}, "timeouts": {"booting": 77}},
    began=AT - 60,
    requested_by="operator",
    attempts=3,
    evidence={
        "public_key": PEM,
        "old_public_key": PEM,
        "hypervisor_key": PEM,
        "mended": [["staging", "hv-0815", "saltutil.sync_all"]],
        "late": {"why": "booting was not over", "until": AT},
        "quiet": True,
        "probe_tries": 1,
        "boot_ids": ["a"],
    },
    job=Job("jid", "store-0815", "provisioning_helper.boots", AT),
    reason="store-0815 has not called yet",
    revision=7,
)
FAILED = dataclasses.replace(
    ACTIVE,
    state="failed",
    deadline=None,
    failed_in="booting",
    reason="booting was not over after 900 s",
    next_action="look at its console",
)
DEPLOYED = dataclasses.replace(ACTIVE, state="deployed", deadline=None, reason="")


@pytest.fixture
def explained(tmp_path):
    """Explain a record of a store whose deployment 1 was verified."""
    with Ledger(tmp_path / "ledger.sqlite") as books:
        books.save(dataclasses.replace(DEPLOYED, generation=1, revision=0), change="")
        yield lambda this, now: views.explain(this, now, books)


def change(state, at, reason=""):
    return Change(1, "0815", 1, state, "", reason, at)


def test_a_record_has_the_fields_that_the_design_promises():
    assert views.record(ACTIVE, "ab:cd") == {
        "store": "0815",
        "generation": 2,
        "deployment": "g2-1f",
        "attempt": 1,
        "state": "booting",
        "since": "2023-11-14T22:13:20Z",
        "deadline": "2023-11-14T22:28:20Z",
        "hypervisor": "hv-0815",
        "minion_id": "store-0815",
        "image": {"source": "/x", "sha256": "5e"},
        "attempts": 3,
        "evidence": {"boot_ids": ["a"], "key_fingerprint": "ab:cd"},
        "failed_in": "",
        "reason": "store-0815 has not called yet",
        "next_action": "",
        "cleanup_failed": [],
        "revision": 7,
    }


SHOWN = {
    "record": lambda this, _: views.record(this),
    "row": lambda this, _: views.row(this, AT + 1),
    "explain": lambda this, explained: explained(this, AT + 1),
    "table": lambda this, _: views.table([this], AT + 1),
}


@pytest.mark.parametrize("this", [ACTIVE, FAILED, DEPLOYED], ids=lambda this: this.state)
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_whatever_is_shown_is_json_without_keys(show, this, explained):
    assert "PUBLIC KEY" not in json.dumps(show(this, explained))


def test_a_row_says_how_long_the_state_lasts():
    assert views.row(ACTIVE, AT + 12.4)["for_s"] == 12


def test_a_timeline_says_how_long_each_state_took():
    changes = [change("booting", AT), change("rebooting", AT + 61.26), change("deployed", AT + 70)]
    assert [(row["state"], row["took_s"]) for row in views.timeline(changes, AT + 999)] == [
        ("booting", 61.3),
        ("rebooting", 8.7),
        ("deployed", None),
    ]


def test_the_state_that_a_deployment_is_in_took_until_now():
    assert [row["took_s"] for row in views.timeline([change("booting", AT)], AT + 5)] == [5.0]


def test_a_timeline_tells_times_and_reasons():
    (row,) = views.timeline([change("failed", AT, "no disk")], AT + 5)
    assert (row["at"], row["reason"], row["took_s"]) == ("2023-11-14T22:13:20Z", "no disk", None)


def test_no_history_is_an_empty_timeline():
    assert views.timeline([], AT) == []


@pytest.mark.parametrize("state", lifecycle.PATH, ids=lambda state: state.name)
def test_an_active_deployment_is_explained_by_what_it_waits_for(state, explained):
    told = explained(dataclasses.replace(ACTIVE, state=state.name), AT + 30)
    assert told["meaning"] == state.happens
    assert told["over_when"] == state.over
    assert told["waits_for"] == "store-0815 has not called yet"
    assert told["at_deadline"] == "fails at 2023-11-14T22:28:20Z"
    assert (told["for_s"], told["for"]) == (30, "30 s")
    assert told["you_can"]


def test_a_step_that_is_due_waits_for_nothing(explained):
    assert "due" in explained(dataclasses.replace(ACTIVE, reason=""), AT)["waits_for"]


@pytest.mark.parametrize("state", lifecycle.PATH, ids=lambda state: state.name)
def test_a_failed_deployment_is_explained_by_where_why_and_what_to_do(state, explained):
    told = explained(dataclasses.replace(FAILED, failed_in=state.name), AT)
    assert told["failed_in"] == f"{state.name}: {state.happens}"
    assert told["reason"] == "booting was not over after 900 s"
    assert told["undo"] == state.undo
    assert told["you_can"][0] == "look at its console"
    assert "at_deadline" not in told


def test_of_a_held_deployment_is_told_where_it_goes_on(explained):
    held = dataclasses.replace(ACTIVE, state="held", deadline=None, held_in="booting")
    assert explained(held, AT)["held_in"] == "booting"


def test_a_deployed_store_can_be_replaced(explained):
    told = explained(DEPLOYED, AT)
    assert told["you_can"][0] == "replace it: salt-run deploy.store 0815 redeploy=True"
    assert not {"waits_for", "at_deadline", "reason"} & set(told)


def test_progress_shows_the_time_since_the_beginning_and_what_happens():
    line = views.progress(change("booting", AT + 12.34), AT)
    assert line.split()[:3] == ["12.3", "s", "booting"]
    assert line.endswith(lifecycle.STATES["booting"].happens)


def test_progress_shows_why_a_deployment_failed():
    assert views.progress(change("failed", AT, "no disk"), AT).endswith("no disk")


def test_the_plan_tells_every_state_and_the_pillars_limit():
    steps = list(views.steps(ACTIVE.spec))
    assert [step.partition(":")[0] for step in steps] == [state.name for state in lifecycle.PATH]
    assert next(step for step in steps if step.startswith("booting: ")).endswith("after 77 s")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *[(-5, "0 s"), (0.4, "0 s"), (77, "77 s"), (119, "119 s"), (120, "2 min"), (900, "15 min")],
        *[(930, "15 min 30 s"), (45 * 60, "45 min"), (3600, "1 h"), (5400, "1 h 30 min")],
        *[(86400, "24 h"), (2 * 86400 + 3605, "2 d 1 h"), (7 * 86400, "7 d"), (90 * 86400, "90 d")],
    ],
)
def test_a_span_of_time_is_told_as_people_say_it(seconds, said):
    assert lasting(seconds) == said


LONG = "it could not be removed: " + ", ".join(f"/pool/disk-{number}.qcow2" for number in range(9))


@pytest.mark.parametrize("state", lifecycle.STATES)
@pytest.mark.parametrize("at", [0, 12.3, 99_999.9])
def test_a_line_of_progress_fits_a_terminal(state, at):
    lines = views.progress(change(state, AT + at, LONG), AT).splitlines()
    assert max(map(len, lines)) <= 79
    assert len(lines) == 1 or state in ("failed", "defining")


def test_a_reason_is_told_whole_and_in_lines_that_fit_a_terminal():
    for told in (views.waiting(LONG, 12.3), views.progress(change("failed", AT, LONG), AT)):
        assert LONG in " ".join(told.split())
        assert max(map(len, told.splitlines())) <= 79


MANY = [
    ACTIVE,
    dataclasses.replace(DEPLOYED, store="4711", hypervisor="hv-4711.stores.example.com"),
    dataclasses.replace(FAILED, store="9", failed_in="staging", reason="no room " * 20),
    dataclasses.replace(ACTIVE, store="x" * 63, hypervisor="h" * 128),
]


def test_the_list_takes_a_line_a_store():
    lines = views.table(MANY[:3], AT + 200)
    assert lines[0] == "0815  booting   3 min 20 s  hv-0815: store-0815 has not called yet"
    assert lines[1] == "4711  deployed  3 min 20 s  hv-4711.stores.example.com"
    assert lines[2].startswith("9     failed    3 min 20 s  hv-0815: staging: no room no room")
    assert all(len(line) <= 77 for line in views.table(MANY, AT + 200))
    assert views.table([], AT) == []


def test_the_history_tells_reasons_whole():
    changes = [
        change("staging", AT),
        change("failed", AT + 130, LONG),
        change("deployed", AT + 140),
    ]
    lines = views.story(changes, AT + 999)
    assert lines[0] == "2023-11-14T22:13:20Z  staging   2 min 10 s"
    assert LONG in " ".join(lines[1].split())
    assert max(map(len, "\n".join(lines).splitlines())) <= 77
    assert lines[2] == "2023-11-14T22:15:40Z  deployed"
    assert views.story([], AT) == []
