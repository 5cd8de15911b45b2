# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The shipped states, run by the real state compiler."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest
import salt.loader
import salt.minion
import salt.utils.event
import salt.utils.schedule

from storelib import seed
from storelib.guest import deployment, power
from storelib.hypervisor import bell
from storelib.hypervisor.setup import boot

pytest_plugins = ["tests.functional.fake_guest"]

REPO = pathlib.Path(__file__).resolve().parents[2]
SLS = sorted(
    ".".join(path.relative_to(REPO / "salt").with_suffix("").parts).removesuffix(".init")
    for path in (REPO / "salt").glob("*/*.sls")
)
MARKER = bell.MARKER
READY = "store_hypervisor-ready-reported"
STORE = {"store_server": {"store": "0815"}}


def apply(minion, *args, **kwargs):
    """Apply states; return their results by state ID."""
    returned = minion.modules["state.apply"](*args, **kwargs)
    assert isinstance(returned, dict), returned
    return {result["__id__"]: result for result in returned.values()}


@pytest.mark.parametrize("sls", SLS)
def test_every_sls_compiles(minion, sls):
    shown = minion.modules["state.show_sls"](sls)
    assert isinstance(shown, dict), shown
    assert shown


@pytest.mark.parametrize("family", ["Debian", "RedHat", "Suse", "unknown"])
def test_a_hypervisor_of_every_family_gets_its_packages(minion, family, monkeypatch):
    monkeypatch.setitem(minion.opts["grains"], "os_family", family)
    shown = minion.modules["state.show_sls"]("store_hypervisor")
    assert "xorriso" in str(shown["store_hypervisor-packages-installed"])


def persisted(minion):
    """Where the minion's schedule is on the disk, so that it outlives a restart."""
    return pathlib.Path(minion.opts["conf_file"]).parent / "minion.d/_schedule.conf"


@pytest.fixture
def schedule(minion):
    """The minion's own schedule, as its daemon keeps it."""
    opts = {**minion.opts, "schedule": {}}
    returners = salt.loader.returners(opts, minion.modules)
    kept = salt.utils.schedule.Schedule(opts, minion.modules, returners, new_instance=True)
    yield kept
    persisted(minion).unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def told(monkeypatch, schedule):
    """
    The events for the master, in order.

    The bus that would carry them is not running; what the minion's daemon is asked about its
    schedule is answered by that.
    """
    tags, answers = [], []

    def fire_event(self, data, tag, *args, **kwargs):
        tags.append(tag)
        answers.append({**data, "tag": tag})
        if tag == "manage_schedule":
            daemon = types.SimpleNamespace(schedule=schedule)
            salt.minion.Minion.manage_schedule(daemon, tag, data)
        return True

    def get_event(self, *args, tag="", **kwargs):
        return next((each for each in reversed(answers) if each["tag"] == tag), None)

    monkeypatch.setattr(salt.utils.event.SaltEvent, "fire_event", fire_event)
    monkeypatch.setattr(salt.utils.event.SaltEvent, "get_event", get_event)
    return lambda: [tag for tag in tags if tag.startswith("store/")]


# provisioning_helper.firstboot


def firstboot(minion, **kwargs):
    return apply(minion, "provisioning_helper.firstboot", **kwargs)[
        "provisioning_helper-firstboot-handing-over"
    ]


def test_the_first_boot_is_noted_told_and_ended(minion, machine, told):
    result = firstboot(minion)
    assert result["result"] is True
    assert deployment.boots() == machine.boot_ids
    assert deployment.handed_over("0815", 1)
    assert told() == ["store/0815/guest/firstboot"]
    assert machine.reboots == 1


def test_later_boots_are_noted_and_told_and_left_alone(minion, machine, told):
    firstboot(minion)
    machine.boot()
    assert firstboot(minion)["result"] is True
    again = firstboot(minion)
    assert again["changes"] == {}
    assert deployment.boots() == machine.boot_ids
    assert told() == ["store/0815/guest/firstboot"] + 2 * ["store/0815/guest/booted"]
    assert machine.reboots == 1


def test_a_dry_run_of_the_first_boot_changes_nothing(minion, machine, told):
    before = machine.files()
    assert firstboot(minion, test=True)["result"] is None
    assert machine.files() == before
    assert told() == []
    assert machine.reboots == 0


