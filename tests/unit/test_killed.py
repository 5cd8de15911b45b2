# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A deployment goes on wherever the master was killed."""

from collections import Counter

import pytest
from fake_master import (
    GUEST,
    HYPERVISOR,
    PATH,
    PILLAR,
    FakeMaster,
    Killed,
    not_ok,
    pem,
    ran,
    told,
)
from scenes import (
    ACTING,
    intrude,
)

pytestmark = pytest.mark.thorough


def points(make, path, state):
    """Return at which points a deployment can be killed while it is in ``state``."""
    master = FakeMaster(path)
    make(master)
    made = len(master.points)
    master.run()
    master.end()
    # Between an act and the next nothing is written: to be killed before is as after the last.
    found = [
        n
        for n, (during, point) in enumerate(master.points)
        if n >= made and during == state and point.startswith("after")
    ]
    assert found
    return found


def begun_and_run(make, master):
    make(master)
    return master.run()


def killed_and_resumed(make, path, n):
    master = FakeMaster(path)
    master.kill_at = n
    with pytest.raises(Killed):
        begun_and_run(make, master)
    master.restart()
    record = master.run()
    master.end()
    assert master.wrong == [], master.points[n]
    assert not master.armed(GUEST)
    return master, record


def begin(master):
    master.begin()


def begin_pinned(master):
    master.pillars = {HYPERVISOR: {**PILLAR, "admission": "pinned"}}
    master.known_keys[GUEST] = {"denied": pem("old")}
    master.begin()


def begin_with_a_fault(master):
    master.instead["provisioning_helper.highstate"] = not_ok("a state failed")
    master.begin()


def without_repeats(states):
    return [state for state, before in zip(states, ["", *states], strict=False) if state != before]


@pytest.mark.parametrize("state", PATH)
def test_a_deployment_killed_at_any_line_goes_on_to_its_end(tmp_path, state):
    for n in points(begin, tmp_path / "whole", state):
        master, record = killed_and_resumed(begin, tmp_path / f"killed-{n}", n)
        assert record.state == "deployed", (master.points[n], record.reason)
        counts = Counter(ran(master))
        once = [counts[f] - (f == "provisioning_helper.highstate") for f in ACTING]
        assert once == [1] * len(ACTING)
        assert without_repeats(told(master)) == [*PATH, "deployed"]


@pytest.mark.parametrize("state", ["clearing", "starting", "booting"])
def test_a_pinned_deployment_killed_at_any_line_goes_on_to_its_end(tmp_path, state):
    for n in points(begin_pinned, tmp_path / "whole", state):
        master, record = killed_and_resumed(begin_pinned, tmp_path / f"killed-{n}", n)
        assert record.state == "deployed", (master.points[n], record.reason)
        assert "arm store-0815" not in master.acts
        assert master.acts.count("purge store-0815") == 1


def test_a_failing_deployment_killed_at_any_line_fails_all_the_same(tmp_path):
    for n in points(begin_with_a_fault, tmp_path / "whole", "configuring"):
        master, record = killed_and_resumed(begin_with_a_fault, tmp_path / f"killed-{n}", n)
        assert (record.state, record.failed_in) == ("failed", "configuring")
        assert record.reason == "a state failed"
        assert ran(master).count("provisioning_helper.highstate") == 1


def test_an_intrusion_is_not_forgotten_if_the_process_is_killed_at_any_line(tmp_path):
    def make(master):
        intrude(master, "booting")

    for n in points(make, tmp_path / "whole", "booting"):
        _, record = killed_and_resumed(make, tmp_path / f"killed-{n}", n)
        assert record.state == "failed", record
        assert record.reason.startswith("intrusion: ")


def test_a_late_intrusion_is_not_forgotten_if_the_process_is_killed_at_any_line(tmp_path):
    def make(master):
        master.calls = False
        master.begin()
        master.run(until=lambda record: record.state == "booting")
        master.away.add(HYPERVISOR)
        master.run(until=lambda record: "late" in record.evidence)
        master.known_keys[GUEST] = {"accepted": pem("intruder")}

    for n in points(make, tmp_path / "whole", "booting"):
        master, record = killed_and_resumed(make, tmp_path / f"killed-{n}", n)
        assert record.state == "failed", record
        assert record.reason.count("intrusion: ") == 1
        assert master.keys(GUEST) == {}
