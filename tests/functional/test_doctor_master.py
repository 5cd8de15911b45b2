# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Each broken installation is named in one sentence, and its mend, followed to the letter, mends it.

Salt's own code reads the configuration and serves the files.
"""

import datetime
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

import installation
import pytest
import salt.loader
import salt.utils.schedule
from installation import REPO, SITE
from tests import pages

from storelib.hypervisor import seed_iso
from storemaster.deployment import requests
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.master import (
    configuration,
    doctor,
    heartbeat,
    keys,
    pump,
    serving,
    settings,
)
from storemaster.master.salt_master import SaltMaster

LEDGER = "_utils/storemaster/deployment/ledger.py"
REACTOR = "50-store-deploy-reactor.conf"
SLOW = "the engine store_pump is not configured: deployments advance every 30 s only"
STORE = {"image": {"source": "/x.qcow2", "sha256": "5e" * 32}, "master": "salt.example.com"}


@pytest.fixture
def master(tmp_path, monkeypatch):
    """An installation with a socket where a running master has its event bus."""
    # Behind the socket is no master that could answer.
    monkeypatch.setattr(serving, "workers", lambda _: ())
    master = installation.Installation(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock_dir/master_event_pub.ipc"))
        listening.listen()
        yield master


@pytest.fixture
def reacting(master):
    """The same with the reactors in the engine's place."""
    (master.files / doctor.ENGINE).unlink()
    path = installation.SHIPPED / REACTOR
    (master.files / REACTOR).write_text(installation.uncommented(path.read_text(), str(REPO)))
    return master


def mended_but_slow(master, beginning):
    """Check that this is named beside the missing engine, and that following the mend mends it."""
    faults = {k: v for k, v in master.found().items() if not k.startswith(SLOW)}
    ((fault, mend),) = faults.items()
    assert fault.startswith(beginning)
    master.do(mend)
    (slow,) = master.found()
    assert slow.startswith(SLOW)


def named_and_mended(master, *beginnings):
    """Check that exactly these faults are named, and that following the mends mends them."""
    found = master.found()
    assert len(found) == len(beginnings), found
    for beginning in beginnings:
        (mend,) = [mend for fault, mend in found.items() if fault.startswith(beginning)]
        master.do(mend)
    assert master.found() == {}


def test_an_installation_by_the_readme_is_healthy(master):
    assert master.found() == {}


# Files of the configuration


REPLACED = {
    "engines": [{"site": {}}],
    "ext_pillar": [{"cmd_yaml": "true"}],
    "file_roots": {"base": ["/srv/salt"]},
    "module_dirs": ["/srv/modules"],
    "pillar_dirs": ["/srv/pillar-modules"],
    "reactor": [{"site/*": ["/srv/reactor/site.sls"]}],
    "schedule": {"site": {"function": "test.ping", "seconds": 3600}},
    "store_deploy": {"max_active": 7},
    "autosign_file": "/etc/salt/autosign.conf",
    "external_auth": {"pam": {"site": ["test.ping"]}},
    "netapi_enable_clients": ["local"],
}
NOT_SHIPPED = {
    "external_auth": {"ldap": {"more": ["test.ping"]}},
    "netapi_enable_clients": ["runner", "runner_async"],
    "reactor": [{"more/*": ["/srv/reactor/more.sls"]}],
}
"""What only a file of the site's has."""


@pytest.mark.parametrize("key", configuration.KEYS)
def test_a_key_of_the_main_file_that_master_d_replaces_is_found(master, key):
    installation.write(master.main, {key: REPLACED[key]})
    if key in NOT_SHIPPED:
        master.say("20-more.conf", **{key: NOT_SHIPPED[key]})
    named_and_mended(master, f"{key} in {master.main} does not count: it is in {master.files}/")
    if key != "autosign_file":
        assert configuration._counts(REPLACED[key], master.opts[key], words=True)


