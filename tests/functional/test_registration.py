# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What is asked of Uyuni for a store's server, and what is kept of the answer.

Uyuni is the stand-in of ``tests/uyuni``, called through TLS.
"""

import dataclasses
import json
import os
import pathlib
import time

import pytest

from storelib.errors import Fault
from storemaster.deployment import requests
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.deployment.step_context import Waiting
from storemaster.master import registration, settings
from storemaster.master.salt_master import SaltMaster

pytest_plugins = ["tests.uyuni.api_server"]

MAC = "52:54:00:12:34:56"
PILLAR = {
    "store": "0815",
    "image": {"source": "/x.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
    "interfaces": [{"name": "eth0", "source": "br0", "mac": MAC}],
    "registration": "reactivation",
    "system_groups": ["stores"],
}


@pytest.fixture
def opts(tmp_path, told):
    return {"store_deploy": {"state_dir": str(tmp_path / "state"), "uyuni": told}}


@pytest.fixture
def record(opts):
    """A deployment that waits for its hypervisor."""
    with Ledger(settings.ledger_path(opts)) as ledger:
        spec = from_pillar(PILLAR, "hv-0815")
        return requests.begin(ledger, 1.0, spec, "hv-0815", "operator")


@pytest.fixture
def does(opts, record):
    """Ask for it as a step does, until it is done; return how often it had to wait."""

    def does(act="arrange", record=record, limit_s=20):
        master, waited, until = SaltMaster(opts), [], time.monotonic() + limit_s
        while time.monotonic() < until:
            try:
                getattr(master, f"{act}_registration")(record)
                return waited
            except Waiting as err:
                waited.append(err.why)
                if not err.why.startswith("Uyuni is asked"):
                    raise
            time.sleep(0.01)
        raise AssertionError(waited)

    return does


def kept(opts):
    folder = pathlib.Path(opts["store_deploy"]["state_dir"], "registration")
    return {path.name: path.read_text() for path in folder.glob("*") if path.suffix != ".lock"}


def test_a_server_that_uyuni_knows_gets_a_reactivation_key(server, opts, record, does):
    sid = server.uyuni.register("store-0815")
    does()
    assert registration.management_key(opts, record) == server.uyuni.reactivation[sid]
    (path,) = pathlib.Path(opts["store_deploy"]["state_dir"], "registration").glob("*.arranged")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_no_step_waits_for_the_answer(server, opts, record):
    began = time.monotonic()
    with server.lock, pytest.raises(Waiting, match="Uyuni is asked"):
        SaltMaster(opts).arrange_registration(record)
    assert time.monotonic() - began < 5


def test_one_question_is_asked_once_however_often_a_step_looks(server, opts, record, does):
    server.uyuni.register("store-0815")
    does()
    does()
    assert len(server.uyuni.called("system.obtainReactivationKey")) == 1
    # Another process, too, finds what came of it.
    registration._calls.clear()
    does()
    assert len(server.uyuni.called("system.obtainReactivationKey")) == 1


def test_a_new_server_gets_a_profile_with_its_group_before_it_calls(server, opts, record, does):
    server.uyuni.groups["stores"] = {"id": 7}
    does()
    profile = server.uyuni.named("store-0815")
    assert (profile["minion"], profile["mac"], profile["groups"]) == ("", MAC, {"stores"})
    assert registration.management_key(opts, record) == ""


def test_a_profile_that_somebody_made_is_used(server, does):
    server.uyuni.groups["stores"] = {"id": 7}
    sid = server.uyuni.system_createSystemProfile("store-0815", {"hwAddress": MAC.upper()})
    does()
    assert list(server.uyuni.systems) == [sid]
    assert server.uyuni.systems[sid]["groups"] == {"stores"}


@pytest.mark.parametrize(("name", "mac"), [("store-0002", MAC), ("store-0815", "52:54:00:0:0:9")])
def test_a_profile_that_uyuni_would_confuse_with_the_servers_is_told(server, does, name, mac):
    server.uyuni.system_createSystemProfile(name, {"hwAddress": mac})
    with pytest.raises(Fault, match=f"empty profile {name} with the address {mac}, and would"):
        does()
    assert server.uyuni.named(name)["groups"] == set()


def test_what_two_processes_begin_is_asked_once(server, opts, record, does):
    sid = server.uyuni.register("store-0815")
    with server.lock:
        for _ in range(2):
            with pytest.raises(Waiting):
                SaltMaster(opts).arrange_registration(record)
            # As another process, which knows of no thread here.
            registration._calls.clear()
    does()
    assert len(server.uyuni.called("system.obtainReactivationKey")) == 1
    assert registration.management_key(opts, record) == server.uyuni.reactivation[sid]


def test_what_is_over_meanwhile_leaves_no_key(server, opts, record):
    server.uyuni.register("store-0815")
    with server.lock:
        with pytest.raises(Waiting):
            SaltMaster(opts).arrange_registration(record)
        with Ledger(settings.ledger_path(opts)) as ledger:
            ledger.save(dataclasses.replace(ledger.get("0815"), state="cancelled"))
    for thread in list(registration._calls.values()):
        thread.join(20)
    assert server.uyuni.called("system.obtainReactivationKey")
    assert not [name for name in kept(opts) if name.endswith("arranged")]


def test_what_is_left_of_deployments_that_are_over_is_swept(server, opts, record, does):
    server.uyuni.register("store-0815")
    does()
    folder = pathlib.Path(opts["store_deploy"]["state_dir"], "registration")
    for name in ("g9-dead.arranged", ".g9-dead.arranged.4711.5"):
        (folder / name).write_text(json.dumps({"management_key": "re-9"}))
        os.utime(folder / name, (1, 1))
    (ours,) = folder.glob(f"{record.deployment}.arranged")
    os.utime(ours, (1, 1))
    with Ledger(settings.ledger_path(opts)) as ledger:
        registration.forget_the_rest(opts, ledger)
    assert [path.name for path in folder.glob("*arranged*")] == [ours.name]


def test_a_profile_whose_making_was_not_answered_is_used(server, does, monkeypatch):
    server.uyuni.groups["stores"] = {"id": 7}
    make = server.uyuni.system_createSystemProfile

    def lost(name, data):
        server.statuses.append(503)
        return make(name, data)

    lost.counts = (2,)
    monkeypatch.setattr(server.uyuni, "system_createSystemProfile", lost)
    found = server.uyuni.system_listEmptySystemProfiles
    answers = iter([[], None])

    def at_first_none():
        return found() if next(answers, None) is None else []

    at_first_none.counts = (0,)
    monkeypatch.setattr(server.uyuni, "system_listEmptySystemProfiles", at_first_none)
    server.uyuni.system_createSystemProfile("store-0815", {"hwAddress": MAC})
    server.statuses.clear()
    does()
    assert len(server.uyuni.systems) == 1


def test_a_profile_is_left_as_it_is_where_the_site_wants_no_reactivation(
    server, opts, record, does
):
    server.uyuni.register("store-0815")
    does(record=dataclasses.replace(record, spec={**record.spec, "registration": "profile_first"}))
    assert server.uyuni.called("system.obtainReactivationKey") == []
    assert server.uyuni.called("system.createSystemProfile") == []


def test_a_uyuni_that_is_away_is_asked_again_at_the_next_look(server, record, does):
    server.statuses += [503] * 3
    with pytest.raises(Waiting, match="Uyuni does not answer auth"):
        does()
    server.uyuni.register("store-0815")
    does()


def test_a_refusal_is_told_with_what_to_do(server, does):
    server.uyuni.password = "another"
    with pytest.raises(Fault, match="password or username is incorrect") as refused:
        does()
    assert "store_deploy:uyuni" in refused.value.hint
    assert "salt-run deploy.retry 0815" in refused.value.hint


def test_a_group_that_is_not_there_is_told(server, does):
    with pytest.raises(Fault, match="Unable to locate group stores"):
        does()


def test_without_settings_the_deployment_says_so(opts, does):
    del opts["store_deploy"]["uyuni"]
    with pytest.raises(Fault, match="no Uyuni is known to this master"):
        does()


def test_a_plan_says_that_no_uyuni_is_known(opts):
    spec = from_pillar(PILLAR, "hv-0815")
    assert not list(registration.faults(opts, spec))
    del opts["store_deploy"]["uyuni"]
    ((fault, mend),) = registration.faults(opts, spec)
    assert fault == "registration is reactivation, and no Uyuni is known to this master"
    assert "store_deploy:uyuni" in mend
    assert not list(registration.faults(opts, dataclasses.replace(spec, registration="keep")))


def test_what_was_kept_is_deleted(server, opts, record, does):
    server.uyuni.register("store-0815")
    does()
    assert kept(opts)
    registration.forget(opts, record)
    assert not kept(opts)
    registration.forget(opts, record)


def test_a_server_that_is_retired_leaves_uyuni_without_being_asked(server, does):
    server.uyuni.register("store-0815")
    other = server.uyuni.register("store-0816")
    does("end")
    assert list(server.uyuni.systems) == [other]
    ((_, cleanup),) = server.uyuni.called("system.deleteSystem")
    assert cleanup == "NO_CLEANUP"


def test_a_profile_whose_server_never_called_goes_too(server, does):
    server.uyuni.system_createSystemProfile("store-0815", {"hwAddress": MAC})
    does("end")
    assert not server.uyuni.systems


def test_one_that_uyuni_does_not_know_has_left_already(server, does):
    does("end")
    assert server.uyuni.called("system.deleteSystem") == []


def test_no_key_is_in_a_record(opts, server, record, does):
    sid = server.uyuni.register("store-0815")
    does()
    key = server.uyuni.reactivation[sid].encode()
    for path in pathlib.Path(opts["store_deploy"]["state_dir"]).glob("ledger*"):
        assert key not in path.read_bytes()
