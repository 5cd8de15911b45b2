# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's pillar becomes a spec, or one message that names every fault."""

import copy
import json

import pytest

from storelib import spec
from storelib.errors import Refused, SpecError

SHA256 = "5e" * 32
LEAST = {
    "store": "0815",
    "image": {"source": "salt://images/store-server.qcow2", "sha256": SHA256},
    "master": "salt.example.com",
}
STATIC = {
    "name": "eth0",
    "source": "br0",
    "address": "10.1.2.3/24",
    "gateway": "10.1.2.1",
    "dns": ["10.1.2.1", "2001:db8::53"],
}


def pillar(**changes):
    """Return a good pillar with these keys changed; ``image.source`` is written image__source."""
    changed = copy.deepcopy(LEAST)
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = changed
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return changed


def faults(**changes):
    with pytest.raises(SpecError) as refused:
        spec.from_pillar(pillar(**changes), "hv-0815")
    assert refused.value.hint
    return refused.value.reason.removeprefix("pillar store_server of hv-0815 is wrong: ").split(
        "; "
    )


def test_what_the_pillar_leaves_out_has_the_documented_default():
    assert spec.from_pillar(LEAST, "hv-0815").as_dict() == {
        "store": "0815",
        "minion_id": "store-0815",
        "hostname": "store-0815",
        "auto_deploy": False,
        "image": {"source": "salt://images/store-server.qcow2", "sha256": SHA256},
        "cpus": 2,
        "memory_mib": 2048,
        "disk_gib": 20,
        "pool": "/var/lib/libvirt/images",
        "clone": "copy",
        "data_disks": [],
        "virt_type": "auto",
        "os_type": "hvm",
        "firmware": "bios",
        "interfaces": [
            {
                "name": "eth0",
                "type": "bridge",
                "source": "br0",
                "mac": "52:54:00:31:28:48",
                "address": "dhcp",
                "gateway": None,
                "dns": [],
            }
        ],
        "master": "salt.example.com",
        "minion": "salt-minion",
        "admission": "autosign",
        "start": {"attempts": 5, "backoff_s": [2, 4, 8, 16, 30], "steady_s": 20},
        "verify": [],
        "timeouts": {},
    }


def test_what_the_pillar_says_is_in_the_spec():
    said = {
        "store": "a.B_c-9",
        "minion_id": "server.example.com",
        "hostname": "kasse.example.com",
        "auto_deploy": True,
        "image": {"source": "https://images.example.com/x.qcow2", "sha256": SHA256},
        "cpus": 4,
        "memory_mib": 4096,
        "disk_gib": 40,
        "pool": "default",
        "clone": "cow",
        "data_disks": [{"name": "data", "size_gib": 100}],
        "virt_type": "xen",
        "os_type": "xenpvh",
        "firmware": "bios",
        "interfaces": [
            {**STATIC, "type": "network", "mac": "52:54:00:00:00:01"},
            {"name": "eth1", "type": "user", "mac": "52:54:00:00:00:02", "address": "dhcp"},
        ],
        "master": "192.0.2.1",
        "minion": "venv-salt-minion",
        "admission": "pinned",
        "start": {"attempts": 1, "backoff_s": [0], "steady_s": 0},
        "verify": [{"tcp": 22}, {"service": "sshd"}, {"command": "test -e /etc/salt"}],
        "timeouts": {"booting": 1800},
    }
    expected = copy.deepcopy(said)
    expected["interfaces"][1] |= {"source": None, "gateway": None, "dns": []}
    assert spec.from_pillar(said, "hv-0815").as_dict() == expected


@pytest.mark.parametrize("given", [{}, {"interfaces": [STATIC], "verify": [{"tcp": 22}]}], ids=str)
def test_a_spec_is_a_pillar_of_the_same_spec(given):
    made = spec.from_pillar(pillar(**given), "hv-0815")
    assert spec.from_pillar(made.as_dict(), "hv-0815") == made


def test_a_spec_is_frozen():
    with pytest.raises(AttributeError):
        spec.from_pillar(LEAST, "hv-0815").store = "0816"