@pytest.mark.parametrize("key", ["file_roots", "reactor"])
def test_a_key_of_the_main_file_that_counts_all_the_same_is_no_fault(master, key):
    installation.write(master.main, {key: REPLACED[key]})
    master.say("10-site.conf", **{key: REPLACED[key]})
    assert master.found() == {}


def test_a_setting_of_ours_that_a_later_file_has_otherwise_is_no_fault(master):
    master.say(SITE, store_deploy={"max_active": 7}, autosign_file=f"{master.folder}/own")
    assert master.found() == {}
    assert settings.max_active(master.opts) == 7


def test_a_file_of_include_that_replaces_ours_is_found(master):
    more = master.folder / "etc/more.conf"
    installation.write(more, {"engines": REPLACED["engines"]})
    installation.write(master.main, {"include": "more.conf"})
    found = master.found()
    shipped = master.files / doctor.ENGINE
    told = f"engines in {shipped} does not count: it is in {more}, too, which replaces it"
    deaf = "the engine store_pump is not configured: no event is heard, "
    assert [fault for fault in found if not fault.startswith(deaf)] == [told]
    master.do(found[told])
    assert master.found() == {}


def test_the_same_key_as_a_list_and_as_a_mapping_is_found(master):
    master.say("10-site.conf", engines={"site": {}})
    named_and_mended(master, f"engines in {master.files}/10-site.conf does not count")
    assert list(master.opts["engines"]) == [{"site": {}}, {"store_pump": {}}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("engines: [\n", "is no YAML: "),
        ("- store_pump\n", "holds no keys, which Salt passes over"),
    ],
)
def test_a_file_in_master_d_that_salt_passes_over_is_found(master, text, told):
    path = master.files / "50-store-deploy-engine.conf"
    path.write_text(text)
    named_and_mended(master, f"{path} {told}", "the engine store_pump is not configured")


@pytest.mark.parametrize("what", ["a link to nowhere", "a folder", "no text"])
def test_a_file_in_master_d_with_which_salt_does_not_even_start_is_found(master, what):
    """With the last one salt-run cannot start either, which the README says."""
    opts = master.opts
    path = master.files / "50-store-deploy-engine.conf"
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "no text":
        path.write_bytes(b"\xff")
    else:
        path.symlink_to("/nowhere")
    ((told, mend),) = configuration.faults(opts)
    assert told.startswith(f"{path} cannot be read: ")
    master.do(mend)
    assert master.found() == {}


def test_another_default_include_is_found(master):
    other = master.folder / "etc/other.d"
    other.mkdir()
    for path in master.files.iterdir():
        if "autosign" not in path.name:
            (other / path.name).symlink_to(path)
    installation.write(master.main, {"default_include": "other.d/*.conf"})
    named_and_mended(
        master,
        f"default_include is other.d/*.conf, so {master.files}/40-store-deploy-autosign.conf does",
        "no autosign_file is set",
    )


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("50-store-deploy-engine.conf", ["the engine store_pump is not configured"]),
        ("50-store-deploy-schedule.conf", ["no schedule calls deploy.reconcile"]),
        ("50-store-deploy-pillar.conf", ["ext_pillar store_deploy is not configured"]),
        ("40-store-deploy-autosign.conf", ["no autosign_file is set"]),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_shipped_file_that_is_missing_or_empty_is_found(master, name, beginnings, there):
    (master.files / name).unlink()
    if there:
        (master.files / name).write_text("{}")
    named_and_mended(master, *beginnings)


def test_without_the_engine_the_doctor_says_that_the_end_of_summer_time_stops_deployments(master):
    (master.files / "50-store-deploy-engine.conf").unlink()
    named_and_mended(
        master,
        "the engine store_pump is not configured: no event is heard, deployments advance every "
        "30 s only, and rest while local time is behind what it was (summer time ends, a clock is "
        "set back)",
    )
    assert "summer time" in pages.chapter("What a deployment survives")


