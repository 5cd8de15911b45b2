# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown is plain, complete and free of keys."""

import dataclasses
import json
import re

import pytest

from storelib import lifecycle, views
from storelib.ledger import Change, Job, Record

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


ASIDES = {"1": {"hypervisor": "hv-0815", "machine_id": "m", "path": "/pool/g1"}}


def change(state, at, reason=""):
    return Change(1, "0815", 1, state, "", reason, at)


def test_a_record_has_the_fields_that_the_design_promises():
    assert views.record(ACTIVE) == {
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
        "evidence": {
            "boot_ids": ["a"],
            "key_fingerprint": views.record(ACTIVE)["evidence"]["key_fingerprint"],
        },
        "failed_in": "",
        "reason": "store-0815 has not called yet",
        "next_action": "",
        "cleanup_failed": [],
        "revision": 7,
    }


def test_a_key_is_shown_as_a_fingerprint_that_does_not_depend_on_line_ends():
    fingerprint = views.record(ACTIVE)["evidence"]["key_fingerprint"]
    assert fingerprint.startswith("sha256:")
    evidence = {"public_key": PEM.replace("\n", "\r\n")}
    other = dataclasses.replace(ACTIVE, evidence=evidence)
    assert views.record(other)["evidence"]["key_fingerprint"] == fingerprint
    other = dataclasses.replace(ACTIVE, evidence={"public_key": PEM.replace("Z3", "Z4")})
    assert views.record(other)["evidence"]["key_fingerprint"] != fingerprint


SHOWN = {
    "record": lambda this: views.record(this),
    "row": lambda this: views.row(this, AT + 1),
    "explain": lambda this: views.explain(this, AT + 1),
}


@pytest.mark.parametrize("this", [ACTIVE, FAILED, DEPLOYED], ids=lambda this: this.state)
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_whatever_is_shown_is_json_without_keys(show, this):
    assert "PUBLIC KEY" not in json.dumps(show(this))


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
def test_an_active_deployment_is_explained_by_what_it_waits_for(state):
    told = views.explain(dataclasses.replace(ACTIVE, state=state.name), AT + 30)
    assert told["meaning"] == state.happens
    assert told["over_when"] == state.over
    assert told["waits_for"] == "store-0815 has not called yet"
    assert told["at_deadline"] == "fails at 2023-11-14T22:28:20Z"
    assert told["for_s"] == 30
    assert told["you_can"]


def test_a_step_that_is_due_waits_for_nothing():
    assert "due" in views.explain(dataclasses.replace(ACTIVE, reason=""), AT)["waits_for"]


@pytest.mark.parametrize("state", lifecycle.PATH, ids=lambda state: state.name)
def test_a_failed_deployment_is_explained_by_where_why_and_what_to_do(state):
    told = views.explain(dataclasses.replace(FAILED, failed_in=state.name), AT)
    assert told["failed_in"] == f"{state.name}: {state.happens}"
    assert told["reason"] == "booting was not over after 900 s"
    assert told["undo"] == state.undo
    assert told["you_can"][0] == "look at its console"
    assert "at_deadline" not in told


@pytest.mark.parametrize(
    ("this", "verbs"),
    [
        (ACTIVE, {"history", "hold", "cancel"}),
        (dataclasses.replace(ACTIVE, state="cancelling"), {"history"}),
        (FAILED, {"retry", "cancel", "store", "retire"}),
        (dataclasses.replace(FAILED, failed_in="cancelling"), {"cancel", "store", "retire"}),
        (
            dataclasses.replace(FAILED, failed_in="rolling_back", asides=ASIDES),
            {"retry", "store", "rollback", "retire"},
        ),
        (dataclasses.replace(FAILED, failed_in="retiring"), {"store", "retire"}),
        (dataclasses.replace(ACTIVE, state="held", held_in="booting"), {"release", "cancel"}),
        (dataclasses.replace(ACTIVE, state="cancelled"), {"store", "retire"}),
        (dataclasses.replace(ACTIVE, state="retired"), {"store"}),
        (dataclasses.replace(DEPLOYED, asides=ASIDES), {"store", "rollback", "retire"}),
    ],
    ids=lambda value: getattr(value, "failed_in", "") or getattr(value, "state", ""),
)
def test_an_operator_is_told_the_verbs_that_fit(this, verbs):
    told = "\n".join(views.explain(this, AT)["you_can"])
    assert set(re.findall(r"deploy\.(\w+) 0815", told)) == verbs


def test_of_a_held_deployment_is_told_where_it_goes_on():
    held = dataclasses.replace(ACTIVE, state="held", deadline=None, held_in="booting")
    assert views.explain(held, AT)["held_in"] == "booting"


def test_a_deployed_store_can_be_replaced():
    told = views.explain(DEPLOYED, AT)
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
