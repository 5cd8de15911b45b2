# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the verbs do with wrong settings, through the master's real loader."""

import logging
import pathlib

import pytest
import salt.config
import salt.loader

REPO = pathlib.Path(__file__).resolve().parents[2]

VERBS = {
    "store": ["nowhere"],
    "plan": ["nowhere"],
    "status": ["nowhere"],
    "list": [],
    "history": ["nowhere"],
    "explain": ["nowhere"],
    "cancel": ["nowhere"],
    "hold": ["nowhere"],
    "release": ["nowhere"],
    "retry": ["nowhere"],
    "rollback": ["nowhere"],
    "retire": ["nowhere"],
    "prune": [90],
    "advance": ["nowhere"],
    "reconcile": [],
}
UNKNOWN_PLACES = [["max_active"], "max_active", {"state_dir": "relative"}, {"state_dir": 5}]


@pytest.fixture
def master(tmp_path):
    """Return what a master with these settings loads."""

    def loaded(loader, told):
        opts = salt.config.apply_master_config(
            {
                "root_dir": str(tmp_path),
                "module_dirs": [str(REPO)],
                "pillar_dirs": [str(REPO / "_pillar")],
                "store_deploy": told,
            }
        )
        opts["grains"] = {}
        return salt.loader.runner(opts) if loader == "runner" else salt.loader.pillars(opts, {})

    return loaded


@pytest.mark.parametrize("told", UNKNOWN_PLACES, ids=repr)
def test_every_verb_says_in_one_sentence_that_the_ledgers_place_is_not_known(master, told):
    runners = master("runner", told)
    for verb, arguments in VERBS.items():
        answer = runners[f"deploy.{verb}"](*arguments)
        assert answer["error"].startswith("store_deploy"), verb
        assert ", allowed: " in answer["error"]
        assert answer["hint"]
        assert answer["retcode"] == 1


@pytest.mark.parametrize("verb", ["store", "plan"])
@pytest.mark.parametrize(
    "wrong", [{"max_active": "many"}, {"max_active": 0}, {"hypervisor_id": "hv"}], ids=str
)
def test_a_deployment_does_not_begin_with_a_setting_that_it_needs_and_that_is_wrong(
    master, tmp_path, verb, wrong
):
    runners = master("runner", {"state_dir": str(tmp_path), **wrong})
    answer = runners[f"deploy.{verb}"]("nowhere")
    assert answer["error"].startswith(f"store_deploy: {next(iter(wrong))} is ")
    assert runners["deploy.list"]() == [], "what does not need it goes on"


@pytest.mark.parametrize("told", UNKNOWN_PLACES, ids=repr)
def test_a_bell_and_a_pillar_are_not_worth_a_traceback(master, told, caplog):
    with caplog.at_level(logging.ERROR):
        assert master("runner", told)["deploy.notify"]("nowhere", "hv-nowhere") is False
        assert master("pillars", told)["store_deploy"]("hv-nowhere", {}) == {}
    assert [record.exc_info for record in caplog.records] == [None, None]
    assert all(", allowed: " in record.getMessage() for record in caplog.records)
