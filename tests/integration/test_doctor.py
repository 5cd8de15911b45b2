# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The doctor reads the configuration on the disk, and asks what runs: master and hypervisors."""

import os
import shutil
import time

import pytest
import store_site


@pytest.fixture
def configure(site):
    """Configure the master in another way, and in the end as shipped."""
    yield site.master.configure
    site.master.configure()


def test_the_shipped_configuration_is_healthy(site):
    done = site.salt_run("doctor", "hypervisors=False")
    assert (done.status, done.answer) == (0, {"faults": []})


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        ("40-store-deploy-autosign", "no autosign_file is set"),
        ("50-store-deploy-engine", "the engine store_pump is not configured"),
        ("50-store-deploy-pillar", "ext_pillar store_deploy is not configured"),
        ("50-store-deploy-schedule", "no schedule calls deploy.reconcile"),
    ],
)
def test_a_missing_file_is_found(site, configure, missing, fault):
    configure(without=[f"{missing}.conf"])
    done = site.salt_run("doctor", "hypervisors=False")
    assert done.status == 1
    faults = {each["fault"]: each["mend"] for each in done.answer["faults"]}
    (mend,) = [mend for found, mend in faults.items() if found.startswith(fault)]
    assert f"{missing}.conf" in mend


def test_a_master_that_was_not_restarted_is_found(site, configure):
    site.pumped()
    configure(reactor=[{"site/*": []}], module_dirs=["/elsewhere"])
    faults = {
        each["fault"]: each["mend"]
        for each in site.salt_run("doctor", "hypervisors=False").answer["faults"]
    }
    told = "salt-master was started with other settings than its files now have: "
    assert faults[f"{told}module_dirs, reactor"] == "systemctl restart salt-master"


def test_a_master_that_does_not_run_is_found(site):
    site.master.kill()
    done = site.salt_run("doctor", "hypervisors=False")
    site.master.start()
    assert done.status == 1
    assert [each["fault"] for each in done.answer["faults"]] == ["salt-master does not run"]


def test_what_is_configured_and_does_not_run_is_found(site, master):
    """As if the files had been installed an hour ago and the master had them never loaded."""
    now = time.time()
    master(without=["50-store-deploy-engine.conf", "50-store-deploy-schedule.conf"])
    store_site.until(lambda: store_site.BUS.stat().st_mtime >= now, 30, "its bus is there")
    site.master.configure()
    site.master.age()
    before = store_site.BUS.stat().st_mtime - 1
    for note in store_site.STATE_DIR.glob("*.json"):
        os.utime(note, (before, before))
    done = site.salt_run("doctor", "hypervisors=False")
    assert [each["fault"] for each in done.answer["faults"]] == [
        f"{what} is configured, but has not run since salt-master started"
        for what in ("the engine store_pump", "the schedule of deploy.reconcile")
    ]


# Hypervisors


@pytest.fixture(scope="module")
def hypervisors(site):
    """One that is well and others with faults of their own."""
    site.describe("hv-well", "doctor-well")
    site.describe("hv-away", "doctor-away")
    site.write_pillar("hv-no-virt")
    site.write_pillar("hv-old", text="store_server: [")
    site.start_hypervisors("hv-well")
    assert site.ask("hv-well", "saltutil.sync_all", seconds=60)
    no_virt = store_site.Hypervisor("hv-no-virt")
    no_virt.enrol()
    with (no_virt.home / "etc/salt/minion").open("a") as config:
        config.write("disable_modules: [virt]\n")
    no_virt.start()
    site.hypervisors[no_virt.id] = no_virt
    site.start_hypervisors("hv-old")
    shutil.rmtree(site.hypervisors["hv-old"].modules / "modules")
    assert site.ask("hv-old", "saltutil.refresh_modules", seconds=60)
    store_site.until(lambda: site.ask(no_virt.id, "test.ping"), 120, "hv-no-virt answers")
    assert site.ask(no_virt.id, "saltutil.sync_all", seconds=60)
    shutil.copy(store_site.PKI / "minions/hv-well", store_site.PKI / "minions/hv-away")
    yield ["hv-well", "hv-no-virt", "hv-old", "hv-away", "hv-unknown"]
    (store_site.PKI / "minions/hv-away").unlink()
    (store_site.PILLAR / "hv-old.sls").unlink()
    for name in ("hv-no-virt", "hv-old"):
        site.hypervisors.pop(name).kill()


def test_hypervisors_are_asked_all_at_once(site, hypervisors):
    with site.events("salt/job/") as heard:
        done = site.salt_run(
            "doctor", f"hypervisors={hypervisors}", seconds=120, salt_logs_a_traceback=True
        )
    (asked,) = [
        data["minions"]
        for tag, data in heard
        if tag.endswith("/new") and data["fun"] == "store_hypervisor.health"
    ]
    assert set(asked) == set(hypervisors) - {"hv-unknown"}
    assert done.status == 1
    found = [(*each["fault"].split(": ", 1), each["mend"]) for each in done.answer["faults"]]
    for name, fault, mend in (
        ("hv-no-virt", "Salt's module virt is not loaded", "-m pip install"),
        ("hv-no-virt", "its pillar has no store_server", "describe its store there"),
        ("hv-old", "its modules are missing or not those of", "saltutil.sync_all"),
        ("hv-old", "the pillar of hv-old does not compile", "pillar.show_pillar hv-old"),
        ("hv-away", "no answer in 12 s", "test.ping"),
        ("hv-unknown", "no accepted key", "salt-key -a"),
    ):
        (told,) = [how for who, what, how in found if who == name and what.startswith(fault)]
        assert mend in told
    assert len(found) == 6, done.stdout


def test_a_hypervisor_without_libvirt_is_found(site, hypervisors):
    assert site.salt_run("doctor", "hypervisors=hv-well").answer == {"faults": []}
    site.libvirtd.kill()
    done = site.salt_run("doctor", "hypervisors=hv-well")
    site.libvirtd.start()
    site.stand_ins.follow()
    (fault,) = done.answer["faults"]
    assert fault["fault"].startswith("hv-well: libvirt cannot be reached")
    assert fault["mend"] == "start libvirtd"
    assert site.salt_run("doctor", "hypervisors=hv-well").answer == {"faults": []}


@pytest.mark.parametrize("wrong", ["hv-*", "[1]"])
def test_what_names_no_hypervisor_is_refused(site, wrong):
    done = site.salt_run("doctor", f"hypervisors={wrong}")
    error, hint = done.sentences
    assert (done.status, error.startswith("hypervisors is ")) == (1, True)
    assert hint == "allowed: True | False | minion ID | list of them"


# What is open


def test_open_doors_are_found(site, configure, opened):
    configure(auto_accept=True, open_mode=True)
    done = site.salt_run("doctor", "hypervisors=False")
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
