# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's pillar becomes a spec, or one message that names every fault."""

import copy
import hashlib
import json
import re

import pytest

from storelib.errors import Refused, SpecError
from storemaster.deployment import fields, spec

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
        "group": None,
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
        "registration": "keep",
        "system_groups": [],
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
        "group": "north",
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
        "registration": "reactivation",
        "system_groups": ["stores"],
        "admission": "pinned",
        "start": {"attempts": 1, "backoff_s": [0], "steady_s": 0},
        "verify": [{"tcp": 22}, {"service": "sshd"}, {"command": "test -e /etc/salt"}],
        "timeouts": {"booting": 1800},
    }
    expected = copy.deepcopy(said)
    expected["interfaces"][1] |= {"source": None, "gateway": None, "dns": []}
    assert spec.from_pillar(said, "hv-0815").as_dict() == expected
    key = {"activation_key": "1-store"}
    assert spec.from_pillar(said | key, "hv-0815").as_dict() == expected, "it is in no record"


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
    "empty store": (pillar(store=""), "store is missing,"),
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
    "text as list": (pillar(interfaces="eth0"), "interfaces is 'eth0', allowed: a list, or a map"),
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
    "guest pillar as a list": (
        pillar(guest_pillar=["x"]),
        "guest_pillar is a list, allowed: a mapping",
    ),
}


@pytest.mark.parametrize(("given", "message"), FAULTY.values(), ids=FAULTY)
def test_a_fault_is_named_with_its_key_its_value_and_what_is_allowed(given, message):
    with pytest.raises(SpecError) as refused:
        spec.from_pillar(given, "hv-0815")
    reason = refused.value.reason
    assert reason.startswith(f"pillar store_server of hv-0815 is wrong: {message}")
    assert ", allowed: " in reason
    assert reason.isprintable(), "one sentence is one line"


def nic(**changes):
    """Return a pillar with one interface: a static one with these keys changed."""
    return {"interfaces": [{**STATIC, "gateway": None, "dns": [], **changes}]}


def second(**changes):
    """Return a pillar with two interfaces that have nothing in common, but for these keys."""
    eth1 = {"name": "eth1", "source": "br1", "address": "10.9.9.2/24"}
    return {"interfaces": [{**STATIC, "mac": "52:54:00:00:00:01"}, {**eth1, **changes}]}


def disks(*names):
    return {"data_disks": [{"name": name, "size_gib": 1} for name in names]}


def start(**changes):
    return {"start": changes}


def keyed(name, key, told, *values, of=nic):
    """Return cases of one key of the first item of a list."""
    return [(of(**{key: value}), f"{name}[0].{key} is", told) for value in values]


def address(told, *values):
    return keyed("interfaces", "address", told, *values)


def source(told, *values):
    return [({"image__source": value}, "image.source is", told) for value in values]


