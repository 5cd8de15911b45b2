# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The doctor reads the same configuration as the master; it is not restarted for these tests."""

import pytest
import store_site


@pytest.fixture
def configure(site):
    """Configure the master in another way, and in the end as shipped."""
    yield site.master.configure
    site.master.configure()


def test_the_shipped_configuration_is_healthy(site):
    done = site.salt_run("doctor")
    assert (done.status, done.answer) == (0, {"faults": []})


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        ("40-store-deploy-autosign", "no autosign_file is set"),
        ("50-store-deploy-engine", "the engine store_pump is not configured"),
        ("50-store-deploy-pillar", "ext_pillar store_deploy is not configured"),
        ("50-store-deploy-reactor", "no reactor for store/*/hypervisor/ready"),
        ("50-store-deploy-schedule", "no schedule calls deploy.reconcile"),
    ],
)
def test_a_missing_file_is_found(site, configure, missing, fault):
    configure(without=[f"{missing}.conf"])
    done = site.salt_run("doctor")
    assert done.status == 1
    faults = {each["fault"]: each["mend"] for each in done.answer["faults"]}
    (mend,) = [mend for found, mend in faults.items() if found.startswith(fault)]
    assert f"{missing}.conf" in mend


def test_open_doors_are_found(site, configure, opened):
    configure(auto_accept=True, open_mode=True)
    done = site.salt_run("doctor")
    assert done.status == 1
    faults = " ".join(each["fault"] for each in done.answer["faults"])
    assert "auto_accept lets every minion in" in faults
    assert "open_mode lets every minion in" in faults
    for path in opened:
        assert str(path) in faults


@pytest.fixture
def opened(site):
    """Files that others may read or write."""
    paths = {store_site.STATE_DIR / "ledger.sqlite": 0o644, store_site.AUTOSIGN: 0o666}
    store_site.AUTOSIGN.touch()
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in paths.items():
        path.chmod(mode)
    yield paths
    for path, mode in modes.items():
        path.chmod(mode)
