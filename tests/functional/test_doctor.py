# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of a configuration, through Salt's real loader and the real ledger."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import installation
import pytest
import salt.config
import salt.utils.yaml

from storelib import __version__
from storelib.errors import Refused
from storemaster.deployment import requests
from storemaster.deployment.ledger import SCHEMA_VERSION, Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.master import doctor, heartbeat, hypervisors, pump, serving, settings
from storemaster.master.salt_master import SaltMaster

REPO = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = REPO / "master.d"
STORE = {"image": {"source": "/x.qcow2", "sha256": "5e" * 32}, "master": "salt.example.com"}


@pytest.fixture
def opts(tmp_path):
    """Options of a master with the shipped configuration, whose event bus listens."""
    wanted = {
        "root_dir": str(tmp_path),
        "conf_file": str(tmp_path / "master"),
        "user": "root",
        **{key: str(tmp_path / key) for key in ("pki_dir", "cachedir", "sock_dir")},
    }
    for path in sorted(SHIPPED.glob("*.conf")):
        text = path.read_text().replace("/srv/store-deploy", str(REPO))
        wanted |= salt.utils.yaml.safe_load(text.replace("/var/lib/salt", str(tmp_path))) or {}
    opts = salt.config.apply_master_config(wanted)
    opts["__role"] = "master"
    opts["grains"] = {}
    (tmp_path / "sock_dir").mkdir()
    return opts


@pytest.fixture
def reacting(opts):
    """The same with the reactors in the engine's place."""
    path = SHIPPED / "50-store-deploy-reactor.conf"
    opts |= salt.utils.yaml.safe_load(installation.uncommented(path.read_text(), str(REPO)))
    opts["engines"] = []
    return opts


@pytest.fixture
def bus(opts):
    """The socket that a running master has, and what tells when the master was started."""
    path = pathlib.Path(opts["sock_dir"], "master_event_pub.ipc")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield path


@pytest.fixture
def found(opts, bus, monkeypatch):
    """Return what the doctor finds, with how to mend it."""
    # Behind the socket is no master that could answer.
    monkeypatch.setattr(serving, "workers", lambda _: ())

    def found(hypervisors=False):
        return {each["fault"]: each["mend"] for each in doctor.faults(opts, hypervisors, print)}

    return found


def at(path, seconds_ago):
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))


def test_the_shipped_configuration_is_healthy(found):
    assert found() == {}


@pytest.mark.parametrize(
    ("changes", "fault", "mend"),
    [
        ({"module_dirs": []}, "the engine store_pump is configured, but Salt cannot", "modules"),
        ({"pillar_dirs": []}, "ext_pillar store_deploy is configured, but Salt", "modules"),
        (
            {"file_roots": {}},
            "minions do not get salt://_modules/provisioning_helper.py",
            "modules",
        ),
        ({"order_masters": True}, "order_masters is set", "if no syndic calls this master"),
        ({"engines": []}, "the engine store_pump is not configured: no event", "engine.conf"),
        ({"schedule": {"x": {"function": "test.ping"}}}, "no schedule calls", "schedule.conf"),
        ({"auto_accept": True}, "auto_accept lets every minion in", "remove auto_accept: True"),
        ({"autosign_file": None}, "no autosign_file is set", "autosign.conf"),
    ],
)
def test_a_wrong_setting_is_found(opts, found, changes, fault, mend):
    opts.update(changes)
    (told,) = [how for what, how in found().items() if what.startswith(fault)]
    assert mend in told


def test_on_a_master_of_uyuni_our_files_come_after_its_own(opts, found):
    """Its own ext_pillar is not there; only the order is looked at."""
    ours, theirs = opts["file_roots"]["base"], "/usr/share/susemanager/salt"
    opts["ext_pillar"] = [{"suma_minion": True}, *opts["ext_pillar"]]
    opts["file_roots"] = {"base": [theirs, *ours]}
    assert found() == {}
    opts["ext_pillar"].reverse()
    opts["file_roots"] = {"base": [*ours, theirs]}
    asked, roots = sorted(found().items())
    assert asked[0].startswith("/"), asked
    assert "comes before Uyuni's own file_roots" in asked[0]
    assert roots[0].startswith("ext_pillar store_deploy is asked before suma_minion")
    for _, mend in (asked, roots):
        assert "after susemanager.conf; systemctl restart salt-master" in mend


def test_a_file_that_is_in_master_d_and_does_not_count_is_not_to_be_installed(opts, found):
    opts["engines"] = []
    (told,) = found().values()
    assert told.startswith("install master.d/50-store-deploy-engine.conf")
    there = pathlib.Path(opts["conf_file"]).parent / "master.d"
    there.mkdir()
    shutil.copy(SHIPPED / "50-store-deploy-engine.conf", there)
    (told,) = found().values()
    path = there / "50-store-deploy-engine.conf"
    assert told.startswith(f"{path} is there and does not say so: ")


