# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The shipped states, run by the real state compiler."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import salt.utils.event

from storelib import guest

pytest_plugins = ["tests.functional.fake_guest"]

REPO = pathlib.Path(__file__).resolve().parents[2]
SLS = sorted(
    ".".join(path.relative_to(REPO / "salt").with_suffix("").parts).removesuffix(".init")
    for path in (REPO / "salt").glob("*/*.sls")
)
MARKER = pathlib.Path("/var/lib/store-deploy/highstate.json")
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
    assert "xorriso" in str(shown["store_hypervisor-init-packages"])


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """The events for the master, in order; the bus that would carry them is not running."""
    tags = []

    def fire_event(self, data, tag, *args, **kwargs):
        tags.append(tag)
        return True

    monkeypatch.setattr(salt.utils.event.SaltEvent, "fire_event", fire_event)
    return lambda: [tag for tag in tags if tag.startswith("store/")]


# provisioning_helper.firstboot


def firstboot(minion, **kwargs):
    return apply(minion, "provisioning_helper.firstboot", **kwargs)[
        "provisioning_helper-firstboot-handing-over"
    ]


def test_the_first_boot_is_noted_told_and_ended(minion, machine, told):
    result = firstboot(minion)
    assert result["result"] is True
    assert guest.boots() == machine.boot_ids
    assert guest.handed_over("0815", 1)
    assert told() == ["store/0815/guest/firstboot"]
    assert machine.reboots == 1


def test_later_boots_are_noted_and_told_and_left_alone(minion, machine, told):
    firstboot(minion)
    machine.boot()
    assert firstboot(minion)["result"] is True
    again = firstboot(minion)
    assert again["changes"] == {}
    assert guest.boots() == machine.boot_ids
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
        real = getattr(guest, name)

        def dying(*args):
            monkeypatch.setattr(guest, name, real)
            if when == "after":
                real(*args)
            raise Killed

        monkeypatch.setattr(guest, name, dying)

    return arm


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
    assert guest.handed_over("0815", 1)
    assert guest.boots() == machine.boot_ids[-len(guest.boots()) :]
    # Either the reboot was ordered in the first noted boot, or there has been one.
    assert machine.reboots > 0 or len(guest.boots()) == 2


def test_the_way_back_takes_a_guest_out_of_its_deployment(minion):
    shown = minion.modules["state.show_low_sls"]("provisioning_helper.clean")
    removed = [chunk["name"] for chunk in shown]
    assert removed[-1] == guest.STATE_DIR
    assert guest.seed.BOOTSTRAP in removed
    assert all(f"{f}/{guest.seed.BOOTSTRAP_CONFIG}" in removed for f in guest.seed.CONFIG.values())


# store_hypervisor.ready


@pytest.fixture
def highstate(minion, site):
    """Apply a hypervisor's highstate: the given states and then, included first, ours."""
    MARKER.unlink(missing_ok=True)
    (site / "top.sls").write_text("base: {'*': [store_hypervisor.ready, site]}\n")

    def applied(states, **kwargs):
        (site / "site.sls").write_text(json.dumps(states))
        results = apply(minion, pillar=STORE, **kwargs)
        return results[READY], [result["__run_num__"] for result in results.values()]

    yield applied
    MARKER.unlink(missing_ok=True)


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
    (removed,) = apply(minion, "store_hypervisor.clean").values()
    assert removed["result"] is True
    assert not MARKER.exists()
