# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A pillar that Uyuni's form page has saved means what one that was written by hand does."""

import pytest

from storelib.errors import SpecError
from storemaster.deployment import spec

IMAGE = {"source": "salt://images/x.qcow2", "sha256": "5e" * 32}
LEAST = {"store": "0815", "image": IMAGE, "master": "salt.example.com"}
WRITTEN = {
    **LEAST,
    "cpus": 4,
    "memory_mib": 4096,
    "data_disks": [{"name": "data", "size_gib": 100}],
    "interfaces": [
        {
            "name": "eth0",
            "source": "br0",
            "address": "10.1.2.3/24",
            "gateway": "10.1.2.1",
            "dns": ["10.1.2.1"],
        },
        {"name": "eth1", "source": "br1"},
    ],
    "start": {"attempts": 3, "backoff_s": [2, 4], "steady_s": 0},
    "verify": [{"tcp": 22}, {"tcp": 443}, {"service": "sshd"}],
    "timeouts": {"booting": 900},
}
SAVED = {
    **LEAST,
    "minion_id": "",
    "hostname": "",
    "auto_deploy": False,
    "cpus": 4.0,
    "memory_mib": 4096.0,
    "disk_gib": "",
    "pool": "",
    "data_disks": {"data": {"size_gib": 100.0}},
    "interfaces": {
        "eth0": {
            "source": "br0",
            "mac": "",
            "address": "10.1.2.3/24",
            "gateway": "10.1.2.1",
            "dns": ["10.1.2.1"],
        },
        "eth1": {"source": "br1", "mac": "", "address": "", "gateway": "", "dns": []},
    },
    "start": {"attempts": 3.0, "backoff_s": [2.0, 4.0], "steady_s": 0.0},
    "verify": {"tcp": [22.0, 443.0], "service": ["sshd"], "command": []},
    "timeouts": {"booting": 900.0, "verifying": ""},
}


def read(pillar):
    return spec.from_pillar(pillar, "hv-0815")


def test_what_the_page_saved_is_what_was_filled_in():
    assert read(SAVED) == read(WRITTEN)


def test_what_was_emptied_is_as_if_it_were_not_given():
    emptied = {**LEAST, "data_disks": {}, "verify": {}, "timeouts": {}, "start": {"steady_s": ""}}
    assert read(emptied) == read(LEAST)
    disk = {"name": "", "size_gib": 1}
    assert read({**LEAST, "data_disks": {"d": disk}}).data_disks[0].name == "d"


WRONG = {
    "no whole number": ({"cpus": 2.5}, "cpus is 2.5,"),
    "a number as text": ({"cpus": "2"}, "cpus is '2',"),
    "no number": ({"cpus": float("inf")}, "cpus is inf,"),
    "a required field that is empty": ({"master": ""}, "master is missing,"),
    "no interface left": ({"interfaces": {}}, "interfaces is [], allowed: at least one interface"),
    "an interface without its bridge": (
        {"interfaces": {"eth0": {"source": ""}}},
        "interfaces.eth0.source is None,",
    ),
    "a disk without its size": (
        {"data_disks": {"data": {"size_gib": ""}}},
        "data_disks.data.size_gib is missing,",
    ),
    "a disk that is none": ({"data_disks": {"data": 100.0}}, "data_disks.data is 100.0,"),
    "a disk with two names": (
        {"data_disks": {"data": {"name": "more", "size_gib": 1}}},
        "data_disks.data.name is 'more', allowed: 'data', as its key, or none",
    ),
    "a name that is none": (
        {"data_disks": {"../data": {"size_gib": 1}}},
        "data_disks.../data.name is '../data',",
    ),
    "a name that is a number": ({"data_disks": {7: {"size_gib": 1}}}, "data_disks.7.name is 7,"),
    "a port that does not exist": (
        {"verify": {"tcp": [22.0, 65536.0]}},
        "verify.tcp[1].tcp is 65536",
    ),
    "a probe that is in no list": ({"verify": {"tcp": 22}}, "verify.tcp is 22, allowed: a mapping"),
    "a probe of an unknown kind": ({"verify": {"http": [80.0]}}, "verify.http[0].http is 80.0,"),
}


@pytest.mark.parametrize(("saved", "message"), WRONG.values(), ids=WRONG)
def test_whatever_else_is_wrong_is_told_with_its_place(saved, message):
    with pytest.raises(SpecError) as refused:
        read({**LEAST, **saved})
    assert refused.value.reason.startswith(f"pillar store_server of hv-0815 is wrong: {message}")
