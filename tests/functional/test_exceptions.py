# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is raised in a minion's module is a sealed report: what it was, and where."""

import pathlib
import re
import subprocess

import libvirt
import pytest

from storelib import report, seal
from storelib.guest import deployment
from storelib.hypervisor import images

pytest_plugins = ["tests.functional.fake_guest"]

SECRET = seal.secret(b"the master's own", "a minion", "KEY")
SPEC = {
    "store": "0815",
    "minion_id": "store-0815",
    "image": {"source": "/x.qcow2", "sha256": "5e" * 32},
    "pool": "/var/lib/libvirt/images",
    "clone": "copy",
    "os_type": "hvm",
    "virt_type": "qemu",
    "interfaces": [],
    "data_disks": [],
}
RAISED = [
    KeyError("image"),
    TypeError("unsupported operand"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    libvirt.libvirtError("an error of libvirt's"),
    subprocess.TimeoutExpired(["qemu-img", "info"], 60),
    RecursionError("maximum recursion depth exceeded"),
    ZeroDivisionError("a first line\na second one \x1b[2J \udcff"),
    AssertionError(),
    SystemExit(70),
    # Its text cannot be told.
    type("Unspeakable", (Exception,), {"__str__": lambda _: 1 / 0})(),
]


def named(raised):
    return type(raised).__name__


@pytest.fixture
def hypervisor(modules, libvirtd, monkeypatch, context):
    """Call a function of the hypervisor's module, whose report must be sealed."""
    pathlib.Path(SPEC["pool"]).mkdir(parents=True, exist_ok=True)

    def call(step, spec=SPEC, **arguments):
        function = modules[f"store_hypervisor.{step}"]
        pillar = {"store_deploy": {"secret": SECRET}}
        monkeypatch.setattr(modules, "pack", {**modules.pack, "__pillar__": pillar})
        return opened(step, function(spec=spec, generation=1, nonce="jid-1", **arguments), context)

    return call


@pytest.fixture
def in_guest(minion, machine, monkeypatch):
    """Call a function of the guest's module, whose report must be sealed."""

    def call(step, **arguments):
        function = minion.modules[f"provisioning_helper.{step}"]
        pillar = {"store_deploy": {"secret": SECRET}}
        monkeypatch.setattr(minion.modules, "pack", {**minion.modules.pack, "__pillar__": pillar})
        given = {"store": "0815", "generation": 1, "nonce": "jid-1", **arguments}
        return opened(step, function(**given), minion.context)

    return call


def opened(step, returned, context):
    assert report.believed(returned, ["jid-1"], SECRET)
    assert context["retcode"] == 1
    answer = report.opened(returned, "0815", 1, step)
    assert not answer.ok
    assert answer.hint
    assert answer.error.isprintable()
    return answer


def raising(raised):
    def broken(*_, **__):
        raise raised.with_traceback(None)

    return broken


@pytest.mark.parametrize("raised", RAISED, ids=named)
def test_an_exception_on_a_hypervisor_is_told_with_its_class_and_place(
    hypervisor, monkeypatch, raised
):
    monkeypatch.setattr(images, "facts", raising(raised))
    answer = hypervisor("facts")
    assert f"facts broke: {type(raised).__name__}" in answer.error
    assert re.search(r"\(storelib/hypervisor/facts\.py:\d+, in facts\)$", answer.error)
    assert "a second one" not in answer.error


@pytest.mark.parametrize("raised", RAISED, ids=named)
def test_an_exception_in_a_guest_is_told_with_its_class_and_place(in_guest, monkeypatch, raised):
    monkeypatch.setattr(deployment, "noted_boots", raising(raised))
    answer = in_guest("boots")
    assert f"boots broke: {type(raised).__name__}" in answer.error
    assert re.search(r"\(storelib/guest/facts\.py:\d+, in boots\)$", answer.error)


def test_the_place_is_the_innermost_one_in_our_code(in_guest, monkeypatch):
    monkeypatch.setattr(deployment, "text_of", raising(KeyError("x")))
    answer = in_guest("boots")
    assert re.search(
        r"KeyError: 'x' \(storelib/guest/deployment\.py:\d+, in boots\)$", answer.error
    )


@pytest.mark.parametrize("without", ["minion_id", "image", "pool"])
@pytest.mark.parametrize("step", ["facts", "stage", "start", "console", "discard"])
def test_a_spec_that_lacks_a_key_is_told(hypervisor, step, without):
    """Such as one of another version."""
    spec = {key: value for key, value in SPEC.items() if key != without}
    assert "broke: " in hypervisor(step, spec).error


@pytest.mark.parametrize("step", ["facts", "stage", "retire", "console"])
def test_arguments_that_a_step_does_not_know_are_told(hypervisor, step):
    assert "broke: TypeError: " in hypervisor(step, of_another_version=True).error


STRANGE = {
    "bytes": b"x",
    "path": pathlib.Path("/x"),
    "set": {1},
    "error": ValueError("x"),
}


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_facts_that_no_report_can_hold_are_told(hypervisor, in_guest, monkeypatch, value):
    monkeypatch.setattr(images, "facts", lambda *_: value)
    assert "no report can hold" in hypervisor("facts").error
    monkeypatch.setattr(deployment, "noted_boots", lambda: value)
    assert "no report can hold" in in_guest("boots").error