FAULTY = {
    "number as store": (pillar(store=417), "store is 417,"),
    "octal as store": (pillar(store=0o417), "store is 271,"),
    "boolean as store": (pillar(store=True), "store is True,"),
    "empty store": (pillar(store=""), "store is '',"),
    "path as store": (pillar(store="../x"), "store is '../x',"),
    "glob as store": (pillar(store="*"), "store is '*',"),
    "list as store": (pillar(store="a,b"), "store is 'a,b',"),
    "line end in the store": (pillar(store="0815\n"), r"store is '0815\n',"),
    "300 characters": (pillar(store="x" * 300), f"store is '{'x' * 76}...,"),
    "no master": (pillar(master=None), "master is None,"),
    "glob as minion ID": (pillar(minion_id="store-*"), "minion_id is 'store-*',"),
    "path as minion ID": (pillar(minion_id="../x"), "minion_id is '../x',"),
    "line end in the minion ID": (pillar(minion_id="a\nb"), r"minion_id is 'a\nb',"),
    "list as minion ID": (pillar(minion_id="a,b"), "minion_id is 'a,b',"),
    "empty minion ID": (pillar(minion_id=""), "minion_id is '',"),
    "unknown key": (pillar(memory=2048), "memory is 2048, allowed: no such key; known:"),
    "unknown key in a part": (pillar(image__size=3), "image.size is 3, allowed: no such key;"),
    "unknown key that is no text": (pillar() | {1: 2}, "1 is 2, allowed: no such key;"),
    "text as number": (pillar(cpus="2"), "cpus is '2', allowed: a whole number 1..512"),
    "boolean as number": (pillar(cpus=True), "cpus is True,"),
    "fraction": (pillar(disk_gib=20.5), "disk_gib is 20.5,"),
    "negative size": (pillar(disk_gib=-20), "disk_gib is -20,"),
    "no size": (pillar(memory_mib=0), "memory_mib is 0,"),
    "too much": (pillar(cpus=513), "cpus is 513,"),
    "null": (pillar(cpus=None), "cpus is None,"),
    "number as boolean": (pillar(auto_deploy=1), "auto_deploy is 1, allowed: true | false"),
    "text as boolean": (pillar(auto_deploy="yes"), "auto_deploy is 'yes',"),
    "text as mapping": (pillar(image="x.qcow2"), "image is 'x.qcow2', allowed: a mapping"),
    "mapping as list": (pillar(interfaces={"eth0": {}}), "interfaces is {'eth0': {}},"),
    "text in a list of mappings": (pillar(interfaces=["eth0"]), "interfaces[0] is 'eth0',"),
    "not one of the choices": (pillar(clone="link"), "clone is 'link', allowed: copy | cow"),
    "choice of another type": (pillar(clone=["copy"]), "clone is ['copy'],"),
    "checksum too short": (pillar(image__sha256="5e"), "image.sha256 is '5e',"),
    "checksum as number": (pillar(image__sha256=5), "image.sha256 is 5,"),
    "image by a scheme that is not served": (
        pillar(image__source="ftp://x/y"),
        "image.source is 'ftp://x/y',",
    ),
    "image with a line end": (pillar(image__source="/x\n"), r"image.source is '/x\n',"),
    "relative image": (pillar(image__source="x.qcow2"), "image.source is 'x.qcow2',"),
    "relative pool": (pillar(pool="a/b"), "pool is 'a/b',"),
    "host name with underscore": (pillar(hostname="a_b"), "hostname is 'a_b',"),
    "minion ID that is no host name": (pillar(minion_id="a_b"), "hostname is 'a_b',"),
    "host name longer than the kernel takes": (pillar(store="x" * 63), "hostname is 'store-xxx"),
    "PV without Xen": (
        pillar(os_type="xen", virt_type="kvm"),
        "os_type is 'xen', allowed: hvm, unless virt_type is xen or auto",
    ),
    "EFI without hvm": (
        pillar(os_type="xenpvh", firmware="efi"),
        "firmware is 'efi', allowed: bios, unless os_type is hvm",
    ),
    "no interface": (pillar(interfaces=[]), "interfaces is [], allowed: at least one"),
    "interfaces of one name": (
        pillar(interfaces=[STATIC, STATIC]),
        "interfaces is ['eth0', 'eth0'], allowed: names that differ",
    ),
    "data disks of one name": (
        pillar(data_disks=[{"name": "d", "size_gib": 1}] * 2),
        "data_disks is ['d', 'd'], allowed: names that differ",
    ),
    "data disk without a size": (
        pillar(data_disks=[{"name": "d"}]),
        "data_disks[0].size_gib is missing,",
    ),
    "data disk as a path": (
        pillar(data_disks=[{"name": "../d", "size_gib": 1}]),
        "data_disks[0].name is '../d',",
    ),
    "bridge without a name": (
        pillar(interfaces=[{"name": "eth0", "type": "bridge"}]),
        "interfaces[0].source is None,",
    ),
    "user network with a bridge": (
        pillar(interfaces=[{"name": "eth0", "type": "user", "source": "br0"}]),
        "interfaces[0].source is 'br0',",
    ),
    "upper-case hardware address": (
        pillar(interfaces=[{**STATIC, "mac": "52:54:00:AA:00:01"}]),
        "interfaces[0].mac is '52:54:00:AA:00:01',",
    ),
    "address without a prefix": (
        pillar(interfaces=[{"name": "eth0", "source": "br0", "address": "10.1.2.3"}]),
        "interfaces[0].address is '10.1.2.3',",
    ),
    "netmask": (
        pillar(interfaces=[{"name": "eth0", "source": "br0", "address": "10.1.2.3/255.255.255.0"}]),
        "interfaces[0].address is '10.1.2.3/255.255.255.0',",
    ),
    "gateway outside the network": (
        pillar(interfaces=[{**STATIC, "gateway": "10.1.3.1"}]),
        "interfaces[0].gateway is '10.1.3.1', allowed: an address in the network of a static",
    ),
    "gateway of another IP version": (
        pillar(interfaces=[{**STATIC, "gateway": "2001:db8::1"}]),
        "interfaces[0].gateway is '2001:db8::1',",
    ),
    "gateway with DHCP": (
        pillar(interfaces=[{**STATIC, "address": "dhcp", "dns": []}]),
        "interfaces[0].gateway is '10.1.2.1',",
    ),
    "name server by name": (
        pillar(interfaces=[{**STATIC, "dns": ["ns.example.com"]}]),
        "interfaces[0].dns is ['ns.example.com'],",
    ),
    "boolean in the backoff": (pillar(start__backoff_s=[True]), "start.backoff_s is [True],"),
    "empty backoff": (pillar(start__backoff_s=[]), "start.backoff_s is [],"),
    "probe of an unknown kind": (pillar(verify=[{"http": 80}]), "verify[0].http is 80,"),
    "two probes in one": (
        pillar(verify=[{"tcp": 22, "service": "sshd"}]),
        "verify[0] is {'tcp': 22, 'service': 'sshd'}, allowed: exactly one of",
    ),
    "empty probe": (pillar(verify=[{}]), "verify[0] is {}, allowed: exactly one of"),
    "probe of nothing": (pillar(verify=[{"tcp": None}]), "verify[0] is {'tcp': None},"),
    "port that does not exist": (pillar(verify=[{"tcp": 65536}]), "verify[0].tcp is 65536,"),
    "blank command": (pillar(verify=[{"command": " "}]), "verify[0].command is ' ',"),
    "limit of an unknown state": (pillar(timeouts__boot=9), "timeouts.boot is 9,"),
    "limit of nothing": (pillar(timeouts__booting=0), "timeouts.booting is 0,"),
    "guest pillar as a list": (pillar(guest_pillar=["x"]), "guest_pillar is ['x'],"),
}