SLOW = "the engine store_pump is not configured: deployments advance every 30 s only"


def of_reactors(found):
    """Leave out that it is slow without the engine, which each of them is told."""
    faults = found()
    (slow,) = [fault for fault in faults if fault.startswith(SLOW)]
    return {fault: mend for fault, mend in faults.items() if fault != slow}


def test_reactors_in_the_engines_place_are_no_fault_but_slow(reacting, found):
    assert of_reactors(found) == {}


def test_reactors_beside_the_engine_are_to_be_taken_out(opts, reacting, found):
    opts["engines"] = [{"store_pump": {}}]
    ((fault, mend),) = found().items()
    assert fault.startswith("reactors ring for what the engine store_pump hears by itself")
    assert all(name in fault and f"{REPO}/reactor/{name}" in mend for name in doctor.TAGS.values())


def test_a_reactor_that_is_named_twice_or_not_on_the_disk_is_found(reacting, found):
    reacting["reactor"].append({"store/*/guest/*": ["/elsewhere/reactor/guest.sls"]})
    assert set(of_reactors(found)) == {
        "more than one reactor for store/*/guest/*",
        "the reactor /elsewhere/reactor/guest.sls for store/*/guest/* is not there",
    }


@pytest.mark.parametrize("glob", ["store/*", "store/08*/guest/*"])
def test_a_reactor_that_is_named_for_a_wider_or_narrower_glob_too_is_found(reacting, found, glob):
    reacting["reactor"].append({glob: [str(REPO / "reactor/guest.sls")]})
    ((fault, mend),) = of_reactors(found).items()
    assert fault == "more than one reactor for store/*/guest/*"
    assert f"store/*/guest/*, {glob}" in mend


def test_a_glob_that_was_narrowed_to_the_sites_names_is_no_fault(reacting, found):
    *others, starts = reacting["reactor"]
    (named,) = starts.values()
    globs = ("salt/minion/store-*/start", "salt/minion/hv-*/start")
    reacting["reactor"] = [*others, *({glob: named} for glob in globs)]
    assert of_reactors(found) == {}
    reacting["reactor"] = others
    assert list(of_reactors(found)) == ["no reactor for salt/minion/*/start"]


def test_a_reactor_of_the_sites_own_beside_ours_is_no_fault(reacting, found, tmp_path):
    (tmp_path / "own.sls").write_text("")
    reacting["reactor"].append({"store/*/guest/*": [str(tmp_path / "own.sls")]})
    reacting["reactor"].append({"*": ["/elsewhere/own.sls"]})
    assert of_reactors(found) == {}


@pytest.mark.parametrize("form", ["names", "a glob of files", "a file of its own"])
def test_every_form_of_reactor_that_salt_takes_is_read(reacting, found, tmp_path, form):
    shipped, guest = reacting["reactor"], str(REPO / "reactor/guest.sls")
    if form == "names":
        reacting["reactor"] = [{tag: sls[0]} for each in shipped for tag, sls in each.items()]
    elif form == "a glob of files":
        shipped[1] = {"store/*/guest/*": [str(REPO / "reactor/gu*.sls")]}
    else:
        (tmp_path / "reactor.yml").write_text(json.dumps(shipped))
        reacting["reactor"] = str(tmp_path / "reactor.yml")
    assert of_reactors(found) == {}
    # It was read, then.
    doctors = [sls for _, sls in doctor._reactor_map(reacting)]
    assert guest in doctors


def test_a_mapping_of_two_reactors_is_passed_over_as_salt_does(reacting, found):
    reacting["reactor"] = [{tag: sls for each in reacting["reactor"] for tag, sls in each.items()}]
    (fault,) = found()
    assert fault.startswith("the engine store_pump is not configured: no event is heard, ")


@pytest.mark.parametrize("engines", [["store_pump"], {"store_pump": {}}, [{"store_pump": {}}]])
def test_every_form_of_engines_that_salt_takes_is_read(opts, found, engines):
    opts["engines"] = engines
    assert found() == {}


@pytest.mark.parametrize("engines", [["store"], {"sqs": {}}, {}, None])
def test_other_engines_are_not_taken_for_ours(opts, found, engines):
    opts["engines"] = engines
    (told,) = found()
    assert told.startswith("the engine store_pump is not configured")


# What runs


def test_a_master_that_does_not_run_is_found(opts, found, bus):
    bus.unlink()
    assert set(found()) == {"salt-master does not run"}


SILENT = ("the engine store_pump is configured", "the schedule of deploy.reconcile is configured")


