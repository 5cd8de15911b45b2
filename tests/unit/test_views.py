# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown is plain, complete and free of keys."""

import dataclasses
import json

import pytest

from storemaster.deployment import lifecycle, tables, views
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.record import Change, Job, Record
from storemaster.deployment.times import lasting

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
    evidence=Evidence(
        public_key=PEM,
        old_public_key=PEM,
        hypervisor_key=PEM,
        mended=[["staging", "hv-0815", "saltutil.sync_all"]],
        late={"why": "booting was not over", "until": AT},
        quiet=True,
        probe_tries=1,
        boot_ids=["a"],
    ),
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
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.save(dataclasses.replace(DEPLOYED, generation=1, revision=0), change="")
        yield lambda this, now: views.explain(this, now, ledger)


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
        "group": None,
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
    "table": lambda this, _: tables.table([this], AT + 1),
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
    assert (row["actor"], row["way"]) == ("", "")


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


def test_the_plan_tells_every_state_and_the_pillars_limit():
    steps = list(views.steps(ACTIVE.spec))
    assert [name for name, _ in steps] == [state.name for state in lifecycle.PATH]
    assert dict(steps)["booting"].endswith("after 77 s")


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
