# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a site may set under store_deploy, and what becomes of a wrong setting."""

import logging

import pytest

from storelib.errors import Refused
from storemaster.master import pump, settings

NO_SETTINGS = [["max_active"], "max_active", 5, True, [], ""]
WRONG = [
    *[("max_active", value) for value in ("many", "50", 0, -1, True, False, 2.5, [50], {})],
    *[("hypervisor_id", value) for value in ("hv", "", 5, True, ["hv-{store}"], "{Store}", "hv *")],
    *[("hypervisor_id", value) for value in ("hv {store}", "*{store}", "../{store}", "-{store}")],
    *[("state_dir", value) for value in ("relative", "./x", "", 5, True, ["/x"], "~/x")],
]


def opts_with(**told):
    return {"store_deploy": told}


@pytest.mark.parametrize("told", NO_SETTINGS, ids=repr)
def test_settings_that_are_no_mapping_are_one_fault(told):
    ((fault, mend),) = settings.faults({"store_deploy": told})
    assert fault == f"store_deploy is {told!r}, allowed: a mapping of settings"
    assert mend


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(key, value):
    ((fault, mend),) = settings.faults(opts_with(**{key: value}))
    assert fault.startswith(f"store_deploy: {key} is {value!r}, allowed: ")
    assert "systemctl restart salt-master" in mend


def test_all_faults_of_the_settings_are_found_at_once():
    told = opts_with(max_active=0, hypervisor_id="hv", state_dir="x", max_actve=5, colour=None)
    keys = [fault.split()[1] for fault, _ in settings.faults(told)]
    assert keys == ["max_active", "hypervisor_id", "state_dir", "max_actve", "colour"]


@pytest.mark.parametrize(
    "opts",
    [
        {},
        {"store_deploy": None},
        {"store_deploy": {}},
        opts_with(max_active=None, hypervisor_id=None, state_dir=None),
        opts_with(max_active=1, hypervisor_id="hv-{store}.example.com", state_dir="/srv/x"),
        opts_with(hypervisor_id="{store}"),
    ],
    ids=str,
)
def test_what_is_left_out_or_right_is_no_fault(opts):
    assert list(settings.faults(opts)) == []
    settings.check(opts, *settings.SETTINGS)


@pytest.mark.parametrize("told", [*NO_SETTINGS, {"state_dir": "relative"}], ids=repr)
def test_no_ledger_is_opened_where_nobody_knows_which(told):
    """The default's would be an empty one."""
    with pytest.raises(Refused, match=r"store_deploy.* is .*, allowed: "):
        settings.ledger_path({"store_deploy": told})


@pytest.mark.parametrize("value", [value for key, value in WRONG if key == "max_active"], ids=repr)
def test_without_a_usable_number_the_pump_goes_on_with_the_default(value):
    assert settings.max_active(opts_with(max_active=value)) == settings.MAX_ACTIVE


def test_a_template_that_names_one_minion_for_all_stores_is_not_used():
    with pytest.raises(Refused, match=r"hypervisor_id is 'hv', allowed: .* hv-\{store\}"):
        settings.hypervisor_id(opts_with(hypervisor_id="hv"), "0815")


def test_the_sweeper_logs_what_is_wrong_once_in_a_round_and_goes_on(master, tmp_path, caplog):
    master.begin()
    told = {"state_dir": str(tmp_path), "max_active": "many", "colour": "red"}
    opts = {"fun": "deploy.reconcile", "store_deploy": told}
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert set(pump.reconcile(opts, master, sweep=True)) == {"0815"}
        assert set(pump.reconcile(opts, master, sweep=False)) <= {"0815"}
    assert [record.getMessage().split()[1] for record in caplog.records] == ["max_active", "colour"]
