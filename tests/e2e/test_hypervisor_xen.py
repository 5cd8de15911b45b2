# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A minion becomes a hypervisor under Xen, for real: GRUB boots Xen, and Linux where there is none.

The guest is the one of test_hypervisor_states.py, as a machine on which Xen runs under emulation,
too. The tests are one story, in their order.
"""

import pytest
from tests.e2e.hypervisor import BOOT_S, UNDER_XEN, Hypervisor
from tests.e2e.stores import until

WANTED = {"store_hypervisor": {"virt_type": "xen"}}
READY = "store_hypervisor-ready-reported"
BOOT = "store_hypervisor-boot-xen"

KERNEL = "cat /proc/xen/capabilities 2>/dev/null || echo plain Linux"
SEEN = (
    "uname -r; cat /proc/cmdline; ls /proc/xen; cat /sys/hypervisor/type "
    "/sys/hypervisor/properties/features; grub-editenv - list; systemctl --failed --plain; "
    "journalctl -b -u 'xen*' -u 'proc-xen*' --no-pager | tail -n 20"
)
HIDE = "mkdir /root/boot && mv /boot/xen-*.gz /root/boot; sync"
SHOW = "mv /root/boot/* /boot; sync"


@pytest.fixture(scope="module")
def hypervisor(request):
    """The guest, with its minion answering."""
    with Hypervisor.of_session(request, "hypervisor-xen", UNDER_XEN) as guest:
        yield guest


def runs_under_xen(hypervisor):
    """Await that Xen says so: the minion may answer before /proc/xen is mounted."""

    def so_far():
        return f"it runs under Xen: {hypervisor.sh(SEEN)}"

    until(lambda: hypervisor.sh(KERNEL) == "control_d", BOOT_S, so_far, 2)


def failed(states):
    return {name: each["comment"] for name, each in states.items() if each["result"] is False}


def test_the_states_make_xen_the_default_and_wait_for_a_reboot(hypervisor):
    assert hypervisor.sh(KERNEL) == "plain Linux"
    made = hypervisor.apply("store_hypervisor", WANTED, seconds=2 * BOOT_S)
    why = "Not told: this machine does not run under Xen: reboot it into Xen."
    assert failed(made) == {READY: why}
    assert made[BOOT]["changes"]["boot"]["new"].startswith("xen")
    again = hypervisor.apply("store_hypervisor", WANTED)
    assert failed(again) == {READY: why}
    assert {name for name, each in again.items() if each["changes"]} == set()


def test_the_next_boot_is_xens_and_the_hypervisor_is_ready(hypervisor):
    hypervisor.reboot()
    runs_under_xen(hypervisor)
    ready = hypervisor.apply("store_hypervisor", WANTED)
    assert failed(ready) == {}
    assert ready[READY]["changes"]
    assert "Xen" in hypervisor.sh("virsh -c xen:///system version", 120)


def test_where_xen_cannot_be_loaded_linux_is_booted(hypervisor):
    hypervisor.sh(HIDE)
    hypervisor.reboot()
    assert hypervisor.sh(KERNEL) == "plain Linux"
    assert set(failed(hypervisor.apply("store_hypervisor.ready", WANTED))) == {READY}
    hypervisor.sh(SHOW)
    hypervisor.reboot()
    runs_under_xen(hypervisor)


def test_what_was_made_is_taken_back_and_the_next_boot_is_linux(hypervisor):
    done = hypervisor.apply("store_hypervisor.clean", {})
    assert failed(done) == {}
    hypervisor.reboot()
    assert hypervisor.sh(KERNEL) == "plain Linux"
    again = hypervisor.apply("store_hypervisor.clean", {})
    assert {name for name, each in again.items() if each["changes"]} == set()