def test_salts_schedule_rests_while_local_time_is_behind_what_it_was(master):
    """Why it does: the engine makes up for it."""
    opts = {**master.opts, "run_schedule_jobs_in_background": False}
    runners = salt.loader.runner(opts)
    schedule = salt.utils.schedule.Schedule(opts, runners, returners={}, new_instance=True)
    swept = []
    schedule.handle_func = lambda *_: swept.append(now)
    seconds, hour = datetime.timedelta(seconds=30), datetime.timedelta(hours=1)
    began = datetime.datetime(2026, 10, 25, 2, 59)
    clock = [began, began + seconds, began + 2 * seconds]
    for now in (began - seconds, *clock):
        schedule.eval(now=now)
    # Whether it also runs at once differs between the lines.
    assert swept[-3:] == clock
    swept.clear()
    ends = [now - hour for now in clock]
    for now in [*ends, clock[-1], clock[-1] + seconds]:
        schedule.eval(now=now)
    assert swept == [clock[-1] + seconds]


# The settings


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"max_actve": 5}, "store_deploy: max_actve is no setting"),
        ({"max_active": "many"}, "store_deploy: max_active is 'many'"),
        ({"max_active": 0}, "store_deploy: max_active is 0"),
        ({"max_active": True}, "store_deploy: max_active is True"),
        ({"hypervisor_id": "hv"}, "store_deploy: hypervisor_id is 'hv'"),
        ({"hypervisor_id": 5}, "store_deploy: hypervisor_id is 5"),
        ({"state_dir": ["/x"]}, "store_deploy: state_dir is ['/x']"),
        ({"state_dir": "relative"}, "store_deploy: state_dir is 'relative'"),
        (["max_active"], "store_deploy is ['max_active']"),
        ("max_active", "store_deploy is 'max_active'"),
    ],
)
def test_a_setting_that_is_none_or_wrong_is_found_and_the_rest_is_looked_at(master, told, fault):
    master.say("50-store-deploy-settings.conf", store_deploy=told)
    named_and_mended(master, fault)


@pytest.mark.parametrize(
    "told", [{"max_actve": 5}, {"max_active": 0}, {"hypervisor_id": 5}, ["max_active"]], ids=str
)
@pytest.mark.parametrize("name", [SITE, "90-more.conf", "../master"])
def test_a_wrong_setting_in_a_file_of_the_sites_own_is_mended_there(master, told, name):
    if name == "../master":
        (master.files / "50-store-deploy-settings.conf").unlink()
    master.say(name, store_deploy=told)
    ((_, mend),) = master.found().items()
    assert str((master.files / name).resolve()) in mend
    master.do(mend)
    assert master.found() == {}


def test_a_wrong_setting_that_is_in_two_files_is_mended_where_it_counts(master):
    for name in ("50-store-deploy-settings.conf", SITE):
        master.say(name, store_deploy={"max_active": "many"})
    named_and_mended(master, "store_deploy: max_active is 'many'")
    assert settings.max_active(master.opts) == settings.MAX_ACTIVE


def test_a_wrong_setting_in_the_shipped_file_is_mended_there_beside_the_sites_own(master):
    master.say("50-store-deploy-settings.conf", store_deploy={"max_active": "many"})
    master.say(SITE, store_deploy={"hypervisor_id": "kvm-{store}"})
    named_and_mended(master, "store_deploy: max_active is 'many'")
    assert settings.hypervisor_id(master.opts, "0815") == "kvm-0815"


# The reactor


@pytest.mark.parametrize(
    ("glob", "folder"),
    [
        ("store/*/guest/*", "salt/../reactor"),
        ("store/*", "reactor"),
        ("store/08*/guest/*", "reactor"),
    ],
)
def test_a_reactor_that_is_named_twice_is_found(reacting, glob, folder):
    reacting.say(SITE, reactor=[{glob: [f"{REPO}/{folder}/guest.sls"]}])
    mended_but_slow(reacting, "more than one reactor for store/*/guest/*")


