# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Domains as libvirt knows them, and how to tell ours from others."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from storelib import orders
from storelib.domain_states import ON, RUNNING, STATES
from storelib.errors import Fault
from storelib.hypervisor.place import MIB, Place, read_json

TRIAL = "+trial"
"""Ends the names of domains that are only defined as a trial: no minion ID can."""

NAMESPACE = "https://store-deploy.dev/xmlns/domain/1"
ElementTree.register_namespace("store-deploy", NAMESPACE)

SHUTDOWN_S = 60
"""Seconds that a guest has for its shutdown before it is switched off."""

BACK_S = 60
"""Seconds that a libvirt which does not answer has to come back before a step fails."""

EJECT_S = 10
"""Seconds for which a drive that does not let go of its medium is asked again."""


class Gone(Fault):
    """libvirt was there and went away: it crashed, or is being restarted."""


@contextlib.contextmanager
def connected(uri: str | None, patience_s: float | None = None) -> Iterator[Any]:
    """
    Connect to libvirt; whatever libvirt refuses meanwhile becomes a :class:`Fault`.

    uri
        Connection URI; ``None`` means libvirt's own default.
    patience_s
        How long a libvirt that is being restarted is waited for; default: :data:`BACK_S`.
    """
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError:
        raise Fault(
            "Python's libvirt module is missing", "install libvirt-python where salt-minion runs"
        ) from None
    # Without a handler libvirt prints each error to stderr.
    libvirt.registerErrorHandler(lambda *_: None, None)
    until = time.monotonic() + (BACK_S if patience_s is None else patience_s)
    while True:
        try:
            connection = libvirt.open(uri)
            break
        except libvirt.libvirtError as err:
            if time.monotonic() >= until:
                text = err.get_error_message()
                raise Fault(f"libvirt cannot be reached: {text}", "start libvirtd") from None
        time.sleep(0.25)
    try:
        yield connection
    except libvirt.libvirtError as err:
        text = err.get_error_message()
        if not connection.isAlive():
            raise Gone(f"libvirt went away: {text}", "see to libvirtd") from err
        raise Fault(f"libvirt refuses: {text}") from err
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


@contextlib.contextmanager
def passing_over(*refusals: str) -> Iterator[None]:
    """Pass over what libvirt refuses for one of these reasons, such as that nothing is there."""
    libvirt = importlib.import_module("libvirt")
    try:
        yield
    except libvirt.libvirtError as err:
        if err.get_error_code() not in {getattr(libvirt, f"VIR_ERR_{why}") for why in refusals}:
            raise


def pool_path(connection: Any, pool: str) -> Path:
    """Return the directory of a pool that is given as such or as the name of a libvirt pool."""
    if pool.startswith("/"):
        return Path(pool)
    found = [each for each in connection.listAllStoragePools() if each.name() == pool]
    if not found:
        raise Fault(f"libvirt has no pool named {pool}", "make it, or correct pool in the pillar")
    description = ElementTree.fromstring(found[0].XMLDesc())
    if description.get("type") != "dir":
        raise Fault(
            f"the pool {pool} is of type {description.get('type')}, not dir",
            "give a pool of type dir, or a directory, as pool in the pillar",
        )
    return Path(description.findtext("target/path") or "")


def virt_types(connection: Any, os_type: str) -> list[str]:
    """Return the virtualization types that can run a guest of that OS type on this machine."""
    capabilities = ElementTree.fromstring(connection.getCapabilities())
    found = {
        domain.get("type", "")
        for guest in capabilities.iter("guest")
        if guest.findtext("os_type") == os_type
        for arch in guest.iter("arch")
        if arch.get("name") == platform.machine()
        for domain in arch.iter("domain")
    }
    return sorted(found if _kvm_works() else found - {"kvm"})


def _kvm_works() -> bool:
    # In some virtual machines /dev/kvm is there without the processor's support behind it.
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    flags = Path("/proc/cpuinfo").read_text().split()
    return platform.machine() != "x86_64" or "vmx" in flags or "svm" in flags


def resolved(virt_type: str, usable: list[str]) -> str | None:
    """Return the virtualization type that is meant, ``None`` if ``auto`` finds none."""
    if virt_type != "auto":
        return virt_type
    return next((each for each in ("kvm", "xen", "qemu") if each in usable), None)


