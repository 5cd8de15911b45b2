# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What tests on a hypervisor share: disks, definitions, what is in a pool."""

import hashlib
import inspect
import pathlib
import re
import shlex
import subprocess
from xml.etree import ElementTree

import libvirt

GIB = 1024**3

DAY_S = 24 * 60 * 60

MACHINE_ID = pathlib.Path("/etc/machine-id")

OURS = "https://store-deploy.dev/xmlns/domain/1"


class Killed(BaseException):
    """The job's process ends here."""


def raised(error):
    def function(*_, **__):
        raise error

    return function


def globals_of(modules):
    return inspect.unwrap(modules["store_hypervisor.start"]).__globals__


def follow(hint):
    """Do what a hint says is to be typed, as it is written."""
    typed = re.findall(r"\b((?:virsh|mv|qemu-img|losetup|kill) [^;]+)", hint)
    assert typed, hint
    for command in typed:
        subprocess.run(shlex.split(command), check=True, capture_output=True)


def qemu_img(*arguments):
    return subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def qemu_io(path, command):
    done = subprocess.run(
        ["qemu-io", "-c", command, path], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and "Pattern verification failed" not in done.stdout


def written(path, pattern):
    assert qemu_io(path, f"write -P {pattern} 0 64k")


def holds(path, pattern):
    return qemu_io(path, f"read -P {pattern} 0 64k")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dumped(connection, name="store-0815", flags=libvirt.VIR_DOMAIN_XML_INACTIVE):
    return ElementTree.fromstring(connection.lookupByName(name).XMLDesc(flags))


def seed_documents(place, folder):
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", place.seed, "-extract", "/", folder],
        check=True,
        capture_output=True,
    )
    return {path.name: path.read_text() for path in folder.iterdir()}


def foreign(connection, metadata="", name="store-0815"):
    domain = connection.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory>{metadata}"
        "<os><type>hvm</type></os></domain>"
    )
    domain.create()
    return domain


def aside_of(facts):
    """Return the folder in which the server was set aside."""
    return pathlib.Path(facts["set_aside"]["path"])


def dated(aside, name):
    """Give the folder the date of another day."""
    return aside.rename(aside.with_name(name))


def attached(connection, disk, name="store-0815"):
    """Let the domain name one more disk."""
    if name != "store-0815":
        defined = ElementTree.fromstring(
            f"<domain type='qemu'><name>{name}</name><memory>65536</memory>"
            "<os><type>hvm</type></os><devices/></domain>"
        )
    else:
        defined = dumped(connection)
    defined.find("devices").append(
        ElementTree.fromstring(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source file='{disk}'/><target dev='vdz' bus='virtio'/></disk>"
        )
    )
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))


def contents(pool):
    """Return every path in the pool but the locks."""
    return sorted(path for path in pool.rglob("*") if path.parent.name != "locks")


SECRET = "5ec7e7" * 8


def changes(connection, pool):
    """Return what a failed prepare must not change: domains, files, what firmware remembers."""
    nvram = pathlib.Path("/var/lib/libvirt/qemu/nvram")
    return (
        [(each.name(), each.ID(), each.XMLDesc()) for each in connection.listAllDomains()],
        [path for path in contents(pool) if path.is_file()],
        sorted(nvram.iterdir()) if nvram.is_dir() else [],
        list(pathlib.Path("/run").glob("store-deploy-seed-*")),
    )


def left(place):
    """Return what is left of a server, but its data disks and the cached image."""
    parts = [place.disk, place.seed, place.nvram, place.intent]
    return [str(path) for path in (*parts, *place.pool.glob(".*.new")) if path.exists()]


def untouched(*files):
    """Return by what files are known not to have been changed; when they were read is no change."""
    found = ((path, path.stat()) for path in sorted(files))
    return [(path, each.st_ino, each.st_size, each.st_mtime_ns) for path, each in found]