def test_a_machine_that_is_not_being_deployed_is_left_alone(minion, machine, told):
    machine.at("/etc/store-deploy/bootstrap.json").unlink()
    before = machine.files()
    assert firstboot(minion)["result"] is True
    assert machine.files() == before
    assert told() == []
    assert machine.reboots == 0


def test_bootstrap_data_that_cannot_be_read_fail_the_state(minion, machine):
    machine.write("/etc/store-deploy/bootstrap.json", '{"store": ')
    result = firstboot(minion)
    assert result["result"] is False
    assert "bootstrap.json cannot be read" in result["comment"]


def test_a_new_minion_fetches_what_the_first_boot_needs(tmp_path):
    settings = {
        "id": "new",
        "root_dir": str(tmp_path),
        "file_client": "local",
        "file_roots": {"base": [str(REPO / "salt")]},
    }
    (tmp_path / "minion").write_text(json.dumps(settings))
    salt_call = pathlib.Path(sys.executable).with_name("salt-call")
    done = subprocess.run(
        [salt_call, "-c", tmp_path, "--local", "state.sls", "provisioning_helper.firstboot"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There is nothing to do" in done.stdout


class Killed(BaseException):
    """The process is gone, no handler runs."""


@pytest.fixture
def kill(monkeypatch):
    """Kill whoever calls the named function, before or after it has done its work, once."""

    def arm(name, when):
        where = power if name == "reboot_soon" else deployment
        real = getattr(where, name)

        def dying(*args):
            monkeypatch.setattr(where, name, real)
            if when == "after":
                real(*args)
            raise Killed

        monkeypatch.setattr(where, name, dying)

    return arm


@pytest.mark.thorough
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["note_boot", "handed_over", "note_handing_over", "reboot_soon"])
@pytest.mark.parametrize("power_cut", [False, True], ids=["process killed", "power cut"])
def test_a_kill_at_any_line_of_the_first_boot_ends_well(
    minion, machine, kill, name, when, power_cut
):
    kill(name, when)
    with pytest.raises(Killed):
        firstboot(minion)
    if power_cut:
        machine.boot()
    assert firstboot(minion)["result"] is True
    assert deployment.handed_over("0815", 1)
    assert deployment.boots() == machine.boot_ids[-len(deployment.boots()) :]
    # Either the reboot was ordered in the first noted boot, or there has been one.
    assert machine.reboots > 0 or len(deployment.boots()) == 2


def test_the_way_back_takes_a_guest_out_of_its_deployment(minion):
    shown = minion.modules["state.show_low_sls"]("provisioning_helper.clean")
    removed = [chunk["name"] for chunk in shown]
    assert removed[-1] == deployment.STATE_DIR
    assert seed.BOOTSTRAP in removed
    assert all(f"{f}/{seed.BOOTSTRAP_CONFIG}" in removed for f in seed.CONFIG.values())


# store_hypervisor.ready


@pytest.fixture
def highstate(minion, site):
    """Apply a hypervisor's highstate: the given states and then, included first, ours."""
    MARKER.unlink(missing_ok=True)
    bell.note(MARKER).unlink(missing_ok=True)
    (site / "top.sls").write_text("base: {'*': [store_hypervisor.ready, site]}\n")

    def applied(states, **kwargs):
        (site / "site.sls").write_text(json.dumps(states))
        results = apply(minion, pillar=STORE, **kwargs)
        return results[READY], [result["__run_num__"] for result in results.values()]

    yield applied
    MARKER.unlink(missing_ok=True)
    bell.note(MARKER).unlink(missing_ok=True)


def nop(**kwargs):
    return {"test.nop": [{key: value} for key, value in kwargs.items()]}


def test_a_highstate_that_ends_well_leaves_the_marker_and_tells(highstate, told):
    ours, order = highstate({"a": nop(), "z": nop()})
    assert ours["result"] is True
    assert ours["__run_num__"] == max(order)
    marker = json.loads(MARKER.read_text())
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (marker["boot_id"], marker["result"]) == (boot_id, True)
    assert marker["finished_at"].endswith("+00:00")
    assert told() == ["store/0815/hypervisor/ready"]


def test_it_comes_after_a_package_and_a_service_that_are_last_too(highstate):
    last = {"file.exists": [{"name": "/etc"}, {"order": "last"}]}
    service = {"service.disabled": [{"name": "no-such-service"}, {"order": "last"}]}
    ours, order = highstate({"a": last, "b": service, "c": nop(order=5000)})
    assert ours["__run_num__"] == max(order)
    assert ours["result"] is True


def test_a_highstate_with_a_failed_state_is_not_told(highstate, told):
    failing = {"test.fail_without_changes": [{"order": "first"}]}
    ours, _ = highstate({"broken": failing, "z": nop()})
    assert ours["result"] is False
    assert "broken" in ours["comment"]
    assert not MARKER.exists()
    assert told() == []


def test_a_failed_state_that_is_last_too_is_seen(highstate):
    failing = {"cmd.run": [{"name": "false"}, {"order": "last"}]}
    ours, _ = highstate({"broken": failing})
    assert ours["result"] is False
    assert not MARKER.exists()


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(nop(order="last"), id="ordered after it"),
        pytest.param({"cmd.run": [{"name": "sleep 2"}, {"parallel": True}]}, id="still running"),
    ],
)
def test_a_highstate_that_has_not_ended_is_not_told(highstate, told, late):
    ours, _ = highstate({"late": late})
    assert ours["result"] is False
    assert "late has not ended" in ours["comment"]
    assert not MARKER.exists()
    assert told() == []