def trial_of(minion_id: str) -> str:
    """Return the name of the domain under which a server's definition is tried."""
    return minion_id + TRIAL


@contextlib.contextmanager
def refusals(connection: Any) -> Iterator[None]:
    """Let what libvirt refuses be a fault of the definition, unless libvirt went away."""
    libvirt = importlib.import_module("libvirt")
    try:
        yield
    except libvirt.libvirtError as err:
        # A question to it raises, and is seen, if it is gone.
        connection.listAllDomains()
        raise refused(err.get_error_message()) from None


def refused(why: str) -> Fault:
    """Return the fault that says that a definition is refused."""
    return Fault(f"libvirt refuses the new server: {why}", "correct the pillar or the hypervisor")


def capabilities(connection: Any, virt_type: str) -> dict[str, Any]:
    """Return what hardware guests of that type can have here, as far as libvirt can say."""
    libvirt = importlib.import_module("libvirt")
    try:
        told = connection.getDomainCapabilities(None, platform.machine(), None, virt_type)
    except libvirt.libvirtError:
        connection.listAllDomains()
        return {}
    known = ElementTree.fromstring(told)
    cpus, firmwares = known.find("vcpu"), known.find("os/enum[@name='firmware']")
    return {
        "machine": known.findtext("machine"),
        "max_cpus": None if cpus is None else int(cpus.get("max", "0")) or None,
        "firmwares": None if firmwares is None else [each.text for each in firmwares],
    }


def free_memory_mib(connection: Any) -> int:
    """Return the memory that a new guest can have, in MiB."""
    if connection.getType() == "Xen":
        return int(connection.getFreeMemory()) // MIB
    # libvirt does not count what the page cache would give back.
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024


def missing_sources(connection: Any, interfaces: list[Mapping[str, Any]]) -> list[str]:
    """Return the bridges and active networks that the interfaces want and that are not there."""
    networks = {network.name() for network in connection.listAllNetworks() if network.isActive()}
    return [
        f"{each['type']} {each['source']}"
        for each in interfaces
        if (each["type"] == "network" and each["source"] not in networks)
        or (
            each["type"] == "bridge"
            and not Path(f"/sys/class/net/{each['source']}/bridge").is_dir()
        )
    ]


def lookup(connection: Any, name: str) -> Any | None:
    """Return the domain of that name, ``None`` if there is none."""
    return next((each for each in connection.listAllDomains() if each.name() == name), None)


def description(domain: Any) -> ElementTree.Element:
    """Return what is defined for the domain's next start."""
    return ElementTree.fromstring(
        domain.XMLDesc(importlib.import_module("libvirt").VIR_DOMAIN_XML_INACTIVE)
    )


def definition(domain: Any) -> str:
    """Return the XML from which the domain can be defined again, secrets included."""
    libvirt = importlib.import_module("libvirt")
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    return str(domain.XMLDesc(flags))


def state(domain: Any) -> str:
    """Return the domain's state in words."""
    return STATES[domain.state()[0]]


def kept(connection: Any, domain: Any) -> Any:
    """
    Return the domain, whose definition is there whatever becomes of its guest.

    One that somebody undefined while it ran would be gone with its guest, and with it what it says.
    """
    with passing_over("NO_DOMAIN"):
        if not domain.isPersistent():
            return connection.defineXML(definition(domain))
    return domain


def woken(connection: Any, name: str) -> bool:
    """Let the guest go on if it stands still; return whether it did."""
    domain = lookup(connection, name)
    if domain is None or state(domain) not in ("paused", "suspended"):
        return False
    if state(domain) == "paused":
        domain.resume()
    else:
        domain.pMWakeup(0)
    return True


def stands(connection: Any, name: str) -> str:
    """Return how the guest stands still, and why, if it is on and does."""
    libvirt = importlib.import_module("libvirt")
    domain = lookup(connection, name)
    if domain is None or state(domain) not in ON - RUNNING:
        return ""
    reason = domain.state()[1] if state(domain) == "paused" else None
    if reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
        return ""
    full = reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
    return f"it is {state(domain)}{', for its disk cannot be written' if full else ''}"


def running_as(connection: Any, name: str) -> int | None:
    """Return the ID of the domain's present run, ``None`` if it does not run."""
    # Asked anew each time: a domain object keeps the ID that it was looked up with.
    domain = lookup(connection, name)
    return domain.ID() if domain is not None and state(domain) in RUNNING else None