@pytest.mark.parametrize(("given", "message"), FAULTY.values(), ids=FAULTY)
def test_a_fault_is_named_with_its_key_its_value_and_what_is_allowed(given, message):
    with pytest.raises(SpecError) as refused:
        spec.from_pillar(given, "hv-0815")
    reason = refused.value.reason
    assert reason.startswith(f"pillar store_server of hv-0815 is wrong: {message}")
    assert ", allowed: " in reason
    assert reason.isprintable(), "one sentence is one line"


@pytest.mark.parametrize("key", LEAST)
def test_a_key_that_must_be_there_and_is_not_is_named(key):
    given = pillar()
    del given[key]
    with pytest.raises(SpecError, match=f"{key} is missing, allowed: "):
        spec.from_pillar(given, "hv-0815")


@pytest.mark.parametrize("given", [None, [], "0815", 815])
def test_a_pillar_that_is_no_mapping_is_refused(given):
    with pytest.raises(SpecError, match=r"store_server is .*, allowed: a mapping"):
        spec.from_pillar(given, "hv-0815")


def test_all_faults_are_in_one_message():
    keys = [
        fault.partition(" is ")[0]
        for fault in faults(
            store=417,
            cpus=-1,
            disk_gib=True,
            image__sha256="x",
            data_disks=[{"name": "d", "size_gib": 1}, {"name": "d", "size_gib": 0}],
            verify=[{"tcp": 22}, {"tcp": 22, "service": "sshd"}, {"tcp": "ssh"}],
            colour="red",
        )
        if "allowed" in fault
    ]
    assert sorted(keys) == [
        "colour",
        "cpus",
        "data_disks",
        "data_disks[1].size_gib",
        "disk_gib",
        "image.sha256",
        "store",
        "verify[1]",
        "verify[2].tcp",
    ]


