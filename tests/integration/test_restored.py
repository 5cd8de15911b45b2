# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The README's backup and restore of the ledger, in every state of a deployment that then went on.

One store is deployed, then deployed again; there is a backup of each state of that second one.
"""

import contextlib
import pathlib
import sqlite3
import threading

import pytest
import store_site

from storemaster.deployment import lifecycle

STORE, GUEST, HYPERVISOR = "restored", "store-restored", "hv-restored"
AT_ONCE = {"queued"}
"""No time is spent in it, so there is no backup of it."""
STATES = [state.name for state in lifecycle.PATH if state.name not in AT_ONCE]


def state_of(path):
    """Return the state and number of the deployment in a ledger."""
    with contextlib.closing(sqlite3.connect(path)) as copy:
        row = copy.execute("SELECT state, generation FROM deployments WHERE store = ?", (STORE,))
        return row.fetchone()


@pytest.fixture(scope="module")
def backups(site, tmp_path_factory):
    """Backups by state; at the end the true ledger is back."""
    folder, kept, over = tmp_path_factory.mktemp("backups"), {}, threading.Event()
    site.describe(HYPERVISOR, STORE)
    site.start_hypervisors(HYPERVISOR)
    site.begin(STORE)
    site.deployed(STORE)

    def watch():
        while not over.wait(0.02):
            store_site.back_up(folder / "new")
            state, generation = state_of(folder / "new")
            if generation == 2 and state not in kept:
                kept[state] = (folder / "new").rename(folder / state)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        site.begin(STORE, "redeploy=True")
        site.deployed(STORE)
    finally:
        over.set()
        watcher.join()
    store_site.back_up(folder / "true")
    yield kept
    store_site.restore(site, folder / "true")


def serving(site):
    """What the store has, seen from outside."""
    return {
        "key": site.keys(GUEST),
        "domain": store_site.run("virsh", "dumpxml", GUEST),
        "disk": (store_site.POOL / f"{GUEST}.qcow2").stat().st_ino,
        "aside": sorted(store_site.POOL.rglob("set-aside/*/*")),
        "armed": site.armed(GUEST),
        "greeting": pathlib.Path(site.stand_ins.disk(GUEST), "srv/demo/hello").read_text(),
    }


def greeted(site):
    """Whether the server's pillar has its guest_pillar; its value is asterisks on Salt 3008."""
    told = site.ask(GUEST, "pillar.items", "greeting", seconds=30)
    return bool(told and told.get("greeting"))


@pytest.mark.parametrize("state", STATES)
def test_a_ledger_from_a_backup_touches_nothing_and_is_adopted(site, backups, state):
    before = serving(site)
    store_site.restore(site, backups[state])
    record = site.ended(STORE)
    assert (record.state, record.generation) == ("failed", 2), record.reason
    assert "has gone on" in record.reason
    assert "salt-run deploy.adopt restored" in record.next_action
    assert serving(site) == before
    shown = site.salt_run("adopt", STORE)
    assert shown.status == 0, shown.stdout
    assert shown.answer["becomes"]["state"] == "deployed"
    assert site.record(STORE).state == "failed", "nothing was changed"
    done = site.salt_run("adopt", STORE, "apply=True")
    assert done.status == 0, done.stdout
    assert (site.record(STORE).state, site.salt_run("status", STORE).status) == ("deployed", 0)
    assert serving(site) == before
    store_site.until(lambda: greeted(site), 180, "the server gets its guest_pillar")


def test_an_empty_ledger_adopts_the_store_and_deploys_it_again(site, backups, tmp_path):
    before = serving(site)
    with contextlib.closing(sqlite3.connect(tmp_path / "empty")) as made:
        made.execute("VACUUM")
    store_site.restore(site, tmp_path / "empty")
    refused = site.salt_run("store", STORE, "redeploy=True")
    assert refused.status == 1
    assert "has gone on" in refused.sentences[0]
    assert serving(site) == before
    done = site.salt_run("adopt", STORE, "apply=True")
    assert done.status == 0, done.stdout
    assert serving(site) == before
    site.begin(STORE, "redeploy=True")
    assert site.deployed(STORE).generation == 3