def attached(described: ElementTree.Element, seed: Path) -> list[ElementTree.Element]:
    """Return the drives of a domain that have the seed in them, or the disk that it is."""
    return [
        disk
        for disk in described.iterfind("devices/disk")
        for source in disk.iterfind("source")
        if source.get("file") == str(seed)
    ]


def running(domain: Any) -> ElementTree.Element:
    """Return the domain as it runs now, if it does; else as it is defined."""
    return ElementTree.fromstring(domain.XMLDesc())


def sources(connection: Any, defined: ElementTree.Element) -> list[str]:
    """Return the files behind the domain's disks."""
    return [
        source_path(connection, source)
        for disk in defined.iterfind("devices/disk[@device='disk']")
        for source in disk.iterfind("source")
    ]


def source_path(connection: Any, source: ElementTree.Element) -> str:
    """Return the local path that a disk's source means; empty for one on the network."""
    if pool := source.get("pool"):
        return _volume_path(connection, pool, source.get("volume", ""))
    return source.get("file") or source.get("dev") or ""


def _volume_path(connection: Any, pool: str, volume: str) -> str:
    target = None
    # The pool is not started, or the file came after its last refresh.
    with passing_over("NO_STORAGE_POOL", "NO_STORAGE_VOL", "OPERATION_INVALID"):
        found = connection.storagePoolLookupByName(pool)
        target = ElementTree.fromstring(found.XMLDesc()).findtext("target/path")
        return str(found.storageVolLookupByName(volume).path())
    return f"{target}/{volume}" if target else ""


def hardware(domain: Any) -> dict[str, Any]:
    """Return what a definition came to."""
    defined = description(domain)
    macs = defined.iterfind("devices/interface/mac")
    return {
        "cpus": int(defined.findtext("vcpu") or 0),
        "memory_mib": int(defined.findtext("memory") or 0) // 1024,
        "macs": [mac.get("address", "").lower() for mac in macs],
        "disk": next(iter(sources(domain.connect(), defined)), None),
        "autostart": bool(domain.autostart()),
    }


def facts(connection: Any, spec: Mapping[str, Any], place: Place | None) -> dict[str, Any]:
    """Return what libvirt knows of the store's domain, and whether it is ours."""
    domain = lookup(connection, spec["minion_id"])
    if domain is None:
        return {"exists": False}
    defined = description(domain)
    known = {
        "exists": True,
        "state": state(domain),
        "id": domain.ID() if domain.isActive() else None,
        "uuid": domain.UUIDString(),
        "autostart": bool(domain.autostart()) if domain.isPersistent() else False,
        "virt_type": defined.get("type"),
        "memory_mib": int(defined.findtext("memory") or 0) // 1024,
        "cpus": int(defined.findtext("vcpu") or 0),
        "disks": sources(connection, defined),
        **(metadata(defined) or _half_made(connection, defined, place)),
    }
    ours = known["store"] == spec["store"] and known["generation"] is not None
    return {**known, "ours": ours}


def nvram(domain: Any, place: Place) -> Path:
    """Return where the NVRAM of the server is, whether its domain is there or not."""
    return Path((domain and description(domain).findtext("os/nvram")) or place.nvram)


def metadata(defined: ElementTree.Element) -> dict[str, Any] | None:
    """
    Return what a definition says of itself: whose it is, and its public key; if it is ours.

    ``generation`` is ``None`` if it is no number: somebody else wrote that.
    """
    element = defined.find(f"metadata/{{{NAMESPACE}}}deployment")
    if element is None:
        return None
    generation = element.get("generation", "0")
    number = int(generation) if generation.isdecimal() else None
    return {
        "store": element.get("store"),
        "generation": number,
        "deployment": element.get("id") or (None if number is None else orders.old_id(number)),
        "public_key": element.findtext(f"{{{NAMESPACE}}}public-key"),
    }


def _half_made(
    connection: Any, defined: ElementTree.Element, place: Place | None
) -> dict[str, Any]:
    # virt.init can give a domain no metadata: killed right after it, ours would look foreign.
    intent = intended(place) if place else None
    if place and intent and sources(connection, defined)[:1] == [str(place.disk)]:
        return {**intent, "public_key": None}
    return {"store": None, "generation": None, "deployment": None, "public_key": None}