def test_a_dry_run_of_the_highstate_leaves_no_marker(highstate, told):
    ours, _ = highstate({"a": nop()}, test=True)
    assert ours["result"] is None
    assert not MARKER.exists()
    assert told() == []


def test_a_second_highstate_of_a_boot_tells_again_and_changes_nothing(highstate, told):
    highstate({"a": nop()})
    ours, _ = highstate({"a": nop()})
    assert (ours["result"], ours["changes"]) == (True, {})
    assert len(told()) == 2


def test_the_marker_can_be_left_by_hand(minion, highstate):
    ours = apply(minion, "store_hypervisor.ready", pillar=STORE)[READY]
    assert ours["result"] is True
    assert MARKER.exists()


def test_a_hypervisor_without_a_store_leaves_the_marker_and_tells_nobody(minion, highstate, told):
    ours = apply(minion, "store_hypervisor.ready")[READY]
    assert ours["result"] is True
    assert MARKER.exists()
    assert told() == []


def test_the_marker_can_be_taken_away(minion, highstate):
    highstate({"a": nop()})
    removed = apply(minion, "store_hypervisor.unready").values()
    assert [each["result"] for each in removed] == [True] * 3
    assert not MARKER.exists()
    assert not bell.note(MARKER).exists()
    assert bell.SCHEDULE not in persisted(minion).read_text()
    again = apply(minion, "store_hypervisor.unready").values()
    assert [(each["result"], each["changes"]) for each in again] == [(True, {})] * 3


@pytest.mark.parametrize(
    ("told_by", "says", "virt_type", "why"),
    [
        ("CAPABILITIES", None, "xen", "this machine does not run under Xen: reboot it into Xen"),
        ("CAPABILITIES", "", "xen", "this machine does not run under Xen: reboot it into Xen"),
        # A guest of Xen's is none.
        ("FEATURES", "00002705", "xen", "this machine does not run under Xen"),
        ("FEATURES", "unreadable", "xen", "this machine does not run under Xen"),
        ("CAPABILITIES", "control_d", "kvm", "runs under Xen, and kvm is wanted: reboot it into"),
        ("CAPABILITIES", "control_d", "xen", ""),
        # Before /proc/xen is mounted.
        ("FEATURES", "00002f05", "xen", ""),
        ("CAPABILITIES", "control_d", "auto", ""),
        ("CAPABILITIES", None, "kvm", ""),
    ],
)
def test_a_hypervisor_is_ready_only_when_the_kernel_that_runs_is_the_wanted_one(
    minion, highstate, told, tmp_path, monkeypatch, told_by, says, virt_type, why
):
    for each in ("CAPABILITIES", "FEATURES"):
        monkeypatch.setattr(boot, each, tmp_path / each)
    if says is not None:
        (tmp_path / told_by).write_text(f"{says}\n")
    pillar = {**STORE, "store_hypervisor": {"virt_type": virt_type}}
    ours = apply(minion, "store_hypervisor.ready", pillar=pillar)[READY]
    assert ours["result"] is not bool(why)
    assert why in ours["comment"]
    assert MARKER.exists() is not bool(why)
    assert told() == ([] if why else ["store/0815/hypervisor/ready"])


