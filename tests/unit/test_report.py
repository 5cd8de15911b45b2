# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A report is believed only if it is the one that was asked for."""

import json

import pytest

from storelib import __version__, report

GOOD = report.made("0815", 3, "define", {"disk": {"exists": True}})


def test_a_report_is_plain_data_that_survives_the_way_to_the_master():
    assert (
        json.loads(json.dumps(GOOD))
        == GOOD
        == {
            "store": "0815",
            "generation": 3,
            "step": "define",
            "ok": True,
            "error": "",
            "hint": "",
            "facts": {"disk": {"exists": True}},
            "version": __version__,
        }
    )


def test_the_store_may_be_given_by_its_spec():
    assert (
        report.made({"store": "0815", "cpus": 2}, 3, "define", {"disk": {"exists": True}}) == GOOD
    )


def test_an_error_makes_a_report_not_ok_and_keeps_the_facts():
    made = report.made("0815", 3, "define", {"free": 0}, "the disk is full", "make room")
    assert not made["ok"]
    opened = report.opened(made, "0815", 3, "define")
    assert (opened.error, opened.hint, opened.facts) == (
        "the disk is full",
        "make room",
        {"free": 0},
    )


def test_the_report_that_was_asked_for_is_opened():
    opened = report.opened(GOOD, "0815", 3, "define")
    assert opened.ok
    assert opened.facts == {"disk": {"exists": True}}


@pytest.mark.parametrize(
    ("store", "generation", "step"),
    [("0816", 3, "define"), ("0815", 2, "define"), ("0815", 4, "define"), ("0815", 3, "start")],
)
def test_a_report_on_anything_else_is_refused_and_says_on_what(store, generation, step):
    with pytest.raises(report.NotAReport, match="store 0815, deployment 3") as refused:
        report.opened(GOOD, store, generation, step)
    assert f"store {store}, deployment {generation}" in str(refused.value)


@pytest.mark.parametrize(
    "returned",
    [
        None,
        True,
        "'store_hypervisor.define' is not available.",
        ["define"],
        {},
        {key: value for key, value in GOOD.items() if key != "facts"},
        {**GOOD, "seal": "x"},
        {**GOOD, 1: "x"},
        {**GOOD, "store": 815},
        {**GOOD, "generation": "3"},
        {**GOOD, "generation": True},
        {**GOOD, "facts": "all is well"},
        {**GOOD, "facts": None},
        {**GOOD, "ok": "no"},
        {**GOOD, "error": None},
        {**GOOD, "version": None},
    ],
    ids=str,
)
def test_what_is_no_report_is_refused(returned):
    generation = 1 if isinstance(returned, dict) and returned.get("generation") is True else 3
    with pytest.raises(report.NotAReport):
        report.opened(returned, "0815", generation, "define")


def test_a_report_that_is_ok_and_has_an_error_is_refused():
    with pytest.raises(report.NotAReport):
        report.opened({**GOOD, "error": "the disk is full"}, "0815", 3, "define")


def test_what_is_told_of_a_long_return_is_short():
    with pytest.raises(report.NotAReport) as refused:
        report.opened("x" * 100_000, "0815", 3, "define")
    assert len(str(refused.value)) < 400
