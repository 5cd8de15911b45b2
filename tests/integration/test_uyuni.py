# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A store on a master of Uyuni, from the data of its forms to verified.

Salt, libvirt and the product are real. Uyuni is not to be had here: its ext_pillar, its top module,
its states and its registration are the stand-ins of ``tests/uyuni``, written from what its own code
was seen to do.
"""

import json
import os
import pathlib
import subprocess

import pytest
import store_site
from tests.uyuni import api
from tests.uyuni.site import SILENT, SUSEMANAGER_CONF, UyuniSite

HYPERVISOR, GUEST = "hv-0417", "store-0417"
MASTER = "uyuni.example.com"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Uyuni's API."""
    with api.serving(api.Uyuni(), *api.certificate(tmp_path_factory.mktemp("tls"))) as server:
        yield server


@pytest.fixture(scope="module")
def theirs():
    """What Uyuni has beside ours."""
    return UyuniSite()


@pytest.fixture(scope="module")
def uyuni(site, server, theirs):
    """The site's master, as Uyuni's."""
    # By a full name, as Uyuni has it; a copy of the file goes into each guest.
    hosts = pathlib.Path("/srv/hosts")
    hosts.write_text(pathlib.Path("/etc/hosts").read_text() + f"{store_site.ADDRESS} {MASTER}\n")
    store_site.run("mount", "--bind", hosts, "/etc/hosts")
    store_site.run("ip", "link", "add", "br0", "type", "bridge")
    store_site.run("ip", "link", "set", "br0", "up")
    wanted = {**site.store_server("0417"), "master": MASTER, "minion": "salt-minion"}
    shared = ("image", "cpus", "memory_mib", "disk_gib", "virt_type", "master", "minion")
    probes = {"command": ["grep '^Hello' /srv/demo/hello"]}
    defaults = {key: wanted[key] for key in shared} | {"start": {"steady_s": 1}, "verify": probes}
    own = {"store": "0417", "auto_deploy": True, "interfaces": {"eth0": {"source": "br0"}}}
    theirs.describe(HYPERVISOR, defaults, own)
    password = pathlib.Path("/etc/salt/uyuni-password")
    password.touch(0o600)
    password.write_text(f"{server.uyuni.password}\n")
    told = {"url": server.url, "user": server.uyuni.user, "ca_file": server.ca_file}
    site.master.kill()
    site.master.start(
        beside=SUSEMANAGER_CONF,
        store_deploy={"uyuni": {**told, "password_file": str(password)}},
    )
    site.start_hypervisors(HYPERVISOR)
    assert site.ask(HYPERVISOR, "saltutil.sync_all", seconds=60)
    yield site
    site.master.kill()
    site.master.start()
    store_site.run("umount", "/etc/hosts")


def waits(site, state, why):
    """Wait until the deployment says why it waits in a state."""

    def told():
        record = site.record("0417")
        return record and record.state == state and why in record.reason

    store_site.until(told, 120, lambda: f"{state}, {why}: {site.told('0417')}")


def highstate(site, minion):
    """Have a minion apply its highstate as Uyuni does, and return what it returns."""
    return store_site.until(
        lambda: site.ask(minion, "state.apply", "queue=True", seconds=120), 180, "a highstate"
    )


def test_the_doctor_finds_nothing_wrong(uyuni):
    uyuni.pumped()
    done = uyuni.salt_run("doctor", f"hypervisors={HYPERVISOR}")
    assert done.answer == {"faults": []}, done.stdout


def test_while_the_database_is_away_a_store_is_not_taken_for_unknown(uyuni, theirs):
    with theirs.database_away():
        done = uyuni.salt_run("plan", "0417")
        assert (done.status, done.sentences[0][: len(SILENT)]) == (1, SILENT), done.stdout
    planned = uyuni.salt_run("plan", "0417")
    assert (planned.status, planned.answer["faults"]) == (0, []), planned.stdout


@pytest.fixture(scope="module")
def configuring(uyuni):
    """The deployment that the end of the hypervisor's highstate began, as far as it gets."""
    applied = highstate(uyuni, HYPERVISOR)
    failed = [each for each in applied.values() if each["result"] is not True]
    assert not failed, failed
    return waits(uyuni, "configuring", SILENT)


def test_a_guests_highstate_begins_when_uyuni_has_registered_it(uyuni, theirs, configuring):
    theirs.register(GUEST, pillar={"greeting": "Hello from store 0417"})
    record = uyuni.deployed("0417")
    assert record.hypervisor == HYPERVISOR
    hello = uyuni.stand_ins.disk(GUEST) / "srv/demo/hello"
    assert hello.read_text() == "Hello from store 0417\n"


def test_a_classic_minion_is_left_to_the_guest_on_purpose(uyuni, configuring):
    assert uyuni.ask(GUEST, "pillar.get", "mgr_avoid_venv_salt_minion") is not None


def test_no_highstate_runs_without_its_pillar(uyuni, theirs, configuring):
    with theirs.database_away():
        for minion in (GUEST, HYPERVISOR):
            errors = highstate(uyuni, minion)
            assert isinstance(errors, list), errors
            assert f"{SILENT} {minion}" in errors[1], errors
    applied = highstate(uyuni, GUEST)
    assert all(each["result"] is not False for each in applied.values()), applied


@pytest.fixture
def redeployed(uyuni, theirs, server, configuring):
    """The store's second server, which Uyuni is to onboard anew; yield what is on its disk."""
    uyuni.deployed("0417")
    server.uyuni.register(GUEST)
    with theirs.changed() as database:
        (defaults,) = database["groups"]["stores"]["formulas"].values()
        registered = {"registration": "reactivation", "activation_key": "1-store"}
        defaults["store_server"] |= registered
    with server.lock:
        uyuni.begin("0417", "redeploy=True")
        waits(uyuni, "awaiting_hypervisor", "Uyuni is asked")
        theirs.forget(GUEST)
    # It goes no further before it is registered again.
    waits(uyuni, "configuring", SILENT)
    return uyuni.stand_ins.disk(GUEST)


def known(site, grain):
    """Return a grain of the guest, which may be on its way up."""
    told = store_site.until(
        lambda: [answer] if (answer := site.ask(GUEST, "grains.get", grain)) is not None else None,
        60,
        "the guest answers",
    )
    return told[0]


def holding(text, *tops):
    """Return the files below these folders that hold a text."""
    found = subprocess.run(
        [
            "grep",
            "--recursive",
            "--files-with-matches",
            "--text",
            text,
            *filter(os.path.exists, tops),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()


def test_a_redeployed_server_is_onboarded_anew_and_its_keys_are_nowhere_in_the_end(
    uyuni, server, theirs, redeployed
):
    (key,) = server.uyuni.reactivation.values()
    config = redeployed / "etc/salt/minion.d/~store-deploy-bootstrap.conf"
    told = json.loads(config.read_text())["grains"]["susemanager"]
    assert told == {"activation_key": "1-store", "management_key": key}
    assert known(uyuni, "susemanager:activation_key") == "1-store"
    theirs.register(GUEST, pillar={"greeting": "Hello once more"})
    uyuni.deployed("0417")
    assert not known(uyuni, "susemanager")
    assert not holding(key, redeployed / "etc", redeployed / "var/lib")
    masters = (
        "/var/lib/salt",
        "/var/log/salt",
        "/var/cache/salt/master",
        "/etc/salt",
        store_site.POOL,
    )
    assert not holding(key, *masters)
