# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that cannot take the store's server is told so, with all its faults at once."""

import pytest
from fake_master import hypervisor_facts

from storemaster.deployment import suitability

SPEC = {
    "clone": "copy",
    "minion_id": "store-0815",
    "virt_type": "auto",
    "pool": "/srv/pool",
    "memory_mib": 2048,
    "disk_gib": 20,
    "cpus": 2,
    "firmware": "bios",
}
CAPABLE = {"machine": "pc-i440fx-7.2", "max_cpus": 255, "firmwares": ["efi"]}
OURS = {"exists": True, "ours": True, "generation": 1, "state": "shut off"}
NO_LIBVIRT = {
    "libvirt": {"uri": None, "version": None, "reachable": False, "why": "no socket"},
    "virt_types": [],
    "virt_type": None,
    "free_memory_mib": None,
    "sources_missing": None,
    "domain": None,
}


def faults(spec=None, **facts):
    return suitability.hypervisor({**SPEC, **(spec or {})}, {**hypervisor_facts(), **facts})


def test_a_hypervisor_that_suffices_has_no_fault():
    assert faults() == []


FAULTY = {
    "libvirt down": ({}, NO_LIBVIRT, "no socket: start libvirtd"),
    "no virt module": ({}, {"virt_module": False}, "Salt's virt module does not load: install"),
    "no tool": (
        {},
        {"tools_missing": ["qemu-img", "xorrisofs or genisoimage"]},
        "programs are missing: install qemu-img, xorrisofs or genisoimage",
    ),
    "no KVM": (
        {"virt_type": "kvm"},
        {"virt_types": ["qemu"]},
        "virt_type kvm cannot be used there: usable is qemu",
    ),
    "no virtualisation at all": (
        {"virt_type": "xen"},
        {"virt_types": []},
        "virt_type xen cannot be used there: usable is none",
    ),
    "no bridge": ({}, {"sources_missing": ["bridge br0"]}, "bridge br0 does not exist"),
    "image that cannot be fetched": (
        {},
        {"source_error": "the image cannot be fetched: see to it"},
        "the image cannot be fetched: see to it",
    ),
    "no folder": (
        {},
        {"pool": {"path": "/srv/pool", "exists": False, "free_mib": 0}},
        "pool /srv/pool does not exist: create it or correct the pillar",
    ),
    "no pool": (
        {"pool": "fast"},
        {
            "pool": {"path": None, "exists": False, "free_mib": 0},
            "pool_error": "libvirt has no pool fast",
        },
        "libvirt has no pool fast: create it or correct the pillar",
    ),
    "foreign domain": (
        {},
        {"domain": {**OURS, "ours": False}},
        "a domain store-0815 is there that store-deploy did not make for this store: on the "
        "hypervisor, while it is shut off: virsh domrename store-0815 store-0815-other; or",
    ),
    "no free disk": (
        {},
        {"pool": {"path": "/srv/pool", "exists": True, "free_mib": 1023}},
        "pool /srv/pool has 1023 MiB free, 1024 MiB are needed: make room",
    ),
    "no inode": (
        {},
        {"pool": {"path": "/srv/pool", "exists": True, "free_mib": 5, "inodes_left": False}},
        "pool /srv/pool has no inode left: remove files there",
    ),
    "too many CPUs": (
        {"cpus": 300},
        {"capabilities": CAPABLE},
        "cpus is 300, a guest there can have 255 (machine type pc-i440fx-7.2): lower cpus",
    ),
    "no UEFI": (
        {"firmware": "efi"},
        {"capabilities": {**CAPABLE, "firmwares": []}},
        "firmware is efi, and the hypervisor has none: install UEFI for its guests",
    ),
    "unsound image": (
        {},
        {"image": {"exists": True, "wrong": "the image 5e is marked as corrupt: make it anew"}},
        "the image 5e is marked as corrupt: make it anew",
    ),
    "no free memory": (
        {},
        {"free_memory_mib": 2047},
        "2047 MiB of memory are free, memory_mib asks for 2048: make room or ask for less",
    ),
}


