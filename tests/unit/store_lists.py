# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of store lists share: lists, what all stores have in common, an import."""

import random

from storemaster.deployment.store_list import (
    checking,
    columns,
    comparing,
    csv_file,
    pillar_files,
    reading,
    yaml_file,
)

SHARED = {
    "image": {"source": "salt://images/x.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
    "interfaces": {"eth0": {"type": "bridge", "source": "br0", "address": "dhcp"}},
}
WRITERS = {".csv": csv_file, ".yaml": yaml_file}


def silent(line):
    """Take a line of progress."""


def a_list(path, rows):
    """Write a list of flat mappings as the file that the path names."""
    split = [
        (
            {column: value for column, value in row.items() if column in columns.BESIDE},
            {column: value for column, value in row.items() if column not in columns.BESIDE},
        )
        for row in rows
    ]
    path.write_text(WRITERS[path.suffix].written(split))
    return path


def numbered(count, **more):
    """Return stores with static addresses, each in a network of its own."""
    return [
        {
            "hypervisor": f"hv-{n:05}",
            "store": f"{n:05}",
            "memory_mib": 4096,
            "interfaces.eth0.mac": f"52:54:01:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
            "interfaces.eth0.address": f"10.{n // 250}.{n % 250}.10/24",
            "interfaces.eth0.gateway": f"10.{n // 250}.{n % 250}.1",
            **more,
        }
        for n in range(count)
    ]


def looked(path, target, shared_networks=False):
    """Return what an import finds: comparison and faults, with those that forbid to write."""
    stores = reading.read(path)
    target.know(stores, silent)
    faults = checking.check(stores, target, shared_networks, silent)
    if faults:
        return None, faults
    return comparing.compare(stores, target, silent)


def applied(path, target):
    """Import a list that has no faults; return the comparison and the bytes written."""
    found, faults = looked(path, target)
    assert [str(fault) for fault in faults] == []
    return found, target.write([each.row for each in found.changes], silent)


def faults(path, folder, shared=SHARED, **more):
    """Return what is wrong with a list for a folder of the pillar, as it is told."""
    found = looked(path, pillar_files.PillarFiles(folder, shared), **more)[1]
    return [str(each) for each in sorted(found, key=lambda each: each.place.line)]


NASTY = (
    *("", " ", "{{ grains.id }}", "{% raw %}", "{# no #}", "{{{%", "a: b", "- a", "# no", "'", '"'),
    *(
        "0417",
        "no",
        "~",
        "null",
        "1e3",
        "2026-04-17",
        "1.5",
        "\\",
        "\\n",
        "a\nb",
        "\ta",
        "a ",
        "%a",
    ),
    *(
        "\u00e4\u00f6",
        "\u20ac",
        "\U0001f3ea",
        "\x00",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "&a",
        "*a",
    ),
    *("!!int 3", "<<", "=1+1", "@x", "`x`", "a,b;c", "[1]", "{a: 1}", "---", "...", "|", ">", "?"),
)
"""Texts that YAML, Jinja, CSV or a spreadsheet could take for something else."""


def anything(dice, depth=2):
    """Return some plain value, as a ``guest_pillar`` may have."""
    kind = dice.randrange(7 if depth else 5)
    if kind == 5:
        return [anything(dice, depth - 1) for _ in range(dice.randrange(3))]
    if kind == 6:
        return {dice.choice(NASTY): anything(dice, depth - 1) for _ in range(dice.randrange(3))}
    plain = (dice.choice(NASTY), dice.randrange(-9, 10**9), dice.random() * 1e20, None, True)
    return plain[kind]


def generated(dice, number):
    """Return a store with some of the columns that there are, at random, and without faults."""
    address = f"10.{number // 250}.{number % 250}"
    some = {
        "hostname": f"store-{number}.example.com",
        "auto_deploy": dice.random() < 0.5,
        "image.source": "http://images.example.com/a,b;c.qcow2",
        "cpus": dice.randrange(1, 513),
        "memory_mib": dice.randrange(128, 65536),
        "pool": "/srv/images, of all; stores",
        "clone": "cow",
        "data_disks.data.size_gib": dice.randrange(1, 9),
        "data_disks.a.b.size_gib": 7,
        "virt_type": dice.choice(["kvm", "auto"]),
        "interfaces.eth0.source": "br-0",
        "interfaces.eth1.100.source": "br1",
        "interfaces.eth1.100.mac": f"52:54:02:00:{number >> 8:02x}:{number & 255:02x}",
        "start.backoff_s": [1, 2, 3],
        "start.steady_s": 0,
        "verify.tcp": dice.sample(range(1, 65536), 2),
        "verify.service": ["sshd", "till@1.service"],
        "verify.command": ["test -d /srv; true, a", *dice.sample(COMMANDS, 2)],
        "timeouts.booting": 901,
        "guest_pillar": {dice.choice(NASTY): anything(dice) for _ in range(3)},
    }
    static = {
        "interfaces.eth0.address": f"{address}.10/24",
        "interfaces.eth0.gateway": f"{address}.1",
        "interfaces.eth0.dns": [f"{address}.1", "2001:db8::53"],
    }
    chosen = {column: value for column, value in some.items() if dice.random() < 0.4}
    if "interfaces.eth1.100.mac" in chosen:
        chosen["interfaces.eth1.100.source"] = "br1"
    fixed = {"hypervisor": f"hv-{number}", "store": f"{number:04}"}
    return {**fixed, **chosen, **(static if dice.random() < 0.5 else {})}


COMMANDS = ["echo {{ x }} | grep 'x'", 'echo "a"\ttrue', "test \u00e4 = \u00e4", "[ -e /x ]", "- a"]


def dice_of(seed):
    """Return a source of chance that is the same each time."""
    return random.Random(seed)
