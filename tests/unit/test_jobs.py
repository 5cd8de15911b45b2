# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Jobs that get lost, and what comes back that is no answer."""

import dataclasses

import pytest
from fake_master import (
    GUEST,
    HYPERVISOR,
    deployed,
    failed,
    pem,
    ran,
    report_of,
)
from scenes import (
    ACTING,
)

from storelib import __version__, report, seal
from storemaster.deployment import lifecycle
from storemaster.deployment.jobs import MEND_AGAIN
from storemaster.deployment.times import lasting

# Jobs that get lost


@pytest.mark.parametrize("function", ACTING)
def test_a_lost_return_is_asked_for_and_the_job_sent_again(master, function):
    master.lost[function] = 1
    deployed(master)
    assert ran(master).count(function) == 2 + (function == "provisioning_helper.highstate")
    assert len(master.functions(f"{function.partition('.')[0]}.job")) == 1


@pytest.mark.parametrize("function", ACTING)
def test_a_long_job_is_asked_after_and_never_sent_twice_while_it_runs(master, function):
    master.takes_s[function] = 200
    deployed(master)
    assert ran(master).count(function) == 1 + (function == "provisioning_helper.highstate")
    assert len(master.functions(f"{function.partition('.')[0]}.job")) >= 3


UNBELIEVED = {
    "unsealed": lambda value: {**value, "seal": "", "facts": {"running": False}},
    "another's seal": lambda value: {**value, "seal": "0" * 64, "facts": {"running": False}},
    "what Salt says": lambda _: {},
}


@pytest.mark.thorough
@pytest.mark.parametrize("forged", UNBELIEVED.values(), ids=UNBELIEVED)
@pytest.mark.parametrize("function", ACTING)
def test_nobody_else_can_say_that_a_job_does_not_run(master, function, forged):
    """It would be sent once more beside the one that runs."""
    master.takes_s[function] = 100
    asks = f"{function.partition('.')[0]}.job"
    master.forged[asks] = forged
    deployed(master)
    assert master.functions(asks)
    assert ran(master).count(function) == 1 + (function == "provisioning_helper.highstate")


def test_a_job_that_ends_while_it_is_asked_after_is_not_sent_again(master):
    for takes_s in range(25, 36):
        master.takes_s["store_hypervisor.stage"] = takes_s
        record = deployed(master, redeploy=True)
        assert ran(master).count("store_hypervisor.stage") == record.generation


def test_a_minion_that_was_away_gets_its_job_when_it_is_back(master):
    master.begin()
    master.run(until=lambda record: record.state == "staging")
    master.away.add(HYPERVISOR)
    master.run(until=lambda record: master.time > record.since + 600)
    assert "store_hypervisor.stage" not in ran(master)
    master.away.clear()
    assert master.run().state == "deployed"
    assert ran(master).count("store_hypervisor.stage") == 1


# Reports that are not what was asked for


STRANGE = {
    "of another store": report_of(store="0816"),
    "of another deployment": report_of(generation=2),
    "of another step": report_of(step="define"),
    "of the wrong type": report_of(facts="all is well"),
    "none": lambda value: None,
    "a text of Salt's": lambda value: "'store_hypervisor.stage' is not available.",
    "an error of Salt's": lambda value: "The minion function caused an exception: ...",
}


OTHER = {**STRANGE, "of another version": report_of(version="0.0.1")}