def intended(place: Place) -> dict[str, Any] | None:
    """Return whose domain was being made or removed when that was killed; ``None`` for nobody's."""
    intent = read_json(place.intent)
    if not intent:
        return None
    # A version whose deployments had no IDs wrote their numbers only.
    return {"deployment": orders.old_id(intent["generation"]), **intent}


def complete(connection: Any, domain: Any, whose: Mapping[str, Any], key: str, log: Path) -> None:
    """Add what virt.init cannot express: whose the domain is, and a log of its serial console."""
    defined = description(domain)
    metadata = defined.find("metadata")
    if metadata is None:
        metadata = ElementTree.SubElement(defined, "metadata")
    ours = ElementTree.SubElement(
        metadata,
        f"{{{NAMESPACE}}}deployment",
        {
            "store": whose["store"],
            "generation": str(whose["generation"]),
            "id": whose["deployment"],
        },
    )
    ElementTree.SubElement(ours, f"{{{NAMESPACE}}}public-key").text = key
    for serial in defined.iterfind("devices/serial"):
        ElementTree.SubElement(serial, "log", {"file": str(log), "append": "off"})
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))


def switch_off(domain: Any) -> None:
    """Shut the guest down, and switch it off if it takes longer than :data:`SHUTDOWN_S`."""
    # It may end by itself at any time.
    with passing_over("NO_DOMAIN", "OPERATION_INVALID"):
        if state(domain) in RUNNING:
            domain.shutdown()
            awaited(lambda: not domain.isActive(), SHUTDOWN_S)
    destroy(domain)


def destroy(domain: Any) -> None:
    """Switch the guest off, if it is on."""
    with passing_over("NO_DOMAIN", "OPERATION_INVALID"):
        if domain.isActive():
            domain.destroy()


def awaited(fact: Callable[[], bool], seconds: float) -> bool:
    """Return whether the fact came true within that time."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def undefine(domain: Any) -> None:
    """Remove the definition, if there still is one; files, NVRAM among them, stay."""
    libvirt = importlib.import_module("libvirt")
    flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    if domain.connect().getType() != "Xen":
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    with passing_over("NO_DOMAIN"):
        domain.undefineFlags(flags)


def detach(domain: Any, seed: Path) -> None:
    """Eject the seed from the running guest and take its drive out of the definition."""
    libvirt = importlib.import_module("libvirt")
    for disk in attached(description(domain), seed):
        domain.detachDeviceFlags(
            ElementTree.tostring(disk, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )
    if not domain.isActive():
        return
    for disk in attached(running(domain), seed):
        if disk.get("device") != "cdrom":
            text = ElementTree.tostring(disk, encoding="unicode")
            domain.detachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            continue
        for name in ("source", "backingStore"):
            for element in disk.findall(name):
                disk.remove(element)
        _eject(domain, disk)


def _eject(domain: Any, drive: ElementTree.Element) -> None:
    empty = ElementTree.tostring(drive, encoding="unicode")
    alias = drive.find("alias")
    libvirt = importlib.import_module("libvirt")
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
    if domain.connect().getType() != "Xen":
        # The guest may have locked the drive's tray; libxl asks no guest, and knows no force.
        flags |= libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE

    def ejected() -> bool:
        with contextlib.suppress(libvirt.libvirtError):
            domain.updateDeviceFlags(empty, flags)
            return True
        if flags & libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE and alias is not None:
            _open_tray(domain, alias.get("name", ""))
        return False

    # A guest that is just resetting the drive closes the tray again.
    if not awaited(ejected, EJECT_S):
        domain.updateDeviceFlags(empty, flags)


def _open_tray(domain: Any, drive: str) -> None:
    """
    Have QEMU itself open the tray of a drive.

    A guest's reset of its drive closes the tray, and QEMU tells nobody: libvirt (9.0) goes on with
    a tray that it takes for open, and never ejects.
    """
    libvirt = importlib.import_module("libvirt")
    order = {"execute": "blockdev-open-tray", "arguments": {"id": drive, "force": True}}
    with contextlib.suppress(libvirt.libvirtError, ImportError):
        monitor = importlib.import_module("libvirt_qemu")
        monitor.qemuMonitorCommand(domain, json.dumps(order), 0)
