# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""In every state a record can be in, explain offers what is accepted, and nothing else."""

import dataclasses
import re

import pytest
from fake_master import BEGAN, HYPERVISOR, PILLAR

from storelib.errors import Refused
from storemaster.deployment import lifecycle, requests, spec, views
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger

SPEC = spec.from_pillar(PILLAR, HYPERVISOR)
ROLLING_BACK = lifecycle.ROLLING_BACK.name
HELD_IN = [*lifecycle.PASSED, ROLLING_BACK]
WAYS = {
    **{name: (name, {}) for name in sorted(lifecycle.ACTIVE)},
    **{
        f"queued for {name}": ("queued", {"resumes": name})
        for name in sorted({*lifecycle.RESUMES.values()} & lifecycle.SLOT)
    },
    **{f"held in {name}": ("held", {"held_in": name}) for name in sorted(HELD_IN)},
    **{
        f"held in the queue for {name}": ("held", {"held_in": "queued", "resumes": name})
        for name in sorted({*lifecycle.RESUMES.values()} & lifecycle.SLOT)
    },
    **{f"failed in {name}": ("failed", {"failed_in": name}) for name in sorted(lifecycle.FOLLOWS)},
    **{name: (name, {}) for name in ("deployed", "cancelled", "retired")},
}
"""All ways in which a record can stand."""

ACTS = {
    "hold": requests.hold,
    "release": requests.release,
    "retry": requests.retry,
    "cancel": requests.cancel,
    "rollback": requests.rollback,
    "retire": requests.retire,
}
READING = {"watch", "explain", "history"}
COMMAND = re.compile(r"salt-run deploy\.(\w+) 0815((?: \w+=[\w-]+)*)")


class Paper(Ledger):
    """A ledger in which an operator's verb writes nothing."""

    dry = False

    def save(self, record, *args, **kwargs):
        return record if self.dry else super().save(record, *args, **kwargs)


ASIDE = {"hypervisor": HYPERVISOR, "machine_id": "m", "path": "/pool/g1"}


@pytest.fixture(params=[True, False], ids=["with a server set aside", "with none"])
def old_server(request):
    return request.param


@pytest.fixture
def ledger(tmp_path):
    with Paper(tmp_path / "ledger.sqlite") as made:
        made._db.execute("PRAGMA synchronous=OFF")
        yield made


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def record(request, ledger, old_server):
    """A record in one of these ways, of a store that was deployed once before."""
    state, more = request.param
    first = requests.begin(ledger, BEGAN, SPEC, HYPERVISOR, "operator")
    first = ledger.save(dataclasses.replace(first, state="deployed"), change="")
    record = requests.begin(ledger, BEGAN, SPEC, HYPERVISOR, "operator", redeploy=True)
    evidence = Evidence(
        replaces=2,
        data_disks=True,
        hypervisor={"machine_id": "m"},
        offered={"hypervisor": "hv-new", "why": "it is ready"},
    )
    saved = ledger.save(
        dataclasses.replace(
            record,
            state=state,
            redeploy=old_server,
            asides={"1": ASIDE} if old_server else {},
            evidence=evidence,
            next_action="find the cause" if state == "failed" else "",
            **more,
        ),
        change="",
    )
    ledger.dry = True
    return saved


def said(ledger, record, verb, arguments=""):
    """Do what the verb does; nothing is written."""
    if verb == "store":
        redeploy = "redeploy=True" in arguments
        return requests.begin(ledger, BEGAN, SPEC, HYPERVISOR, "operator", redeploy)
    return ACTS[verb](ledger, BEGAN, record)


def test_what_is_offered_is_accepted_and_what_is_not_is_refused(ledger, record):
    lines = views.explain(record, BEGAN, ledger)["you_can"]
    offered = COMMAND.findall("\n".join(lines))
    for verb, arguments in offered:
        assert verb in READING or said(ledger, record, verb, arguments)
    for verb in {"store", *ACTS} - {verb for verb, _ in offered}:
        with pytest.raises(Refused) as refused:
            said(ledger, record, verb, "redeploy=True")
        for hinted, arguments in COMMAND.findall(refused.value.hint):
            assert hinted in READING or said(ledger, record, hinted, arguments)


def test_what_is_under_way_can_be_watched_and_what_stands_can_be_moved(ledger, record):
    text = "\n".join(views.explain(record, BEGAN, ledger)["you_can"])
    offered = {verb for verb, _ in COMMAND.findall(text)}
    assert ("watch" in offered) is (record.state in lifecycle.OPEN)
    assert record.active or offered - READING


def test_an_explanation_has_no_shorthand(ledger, record):
    undo = views.explain(record, BEGAN, ledger).get("undo", "")
    assert not undo.startswith("as "), undo


def test_who_removed_data_disks_removes_them_when_it_is_said_again(ledger, record):
    lines = views.explain(record, BEGAN, ledger)["you_can"]
    retire = [line for line in lines if "deploy.retire" in line]
    assert all(line.endswith(" data_disks=True") for line in retire)
