# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A ledger that cannot be used, and the running master that has to live with it.

Nobody restarts the master after the ledger was mended, and it has no schedule: that the pump goes
on is seen by a deployment that ends, that it still hears by a doorbell that rings.
"""

import contextlib
import pathlib
import sqlite3
import subprocess

import pytest
import salt.config
import salt.utils.event
import store_site

from storemaster.deployment.ledger import SCHEMA_VERSION

LEDGER = store_site.STATE_DIR / "ledger.sqlite"
LOG = pathlib.Path("/var/log/salt/master")
SIDES = ("", "-wal", "-shm")


@pytest.fixture(scope="module", autouse=True)
def master(site):
    """A master whose pump has no help."""
    site.master.kill()
    site.master.start(without=["50-store-deploy-schedule.conf"])
    site.pumped()
    yield
    site.master.kill()
    site.master.start()


@contextlib.contextmanager
def another_ledger(site, make):
    """Stop the master for the moment in which the ledger is another one."""
    aside = [LEDGER.with_name(f"aside{side}") for side in SIDES]
    ledgers = [LEDGER.with_name(f"{LEDGER.name}{side}") for side in SIDES]

    def swap(here, there):
        for path in there:
            path.unlink(missing_ok=True)
        for path, to in zip(here, there, strict=True):
            if path.exists():
                path.rename(to)

    site.at_rest(lambda: [swap(ledgers, aside), make()])
    try:
        yield
    finally:
        site.at_rest(lambda: swap(aside, ledgers))


def garbage():
    LEDGER.write_bytes(b"no database at all, but long enough to be looked at " * 99)


def newer():
    with contextlib.closing(sqlite3.connect(LEDGER)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


@contextlib.contextmanager
def spoilt(site, how):
    with another_ledger(site, how):
        yield


@contextlib.contextmanager
def full(site):
    """A disk of 1 MiB in the state folder's place, with nothing left on it."""
    small = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", store_site.STATE_DIR]

    def fill():
        subprocess.run(small, check=True)
        with contextlib.suppress(OSError), open(store_site.STATE_DIR / "filler", "wb", 0) as file:
            while True:
                file.write(b"\0" * 4096)

    site.at_rest(fill)
    try:
        yield
    finally:
        site.at_rest(lambda: subprocess.run(["umount", "-l", store_site.STATE_DIR], check=True))


FAULTS = {
    "garbage": (lambda site: spoilt(site, garbage), "file is not a database", "restore"),
    "newer": (lambda site: spoilt(site, newer), f"has schema {SCHEMA_VERSION + 1}", "newer one"),
    "full": (full, "cannot be used: ", "disk space"),
}


def ring(store):
    opts = salt.config.master_config("/etc/salt/master")
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:
        assert bus.fire_event({"id": f"store-{store}"}, f"store/{store}/guest/here")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_operator_gets_a_sentence_and_the_master_goes_on_when_it_is_mended(site, fault):
    spoil, reason, hint = FAULTS[fault]
    store = f"ledger-{fault}"
    site.describe(f"hv-{store}", store, timeouts={"awaiting_hypervisor": 5})
    seen = LOG.stat().st_size
    with spoil(site):
        for verb in ("status", "store"):
            done = site.salt_run(verb, store)
            assert (done.status, reason in done.sentences[0]) == (1, True), done.stdout
            assert hint in done.sentences[1]
            assert "\n" not in "".join(done.sentences)
        found = [each["fault"] for each in site.salt_run("doctor").answer["faults"]]
        assert [each for each in found if reason in each]
        ring(store)
        told = lambda: reason in LOG.read_bytes()[seen:].decode()  # noqa: E731
        store_site.until(told, 30, "the pump was told that it failed")
    assert site.begin(store)["state"] == "awaiting_hypervisor"
    with site.rings() as rung:
        ring(store)
        store_site.until(lambda: (store, 0) in rung(), 30, "the bell was rung")
    assert site.ended(store, 60).failed_in == "awaiting_hypervisor"
    with LOG.open() as log:
        log.seek(seen)
        text = log.read()
    assert reason in text
    # Or it would only look as if the pump had gone on.
    assert "restarting..." not in text