@pytest.mark.parametrize("name", [SITE, REACTOR])
def test_a_reactor_that_is_not_on_the_disk_is_found_where_it_is_named(reacting, name):
    (reacting.files / REACTOR).rename(reacting.files / name)
    path = reacting.files / name
    path.write_text(path.read_text().replace(f"{REPO}/reactor/guest", "/elsewhere/reactor/guest"))
    mended_but_slow(
        reacting, "the reactor /elsewhere/reactor/guest.sls for store/*/guest/* is not there"
    )


def test_a_reactor_of_the_sites_own_that_is_not_on_the_disk_is_found(master):
    own = f"{master.folder}/own/guest-too.sls"
    master.say(SITE, reactor=[{"store/*/guest/*": [own]}])
    named_and_mended(master, f"the reactor {own} for store/*/guest/* is not there")


def test_a_tag_for_which_alone_there_is_no_reactor_is_found(reacting):
    told = reacting.read(REACTOR)["reactor"]
    reacting.say(REACTOR, reactor=told[1:])
    assert "no reactor for store/*/hypervisor/ready" in reacting.found()


@pytest.mark.parametrize("name", [SITE, REACTOR])
def test_who_has_reactors_is_led_to_the_engine(reacting, name):
    """As after an upgrade of a site that has copies of the files."""
    (reacting.files / REACTOR).rename(reacting.files / name)
    own = {"site/*": ["/srv/reactor/site.sls"]}
    reacting.say(name, reactor=[*reacting.read(name)["reactor"], own])
    ((_, mend),) = reacting.found().items()
    reacting.do(mend)
    named_and_mended(reacting, "reactors ring for what the engine store_pump hears by itself")
    assert reacting.opts["reactor"] == [own]


def test_a_master_of_masters_is_found(master):
    master.say(SITE, order_masters=True)
    named_and_mended(master, "order_masters is set")


# What minions get


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"fileserver_backend": ["minionfs"]}, "fileserver_backend is ['minionfs'], without roots"),
        ({"file_ignore_glob": ["*.swp", "*/_modules/*"]}, "file_ignore_glob has '*/_modules/*'"),
        ({"file_ignore_glob": ["_states/*.py"]}, "file_ignore_glob has '_states/*.py'"),
        ({"file_ignore_regex": ["\\.py$"]}, "file_ignore_regex has '\\\\.py$'"),
        ({"file_ignore_regex": ["/firstboot"]}, "file_ignore_regex has '/firstboot'"),
    ],
)
def test_what_the_file_server_does_not_serve_is_found(master, told, why):
    master.say(SITE, **told)
    ((fault, mend),) = master.found().items()
    assert fault.startswith("minions do not get salt://")
    assert fault.endswith(why)
    master.do(mend)
    assert master.found() == {}


def test_a_copy_of_what_minions_get_is_found(master):
    copy = pathlib.Path(master.opts["extension_modules"], "utils/storelib")
    shutil.copytree(REPO / "salt/_utils/storelib", copy)
    named_and_mended(master, f"{copy} is a copy that salt-run saltutil.sync_all has made")
    assert not copy.exists()


def test_a_cache_of_the_workers_own_that_gives_a_pillar_to_whoever_asks_is_found(master):
    master.say(SITE, pillar_cache=True)
    assert master.found() == {}
    master.say(SITE, pillar_cache=True, memcache_expire_seconds=60)
    if "pillar.cache_driver" in master.opts:
        named_and_mended(master, "memcache_expire_seconds and pillar_cache are set")
    assert master.found() == {}