ALLOWED = ", allowed: "
SENSELESS = {
    "an address at an end of its network": [
        *address(
            ", the network's own address, allowed", "10.1.2.0/24", "10.0.0.0/8", "10.1.2.4/30"
        ),
        *address(", the network's own address, allowed", "2001:db8::/64"),
        *address(", the network's broadcast address, allowed", "10.1.2.255/24", "10.1.2.7/30"),
    ],
    "an address of nobody, of many or of oneself": [
        *address(", a loopback address, allowed", "127.0.0.1/8", "::1/128"),
        *address(", nobody's address, allowed", "0.0.0.0/0", "0.0.0.0/24", "0.1.2.3/8", "::/0"),
        *address(", a multicast address, allowed", "224.0.0.5/24", "ff02::1/64"),
        *address(", a reserved address, allowed", "240.0.0.1/8", "255.255.255.255/32"),
        *address(", a reserved address, allowed", "::ffff:10.1.2.3/96"),
        *address(", a link-local address, which", "169.254.1.1/16", "fe80::1/64"),
    ],
    "an address with a prefix that is none": [
        *address(ALLOWED, "10.1.2.3/024", "10.1.2.3/", "10.1.2.3/33", "10.1.2.3/+8", "10.1.2.3/²"),
        *address(ALLOWED, "2001:db8::5/129", "2001:db8::5/064", "10.1.2.3 /24", "10.01.2.3/24"),
        *address(", a prefix below 8, allowed", "10.1.2.3/0", "10.1.2.3/7", "2001:db8::5/7"),
    ],
    "a zone": [
        *address(ALLOWED, "fe80::1%eth0/64", "fe80::1/64%eth0"),
        (nic(gateway="fe80::1%eth0"), "interfaces[0].gateway is", ALLOWED),
        (nic(dns=["fe80::1%eth0"]), "interfaces[0].dns is", ALLOWED),
    ],
    "a gateway that is none": [
        (nic(gateway="10.1.2.3"), "interfaces[0].gateway is", ", the server's own address,"),
        (nic(gateway="10.1.2.0"), "interfaces[0].gateway is", ", the network's own address,"),
        (nic(gateway="10.1.2.255"), "interfaces[0].gateway is", ", the network's broadcast"),
        (nic(address="10.1.2.3/32", gateway="10.1.2.1"), "interfaces[0].gateway is", ALLOWED),
        (nic(address="10.1.2.3/32", gateway="10.1.2.3"), "interfaces[0].gateway is", ", the serv"),
        (nic(address="2001:db8::5/128", gateway="2001:db8::1"), "interfaces[0].gateway", ALLOWED),
    ],
    "a name server that is none": [
        (nic(dns=["10.1.2.1", "0.0.0.0"]), "interfaces[0].dns is", ", 0.0.0.0 being nobody's add"),
        (nic(dns=["224.0.0.251"]), "interfaces[0].dns is", ", 224.0.0.251 being a multicast addr"),
        (nic(dns=["::"]), "interfaces[0].dns is", ", :: being nobody's address,"),
        (nic(dns=["fe80::1"]), "interfaces[0].dns is", ", fe80::1 being a link-local address"),
    ],
    "two interfaces that are at odds": [
        (second(address="10.1.2.3/16"), "interfaces is", "addresses that differ"),
        (second(gateway="10.9.9.1"), "interfaces is", "one gateway for IPv4, one for IPv6"),
        (second(mac="52:54:00:00:00:01"), "interfaces is", "hardware addresses that differ"),
        (second(address="10.1.2.1/24"), "interfaces is", "a gateway that is not the server itself"),
    ],
    "a name that no interface can have": [
        *keyed("interfaces", "name", ", which the kernel keeps", "lo", "all", "default"),
        *keyed("interfaces", "name", ALLOWED, ".", "..", "...", "a b", "a/b", "a:b", "-", "x" * 16),
        *keyed("interfaces", "source", ", which the kernel keeps", "lo", "all"),
        *keyed("interfaces", "source", ALLOWED, "..", "br 0", "x" * 16),
    ],
    "a hardware address that no card has": [
        *keyed(
            "interfaces", "mac", ", a multicast address", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"
        ),
        *keyed("interfaces", "mac", ", no card's address", "00:00:00:00:00:00"),
        *keyed("interfaces", "mac", ", an address that libvirt keeps", "fe:54:00:12:34:56"),
    ],
    "a host name that is none": [
        *[
            ({"hostname": name}, "hostname is", ALLOWED)
            for name in ("a-", "-a", "x.-y.com", "a..b")
        ],
        *[
            ({"hostname": name}, "hostname is", ALLOWED)
            for name in ("a.", ".a", "a_b", "ä", "x" * 64)
        ],
        *[
            ({"hostname": name}, "hostname is", ", which looks like an address,")
            for name in ("10.0.0.1", "10", "0815", "store.0815", "0x7f", "0x7f000001", "10.0.0.256")
        ],
        ({"hostname": "localhost"}, "hostname is", ", which every host is to itself,"),
        ({"minion_id": "0815"}, "hostname is", ", which looks like an address,"),
        (
            {"minion_id": "no.1", "hostname": "no.1"},
            "hostname is",
            ", which looks like an address,",
        ),
    ],
    "a master that no guest finds": [
        *[
            ({"master": name}, "master is", ALLOWED)
            for name in ("a-", "a_b", "x.-y.com", "a..b", "salt.")
        ],
        *[
            ({"master": name}, "master is", ", which looks like an address,")
            for name in ("10.0.0.256", "10.0.0", "10.0.0.0.1", "0x7f.1")
        ],
        ({"master": "0.0.0.0"}, "master is", ", nobody's address,"),
        ({"master": "224.0.0.1"}, "master is", ", a multicast address,"),
        ({"master": "127.0.0.1"}, "master is", ", a loopback address,"),
        ({"master": "Localhost"}, "master is", ", which every host is to itself,"),
        ({"master": "store-0815"}, "master is", "another machine than the server itself"),
        ({"master": "10.1.2.3", **nic()}, "master is", "another machine than the server itself"),
    ],
    "what YAML has not read as text": [
        ({"hostname": 0o417}, "hostname is 271", "quote it"),
        ({"hostname": None}, "hostname is None", "quote it"),
        ({"store": False}, "store is False", "quote it"),
        ({"store": None}, "store is None", "quote it"),
        ({"minion_id": True}, "minion_id is True", "quote it"),
        ({"master": 10.1}, "master is 10.1", "quote it"),
        ({"pool": 7}, "pool is 7", "quote it"),
        (nic(mac=40789143056), "interfaces[0].mac is 40789143056", "quote it"),
        (nic(name=False), "interfaces[0].name is False", "quote it"),
        (nic(address=1), "interfaces[0].address is 1", "quote it"),
        (disks(815), "data_disks[0].name is 815", "quote it"),
        ({"image__sha256": 5}, "image.sha256 is 5", "quote it"),
        ({"verify": [{"service": True}]}, "verify[0].service is True", "quote it"),
        ({"verify": [{"command": True}]}, "verify[0].command is True", "quote it"),
    ],
    "a data disk that would be taken for another": [
        *[
            (disks(name), "data_disks[0].name is", ", the name of another drive,")
            for name in ("system", "System", "cdrom", "disk", "seed", "nvram")
        ],
        (disks("data", "Data"), "data_disks is", "names that differ"),
    ],
    "a pool or network that libvirt does not know by that name": [
        *[
            ({"pool": name}, "pool is", "up to 128 letters")
            for name in (" a", "a ", "a/b", "x" * 129)
        ],
        *[({"pool": f"/srv/{name}"}, "pool is", ALLOWED) for name in ("a&b", "a'b", "<a>", "a\nb")],
        (nic(type="network", source="a/b"), "interfaces[0].source is", "(up to 128, and spaces)"),
        (nic(type="network", source="a'b"), "interfaces[0].source is", "(up to 128, and spaces)"),
    ],
    "a checksum that stands for one": [
        *[
            ({"image__sha256": digit * 64}, "image.sha256 is", "a placeholder (sha256sum FILE")
            for digit in "0123456789abcdef"
        ],
        ({"image__sha256": hashlib.sha256().hexdigest()}, "image.sha256 is", "of an empty file"),
    ],
    "a URL with credentials": [
        *source(", a URL with credentials, which", "http://user:s3cr3t@images.example.com/x"),
        *source(", a URL with credentials, which", "https://s3cr3t@images.example.com/x"),
        *source(", a URL with credentials, which", "http://user:s3cr3t@[::1/x"),
        *source(", a URL whose host or port", "http://user:s3/cr3t@images.example.com/x"),
        *source(ALLOWED, "ftp://user:s3cr3t@images.example.com/x", "http://user:s3 cr3t@host/x"),
    ],
    "a URL that leads nowhere": [
        *source(
            ", a URL whose host or port is malformed,", "http://images..example.com/x", "http:///x"
        ),
        *source(
            ", a URL whose host or port is malformed,", f"http://{'x' * 64}.com/x", "http://a-/x"
        ),
        *source(", a URL whose host or port is malformed,", "http://[::1/x", "http://::1/x"),
        *source(", a URL whose host or port is malformed,", "http://a:70000/x", "http://a:b/x"),
        *source(", a URL whose host or port is malformed,", "http://a:0/x"),
        *source(
            ", a URL whose host or port is malformed,", "http://10.0.0.256/x", "http://[::g]/x"
        ),
        *source(", a URL whose host is nobody's address,", "http://0.0.0.0/x", "http://[::]/x"),
    ],
    "a start that outlasts its state": [
        (
            start(steady_s=300),
            "start is 30 s of pauses",
            "and 300 s of steady_s, allowed: less than the 300 s",
        ),
        (
            start(steady_s=600),
            "start is 30 s of pauses",
            "and 600 s of steady_s, allowed: less than the 300 s",
        ),
        (
            start(attempts=20),
            "start is 480 s of pauses",
            "and 20 s of steady_s, allowed: less than",
        ),
        (
            start(attempts=2, backoff_s=[600]),
            "start is 600 s of pauses",
            "the 300 s of timeouts.starting",
        ),
        (
            {"timeouts": {"starting": 40}},
            "start is 30 s of pauses",
            "the 40 s of timeouts.starting",
        ),
    ],
}