@pytest.mark.parametrize("strange", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("function", ["store_hypervisor.facts", "store_hypervisor.finish"])
def test_a_hypervisor_that_gets_its_modules_then_goes_on(master, function, strange):
    answers = iter([strange])
    master.instead[function] = lambda value: next(answers, dict)(value) if value else value
    record = deployed(master)
    assert ran(master).count("saltutil.sync_all") == 1
    assert "refused" not in record.evidence


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_guest_that_has_no_modules_yet_gets_them_from_its_first_state(master, strange):
    answers = iter([strange, strange])
    master.instead["provisioning_helper.boots"] = lambda value: next(answers, dict)(value or {})
    record = deployed(master)
    assert "saltutil.sync_all" not in ran(master)
    assert "refused" not in record.evidence


def test_a_guest_that_has_modules_of_another_version_is_told_to_get_ours(master):
    answers = iter([OTHER["of another version"]])
    master.instead["provisioning_helper.boots"] = lambda value: next(answers, dict)(value or {})
    record = deployed(master)
    assert ran(master).count("saltutil.sync_all") == 1
    assert "refused" not in record.evidence


def test_a_failure_for_another_version_names_both_after_one_sync(master):
    master.instead["store_hypervisor.stage"] = report_of(version="0.0.1")
    master.begin()
    record = failed(master, "staging", "has version 0.0.1 of store-deploy")
    assert __version__ in record.reason
    assert "sync_all" in record.next_action
    assert ran(master)[-3:] == [
        "store_hypervisor.stage",
        "saltutil.sync_all",
        "store_hypervisor.stage",
    ]


# Reports that nobody need believe


def replayed():
    """Give the first report of a function again, however often it is asked for another."""
    seen = []

    def replay(value):
        seen.append(value)
        return seen[0]

    return replay


FORGED = {
    **STRANGE,
    "without a seal": report_of(seal=""),
    "with a wrong seal": report_of(seal="0" * 64),
    "with another word under its seal": report_of(facts={"boots": ["1", "2", "3"]}),
    "with the nonce of another question": report_of(nonce="jid-1"),
    "with strange characters": lambda value: "\x1b[2J is not available\n\udcff",
    "with a strange seal": report_of(seal="é"),
    "of another minion": lambda value: report.sealed(
        value, value["nonce"], seal.secret(b"the master's own", "till-4711", pem("till"))
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.boots", "rebooting")],
)
def test_a_report_that_may_be_forged_neither_moves_nor_fails_the_deployment(
    master, caplog, function, state, forged
):
    master.begin()
    begun = master.run(until=lambda record: record.state == state)
    master.forged[function] = forged
    limit_s = lifecycle.STATES[state].limit_s
    record = master.run(until=lambda record: master.time > begun.since + limit_s - 60)
    assert record.state == state
    assert record.reason.startswith(("refused: ", "hv-0815 is asked", "store-0815 is asked"))
    refused = record.evidence.refused
    assert refused["count"] > 5
    assert caplog.text.count("0815: refused: ") == refused["count"]
    mended = sum(function.startswith("saltutil.") for function in ran(master))
    assert 1 < mended <= 1 + refused["count"] / MEND_AGAIN, "what it may lack, but not each time"
    failed(master, state, f"{state} was not over after {lasting(limit_s)}: ")


@pytest.mark.thorough
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize(
    ("function", "state"),
    [("store_hypervisor.stage", "staging"), ("provisioning_helper.highstate", "configuring")],
)
def test_after_forged_reports_the_true_one_is_believed(master, function, state, forged):
    answers = iter([forged] * 4)
    master.forged[function] = lambda value: next(answers, dict)(value)
    assert deployed(master).evidence.refused["count"] == 3


def test_an_old_report_that_is_told_again_is_refused(master):
    master.forged["provisioning_helper.boots"] = replayed()
    master.begin()
    record = failed(master, "rebooting", "rebooting was not over after 10 min")
    assert record.evidence.refused["count"] > 5
    assert record.evidence.refused["last"].endswith("sent a report on boots without its seal")


def test_a_forged_report_in_booting_is_counted_too(master):
    master.forged["provisioning_helper.boots"] = report_of(seal="")
    master.begin()
    record = failed(master, "booting", "booting was not over after 15 min")
    assert record.evidence.refused["count"] > 5


def test_a_late_report_of_an_earlier_asking_is_believed(master):
    master.takes_s["provisioning_helper.boots"] = 90
    deployed(master)


@pytest.mark.parametrize("minion", [HYPERVISOR, GUEST])
def test_a_minion_without_its_secret_is_told_to_refresh_its_pillar_once(master, minion):
    master.secretless.add(minion)
    record = deployed(master)
    assert ran(master).count("saltutil.refresh_pillar") == 1
    assert "refused" not in record.evidence


def test_each_question_has_a_nonce_of_its_own(master):
    deployed(master)
    nonces = [
        arguments["nonce"] for function, arguments in master.published if "saltutil" not in function
    ]
    assert len(set(nonces)) == len(nonces)


def test_the_secret_is_in_no_job_and_no_record(master):
    record = deployed(master)
    secrets = [
        master.secret(HYPERVISOR, pem("hypervisor")),
        master.secret(GUEST, record.evidence.public_key),
    ]
    written = str((master.published, master.events, dataclasses.asdict(record)))
    assert not any(secret in written for secret in secrets)
