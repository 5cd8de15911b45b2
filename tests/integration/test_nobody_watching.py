# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Nobody types, nobody watches, or half of the machinery is missing: it goes on all the same."""

import concurrent.futures
import json
import re
import signal
import subprocess

import pytest
import store_site
import yaml

from storelib.hypervisor import bell


@pytest.mark.parametrize(
    ("state", "how"),
    [("awaiting_hypervisor", signal.SIGKILL), ("starting", signal.SIGINT)],
)
def test_a_deployment_outlives_the_command_that_began_it(site, state, how):
    store = f"killed-{state}"[:12]
    site.describe("hv-0815", store, timeouts={"booting": 1})
    site.stand_ins.absent.add(f"store-{store}")
    command = ["salt-run", "deploy.store", store, "hypervisor=hv-0815"]
    site.start_hypervisors("hv-0815")
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        next(line for line in process.stderr if f"  {state} " in line)
        process.send_signal(how)
    assert process.returncode != 0
    watched = site.salt_run("watch", store)
    site.failed(watched, "booting")
    shown = re.findall(r"^ *[\d.]+ s  (\w+)  ", watched.stderr, re.MULTILINE)
    assert shown == [change.state for change in site.history(store)]


def test_of_ten_commands_at_once_one_deploys(site):
    # Nobody has let in this hypervisor, so the deployment waits for as long as the others take.
    site.describe("hv-ten", "ten")
    with concurrent.futures.ThreadPoolExecutor(10) as operators:
        asked = [operators.submit(site.salt_run, "store", "ten", "wait=False") for _ in range(10)]
        done = [each.result() for each in asked]
    assert sorted(each.status for each in done) == [0, *[1] * 9]
    refused = [each.sentences for each in done if each.status == 1]
    assert all("of store ten is under way" in why for why, _ in refused)
    assert {hint for _, hint in refused} == {"watch it: salt-run deploy.watch ten"}
    begun = [(change.generation, change.previous) for change in site.history("ten")]
    assert begun == [(1, "")]
    assert site.record("ten").generation == 1
    assert site.salt_run("cancel", "ten").status == 0


def test_a_ready_event_that_no_pillar_bears_out_does_nothing(site):
    site.describe("hv-0815", "forged")
    site.start_hypervisors("hv-0815")
    tags = ["store/../x/hypervisor/ready", "store/*/guest/x", "store/forged/hypervisor/ready"]
    before = site.others()
    with site.rings() as rung:
        for tag in tags:
            assert site.ask("hv-0815", "event.send", tag)
        store_site.until(lambda: ("hv-0815", 1) in rung(), 30, "the bell was rung")
        store_site.until(lambda: not site.bells(), 30, "the bells were answered")
    assert site.record("forged") is None
    assert site.others() == before


def test_the_schedule_alone_brings_a_deployment_to_its_end(site, master):
    site.describe("hv-0815", "slow")
    site.start_hypervisors("hv-0815")
    # Every second, for a test has not the time that a store has.
    shipped = yaml.safe_load((store_site.SHIPPED / "50-store-deploy-schedule.conf").read_text())
    shipped["schedule"]["store-deploy-sweep"]["seconds"] = 1
    master(without=["50-store-deploy-engine.conf"], **shipped)
    site.begin("slow", "hypervisor=hv-0815")
    site.deployed("slow")


def test_a_hypervisors_highstate_deploys_its_store_with_a_master_that_is_not_root(site, master):
    master(user="salt")
    site.describe("hv-auto", "auto", auto_deploy=True)
    site.start_hypervisors("hv-auto")
    site.reaches_its_highstate("hv-auto")
    store_site.until(lambda: site.record("auto"), 30, "the deployment begins")
    record = site.deployed("auto")
    assert record.requested_by == "event"
    for path in (store_site.STATE_DIR, store_site.STATE_DIR / "ledger.sqlite", store_site.AUTOSIGN):
        assert path.owner() == "salt"
    done = site.salt_run("doctor", "hypervisors=hv-auto")
    assert (done.status, done.answer) == (0, {"faults": []})


def test_a_ready_event_that_was_lost_is_rung_again_until_the_master_has_heard_it(site, master):
    """Nobody hears the end of the highstate; the minion was restarted since, too."""
    site.stand_ins.absent.add("store-level")
    bell.note(bell.MARKER).unlink(missing_ok=True)
    master(without=["50-store-deploy-engine.conf"])
    site.describe("hv-level", "level", auto_deploy=True, timeouts={"booting": 1})
    site.start_hypervisors("hv-level")
    site.reaches_its_highstate("hv-level")
    site.hypervisors["hv-level"].kill()
    site.hypervisors["hv-level"].start()
    kept = lambda: site.ask("hv-level", "schedule.list", "return_yaml=False")  # noqa: E731
    store_site.until(lambda: bell.SCHEDULE in (kept() or {}), 60, "the minion has its schedule")
    assert site.record("level") is None
    # Sooner than in a minute, for a test has not the time that a store has.
    assert site.ask("hv-level", "schedule.delete", bell.SCHEDULE)["result"]
    often = ("function=store_hypervisor.ring", "seconds=1", "return_job=False")
    assert site.ask("hv-level", "schedule.add", bell.SCHEDULE, *often)["result"]

    master()
    # Or this ring would be lost, too, as it may: the next one comes in minutes.
    store_site.until(lambda: site.ask("hv-level", "test.ping"), 120, "it has come back")
    note = json.loads(bell.note(bell.MARKER).read_text())
    bell.note(bell.MARKER).write_text(json.dumps({**note, "due": 0}))

    store_site.until(lambda: site.record("level"), 180, "the deployment begins")
    assert site.record("level").requested_by == "event"
    store_site.until(lambda: bell.is_silent(bell.MARKER), 60, "the bell is acknowledged")
    store_site.until(lambda: kept() == {}, 60, "the schedule is gone")
    site.ended("level")
