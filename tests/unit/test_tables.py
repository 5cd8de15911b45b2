# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is read on a terminal fits it, and what must be typed is there whole."""

import dataclasses
import re

import pytest
import salt.output.nested
from test_views import ACTIVE, AT, DEPLOYED, FAILED, change

from storemaster.deployment import lifecycle, tables, views
from storemaster.deployment.views import Plan


def test_progress_shows_the_time_since_the_beginning_and_what_happens():
    line = tables.progress(change("booting", AT + 12.34), AT)
    assert line.split()[:3] == ["12.3", "s", "booting"]
    assert line.endswith(lifecycle.STATES["booting"].happens)


def test_progress_shows_why_a_deployment_failed():
    assert tables.progress(change("failed", AT, "no disk"), AT).endswith("no disk")


LONG = "it could not be removed: " + ", ".join(f"/pool/disk-{number}.qcow2" for number in range(9))


@pytest.mark.parametrize("state", lifecycle.STATES)
@pytest.mark.parametrize("at", [0, 12.3, 99_999.9])
def test_a_line_of_progress_fits_a_terminal(state, at):
    lines = tables.progress(change(state, AT + at, LONG), AT).splitlines()
    assert max(map(len, lines)) <= 79
    assert len(lines) == 1 or state in ("failed", "defining")


def test_a_reason_is_told_whole_and_in_lines_that_fit_a_terminal():
    for told in (tables.waiting(LONG, 12.3), tables.progress(change("failed", AT, LONG), AT)):
        assert LONG in " ".join(told.split())
        assert max(map(len, told.splitlines())) <= 79


MANY = [
    ACTIVE,
    dataclasses.replace(DEPLOYED, store="4711", hypervisor="hv-4711.stores.example.com"),
    dataclasses.replace(FAILED, store="9", failed_in="staging", reason="no room " * 20),
    dataclasses.replace(ACTIVE, store="x" * 63, hypervisor="h" * 128),
]


def test_the_list_takes_a_line_a_store():
    lines = tables.table(MANY[:3], AT + 200)
    assert lines[0] == "0815  booting   3 min 20 s  hv-0815: store-0815 has not called yet"
    assert lines[1] == "4711  deployed  3 min 20 s  hv-4711.stores.example.com"
    assert lines[2].startswith("9     failed    3 min 20 s  hv-0815: staging: no room no room")
    assert all(len(line) <= 77 for line in tables.table(MANY, AT + 200))
    assert tables.table([], AT) == []


def test_the_history_tells_reasons_whole():
    changes = [
        change("staging", AT),
        change("failed", AT + 130, LONG),
        change("deployed", AT + 140),
    ]
    lines = tables.story(changes, AT + 999)
    assert lines[0] == "2023-11-14T22:13:20Z  staging   2 min 10 s"
    assert LONG in " ".join(lines[1].split())
    assert max(map(len, "\n".join(lines).splitlines())) <= 77
    assert lines[2] == "2023-11-14T22:15:40Z  deployed"
    assert tables.story([], AT) == []
    asked = dataclasses.replace(change("staging", AT, "deploy.retry"), actor="alice", way="api")
    assert tables.story([asked], AT)[0].endswith("deploy.retry (alice, api)")


@pytest.fixture
def shown(monkeypatch):
    """Return the lines that Salt's outputter makes of an answer."""
    monkeypatch.setattr(salt.output.nested, "__opts__", {"color": False}, raising=False)
    return lambda answer: salt.output.nested.output(answer).splitlines()


SPEC = {
    **{"minion_id": "store-0815", "cpus": 2, "memory_mib": 4096, "disk_gib": 20, "timeouts": {}},
    **{"pool": "/var/lib/libvirt/images", "data_disks": [{"name": "data", "size_gib": 100}]},
    **{"interfaces": [{"name": "eth0", "type": "bridge", "source": "br0", "address": "dhcp"}]},
    "image": {"source": "salt://images/store-server.qcow2", "sha256": "5e" * 32},
}
RENAMING = f"virsh domrename store-0815 {'x' * 60}"
PLAN = Plan(
    **{"store": "0815", "now": "deployed", "generation": 2, "hypervisor": "hv-0815"},
    faults=[
        ("store 0815 is deployed", "to replace it: salt-run deploy.store 0815 redeploy=True"),
        ("bridge br0 does not exist or is not active: create it or correct the pillar", ""),
        (
            f"a domain store-0815 is there: on the hypervisor, while it is off: {RENAMING}; or",
            "",
        ),
    ],
    outage={"outage_s_expected": 100.0, "outage_expected": "100 s, as when it was last replaced"},
    would=list(views.would(SPEC, {"image": {"sha256": "5e" * 32}})),
)