def test_a_server_cannot_have_the_minion_id_of_its_hypervisor():
    with pytest.raises(SpecError, match="minion_id is the hypervisor's own"):
        spec.from_pillar(pillar(minion_id="hv-0815"), "hv-0815")


@pytest.mark.parametrize("good", ["0", "0815", "a", "A.b-c_d", "9" * 63])
def test_a_store_id_is_taken_as_it_is(good):
    assert spec.store_id(good) == good


@pytest.mark.parametrize(
    "bad",
    [
        *("", " ", "../x", "*", "a,b", "a/b", "a b", "-a", ".", "a\n", "\n", "a\0", "ä", "[a]"),
        *("x" * 64, "x" * 300, None, True, b"0815", ["0815"], {"0815": None}),
    ],
    ids=repr,
)
def test_what_is_no_store_id_is_refused_on_one_line(bad):
    with pytest.raises(Refused) as refused:
        spec.store_id(bad)
    assert "is no store ID" in refused.value.reason
    assert refused.value.reason.isprintable()
    assert len(refused.value.reason) < 120


@pytest.mark.parametrize("number", [417, 0, -1, 4.17])
def test_a_number_as_store_id_is_refused_with_the_quoting_that_works(number):
    with pytest.raises(Refused) as refused:
        spec.store_id(number)
    assert str(number) in refused.value.reason
    assert "\"'0417'\"" in refused.value.hint


SALT_RUN = "/usr/bin/salt-run"
AS_TYPED = {
    "bare with leading zero, read as decimal": ([SALT_RUN, "deploy.store", "0417"], 417, "0417"),
    "bare with leading zero, read as octal": ([SALT_RUN, "deploy.store", "0417"], 271, "0417"),
    "bare without": ([SALT_RUN, "deploy.store", "417"], 417, "417"),
    "by keyword": ([SALT_RUN, "deploy.store", "store=0417"], 417, "0417"),
    "typed twice alike": ([SALT_RUN, "deploy.store", "0417", "store=0417"], 417, "0417"),
    "two words could be it": ([SALT_RUN, "-t", "417", "deploy.store", "0417"], 417, 417),
    "no word could be it": ([SALT_RUN, "deploy.store", "0x1a1"], 417, 417),
    "not typed into salt-run": (["/usr/bin/salt-master", "0417"], 417, 417),
    "a text": ([SALT_RUN, "deploy.store", "'0417'"], "0417", "0417"),
    "a boolean": ([SALT_RUN, "deploy.store", "1"], True, True),
    "a fraction": ([SALT_RUN, "deploy.store", "4.17"], 4.17, 4.17),
}


@pytest.mark.parametrize(("words", "value", "meant"), AS_TYPED.values(), ids=AS_TYPED)
def test_a_number_means_the_word_that_was_typed_or_stays_a_number(words, value, meant):
    assert spec.as_typed(value, words) == meant
    assert type(spec.as_typed(value, words)) is type(meant)


def test_an_interface_keeps_its_hardware_address_over_deployments():
    assert spec.default_mac("0815", "eth0") == "52:54:00:31:28:48"


def test_interfaces_of_all_stores_have_different_hardware_addresses():
    names = [(f"{store:04}", f"eth{n}") for store in range(500) for n in range(2)]
    made = {spec.default_mac(*name) for name in names}
    assert len(made) == len(names)
    assert all(spec.MAC.fullmatch(mac) for mac in made)


@pytest.mark.parametrize("given", [None, [], {"guest_pillar": None}, {"guest_pillar": "x"}, {}])
def test_a_pillar_without_a_good_guest_pillar_gives_an_empty_one(given):
    assert spec.guest_pillar(given) == {}


def test_the_guest_pillar_is_not_frozen_into_the_spec():
    given = pillar(guest_pillar={"till": {"secret": "s3cr3t"}})
    assert spec.guest_pillar(given) == {"till": {"secret": "s3cr3t"}}
    assert "s3cr3t" not in json.dumps(spec.from_pillar(given, "hv-0815").as_dict())