# The bell that is rung until it is acknowledged


@pytest.fixture
def modules(minion):
    """The modules as the minion's schedule calls them, with the pillar of a hypervisor."""
    return salt.loader.minion_mods({**minion.opts, "pillar": STORE})


def pass_time(seconds):
    """Let the bell be due that much earlier."""
    note = json.loads(bell.note(MARKER).read_text())
    bell.note(MARKER).write_text(json.dumps({**note, "due": note["due"] - seconds}))


def test_the_bell_is_rung_again_by_the_minions_own_schedule(minion, highstate, schedule):
    ours, _ = highstate({"a": nop()})
    assert ours["comment"] == "The highstate was told for store 0815."
    job = schedule.opts["schedule"][bell.SCHEDULE]
    assert (job["function"], job["minutes"]) == ("store_hypervisor.ring", 1)
    assert job["return_job"] is False, "the master has no use for it"
    assert "store_hypervisor.ring" in persisted(minion).read_text()
    again, _ = highstate({"a": nop()})
    assert again["comment"] == "The highstate was told for store 0815."
    assert list(schedule.opts["schedule"]) == [bell.SCHEDULE]


def test_it_rings_when_it_is_time_and_not_before(highstate, modules, told):
    highstate({"a": nop()})
    assert modules["store_hypervisor.ring"]() is False
    assert len(told()) == 1
    pass_time(bell.PAUSES_S[0] * (1 + bell.JITTER))
    assert modules["store_hypervisor.ring"]() is True
    assert modules["store_hypervisor.ring"]() is False
    assert told() == ["store/0815/hypervisor/ready"] * 2


def test_a_bell_that_was_acknowledged_rings_no_more_and_leaves_nothing(
    minion, highstate, modules, schedule, told
):
    highstate({"a": nop()})
    assert modules["store_hypervisor.acknowledge"]() is True
    assert modules["store_hypervisor.acknowledge"]() is True
    pass_time(bell.PAUSES_S[-1] * 2)
    assert modules["store_hypervisor.ring"]() is False
    assert len(told()) == 1
    assert bell.SCHEDULE not in schedule.opts["schedule"]
    assert bell.SCHEDULE not in persisted(minion).read_text()


def test_a_later_highstate_of_a_boot_that_was_acknowledged_is_told_once(
    highstate, modules, schedule, told
):
    highstate({"a": nop()})
    modules["store_hypervisor.acknowledge"]()
    modules["store_hypervisor.ring"]()
    highstate({"a": nop()})
    assert len(told()) == 2
    assert bell.SCHEDULE not in schedule.opts["schedule"]


def test_another_boot_is_to_be_acknowledged_anew(highstate, modules, schedule, told):
    highstate({"a": nop()})
    modules["store_hypervisor.acknowledge"]()
    modules["store_hypervisor.ring"]()
    note = json.loads(bell.note(MARKER).read_text())
    bell.note(MARKER).write_text(json.dumps({**note, "boot_id": "the last boot's"}))
    highstate({"a": nop()})
    assert bell.SCHEDULE in schedule.opts["schedule"]
    assert "acknowledged" not in json.loads(bell.note(MARKER).read_text())


def test_a_hypervisor_without_a_store_has_nothing_to_ring_for(minion, highstate, schedule):
    apply(minion, "store_hypervisor.ready")
    assert bell.SCHEDULE not in schedule.opts["schedule"]


def test_without_a_marker_there_is_nothing_to_acknowledge(highstate, modules):
    assert modules["store_hypervisor.acknowledge"]() is False
    assert not bell.note(MARKER).exists()


def test_where_the_schedule_takes_no_job_the_state_says_that_it_is_told_once(
    highstate, monkeypatch
):
    monkeypatch.setattr(salt.utils.event.SaltEvent, "get_event", lambda *_, **__: None)
    ours, _ = highstate({"a": nop()})
    assert ours["result"] is True
    assert "It is told once: Failed to add job" in ours["comment"]
