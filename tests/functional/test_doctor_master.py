# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Each broken installation is named in one sentence, and its mend, followed to the letter, mends it.

Salt's own code reads the configuration and serves the files.
"""

import os
import pathlib
import pwd
import shutil
import socket
import time

import installation
import pytest
from installation import REPO, SITE

from storelib import flow
from storelib.ledger import Ledger
from storelib.master import configuration, doctor, office, pulse, serving, settings
from storelib.master.salt_world import SaltWorld
from storelib.spec import from_pillar

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
}


@pytest.mark.parametrize("key", configuration.KEYS)
def test_a_key_of_the_main_file_that_master_d_replaces_is_found(master, key):
    installation.write(master.main, {key: REPLACED[key]})
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
    installation.write(more, {"reactor": REPLACED["reactor"]})
    installation.write(master.main, {"include": "more.conf"})
    found = master.found()
    shipped = master.files / "50-store-deploy-reactor.conf"
    told = f"reactor in {shipped} does not count: it is in {more}, too, which replaces it"
    assert set(found) == {told, *(f"no reactor for {tag}" for tag in doctor.TAGS)}
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
        ("50-store-deploy-reactor.conf", [f"no reactor for {tag}" for tag in doctor.TAGS]),
        ("40-store-deploy-autosign.conf", ["no autosign_file is set"]),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_shipped_file_that_is_missing_or_empty_is_found(master, name, beginnings, there):
    (master.files / name).unlink()
    if there:
        (master.files / name).write_text("{}")
    named_and_mended(master, *beginnings)


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


def test_links_that_are_not_followed_are_found(master, tmp_path, monkeypatch):
    """As the shipped salt/ has them; whether it has any more or not."""
    checkout = tmp_path / "checkout"
    (checkout / "salt").mkdir(parents=True)
    (checkout / "_modules").mkdir()
    (checkout / "_modules/one.py").write_text("one")
    (checkout / "salt/_modules").symlink_to("../_modules")
    monkeypatch.setattr(pulse, "CHECKOUT", checkout)
    roots = master.read("50-store-deploy-modules.conf")["file_roots"]
    roots["base"].append(str(checkout / "salt"))
    master.say("50-store-deploy-modules.conf", file_roots=roots)
    assert master.found() == {}
    master.say(SITE, fileserver_followsymlinks=False)
    named_and_mended(master, "minions do not get salt://_modules/one.py: it is behind a link")


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
    monkeypatch.setattr(pulse, "CHECKOUT", folder)
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
    for path in ("reactor/guest.sls", "_utils/storelib/ledger.py", "salt/provisioning_helper"):
        (checkout / path).chmod(0o700)
    ((fault, mend),) = found()
    assert fault == f"salt cannot read {checkout}/_utils/storelib/ledger.py and 3 more"
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
        flow.begin(ledger, 1.0, from_pillar({**STORE, "store": "0815"}, "hv-1"), "hv-1", "test")
    named_and_mended(
        master, f"the line (store|till)-0.* in {path} has the master reject store-0815"
    )
    assert path.read_text() == "# old hardware\nhv-9\n"


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
    office.reconcile(opts, SaltWorld(opts), sweep=False)
    assert master.found() == {
        f"salt-master reads /opt/salt/etc/master, and this is {master.main}": (
            "salt-run -c /opt/salt/etc deploy.doctor"
        )
    }


@pytest.mark.parametrize(("key", "value"), [("job_cache", False), ("file_ignore_glob", ["*.py"])])
def test_a_mend_without_the_restart_is_not_enough(master, key, value):
    opts = {**master.opts, key: value}
    office.reconcile(opts, SaltWorld(opts), sweep=False)
    told = f"salt-master was started with other settings than its files now have: {key}"
    assert master.found() == {told: "systemctl restart salt-master"}
    assert pulse.running(master.opts, 0.0)[key] == value