@pytest.mark.parametrize(
    ("given", "named", "told"),
    [
        pytest.param(*case, id=f"{kind}: {case[0]}")
        for kind in SENSELESS
        for case in SENSELESS[kind]
    ],
)
def test_what_is_right_by_syntax_and_cannot_work_is_refused_with_the_reason(given, named, told):
    (fault,) = faults(**given)
    assert fault.startswith(named)
    assert told in fault
    assert ALLOWED in fault
    assert "s3" not in fault, "credentials are not shown"


SENSIBLE = [
    nic(address="10.1.2.2/31", gateway="10.1.2.3"),
    nic(address="10.1.2.3/32"),
    nic(address="2001:db8::/127", gateway="2001:db8::1"),
    nic(address="2001:db8::5/128"),
    nic(address="2001:db8::ffff/64", dns=["2001:db8::53", "127.0.0.1"]),
    nic(address="10.255.255.254/8", gateway="10.0.0.1"),
    second(),
    second(address="2001:db8::2/64", gateway="2001:db8::1"),
    second(name="ETH0"),
    nic(type="network", source="default"),
    nic(type="network", source="Verkauf im Erdgeschoss"),
    {"pool": "images of all the stores"},
    {"pool": "/srv/disks of stores"},
    {"hostname": "x" * 63 + ".1and1.com"},
    {"hostname": "0815.stores.example.com"},
    {"master": "10.1.2.3"},
    {"minion_id": "0815", "hostname": "store-0815"},
    disks("data", "systems", "disk1"),
    {"image__source": "http://images_1.example.com:8080/x?a=b@c"},
    {"image__source": "https://[2001:db8::1]:443/x"},
    {"image__source": "http://127.0.0.1/x"},
    {"image__source": "salt://images/a@b.qcow2"},
    {**start(steady_s=600), "timeouts": {"starting": 631}},
    start(attempts=1, backoff_s=[600], steady_s=299),
]