@pytest.mark.parametrize(("spec", "facts", "message"), FAULTY.values(), ids=FAULTY)
def test_a_fault_is_one_sentence_that_says_what_to_do(spec, facts, message):
    (fault,) = faults(spec, **facts)
    assert fault.startswith(message)
    assert fault.isprintable()


def test_all_faults_are_told_at_once():
    found = faults(virt_module=False, tools_missing=["qemu-img"], free_memory_mib=0)
    assert len(found) == 3


def test_what_exactly_suffices_is_no_fault():
    assert faults(free_memory_mib=2048, pool={"path": "/p", "exists": True, "free_mib": 1024}) == []


@pytest.mark.parametrize(
    "capabilities",
    [CAPABLE, {}, {"machine": None, "max_cpus": None, "firmwares": None}],
    ids=["can", "unknown", "says nothing"],
)
def test_what_libvirt_does_not_deny_is_no_fault(capabilities):
    assert faults({"cpus": 255, "firmware": "efi"}, capabilities=capabilities) == []


def test_a_disk_that_was_prepared_already_needs_no_room_again():
    image = {"exists": True, "size": 2048 * 1024**2}
    pool = {"path": "/p", "exists": True, "free_mib": 1024 + 48}
    assert faults(pool=pool, image=image)
    assert faults(pool=pool, image=image, prepared={"size": 2000 * 1024**2}) == []
    # It is another's, and makes room for this one, but no more than it has.
    pool["free_mib"] = 1023
    assert faults(pool=pool, image=image, prepared={"size": 9000 * 1024**2})


@pytest.mark.parametrize("complete", [True, False])
def test_a_set_aside_server_gives_nothing_back_to_the_room_that_is_needed(complete):
    """It stays: a rollback may want it. Only an operator prunes it."""
    image = {"exists": True, "size": 2048 * 1024**2}
    aside = {"generation": 1, "complete": complete, "size": 9000 * 1024**2, "unreadable": ""}
    for free_mib, fits in ((3072, True), (3071, False)):
        found = {
            "pool": {"path": "/p", "exists": True, "free_mib": free_mib},
            "image": image,
            "set_asides": [aside],
            "domain": {**OURS, "state": "running"},
            "disk": {"path": "/p/store-0815.qcow2", "exists": True, "size": 9000 * 1024**2},
        }
        assert (faults(**found) == []) is fits
        assert suitability.disk_needed_mib(SPEC, found) == 3072


@pytest.mark.parametrize(
    ("clone", "part_mib", "needed_mib"),
    [("copy", 0, 1024 + 600), ("copy", 100, 1024 + 500), ("cow", 0, 1024 + 300)],
)
def test_an_image_that_is_not_here_yet_needs_room_for_its_transfer_too(clone, part_mib, needed_mib):
    facts = {
        "image": {"exists": False, "sha256": None, "part": part_mib * 1024**2},
        "image_length": 300 * 1024**2,
    }
    for free_mib, fits in ((needed_mib, True), (needed_mib - 1, False)):
        pool = {"path": "/p", "exists": True, "free_mib": free_mib}
        assert (faults({"clone": clone}, pool=pool, **facts) == []) is fits


def test_more_of_an_image_than_it_has_gives_no_room():
    facts = {"image": {"exists": False, "part": 9 * 1024**3}, "image_length": 1024**2}
    assert suitability.disk_needed_mib(SPEC, facts) == 1024 + 1


@pytest.mark.parametrize("state", ["running", "blocked", "paused"])
def test_the_memory_of_the_old_server_counts_as_free_while_it_is_on(state):
    old = {**OURS, "memory_mib": 2048}
    assert faults(free_memory_mib=100, domain={**old, "state": state}) == []
    assert faults(free_memory_mib=100, domain=old)


@pytest.mark.parametrize(("clone", "needed"), [("copy", 3072), ("cow", 1024)])
def test_a_cached_image_needs_room_for_its_copy_if_it_is_copied(clone, needed):
    image = {"exists": True, "size": 2048 * 1024**2}
    for free_mib, fits in ((needed, True), (needed - 1, False)):
        pool = {"path": "/p", "exists": True, "free_mib": free_mib}
        assert (faults({"clone": clone}, pool=pool, image=image) == []) is fits