def test_links_that_are_not_followed_are_found(master, tmp_path):
    """As a site has them that links what we serve into a folder of its own."""
    for each in (REPO / "salt").iterdir():
        (tmp_path / each.name).symlink_to(each)
    master.say("50-store-deploy-modules.conf", file_roots={"base": [str(tmp_path)]})
    assert master.found() == {}
    master.say(SITE, fileserver_followsymlinks=False)
    (fault,) = master.found()
    assert "it is behind a link" in fault
    named_and_mended(master, "minions do not get salt://_modules/provisioning_helper.py and ")


def test_a_file_root_without_ours_is_found(master):
    master.say("50-store-deploy-modules.conf", file_roots={"base": ["/nowhere"]})
    named_and_mended(master, "minions do not get salt://_modules/provisioning_helper.py and ")


def test_modules_in_another_environment_only_are_found(master):
    told = master.read("50-store-deploy-modules.conf")["file_roots"]["base"]
    master.say("50-store-deploy-modules.conf", file_roots={"base": [], "dev": told})
    assert serving.missing(master.opts, "dev") == []
    named_and_mended(master, "minions do not get salt://_modules/provisioning_helper.py and ")


def test_another_file_of_the_name_before_ours_is_found(master, tmp_path):
    other = tmp_path / "own/_modules/store_hypervisor.py"
    other.parent.mkdir(parents=True)
    other.write_text("# an older one\n")
    master.say("10-site.conf", file_roots={"base": [str(tmp_path / "own")]})
    named_and_mended(
        master,
        f"minions do not get salt://_modules/store_hypervisor.py: {other} is before it",
    )


def test_a_state_that_a_site_has_replaced_is_no_fault(master, tmp_path):
    own = tmp_path / "own/store_hypervisor/init.sls"
    own.parent.mkdir(parents=True)
    own.write_text("include: [store_hypervisor.ready]\n")
    master.say("10-site.conf", file_roots={"base": [str(tmp_path / "own")]})
    assert master.found() == {}


@pytest.fixture
def checkout(monkeypatch):
    """A checkout that another user than root can come to."""
    folder = pathlib.Path("/var/lib/salt/checkout")
    skip = shutil.ignore_patterns(".git", "tests", "__pycache__", ".venv*")
    shutil.copytree(REPO, folder, symlinks=True, ignore=skip)
    monkeypatch.setattr(heartbeat, "CHECKOUT", folder)
    yield folder
    shutil.rmtree(folder)


def test_a_checkout_that_the_masters_user_cannot_read_is_found(master, checkout):
    def found():
        os.seteuid(pwd.getpwnam("salt").pw_uid)
        try:
            return list(serving._readable({"user": "salt"}))
        finally:
            os.seteuid(0)

    pathlib.Path("/var/lib/salt").chmod(0o755)
    assert found() == []
    for path in (LEDGER, "reactor", "salt/provisioning_helper"):
        (checkout / path).chmod(0o700)
    ((fault, mend),) = found()
    assert (
        fault == f"salt cannot read {checkout}/_utils/storemaster/deployment/ledger.py and 2 more"
    )
    master.do(mend)
    assert found() == []


# What the master keeps


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"job_cache": False}, "job_cache is False"),
        ({"ext_job_cache": "redis"}, "ext_job_cache is redis"),
        ({"master_job_cache": "no_such"}, "master_job_cache is no_such, which Salt cannot load"),
        ({"keep_jobs_seconds": 60}, "keep_jobs_seconds is 60"),
        ({"minion_data_cache": False}, "minion_data_cache is False"),
    ],
)
def test_what_the_master_does_not_keep_is_found(master, told, fault):
    master.say(SITE, **told)
    named_and_mended(master, fault)


def test_a_pillar_cache_is_no_fault(master):
    """Whoever has another key gets nothing from it: tests/functional/test_pillar.py."""
    master.say(SITE, pillar_cache=True)
    assert master.found() == {}


# Who is let in


