# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What only a running master and running minions show the doctor; each mend is followed."""

import contextlib
import json
import os
import pathlib
import signal

import pytest
import store_site


def found(site, hypervisors=False, **how):
    """Return what the doctor finds, with how to mend it."""
    answer = site.salt_run("doctor", f"hypervisors={hypervisors}", **how).answer
    return {each["fault"]: each["mend"] for each in answer["faults"]}


@pytest.fixture(scope="module")
def hypervisor(site):
    site.describe("hv-well", "doctor-well")
    site.start_hypervisors("hv-well")
    assert site.ask("hv-well", "saltutil.sync_all", seconds=60)
    return "hv-well"


@pytest.fixture
def other(site):
    """Start a hypervisor with a configuration of its own; it is gone after the test."""
    started = []

    def start(name, **config):
        minion = store_site.Hypervisor(name, **config)
        started.append(minion)
        minion.enrol()
        minion.start()
        site.hypervisors[name] = minion
        store_site.until(lambda: site.ask(name, "test.ping"), 120, f"{name} answers")
        return minion

    yield start
    for minion in started:
        site.hypervisors.pop(minion.id).kill()
        (store_site.PKI / "minions" / minion.id).unlink()


def configured_anew(minion, **config):
    """Do what "remove KEY from the minion's configuration, restart salt-minion" says."""
    minion.kill()
    (minion.home / "etc/salt/minion.d/90-site.conf").write_text(json.dumps(config))
    minion.start()


def test_a_master_that_keeps_no_returns_is_found_and_no_hypervisor_is_blamed(
    site, master, hypervisor
):
    master(job_cache=False)
    told = found(site, hypervisor)
    assert [fault.split(":")[0] for fault in told] == ["job_cache is False"]
    # Mended on the disk only.
    site.pumped()
    site.master.configure()
    assert found(site, hypervisor) == {
        "salt-master was started with other settings than its files now have: job_cache": (
            "systemctl restart salt-master"
        )
    }
    master()
    site.pumped()
    store_site.until(lambda: site.ask(hypervisor, "test.ping"), 120, "it answers the new master")
    assert found(site, hypervisor) == {}


def test_a_master_with_ipc_mode_tcp_is_well(site, master, hypervisor):
    master(ipc_mode="tcp")
    store_site.until(lambda: site.ask(hypervisor, "test.ping"), 120, "it answers the new master")
    assert found(site, hypervisor) == {}


def workers():
    """Return the processes of the master that answer requests."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if "MWorker-" in path.read_text():
                yield int(path.parent.name)


def test_a_worker_that_does_not_answer_is_found(site, master):
    def unanswered():
        told = "salt-master left a request unanswered for 10 s, after "
        return [mend for fault, mend in found(site).items() if fault.startswith(told)]

    # One that was started just now is given time.
    site.master.age()
    assert unanswered() == []
    os.kill(max(workers()), signal.SIGSTOP)
    (mend,) = unanswered()
    assert mend.startswith("systemctl restart salt-master; its log")
    master()
    assert found(site) == {}


def test_a_saltenv_in_which_our_files_are_not_served_is_found(site, master, other):
    site.describe("hv-dev", "doctor-dev")
    minion = other("hv-dev", saltenv="dev")
    told = found(site, "hv-dev", seconds=90)
    fault = "hv-dev: its saltenv is dev, in which the master does not serve our files"
    assert {each.split(" ")[2] for each in told} == {"modules", "saltenv"}
    assert "under file_roots in a file of master.d" in told[fault]
    # The second way that the mend names.
    roots = {"base": ["/srv/store-deploy/salt"], "dev": ["/srv/store-deploy/salt"]}
    master(file_roots=roots)
    store_site.until(lambda: site.ask("hv-dev", "test.ping"), 120, "it answers the new master")
    assert fault not in found(site, "hv-dev")
    assert site.ask("hv-dev", "saltutil.sync_all", seconds=60)
    assert found(site, "hv-dev") == {}
    # The first way.
    master()
    configured_anew(minion)
    store_site.until(lambda: site.ask("hv-dev", "test.ping"), 120, "it answers")
    assert site.ask("hv-dev", "saltutil.sync_all", seconds=60)
    assert found(site, "hv-dev") == {}


SUDO = """#!/bin/sh
# As sudo does it, without a password to ask for.
[ "$1" = -u ] && user=$2 && shift 2 && exec setpriv --reuid "$user" --clear-groups "$@"
"""


def test_a_minion_that_runs_its_jobs_by_sudo_is_found(site, other):
    program = pathlib.Path("/srv/sudo/sudo")
    program.parent.mkdir()
    program.write_text(SUDO)
    program.chmod(0o755)
    site.describe("hv-sudo", "doctor-sudo")
    with pytest.MonkeyPatch.context() as patched:
        path = f"{program.parent}:{os.environ['PATH']}"
        patched.setattr(
            store_site.Hypervisor, "environment", {**store_site.ENVIRONMENT, "PATH": path}
        )
        minion = other("hv-sudo", sudo_user="root")
        assert site.ask("hv-sudo", "saltutil.sync_all", seconds=90)
        told = found(site, "hv-sudo", seconds=90)
        assert [fault.split(":")[1] for fault in told] == [" sudo_user is root"]
        configured_anew(minion)
    store_site.until(lambda: site.ask("hv-sudo", "test.ping"), 120, "it answers")
    assert found(site, "hv-sudo") == {}


def test_a_pillar_environment_of_the_hypervisors_own_is_the_plans_too(site, master, other):
    prod = pathlib.Path("/etc/salt/prod-pillar")
    prod.mkdir()
    (prod / "top.sls").write_text(json.dumps({"prod": {"hv-prod": ["hv-prod"]}}))
    told = {**site.store_server("doctor-prod"), "memory_mib": 160}
    (prod / "hv-prod.sls").write_text(json.dumps({"store_server": told}))
    site.write_pillar("hv-prod", store_server={**told, "store": "another"})
    base = {"base": [str(store_site.PILLAR)]}
    master(pillar_roots={**base, "prod": [str(prod)]})
    other("hv-prod", pillarenv="prod")
    assert site.ask("hv-prod", "saltutil.sync_all", seconds=60)
    assert found(site, "hv-prod") == {}
    # What base has for it is another store's: nothing of it is to be seen.
    plan = site.salt_run("plan", "doctor-prod", "hypervisor=hv-prod", "full=True").answer
    assert (plan["faults"], plan["spec"]["memory_mib"]) == ([], 160)
    site.begin("doctor-prod", "hypervisor=hv-prod")
    record = site.deployed("doctor-prod")
    assert record.spec["memory_mib"] == 160


def test_a_file_that_does_not_parse_is_found_while_the_master_runs(site):
    site.pumped()
    name = "50-store-deploy-reactor.conf"
    site.master.configure(without=[name])
    path = store_site.MASTER_D / name
    path.write_text("reactor: [")
    assert any(fault.startswith(f"{path} is no YAML") for fault in found(site))
    site.master.configure()
    assert found(site) == {}