@pytest.mark.parametrize("given", SENSIBLE, ids=str)
def test_what_can_work_is_accepted(given):
    assert spec.from_pillar(pillar(**given), "hv-0815")


def test_what_stands_at_an_unknown_key_may_be_secret_and_is_not_shown():
    told = faults(guest_pilar={"till": "s3cr3t"}, password="s3cr3t", tokens=["s3cr3t"])
    assert [fault.partition(",")[0] for fault in told if "allowed" in fault] == [
        "guest_pilar is a mapping",
        "password is a text",
        "tokens is a list",
    ]
    assert "s3cr3t" not in str(told)


def test_the_reason_of_a_faulty_value_is_not_followed_by_those_of_its_consequences():
    (fault,) = faults(**nic(address="10.1.2.0/24", gateway="10.1.2.1", dns=["10.1.2.1"]))
    assert fault.startswith("interfaces[0].address is '10.1.2.0/24'")


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
        *("x" * 64, "x" * 300, b"0815", ["0815"], {"0815": None}),
    ],
    ids=repr,
)
def test_what_is_no_store_id_is_refused_on_one_line(bad):
    with pytest.raises(Refused) as refused:
        spec.store_id(bad)
    assert "is no store ID" in refused.value.reason
    assert refused.value.reason.isprintable()
    assert len(refused.value.reason) < 120


@pytest.mark.parametrize("read", [417, 0, -1, 4.17, True, False, None])
def test_what_yaml_made_of_a_store_id_is_refused_with_the_quoting_that_works(read):
    with pytest.raises(Refused) as refused:
        spec.store_id(read)
    assert str(read) in refused.value.reason
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
    assert fields.default_mac("0815", "eth0") == "52:54:00:31:28:48"


def test_interfaces_of_all_stores_have_different_hardware_addresses():
    names = [(f"{store:04}", f"eth{n}") for store in range(500) for n in range(2)]
    made = {fields.default_mac(*name) for name in names}
    assert len(made) == len(names)
    assert all(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", mac) for mac in made)


@pytest.mark.parametrize("given", [None, [], {"guest_pillar": None}, {"guest_pillar": "x"}, {}])
def test_a_pillar_without_a_good_guest_pillar_gives_an_empty_one(given):
    assert spec.guest_pillar(given) == {}


def test_the_guest_pillar_is_not_frozen_into_the_spec():
    given = pillar(guest_pillar={"till": {"secret": "s3cr3t"}})
    assert spec.guest_pillar(given) == {"till": {"secret": "s3cr3t"}}
    assert "s3cr3t" not in json.dumps(spec.from_pillar(given, "hv-0815").as_dict())