def test_pump_and_sweeper_that_never_ran_are_found_once_they_had_the_time(found, bus):
    at(bus, doctor.SILENT_S - 10)
    assert found() == {}
    at(bus, doctor.SILENT_S + 10)
    told = list(found())
    assert [each.startswith(what) for each, what in zip(told, SILENT, strict=True)] == [True, True]
    assert all("but has not run since salt-master started" in each for each in told)


def reconcile(opts, sweep):
    pump.reconcile(opts, SaltMaster(opts), sweep)


def test_pump_and_sweeper_that_run_are_well_and_that_stopped_are_found(opts, found, bus):
    at(bus, 3600)
    reconcile(opts, sweep=True)
    reconcile(opts, sweep=False)
    assert found() == {}
    at(settings.state_dir(opts) / "pump.json", 300)
    (told,) = found()
    assert told.startswith("the engine store_pump is configured, but has not run for 300 s")
    reconcile(opts, sweep=False)
    assert found() == {}


def test_a_sweep_by_hand_does_not_stand_for_the_schedule(opts, found, bus):
    at(bus, 3600)
    reconcile(opts, sweep=False)
    reconcile({**opts, "fun": "deploy.reconcile"}, sweep=True)
    (told,) = found()
    assert told.startswith("the schedule of deploy.reconcile is configured, but has not run")


def test_a_master_that_runs_older_code_or_was_started_with_other_settings_is_found(
    opts, found, bus, monkeypatch
):
    at(bus, 3600)
    reconcile(opts, sweep=True)
    with monkeypatch.context() as older:
        older.setattr(heartbeat, "CODE", "older")
        reconcile({**opts, "autosign_file": "/elsewhere", "reactor": [{"x": []}]}, sweep=False)
    told = found()
    assert set(told) == {
        "salt-master runs other code of store-deploy than the one on the disk",
        "salt-master was started with other settings than its files now have: "
        "autosign_file, reactor",
    }
    assert set(told.values()) == {"systemctl restart salt-master"}


def test_what_an_earlier_master_ran_with_is_not_told_of_this_one(opts, found, bus):
    reconcile({**opts, "reactor": [{"x": []}]}, sweep=False)
    at(settings.state_dir(opts) / "pump.json", 60)
    at(bus, 30)
    assert found() == {}


def test_no_setting_is_written_down_in_clear(opts):
    opts["ext_pillar"].append({"mysql": {"password": "canary"}})
    reconcile(opts, sweep=False)
    note = settings.state_dir(opts) / "pump.json"
    assert "canary" not in note.read_text()
    assert note.stat().st_mode & 0o777 == 0o600


# The state folder


def spoil(path):
    """Overwrite a page in the middle, which nothing reads at first."""
    with Ledger(path) as ledger:
        for n in range(200):
            requests.begin(
                ledger, 1.0, from_pillar({**STORE, "store": f"s{n}"}, "hv"), "hv", "test"
            )
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


def test_a_damaged_page_of_the_ledger_is_found(opts, found):
    spoil(settings.ledger_path(opts))
    (told,) = found()
    assert told.startswith(f"the ledger {settings.ledger_path(opts)} is damaged: ")


def test_a_ledger_of_a_newer_version_is_told_in_one_sentence(opts, found):
    with Ledger(settings.ledger_path(opts)) as ledger:
        ledger._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    (told,) = found(hypervisors=True)
    assert f"has schema {SCHEMA_VERSION + 1}, this code knows {SCHEMA_VERSION}" in told


def test_files_that_others_may_read_are_found(opts, found):
    settings.root_secret(opts)
    for name in ("", "ledger.sqlite", "secret"):
        assert found() == {}
        path = settings.state_dir(opts) / name
        mode = path.stat().st_mode
        path.chmod(0o755)
        assert found() == {f"{path} can be read by others": f"chmod go= {path}"}
        path.chmod(mode)