def test_a_plan_says_what_would_be_made_and_then_what_is_in_the_way_and_how_to_mend_it(shown):
    assert shown(tables.plan(PLAN)) == [
        "plan:",
        "    store       0815",
        "    now         deployed",
        "    generation  2",
        "    hypervisor  hv-0815",
        "    outage      100 s, as when it was last replaced",
        "    image       salt://images/store-server.qcow2: in the cache",
        "    server      store-0815: 2 CPUs, 4096 MiB of memory, 20 GiB of disk in",
        "                /var/lib/libvirt/images",
        "    data disk   data: 100 GiB, unless it is there already",
        "    interface   eth0: bridge br0, dhcp",
        "    fault       store 0815 is deployed",
        "                mend: to replace it: salt-run deploy.store 0815 redeploy=True",
        "    fault       bridge br0 does not exist or is not active: create it or",
        "                correct the pillar",
        "    fault       a domain store-0815 is there: on the hypervisor, while it is",
        "                off:",
        f"                {RENAMING};",
        "                or",
    ]


def test_a_plan_with_nothing_in_the_way_says_so_and_in_full_has_states_and_spec(shown):
    steps = list(views.steps(SPEC))
    lines = shown(tables.plan(dataclasses.replace(PLAN, faults=[], spec=SPEC, steps=steps)))
    assert "    faults      none" in lines
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("    rebooting ")]
    assert row.startswith(f"    rebooting            {dict(steps)['rebooting'][:30]}")
    assert 0 < lines.index("spec:") < lines.index("steps:") < lines.index(row)


def test_of_a_plan_that_ends_early_is_shown_what_is_known(shown):
    plan = Plan("0815", "deployed", [("its pillar does not compile", "")])
    assert shown(tables.plan(plan)) == [
        *("plan:", "    store  0815", "    now    deployed"),
        "    fault  its pillar does not compile",
    ]


def test_the_doctor_takes_a_row_a_fault_and_a_line_for_each_thing_to_do(shown):
    faults = [
        {"fault": "no autosign_file is set", "mend": "install master.d/x; systemctl restart y"},
        {"fault": "hv-1: " + "libvirt does not answer " * 4, "mend": f"rm 'a; b'; {RENAMING}"},
    ]
    assert shown({**tables.faults(faults), "retcode": 1})[:8] == [
        "faults:",
        "    - no autosign_file is set",
        "      mend: install master.d/x",
        "            systemctl restart y",
        "    - hv-1: libvirt does not answer libvirt does not answer libvirt does not",
        "      answer libvirt does not answer",
        "      mend: rm 'a; b'",
        f"            {RENAMING}",
    ]
    assert shown(tables.faults([])) == ["faults:", "    none"]


def test_of_many_hypervisors_with_a_fault_the_doctor_names_each(shown):
    names = [f"hv-{number:04}" for number in range(40)]
    told = f"{views.some(names)}: no answer"
    lines = shown(tables.faults([{"fault": told, "mend": "switch on", "hypervisors": names}]))
    assert lines[1:3] == [f"    - {told}", "      mend: switch on"]
    assert re.findall(r"hv-\d{4}", "\n".join(lines)) == names
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "command",
    [
        "salt-run deploy.store 0815 hypervisor=hv redeploy=True",
        "salt hv-0815 saltutil.refresh_pillar",
        "salt-key --include-denied -a hv-0815",
        "/opt/salt/bin/python3 -m pip install saltext-virt libvirt-python",
        "chmod -R go+rX /srv/store-deploy",
        "install -d -m 700 -o salt /var/lib/salt/store-deploy",
        "sed s,/srv/store-deploy,/opt, /opt/master.d/50.conf >/etc/salt/master.d/50.conf",
        "virsh blockcommit store-0815 vda --active --pivot",
    ],
)
def test_a_command_stays_on_one_line_and_the_rest_is_wrapped(command):
    (row,) = tables.faults(
        [{"fault": "x", "mend": f"once all of it was looked at by somebody: {command}, then go on"}]
    )["faults"]
    assert sum(command in line for line in row.splitlines()) == 1
    assert re.sub(r"\s+", " ", row).endswith(f"by somebody: {command}, then go on")
