# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
An upgrade in the midst of deployments, from the last version whose deployments had no IDs.

That version is taken from this repository's history, and runs first, with its own modules on
hypervisors and in guests. Each of its deployments stands somewhere else when the checkout becomes
the present one and the master is restarted: in ledger, definitions and set-aside servers there are
numbers only.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import signal
import sqlite3
import subprocess

import pytest
import store_site

BEFORE = "719b68a7970f0784e127bbabf630b2bab1bba973"
REPO = pathlib.Path(__file__).parents[2]
GO = "srv/demo/go"
KEY = "etc/salt/pki/minion/minion.pub"

STORES = {
    "booting": {},
    "clearing": {},
    "defining": {},
    "refused": {"start": {"attempts": 1, "backoff_s": [0], "steady_s": 1}},
    "verifying": {"verify": [{"command": f"until test -e /{GO}; do sleep 0.2; done"}]},
}
"""Named by where each of them stands at the upgrade; libvirt has refused a start of one."""


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A checkout of the version before."""
    tree = tmp_path_factory.mktemp("older")
    git = ("git", "-c", "safe.directory=*", "-C", REPO, "archive", BEFORE)
    packed = subprocess.run(git, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"it takes the whole history, git fetch --unshallow: {packed.stderr.decode()}")
    subprocess.run(["tar", "-x", "-C", tree], input=packed.stdout, check=True)
    return tree


def records():
    """Read the ledger without bringing it up to date."""
    path = f"file:{store_site.STATE_DIR}/ledger.sqlite?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
        rows = database.execute("SELECT record FROM deployments")
        return {record["store"]: record for record in (json.loads(text) for (text,) in rows)}


def stands(store, state, number=1, function=None):
    """Wait until a deployment of the old version is in a state, and a job is under way."""

    def reached():
        record = records().get(store)
        there = record and (record["state"], record["generation"]) == (state, number)
        return there and function in (None, record["job"] and record["job"]["function"])

    store_site.until(reached, 300, f"store {store} is {state}", every=0.02)


def said(site, store, verb, *arguments):
    """Say a verb that has to be taken."""
    done = site.salt_run(verb, store, *arguments)
    assert done.status == 0, done.stdout


def aside(store):
    """Return the folders of the store's set-aside servers."""
    return sorted(store_site.POOL.glob(f".store-deploy/set-aside/store-{store}/*"))


def own_key(site, store):
    """Return the public key that a store's guest has on its disk."""
    return site.stand_ins.disk(f"store-{store}").joinpath(KEY).read_text().strip()


@pytest.fixture(scope="module")
def upgraded(site, older):
    """Let the version before begin, and upgrade; return the records that it left."""
    for store, changes in STORES.items():
        site.describe(f"hv-{store}", store, **changes)
    site.stand_ins.absent.add("store-booting")
    site.refuse_starts("store-refused", 1)
    with site.version(older, without_ledger=True):
        site.start_hypervisors(*(f"hv-{store}" for store in STORES))
        with concurrent.futures.ThreadPoolExecutor() as operators:
            list(operators.map(site.begin, set(STORES) - {"defining"}))
        for store, state in (("booting",) * 2, ("verifying",) * 2, ("refused", "failed")):
            stands(store, state)
        stands("clearing", "deployed")
        site.begin("clearing", "redeploy=True")
        stands("clearing", "clearing", 2, "store_hypervisor.clear")
        under_way = site.hypervisors["hv-clearing"].home / "var/cache/salt/minion/proc"
        job = under_way / records()["clearing"]["job"]["jid"]
        store_site.until(job.exists, 60, "the old server is being set aside", every=0.02)
        site.hypervisors["hv-clearing"].signal(signal.SIGSTOP)
        site.begin("defining")
        stands("defining", "defining", 1, "store_hypervisor.define")
        left = records()
    site.hypervisors["hv-clearing"].signal(signal.SIGCONT)
    (site.stand_ins.disk("store-verifying") / GO).touch()
    return left


@pytest.fixture(scope="module")
def following(site, upgraded):
    """Say at once what an operator says then; the others go on meanwhile."""
    (command,) = re.findall("salt-run deploy.retry refused", site.record("refused").next_action)
    store_site.run(*command.split())
    said(site, "booting", "cancel")


def test_the_version_before_knew_numbers_only(upgraded):
    assert {store: (each["state"], each["generation"]) for store, each in upgraded.items()} == {
        "booting": ("booting", 1),
        "clearing": ("clearing", 2),
        "defining": ("defining", 1),
        "refused": ("failed", 1),
        "verifying": ("verifying", 1),
    }
    assert not any("deployment" in each for each in upgraded.values())


@pytest.mark.parametrize("store", ["verifying", "clearing", "defining"])
def test_a_deployment_goes_on_from_where_it_was(site, upgraded, following, store):
    record, number = site.deployed(store, 600), upgraded[store]["generation"]
    assert (record.generation, record.deployment) == (number, f"g{number}")
    states = [each.state for each in site.history(store) if each.generation == number]
    assert "failed" not in states
    assert len(states) == len(set(states)), "no state was passed twice"
    serves(site, store)
    if store == "verifying":
        # Its server is the version before's; a new one is made while the others go on.
        site.describe(f"hv-{store}", store)
        site.begin(store, "redeploy=True")


def serves(site, store):
    """Check from outside that the store's server is the one that is let in, and does its work."""
    minion = f"store-{store}"
    assert site.keys(minion) == {"minions": own_key(site, store)}
    assert not site.armed(minion)
    greeting = site.stand_ins.disk(minion) / "srv/demo/hello"
    assert greeting.read_text() == f"Hello from store {store}\n"
    assert site.ask(minion, "test.ping", seconds=30) is True


def test_a_deployment_that_had_failed_goes_on_as_it_was_told(site, following):
    assert site.deployed("refused").generation == 1
    serves(site, "refused")


def test_a_deployment_is_cancelled_without_leaving_anything(site, following):
    assert site.ended("booting").state == "cancelled"
    assert site.remains("store-booting") == []


def test_a_server_that_the_version_before_has_set_aside_is_put_back(site, following):
    site.deployed("clearing")
    (old,) = aside("clearing")
    note = json.loads((old / "set-aside.json").read_text())
    assert note == {"store": "clearing", "generation": 1, "cleared_for": 2}
    assert ' id="' not in (old / "domain.xml").read_text().partition("</metadata>")[0]
    key = (old / "minion.pub").read_text().strip()
    said(site, "clearing", "rollback")
    assert site.deployed("clearing").generation == 3
    assert own_key(site, "clearing") == key
    serves(site, "clearing")


def test_a_server_from_before_is_replaced(site, following):
    assert site.deployed("verifying").generation == 2
    serves(site, "verifying")
    (old,) = aside("verifying")
    assert {"disk.qcow2", "domain.xml", "minion.pub"} <= {path.name for path in old.iterdir()}


def test_all_hypervisors_have_the_new_modules_then(site, following):
    done = site.salt_run("doctor")
    assert (done.status, done.answer) == (0, {"faults": []})
