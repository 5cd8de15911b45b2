# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A report is believed only if it is the one that was asked for."""

import functools
import json

import pytest

from storelib import __version__, report, seal
from storelib.errors import Fault

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
            "nonce": "",
            "seal": "",
        }
    )


def test_the_store_may_be_given_by_its_spec():
    assert (
        report.made({"store": "0815", "cpus": 2}, 3, "define", {"disk": {"exists": True}}) == GOOD
    )


def broken(raised):
    raise raised


@pytest.mark.parametrize(
    ("raised", "error", "hint", "facts"),
    [
        (Fault("the disk is full", "make room", {"free": 0}), "the disk is full", "make room", 1),
        (Fault("no"), "no", "", 0),
        (KeyError("x"), "define broke: KeyError: 'x'", report.ODD, 0),
        (SystemExit(70), "define broke: SystemExit: 70", report.ODD, 0),
    ],
)
def test_whatever_an_act_raises_is_a_sealed_report(raised, error, hint, facts):
    told = report.on(lambda: broken(raised), "0815", 3, "define", "jid-7", "5ec7e7")
    assert report.believed(told, ["jid-7"], "5ec7e7")
    assert (told["ok"], told["hint"]) == (False, hint)
    assert told["error"].startswith(error)
    assert len(told["facts"]) == facts


def test_what_an_act_finds_is_in_its_sealed_report():
    told = report.on(lambda: GOOD["facts"], "0815", 3, "define", "jid-7", "5ec7e7")
    assert report.believed(told, ["jid-7"], "5ec7e7")
    assert {**told, "nonce": "", "seal": ""} == GOOD


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
        {**GOOD, "seal": None},
        {**GOOD, "nonce": 1},
        {**GOOD, "more": "x"},
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


SECRET = seal.secret(b"the master's own", "hv-0815", "KEY")
SEALED = report.sealed(GOOD, "jid-7", SECRET)


def test_a_sealed_report_is_believed_as_the_answer_to_its_question():
    assert report.believed(SEALED, ["jid-6", "jid-7"], SECRET)
    assert report.opened(SEALED, "0815", 3, "define").facts == GOOD["facts"]


def test_a_seal_survives_the_way_to_the_master():
    told = report.made("0815", 3, "define", {"tuple": (1, 2), "nested": {"ü": 0.1}, 7: None})
    sealed = report.sealed(told, "jid-7", SECRET)
    assert report.believed(json.loads(json.dumps(sealed)), ["jid-7"], SECRET)


def test_half_a_character_does_not_keep_a_report_from_being_sent():
    told = report.made("0815", 3, "define", {"name": "x\udcff"}, error="no \udcff", hint="x")
    sealed = report.sealed(told, "jid-7", SECRET)
    assert json.dumps(sealed, ensure_ascii=False).encode()
    assert report.believed(sealed, ["jid-7"], SECRET)


@pytest.mark.parametrize(
    "returned",
    [
        GOOD,
        {**GOOD, "nonce": "jid-7"},
        {**SEALED, "seal": ""},
        {**SEALED, "seal": "é"},
        {**SEALED, "seal": "\udcff"},
        {**SEALED, "facts": {"bytes": b"x"}},
        {**SEALED, "facts": {1: "x", "y": 2}},
        {**SEALED, "facts": {"half a character": "\udcff"}},
        {**SEALED, "facts": functools.reduce(lambda inner, _: {"x": inner}, range(9999), {})},
        {**SEALED, "seal": SEALED["seal"].upper()},
        {**SEALED, "nonce": "jid-6"},
        *({**SEALED, key: "other"} for key in SEALED),
        {**SEALED, "more": "x"},
        report.sealed(GOOD, "jid-5", SECRET),
        report.sealed(GOOD, "jid-7", ""),
        report.sealed(GOOD, "jid-7", seal.secret(b"the master's own", "hv-0816", "KEY")),
        report.sealed(GOOD, "jid-7", seal.secret(b"the master's own", "hv-0815", "OTHER KEY")),
        report.sealed(GOOD, "jid-7", seal.secret(b"another's", "hv-0815", "KEY")),
        "a text",
        None,
    ],
)
def test_what_is_not_sealed_so_is_not_believed(returned):
    assert not report.believed(returned, ["jid-6", "jid-7"], SECRET)


def test_without_a_secret_nothing_is_believed():
    assert not report.believed(report.sealed(GOOD, "jid-7", ""), ["jid-7"], "")


def test_the_secret_does_not_depend_on_how_the_key_is_written_down():
    assert seal.secret(b"x", "hv-0815", "KEY\r\n") == seal.secret(b"x", "hv-0815", "KEY")


def test_what_is_told_of_a_long_return_is_short():
    with pytest.raises(report.NotAReport) as refused:
        report.opened("x" * 100_000, "0815", 3, "define")
    assert len(str(refused.value)) < 400