@pytest.mark.parametrize("key", ["auto_accept", "open_mode"])
def test_an_open_door_is_found(master, key):
    master.say(SITE, **{key: True})
    named_and_mended(master, f"{key} lets every minion in")


def test_an_autosign_file_without_its_folder_is_found(master):
    master.say(SITE, autosign_file=f"{master.folder}/nowhere/autosign.conf")
    named_and_mended(master, f"{master.folder}/nowhere/autosign.conf is not there and root cannot")


def test_a_line_that_rejects_a_minion_of_ours_is_found(master):
    path = master.folder / "autoreject"
    path.write_text("# old hardware\nhv-9\n(store|till)-0.*\n")
    master.say(SITE, autoreject_file=str(path))
    assert master.found() == {}
    with Ledger(settings.ledger_path(master.opts)) as ledger:
        requests.begin(ledger, 1.0, from_pillar({**STORE, "store": "0815"}, "hv-1"), "hv-1", "test")
    named_and_mended(
        master, f"the line (store|till)-0.* in {path} has the master reject store-0815"
    )
    assert path.read_text() == "# old hardware\nhv-9\n"


@pytest.mark.parametrize("state", ["pending", "rejected", "denied"])
def test_a_hypervisors_key_that_is_not_accepted_is_found(master, state):
    for folder, name in keys.FOLDERS.items():
        path = pathlib.Path(master.opts["pki_dir"], folder, "hv-1")
        path.parent.mkdir(parents=True)
        if name == state:
            path.write_text(seed_iso.key_pair(2048)[1])
    ((fault, mend),) = master.found(hypervisors=["hv-1"]).items()
    assert fault == f"hv-1: no accepted key, but a {state} one"
    command, told = mend.split(", ")
    assert told == "once the key is known to be its own"
    typed = command.replace("salt-key", f"salt-key -c {master.main.parent}").replace(
        "MINION", "hv-1"
    )
    subprocess.run(typed.split(), check=True, input="y\n", text=True)
    assert keys.states(master.opts) == {"hv-1": "accepted"}


def test_a_hypervisor_without_a_key_is_found(master):
    assert list(master.found(hypervisors=["hv-1"])) == ["hv-1: no accepted key"]


# What runs


def test_a_master_with_ipc_mode_tcp_is_seen(master):
    os.remove(master.folder / "sock_dir/master_event_pub.ipc")
    with socket.create_server(("127.0.0.1", 0)) as bus:
        port = bus.getsockname()[1]
        pidfile = master.folder / "pid"
        pidfile.write_text("1")
        told = {"ipc_mode": "tcp", "tcp_master_pub_port": port, "pidfile": str(pidfile)}
        master.say(SITE, **told)
        assert master.found() == {}
        an_hour_ago = time.time() - 3600
        os.utime(pidfile, (an_hour_ago, an_hour_ago))
        assert [fault.rpartition(" but has not run ")[2] for fault in master.found()] == [
            "since salt-master started"
        ] * 2
    assert list(master.found()) == ["salt-master does not run"]


def test_a_master_that_reads_another_configuration_is_found(master):
    opts = {**master.opts, "conf_file": "/opt/salt/etc/master", "job_cache": False}
    pump.reconcile(opts, SaltMaster(opts), sweep=False)
    assert master.found() == {
        f"salt-master reads /opt/salt/etc/master, and this is {master.main}": (
            "salt-run -c /opt/salt/etc deploy.doctor"
        )
    }


@pytest.mark.parametrize(("key", "value"), [("job_cache", False), ("file_ignore_glob", ["*.py"])])
def test_a_mend_without_the_restart_is_not_enough(master, key, value):
    opts = {**master.opts, key: value}
    pump.reconcile(opts, SaltMaster(opts), sweep=False)
    told = f"salt-master was started with other settings than its files now have: {key}"
    assert master.found() == {told: "systemctl restart salt-master"}
    assert heartbeat.running(master.opts, 0.0)[key] == value
