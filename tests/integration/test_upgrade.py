# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
An upgrade where ``salt-run saltutil.sync_all`` has left a copy of what minions get on the master.

Salt takes the copy before what is in the checkout, so that it would hide the new version.
"""

import pathlib
import shutil
import subprocess

import pytest
import store_site

STORE, GUEST, HYPERVISOR = "upgraded", "store-upgraded", "hv-upgraded"
COPY = pathlib.Path("/var/cache/salt/master/extmods/utils/storelib")
MEND = f"rm -r {COPY}; systemctl restart salt-master"
VERSION = "99.0.0"
TOLD = pathlib.Path("utils/storelib/__init__.py")
"""Where modules that a minion got say their version, under its ``extmods``."""


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A checkout of a newer version, of which minions can tell."""
    tree = tmp_path_factory.mktemp("newer") / "store-deploy"
    unneeded = shutil.ignore_patterns(".git", "__pycache__", "tests", "artifacts", ".*_cache")
    shutil.copytree(store_site.CHECKOUT, tree, symlinks=True, ignore=unneeded)
    told = tree / "salt/_utils/storelib/__init__.py"
    head, said, _ = told.read_text().partition("__version__ = ")
    told.write_text(f'{head}{said}"{VERSION}"\n')
    return tree


def doctor(site):
    """Return what the doctor finds of the master, with how to mend it."""
    answer = site.salt_run("doctor", "hypervisors=False").answer
    return {each["fault"]: each["mend"] for each in answer["faults"]}


def said(verb, *arguments):
    """Return what an operator reads where Salt has not loaded the runner."""
    command = ["salt-run", f"deploy.{verb}", *arguments]
    done = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
        env=store_site.ENVIRONMENT,
    )
    return " ".join(done.stdout.split())


def follow(site, mend):
    """Do what the operator is told, to the letter."""
    remove, restart = mend.split("; ")
    store_site.run(*remove.split())
    assert restart == "systemctl restart salt-master"
    site.master.kill()
    site.master.start()


def versions(site):
    """Return which versions hypervisor and guest have got."""
    guest = site.stand_ins.disk(GUEST) / "var/cache/salt/minion/extmods"
    return [(top / TOLD).read_text() for top in (site.hypervisors[HYPERVISOR].modules, guest)]


def test_a_copy_that_hides_an_upgrade_is_named_and_its_removal_brings_the_upgrade(site, newer):
    site.describe(HYPERVISOR, STORE)
    site.start_hypervisors(HYPERVISOR)
    store_site.run("salt-run", "saltutil.sync_all", seconds=120)
    assert COPY.is_dir()
    # From now on the master itself runs the copy.
    site.master.kill()
    site.master.start()
    told = {fault: mend for fault, mend in doctor(site).items() if str(COPY) in fault}
    assert list(told.values()) == [MEND]

    # It is the same code, as yet.
    done = site.salt_run("store", STORE, seconds=600)
    assert (done.status, done.answer["state"]) == (0, "deployed"), done.stdout
    assert not any(VERSION in text for text in versions(site))

    with site.version(newer):
        before = site.record(STORE)
        sentence = f"{COPY} hides the storelib of {store_site.CHECKOUT}: {MEND}"
        assert sentence in said("doctor")
        assert sentence in said("store", STORE, "redeploy=True")
        assert site.record(STORE) == before
        follow(site, MEND)
        assert doctor(site) == {}

        done = site.salt_run("store", STORE, "redeploy=True", seconds=600)
        assert (done.status, done.answer["state"]) == (0, "deployed"), done.stdout
        assert done.answer["generation"] == 2
        assert all(VERSION in text for text in versions(site))