def test_a_disk_that_is_nearly_full_is_found(found, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM_MIB", 2**40)
    (told,) = found()
    assert told.endswith("MiB left")


# Who is let in


@pytest.mark.parametrize(("mode", "ignored"), [(0o600, False), (0o660, True), (0o606, True)])
def test_an_autosign_file_that_salt_ignores_is_found(opts, found, mode, ignored):
    path = pathlib.Path(opts["autosign_file"])
    path.parent.mkdir(mode=0o700)
    path.touch()
    path.chmod(mode)
    assert (f"{path} can be written by others, so Salt ignores it" in found()) is ignored


# Hypervisors


@pytest.mark.parametrize("wrong", ["hv-*", "a,b", 5, None, ["hv-1", 2], {"hv": 1}])
def test_what_names_no_hypervisors_is_refused(found, wrong):
    with pytest.raises(Refused, match="hypervisors is") as refused:
        found(wrong)
    assert refused.value.hint == "allowed: True | False | minion ID | list of them"


def test_thousands_of_hypervisors_are_looked_at_in_time(opts, found):
    spec = from_pillar({**STORE, "store": "0815"}, "hv")
    with Ledger(settings.ledger_path(opts)) as ledger:
        record = requests.begin(ledger, 1.0, spec, "hv-0", "test")
        # Not one by one: each would wait for the disk.
        with ledger.writing() as db:
            columns = [name for _, name, *_ in db.execute("PRAGMA table_info(deployments)")]
            for n in range(1, 5000):
                one = dataclasses.asdict(record) | {"store": f"s{n}", "hypervisor": f"hv-{n}"}
                beside = one | {"record": json.dumps(one), "changed": n}
                row = [beside[name] for name in columns]
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO deployments VALUES ({marks})", row)
    began = time.monotonic()
    assert list(found(hypervisors=True)) == ["hv-0, hv-1, hv-10 and 4997 more: no accepted key"]
    assert time.monotonic() - began < 30


HEALTHY = {
    "at": 0.0,
    "version": __version__,
    "salt": 3008,
    "python": "/usr",
    "virt_module": True,
    "libvirt": "",
    "hint": "",
    "saltenv": "",
    "pillarenv": "",
    "sudo_user": "",
}


@pytest.mark.parametrize(
    ("told", "fault", "mend"),
    [
        ({}, "", ""),
        ({"at": -60.0}, "its clock is wrong by more than 5 s", "chrony"),
        ({"at": 60.0}, "its clock is wrong by more than 5 s", "chrony"),
        ({"at": -4.0}, "", ""),
        ({"version": "0.0.1"}, "its modules are missing or not those", "saltutil.sync_all"),
        ({"at": "forged"}, "its modules are missing or not those", "saltutil.sync_all"),
        (
            {"virt_module": False},
            "Salt's module virt",
            "/usr/bin/python3 -m pip install saltext-virt libvirt",
        ),
        ({"virt_module": False, "salt": 3006}, "Salt's module virt", "pip install libvirt-python"),
        (
            {"virt_module": False, "python": "/usr/lib/venv-salt-minion"},
            "Salt's module virt",
            "install libvirt-libs there, restart venv-salt-minion",
        ),
        ({"libvirt": "libvirt cannot be reached", "hint": "start"}, "libvirt cannot", "start"),
    ],
)
def test_what_a_hypervisor_answers_is_compared_with_what_it_should_be(told, fault, mend):
    told = {**HEALTHY, **told}
    if isinstance(told["at"], float):
        told["at"] += time.time()
    found = list(hypervisors._health(told, time.time()))
    assert [(f.startswith(fault), mend in m) for f, m in found] == [(True, True)] * bool(fault)


def test_what_is_said_to_install_the_module_virt_can_be_typed():
    """Here it is installed, so that no package index is asked."""
    told = {**HEALTHY, "at": time.time(), "salt": salt.version.__version_info__[0]}
    told |= {"python": sys.prefix, "virt_module": False}
    ((_, mend),) = hypervisors._health(told, time.time())
    command = mend.removesuffix(" there, restart salt-minion")
    done = subprocess.run(command.split(), check=True, capture_output=True, text=True)
    assert "already satisfied: libvirt-python" in done.stdout


@pytest.mark.parametrize("told", [None, "'store_hypervisor.health' is not available.", [], {}])
def test_an_answer_that_is_none_of_ours_means_old_modules(told):
    ((fault, mend),) = hypervisors._health(told, time.time())
    assert fault.startswith("its modules are missing")
    assert "saltutil.sync_all" in mend


def test_pillars_of_many_hypervisors_are_all_compiled(opts, tmp_path, monkeypatch):
    names = [f"hv-{number}" for number in range(4)]
    top = {name: [name] for name in names}
    (tmp_path / "top.sls").write_text(json.dumps({"base": top}))
    for name in names:
        (tmp_path / f"{name}.sls").write_text("{}")
    opts["pillar_roots"] = {"base": [str(tmp_path)]}
    opts["ext_pillar"] = []
    monkeypatch.setattr(hypervisors, "TELL_S", 0)
    lines = []
    answers = {name: {} for name in names[1:]}
    seldom = hypervisors._now_and_then(lines.append)
    found = list(hypervisors._pillars(opts, names, answers, seldom))
    # The first one is told of already, as it did not answer.
    assert [name for name, (fault, _) in found if "not cached its grains" in fault] == names[1:]
    assert [
        name for name, (fault, _) in found if fault == "its pillar has no store_server"
    ] == names
    assert lines[-1] == "3 of 4 pillars are compiled"


def test_progress_is_told_now_and_then_only():
    lines = []
    tell = hypervisors._now_and_then(lines.append)
    tell("a check that is quick tells nothing")
    assert lines == []


def test_this_minions_own_answer_is_one_of_a_hypervisor(modules):
    told = modules["store_hypervisor.health"]()
    assert {key: type(value) for key, value in told.items()} == hypervisors.HEALTH
