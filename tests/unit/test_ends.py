# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the master cannot do while a deployment is shut, failed or cancelled, it ends."""

import pytest
from fake_master import GUEST, HYPERVISOR, PILLAR, deployed, not_ok, pem, report_of

from storelib import report
from storelib.errors import Fault
from storemaster.deployment import engine, requests
from storemaster.deployment.master_api import ACCEPTED

BREAKS = {
    "fault": Fault("the autosign file X cannot be written: Read-only file system", "mend X"),
    "unforeseen": ZeroDivisionError("nobody thought\nof this"),
}
WORDS = {"fault": "Read-only file system", "unforeseen": "nobody thought of this"}


@pytest.fixture(params=BREAKS)
def broken(master, request):
    """Let acts of the master raise, and return the words that must be told."""

    def breaks(*names):
        def act(*_):
            raise BREAKS[request.param]

        for name in names:
            setattr(master, name, act)
        return WORDS[request.param]

    return breaks


SHUTTING = [("disarm",), ("keys",), ("disarm", "purge_key")]


def ended(master, state, failed_in):
    record = master.run()
    assert (record.state, record.failed_in) == (state, failed_in), record.reason
    assert record.due is record.deadline is record.job is None
    assert record.next_action
    return record


@pytest.mark.parametrize("acts", SHUTTING, ids="+".join)
def test_a_deployment_whose_time_is_over_ends(master, broken, acts):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    words = broken(*acts)
    record = ended(master, "failed", "booting")
    assert words in record.reason


@pytest.mark.thorough
@pytest.mark.parametrize("acts", SHUTTING[1:], ids="+".join)
def test_a_deployment_that_an_intruder_ends_ends(master, broken, acts):
    master.calls = False
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    master.known_keys[GUEST] = {ACCEPTED: pem("intruder")}
    master.instead["store_hypervisor.console"] = not_ok("no console")
    words = broken(*acts)
    assert words in ended(master, "failed", "booting").reason


@pytest.mark.thorough
@pytest.mark.parametrize("acts", SHUTTING, ids="+".join)
def test_a_deployment_that_a_report_fails_ends(master, broken, acts):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed", "mend the state")
    master.begin()
    master.run(until=lambda record: record.job and record.job.function.endswith(".highstate"))
    words = broken(*acts)
    record = ended(master, "failed", "configuring")
    if "keys" not in acts:
        assert "a state failed" in record.reason
        assert "mend the state, then: salt-run deploy.retry 0815" in record.next_action
        assert words in record.reason
        assert "Read-only" not in words or "mend X; " in record.next_action


@pytest.mark.parametrize("acts", SHUTTING, ids="+".join)
@pytest.mark.parametrize("state", ["awaiting_hypervisor", "booting"])
def test_a_cancelled_deployment_ends_and_can_be_cancelled_again(master, broken, acts, state):
    master.begin()
    record = master.run(until=lambda record: record.state == state)
    mended = {name: getattr(master, name) for name in acts}
    words = broken(*acts)
    requests.cancel(master.ledger, master.time, record)
    record = master.run()
    if record.state != "cancelled":
        assert (record.state, record.failed_in) == ("failed", "cancelling")
        assert master.time < record.since + 3600, "at once, not after a week"
        assert words in record.reason
        assert "salt-run deploy.cancel 0815" in record.next_action
        for name, act in mended.items():
            setattr(master, name, act)
        requests.cancel(master.ledger, master.time, record)
        assert master.run().state == "cancelled"


@pytest.mark.parametrize("acts", SHUTTING, ids="+".join)
def test_a_retired_store_ends_and_can_be_retired_again(master, broken, acts):
    record = deployed(master)
    mended = {name: getattr(master, name) for name in acts}
    words = broken(*acts)
    requests.retire(master.ledger, master.time, record)
    record = ended(master, "failed", "retiring")
    assert words in record.reason
    assert "salt-run deploy.retire 0815" in record.next_action
    for name, act in mended.items():
        setattr(master, name, act)
    requests.retire(master.ledger, master.time, record)
    assert master.run().state == "retired"


@pytest.mark.parametrize("acts", [("disarm",), ("purge_key",)], ids="+".join)
def test_a_deployment_on_a_machine_that_was_replaced_ends(master, broken, acts):
    master.begin()
    master.run(until=lambda record: record.state == "configuring")
    words = broken(*acts)
    master.known_keys[HYPERVISOR] = {ACCEPTED: pem("installed anew")}
    assert words in ended(master, "failed", "configuring").reason


def test_a_held_deployment_says_that_the_door_is_open(master, broken):
    master.begin()
    record = master.run(until=lambda record: record.state == "booting")
    words = broken("disarm")
    requests.hold(master.ledger, master.time, record)
    for _ in range(2):
        record = engine.advance(master, master.ledger, "0815", 50)
    assert record.state == "held"
    assert words in record.reason


def test_what_is_wrong_with_the_autosign_file_does_not_concern_who_is_pinned(master, broken):
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": "pinned"}}
    broken("arm")

    def act(*_):
        raise BREAKS["fault"]

    master.disarm = act
    record = deployed(master)
    requests.retire(master.ledger, master.time, record)
    assert master.run().state == "retired"


@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.define", "defining"), ("provisioning_helper.settle", "restarting")],
)
def test_an_exception_in_a_minions_module_fails_the_deployment_at_once(master, function, state):
    step = function.partition(".")[2]
    error, hint = report.unforeseen(step, KeyError("image"))
    master.instead[function] = not_ok(error, hint)
    master.begin()
    record = ended(master, "failed", state)
    assert record.reason == f"{step} broke: KeyError: 'image'"
    assert "see the traceback in that minion's log" in record.next_action


def broken_report(step):
    error, hint = report.unforeseen(step, KeyError("image"))
    return report_of(ok=False, facts={}, error=error, hint=hint)


def test_an_exception_in_the_answer_to_how_far_the_store_is_fails_the_deployment(
    master, monkeypatch
):
    master.begin()
    master.run(until=lambda record: record.state == "booting")
    monkeypatch.setattr(master, "incarnation", lambda: "the next run")
    master.instead["store_hypervisor.noted"] = broken_report("noted")
    assert ended(master, "failed", "booting").reason.startswith("noted broke: KeyError: 'image'")


@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.highstate", "configuring")],
)
def test_an_exception_in_the_answer_whether_a_job_runs_fails_the_deployment(
    master, function, state
):
    master.lost[function] = 1
    master.instead[f"{function.partition('.')[0]}.job"] = broken_report("job")
    master.begin()
    assert ended(master, "failed", state).reason.startswith("job broke: KeyError: 'image'")
