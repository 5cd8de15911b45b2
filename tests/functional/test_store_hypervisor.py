# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The hypervisor's steps on a real libvirt and QEMU, through Salt's real loader.

The guests have an empty disk: the firmware finds nothing to boot, and that is enough to be running.
Where ``virt`` has to misbehave, a stub that the test names stands in for that one function.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import inspect
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
from xml.etree import ElementTree

import libvirt
import pytest
import salt.crypt
from cryptography.hazmat.primitives import serialization
from salt.exceptions import SaltClientError, SaltReqTimeoutError
from web_server import WebServer, says

from storelib import judge, orders, report
from storelib.hypervisor import CONSOLES, Place, domains, fence, guest, images, new_server

GIB = 1024**3
DAY_S = 24 * 60 * 60
MACHINE_ID = pathlib.Path("/etc/machine-id")
OURS = "https://store-deploy.dev/xmlns/domain/1"


class Killed(BaseException):
    """The job's process ends here."""


@pytest.fixture
def connection(libvirtd):
    with libvirt.open("qemu:///system") as connection:
        yield connection
    # Anew, for a test may have stopped libvirtd meanwhile.
    with libvirt.open("qemu:///system") as connection:
        for domain in connection.listAllDomains():
            # A guest whose libvirtd was just restarted may end by itself.
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """Do not wait for the disk: no test here sees what a power cut would leave."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def pool():
    """A pool that QEMU's user can reach, unlike pytest's own folders."""
    folder = pathlib.Path("/var/lib/libvirt/images/stores")
    folder.mkdir(parents=True)
    yield folder
    subprocess.run(["rm", "-rf", folder, CONSOLES, fence.NOTES], check=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1G")
    written(path, 0x5A)
    return path


@pytest.fixture
def spec(pool, image):
    return {
        "store": "0815",
        "minion_id": "store-0815",
        "hostname": "store-0815.example.com",
        "image": {"source": str(image), "sha256": sha256(image)},
        "cpus": 1,
        "memory_mib": 64,
        "disk_gib": 2,
        "pool": str(pool),
        "clone": "copy",
        "data_disks": [{"name": "data", "size_gib": 1}],
        "virt_type": "qemu",
        "os_type": "hvm",
        "firmware": "bios",
        "interfaces": [
            {"name": "eth0", "type": "user", "mac": "52:54:00:12:34:56", "address": "dhcp"}
        ],
        "master": "10.0.2.2",
        "minion": "salt-minion",
        "start": {"attempts": 3, "backoff_s": [0], "steady_s": 0.1},
    }


@pytest.fixture
def place(spec):
    return Place(pathlib.Path(spec["pool"]), spec["minion_id"], spec["image"]["sha256"])


@pytest.fixture
def call(modules, context, connection, spec):
    """Call a function of the module and check that report and return code say the same."""

    attempts = itertools.count(1)

    def call(step, generation=1, **arguments):
        if step in ("prepare", "define"):
            arguments.setdefault("master_public_key", "MASTER")
        if step in (*orders.STEPS, "prune") and "order" not in arguments:
            # Of a ledger that knows all, each time as a new attempt: whatever is called may act.
            known = [f"g{number}-d" for number in range(1, 99)]
            last = (999, "retire")
            ours = f"g{generation}-d"
            arguments["order"] = orders.made(ours, next(attempts), known, last)
        function = modules[f"store_hypervisor.{step}"]
        made = function(spec=spec, generation=generation, **arguments)
        json.dumps(made)
        assert (made["step"], made["store"], made["generation"]) == (step, "0815", generation)
        assert made["ok"] is not bool(made["error"])
        assert made["facts"]["machine_id"] == MACHINE_ID.read_text().strip()
        assert context["retcode"] == (0 if made["ok"] else 1)
        if not made["seal"]:
            # Another one after each call; tests/functional/test_fence.py is about it.
            del made["facts"]["note"]
        return made

    return call


@pytest.fixture
def done(call):
    """Call functions one after the other, which must succeed; return the last one's facts."""

    def done(*steps, **arguments):
        for step in steps:
            made = call(step, **arguments)
            assert made["ok"], made["error"]
        return made["facts"]

    return done


@pytest.fixture
def refused(call):
    """Call a function that must fail, and return its sentence."""

    def refused(step, **arguments):
        made = call(step, **arguments)
        assert not made["ok"]
        assert made["hint"]
        assert "\n" not in made["error"]
        return made["error"]

    return refused


@pytest.fixture
def stub(modules, monkeypatch):
    """Put functions in the place of Salt's own, for the module under test only."""

    def stub(**functions):
        stubs = {name.replace("__", "."): function for name, function in functions.items()}
        monkeypatch.setitem(globals_of(modules), "__salt__", collections.ChainMap(stubs, modules))

    return stub


@pytest.fixture
def impatient(monkeypatch):
    """Do not wait a minute for guests that have no operating system to shut down."""
    monkeypatch.setattr(domains, "SHUTDOWN_S", 0.3)


@pytest.fixture
def killed(monkeypatch):
    """Run a step and kill it before its n-th change; return whether it came that far."""

    def killed(changes_allowed, step):
        left = [changes_allowed]

        def watched(function):
            def change(*arguments, **options):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return function(*arguments, **options)

            return change

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", watched(os.rename))
            patch.setattr(os, "unlink", watched(os.unlink))
            patch.setattr(os, "rmdir", watched(os.rmdir))
            patch.setattr(subprocess, "run", watched(subprocess.run))
            for kind, name in (
                (libvirt.virConnect, "defineXML"),
                (libvirt.virConnect, "domainXMLToNative"),
                (libvirt.virDomain, "undefineFlags"),
                (libvirt.virDomain, "setAutostart"),
                (libvirt.virDomain, "destroy"),
                (libvirt.virDomain, "detachDeviceFlags"),
                (libvirt.virDomain, "updateDeviceFlags"),
            ):
                patch.setattr(kind, name, watched(getattr(kind, name)))
            try:
                step()
            except Killed:
                return True
            return False

    return killed


@pytest.fixture
def server(image, monkeypatch):
    """A web server that has the image."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with WebServer(image.read_bytes()) as server:
        yield server


def raised(error):
    def function(*_, **__):
        raise error

    return function


def globals_of(modules):
    return inspect.unwrap(modules["store_hypervisor.start"]).__globals__


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


@pytest.fixture
def nvram(place):
    """What the server's firmware remembers."""
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")
    yield place.nvram
    place.nvram.unlink(missing_ok=True)


@pytest.fixture
def aside(done, place, nvram, impatient):
    """The folder of a server of deployment 1, with content on its disks, that was set aside."""
    done("stage", "define")
    written(place.disk, 0x11)
    written(place.data_disk("data"), 0x33)
    return aside_of(done("clear", generation=2))


# reports


SECRET = "5ec7e7" * 8


@pytest.fixture
def secret(modules, monkeypatch):
    """Let the minion have its secret in its pillar."""
    pillar = {"store_deploy": {"secret": SECRET}}
    monkeypatch.setitem(globals_of(modules), "__pillar__", pillar)


@pytest.mark.parametrize("step", ["facts", "start"])
def test_a_report_is_sealed_whether_it_is_good_or_not(call, spec, secret, step):
    made = call(step, nonce="jid-7")
    assert made["ok"] is (step == "facts")
    assert report.believed(json.loads(json.dumps(made)), ["jid-7"], SECRET)
    assert not report.believed(made, ["jid-8"], SECRET)
    assert SECRET not in json.dumps(made)


def test_without_a_secret_a_report_has_no_seal(call):
    made = call("facts", nonce="jid-7")
    assert (made["nonce"], made["seal"]) == ("jid-7", "")


# facts


def test_facts_of_a_hypervisor_that_has_all(done, spec, pool, place, connection):
    found = done("facts")
    assert found["libvirt"]["reachable"]
    assert found["libvirt"]["uri"] == "qemu:///system"
    assert found["virt_types"] == (["kvm", "qemu"] if os.access("/dev/kvm", os.W_OK) else ["qemu"])
    assert found["virt_type"] == "qemu"
    assert found["virt_module"]
    assert found["tools_missing"] == []
    assert found["sources_missing"] == []
    assert found["free_memory_mib"] > 64
    assert found["pool"]["path"] == str(pool)
    assert found["pool"]["exists"]
    assert found["pool"]["free_mib"] > 64
    assert found["domain"] == {"exists": False}
    for what, path in (("disk", place.disk), ("seed", place.seed), ("image", place.image)):
        assert found[what]["path"] == str(path)
        assert not found[what]["exists"]
    assert found["boot_id"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert list(pool.iterdir()) == [], "facts only read"


def test_facts_name_missing_bridges_and_networks(done, spec):
    spec["interfaces"] = [
        {"name": "eth0", "type": "bridge", "source": "br9", "mac": "", "address": "dhcp"},
        {"name": "eth1", "type": "bridge", "source": "lo", "mac": "", "address": "dhcp"},
        {"name": "eth2", "type": "network", "source": "shop", "mac": "", "address": "dhcp"},
    ]
    assert done("facts")["sources_missing"] == ["bridge br9", "bridge lo", "network shop"]


def test_facts_without_libvirt_say_why(done, libvirtd):
    libvirtd.stop()
    try:
        found = done("facts")
    finally:
        libvirtd.start()
    assert not found["libvirt"]["reachable"]
    assert "Failed to connect socket" in found["libvirt"]["why"]
    assert found["domain"] is None
    assert found["pool"]["exists"], "what needs no libvirt is still answered"


def test_facts_of_a_missing_pool(done, spec):
    spec["pool"] = "/var/lib/libvirt/images/none"
    assert done("facts")["pool"] == {"path": spec["pool"], "exists": False, "free_mib": 0}
    spec["pool"] = "none"
    found = done("facts")
    assert found["pool"] == {"path": None, "exists": False, "free_mib": 0}
    assert found["pool_error"] == "libvirt has no pool named none"


def test_a_pool_may_be_named_as_libvirt_does(done, spec, pool, connection):
    made = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>shop</name><target><path>{pool}</path></target></pool>"
    )
    spec["pool"] = "shop"
    try:
        assert done("facts")["pool"]["path"] == str(pool)
        assert done("stage", "define")["disk"]["path"] == str(pool / "store-0815.qcow2")
    finally:
        made.undefine()


def test_facts_hold_the_marker_of_the_highstate(done):
    marker = pathlib.Path("/var/lib/store-deploy/highstate.json")
    assert done("facts")["marker"] is None
    marker.write_text('{"boot_id": "1", "result": true}')
    try:
        assert done("facts")["marker"] == {"boot_id": "1", "result": True}
    finally:
        marker.unlink()


# stage


def test_an_image_comes_from_a_path(done, place, spec):
    staged = done("stage")["image"]
    assert staged["path"] == str(place.image)
    assert staged["sha256"] == spec["image"]["sha256"] == sha256(place.image)


def test_an_image_comes_from_the_fileserver(done, refused, place, spec, image, minion_opts):
    served = pathlib.Path(minion_opts["file_roots"]["base"][0]) / "store.qcow2"
    spec["image"]["source"] = "salt://store.qcow2"
    assert refused("stage") == "the master does not serve the image salt://store.qcow2"
    served.write_bytes(image.read_bytes())
    assert done("stage")["image"]["sha256"] == sha256(place.image)


def test_an_image_comes_from_a_web_server_once(done, spec, server):
    spec["image"]["source"] = server.url
    assert done("stage")["image"]["sha256"] == spec["image"]["sha256"]
    done("stage")
    assert server.ranges == [None]


def test_a_missing_image_is_one_sentence(call, refused, spec, server):
    spec["image"]["source"] = server.url
    server.answers = [says("404 Not Found")]
    assert "cannot be fetched: the server answers 404 Not Found" in refused("stage")
    spec["image"]["source"] = "/srv/none.qcow2"
    assert refused("stage") == "the image /srv/none.qcow2 does not exist on the hypervisor"
    assert call("facts")["facts"]["source_error"] == ""
    assert call("facts", source=True)["facts"]["source_error"].startswith(
        "the image /srv/none.qcow2 does not exist on the hypervisor: put the"
    )


def test_an_image_that_is_here_is_not_looked_for(done, spec, server):
    spec["image"]["source"] = server.url
    assert done("facts", source=True)["source_error"] == ""
    assert server.ranges == ["bytes=0-3"]
    done("stage")
    server.requests.clear()
    assert done("facts", source=True)["source_error"] == ""
    assert not server.requests


def test_an_image_comes_by_the_minions_proxy(done, modules, spec, server, monkeypatch):
    spec["image"]["source"] = "http://images.example.com/x"
    port = server.server_address[1]
    monkeypatch.setitem(globals_of(modules)["__opts__"], "proxy_host", "127.0.0.1")
    monkeypatch.setitem(globals_of(modules)["__opts__"], "proxy_port", port)
    assert done("facts", source=True)["source_error"] == ""
    done("stage")
    assert {each["line"] for each in server.requests} == {
        "GET http://images.example.com/x HTTP/1.1"
    }


def test_a_transfer_ends_before_the_states_time_is_over(refused, spec, server):
    spec["image"]["source"] = server.url
    spec["timeouts"] = {"staging": 1}
    server.answers = [lambda *_: server.over.wait()]
    assert "it took longer than 0.9 s" in refused("stage")


def test_a_job_that_waits_for_another_says_so(done, place, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE_S", 0)
    place.image.parent.mkdir(parents=True)
    with images._alone(place.image):
        assert done("stage")["waits"] == (
            "another job of this hypervisor brings the image, 0 MiB are here"
        )
        assert not place.image.exists()
    assert "waits" not in done("stage")


@pytest.mark.parametrize("error", [SaltReqTimeoutError("Message timed out"), SaltClientError()])
def test_a_master_that_cannot_be_asked_for_the_image_is_named(refused, spec, place, stub, error):
    def broken(_, part):
        pathlib.Path(part).write_bytes(b"half")
        raise error

    spec["image"]["source"] = "salt://store.qcow2"
    stub(cp__get_file=broken)
    assert refused("stage") == (
        "the master cannot be asked for the image salt://store.qcow2: "
        f"{error or type(error).__name__}"
    )
    assert [path.suffix for path in place.image.parent.iterdir()] == [".lock"]


def test_curl_is_asked_for_only_where_it_is_needed(done, spec, tmp_path, monkeypatch):
    for tool in ("qemu-img", "xorrisofs"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert done("facts")["tools_missing"] == []
        spec["image"]["source"] = "http://127.0.0.1/x"
        assert done("facts")["tools_missing"] == ["curl"]


def test_a_wrong_checksum_names_both_and_leaves_nothing(refused, spec, image, place):
    spec["image"]["sha256"] = "0" * 64
    sentence = refused("stage")
    assert sha256(image) in sentence
    assert "0" * 64 in sentence
    assert [path.suffix for path in place.image.parent.iterdir()] == [".lock"]


def test_a_damaged_image_in_the_cache_is_noticed(done, spec, server, place):
    spec["image"]["source"] = server.url
    done("stage")
    with place.image.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    assert done("facts")["image"]["sha256"] is None
    assert done("stage")["image"]["sha256"] == sha256(place.image) == spec["image"]["sha256"]
    assert len(server.requests) == 2


def test_an_image_larger_than_the_disk_is_refused(refused, spec, pool, tmp_path):
    large = tmp_path / "large.qcow2"
    qemu_img("create", "-f", "qcow2", large, "3G")
    spec["image"] = {"source": str(large), "sha256": sha256(large)}
    assert refused("stage") == "the disk (2 GiB) is smaller than the image (3 GiB)"
    assert refused("define") == "the disk (2 GiB) is smaller than the image (3 GiB)"
    assert not list(pool.glob("*.qcow2"))


@pytest.mark.parametrize(
    ("made_with", "sentence"),
    [
        (["-f", "raw"], "is not in the format qcow2"),
        (["-f", "qcow2", "-F", "raw", "-b", "{base}"], "needs another file (backing file)"),
        (["-f", "qcow2", "-o", "data_file={base}"], "needs another file (external data file)"),
        (
            ["-f", "qcow2", "-o", "data_file={base},data_file_raw=on"],
            "needs another file (external data file)",
        ),
        *(
            (
                [
                    *("-f", "qcow2", "--object", "secret,id=s,data=x"),
                    *("-o", f"encrypt.format={kind},encrypt.key-secret=s"),
                ],
                "is encrypted, which no guest here could open",
            )
            for kind in ("luks", "aes")
        ),
        (["-f", "qcow2", "CORRUPT"], "is marked as corrupt"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_an_image_that_is_no_whole_qcow2_is_refused(
    done, refused, spec, place, tmp_path, made_with, sentence, cached
):
    path, base = tmp_path / "odd.qcow2", tmp_path / "base"
    base.write_bytes(bytes(1024**2))
    words = [word.format(base=base) for word in made_with if word != "CORRUPT"]
    for _ in range(20):
        # What encrypts looks how fast the processor is, and gives up on a busy machine.
        with contextlib.suppress(subprocess.CalledProcessError):
            qemu_img("create", *words, path, "1M")
            break
    assert path.exists()
    if "CORRUPT" in made_with:
        with path.open("r+b") as file:
            # The second of the header's incompatible features.
            file.seek(79)
            file.write(b"\2")
    spec["image"] = {"source": str(path), "sha256": sha256(path)}
    if cached:
        # By a version that looked less closely.
        image = Place(place.pool, place.minion_id, spec["image"]["sha256"]).image
        image.parent.mkdir(parents=True)
        image.write_bytes(path.read_bytes())
        images._record(image, spec["image"]["sha256"])
        assert f"{sentence}: " in done("facts")["image"]["wrong"]
        assert sentence in refused("prepare")
    assert refused("stage") == f"the image {path} {sentence}"


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_an_image_that_cannot_be_grown_is_refused_where_it_would_be(
    done, refused, spec, tmp_path, clone
):
    path = tmp_path / "old.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "compat=0.10", path, "1G")
    qemu_img("snapshot", "-c", "before", path)
    spec |= {"image": {"source": str(path), "sha256": sha256(path)}, "clone": clone}
    if clone == "cow":
        done("stage", "prepare", "clear", "define", "start")
    else:
        assert refused("stage").startswith("the image cannot be grown: ")
        assert refused("prepare").startswith("the image cannot be grown: ")


def test_a_pool_that_is_missing_is_refused(refused, spec):
    spec["pool"] = "/var/lib/libvirt/images/none"
    for step in ("stage", "prepare", "clear", "define", "start", "finish"):
        assert refused(step) == f"the pool {spec['pool']} does not exist"


def test_a_full_pool_is_refused(done, refused, spec, pool, image, place, server):
    full = f"no free disk in {pool}: 1025 MiB needed, 1024 MiB free"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1049276k", "tmpfs", pool], check=True)
    try:
        # There is room for the image and a first boot, and none for its copy.
        assert refused("stage") == full
        assert place.image.exists()
        subprocess.run(["mount", "-o", "remount,size=1026m", pool], check=True)
        done("stage")
        subprocess.run(["mount", "-o", "remount,size=1049276k", pool], check=True)
        for step in ("prepare", "define"):
            assert refused(step) == full
        assert not place.disk.exists()
        subprocess.run(["mount", "-o", "remount,size=700k", pool], check=True)
        place.image.unlink()
        (pool / "ballast").write_bytes(bytes(400_000))
        for spec["image"]["source"] in (str(image), server.url):
            assert refused("stage").startswith("no free disk in ")
    finally:
        subprocess.run(["umount", pool], check=True)


def test_libvirt_being_down_is_refused(refused, libvirtd, monkeypatch):
    monkeypatch.setattr(domains, "BACK_S", 0)
    libvirtd.stop()
    try:
        for step in ("stage", "prepare", "clear", "define", "start", "finish"):
            assert refused(step).startswith("libvirt cannot be reached: ")
    finally:
        libvirtd.start()


# prepare


@pytest.fixture
def ready(place):
    """The files of a server that is made ready."""
    return new_server.of(place)


@pytest.fixture
def firmware():
    """A hypervisor without UEFI for its guests."""
    for folder in ("/usr/share/qemu/firmware", "/usr/share/OVMF"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    yield
    for folder in ("/usr/share/qemu/firmware", "/usr/share/OVMF"):
        subprocess.run(["umount", folder], check=True)


def changes(connection, pool):
    """Return what a failed prepare must not change: domains, files, what firmware remembers."""
    nvram = pathlib.Path("/var/lib/libvirt/qemu/nvram")
    return (
        [(each.name(), each.ID(), each.XMLDesc()) for each in connection.listAllDomains()],
        [path for path in contents(pool) if path.is_file()],
        sorted(nvram.iterdir()) if nvram.is_dir() else [],
        list(pathlib.Path("/run").glob("store-deploy-seed-*")),
    )


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_a_new_server_is_made_ready_beside_the_old_one_which_runs_on(
    done, connection, spec, place, ready, tmp_path, clone, impatient
):
    spec["clone"] = clone
    done("stage", "define")
    written(place.disk, 0x11)
    done("start")
    old = connection.lookupByName("store-0815")
    before = old.ID(), old.XMLDesc(), dumped(connection).findtext("uuid")
    seeds = place.seed.read_bytes()

    facts = done("prepare", generation=2)
    assert (old.ID(), old.XMLDesc(), dumped(connection).findtext("uuid")) == before
    assert place.seed.read_bytes() == seeds
    assert [domain.name() for domain in connection.listAllDomains()] == ["store-0815"]
    assert facts["trial"] is None
    assert facts["domain"]["state"] == "running"
    assert facts["disk"]["virtual_size"] == 2 * GIB
    assert facts["disk"]["backing"] == (str(place.image) if clone == "cow" else None)
    assert facts["seed"] == {"path": str(ready.seed), "exists": True}
    assert json.loads(ready.note.read_text())["public_key"] == facts["public_key"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in ready.folder.iterdir()}
    assert modes == {"disk.qcow2": 0o600, "seed.iso": 0o600, "prepared.json": 0o600}
    assert "PRIVATE" not in ready.note.read_text()
    inodes = [path.stat().st_ino for path in (ready.disk, ready.seed)]

    cleared = done("clear", generation=2)
    assert cleared["off_for_s"] >= 0
    defined = done("define", generation=2)
    assert [path.stat().st_ino for path in (place.disk, place.seed)] == inodes
    assert defined["public_key"] == facts["public_key"]
    assert defined["domain"]["uuid"] != before[2]
    documents = seed_documents(place, tmp_path / "seed")
    assert json.dumps(facts["public_key"]) in documents["user-data"]
    assert not ready.folder.exists()
    assert holds(place.disk, 0x5A)
    assert holds(aside_of(cleared) / "disk.qcow2", 0x11)
    done("start", "finish", generation=2)


def test_preparing_again_changes_nothing(done, ready):
    facts = done("stage", "prepare")
    before = [(path, path.stat()) for path in sorted(ready.folder.iterdir())]
    assert done("prepare") == facts
    assert [(path, path.stat()) for path in sorted(ready.folder.iterdir())] == before


@pytest.mark.parametrize("changed", ["generation", "spec", "master", "disk", "seed"])
def test_what_was_not_prepared_for_just_this_is_made_anew(done, spec, ready, changed):
    before = done("stage", "prepare")["public_key"]
    generation, master = 1, "MASTER"
    if changed == "generation":
        generation = 2
    elif changed == "spec":
        spec["hostname"] = "store-0815.example.org"
    elif changed == "master":
        master = "ANOTHER MASTER"
    else:
        getattr(ready, changed).unlink()
    facts = done("prepare", generation=generation, master_public_key=master)
    assert facts["public_key"] != before
    assert facts["disk"]["exists"]
    assert facts["seed"]["exists"]


NOT_TO_BE_PREPARED = {
    "cpus": (
        {"cpus": 300},
        r"cpus is 300, a guest there can have 255 \(machine type pc-i440fx-[\d.]+\)",
    ),
    "mac": (
        {
            "interfaces": [
                {"name": "eth0", "type": "user", "mac": "01:00:5e:00:00:01", "address": "dhcp"}
            ]
        },
        "libvirt refuses the new server: XML error: expected unicast mac address, found multicast "
        "'01:00:5e:00:00:01'",
    ),
    "virt_type": ({"virt_type": "xen"}, "the hypervisor cannot run xen guests of OS type hvm; .*"),
    "disk_gib": (
        {"disk_gib": 0.5},
        r"the disk \(0.5 GiB\) is smaller than the image \(1 GiB\)",
    ),
    "disk_gib2": ({"disk_gib": 10**9}, "qemu-img failed: .*"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("wrong", "sentence"), NOT_TO_BE_PREPARED.values(), ids=NOT_TO_BE_PREPARED)
def test_what_the_hypervisor_cannot_have_fails_before_the_old_server_is_touched(
    done, refused, connection, spec, pool, wrong, sentence, old
):
    done("stage", *(("define", "start") if old else ()))
    before = changes(connection, pool)
    with_fault = {**spec, **wrong}
    spec.update(with_fault)
    assert re.fullmatch(sentence, refused("prepare", generation=2))
    assert changes(connection, pool) == before


def test_a_firmware_that_the_hypervisor_lacks_fails_before_the_old_server_is_touched(
    done, refused, connection, spec, pool, firmware
):
    done("stage", "define", "start")
    before = changes(connection, pool)
    spec["firmware"] = "efi"
    assert done("facts")["capabilities"]["firmwares"] == []
    assert refused("prepare", generation=2) == "firmware is efi, and the hypervisor has none"
    assert changes(connection, pool) == before


def test_a_firmware_that_is_there_is_tried_and_leaves_nothing(done, connection, spec, pool, ready):
    spec["firmware"] = "efi"
    facts = done("facts")["capabilities"]
    assert "efi" in facts["firmwares"]
    assert facts["max_cpus"] == 255
    done("stage", "prepare")
    assert connection.listAllDomains() == []
    assert not ready.nvram.exists()
    done("clear", "define", "start")


def test_what_only_the_command_line_shows_fails_before_the_old_server_is_touched(
    done, refused, connection, pool, monkeypatch
):
    """Stands in for what libvirt defines and then cannot start."""
    done("stage", "define", "start")
    before = changes(connection, pool)

    def refuses(*_):
        raise libvirt.libvirtError("no such device model")

    monkeypatch.setattr(libvirt.virConnect, "domainXMLToNative", refuses)
    assert refused("prepare", generation=2).startswith("libvirt refuses the new server: ")
    assert changes(connection, pool) == before


def test_a_definition_that_is_not_what_was_asked_for_is_refused(
    done, refused, connection, pool, stub, modules
):
    done("stage")
    before = changes(connection, pool)
    stub(virt__init=lambda **asked: modules["virt.init"](**{**asked, "mem": 32}))
    assert "reads back as {'cpus': 1, 'memory_mib': 32" in refused("prepare")
    assert changes(connection, pool) == before


def test_a_pool_without_an_inode_is_called_that(done, refused, pool, place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=14", "tmpfs", pool], check=True)
    try:
        done("stage")
        with contextlib.suppress(OSError):
            for number in range(20):
                (pool / f"ballast{number}").touch()
        told = f"no inode left in {pool}: its file system takes no more files"
        assert not done("facts")["pool"]["inodes_left"]
        for step in ("stage", "prepare", "define"):
            assert refused(step) == told
    finally:
        subprocess.run(["umount", pool], check=True)


def test_a_trial_that_a_kill_left_is_removed_by_whatever_comes_next(
    done, call, connection, place, ready, monkeypatch, impatient
):
    done("stage", "define", "start")
    for step, arguments in (
        ("prepare", {"generation": 2}),
        ("discard", {"generation": 2}),
        ("clear", {"generation": 2}),
        ("define", {"generation": 2}),
        ("retire", {"generation": 2, "remove": True}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(libvirt.virConnect, "domainXMLToNative", raised(Killed))
            with contextlib.suppress(Killed):
                done("prepare", generation=9)
        trial = connection.lookupByName("store-0815+trial")
        assert not trial.autostart()
        assert not trial.isActive()
        assert str(place.disk) not in trial.XMLDesc()
        assert call(step, **arguments)["ok"]
        assert "store-0815+trial" not in [each.name() for each in connection.listAllDomains()]
    assert not ready.folder.exists()


def test_a_domain_that_only_has_the_name_of_a_trial_is_not_touched(done, refused, connection, pool):
    done("stage")
    other = foreign(connection, name="store-0815+trial")
    before = changes(connection, pool)
    assert refused("prepare") == (
        "there is a domain store-0815+trial, which store-deploy did not make"
    )
    done("discard")
    assert changes(connection, pool) == before
    assert other.isActive()


def test_a_trial_uses_no_disk(done, connection, place, monkeypatch, impatient):
    done("stage", "define", "clear")
    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virConnect, "domainXMLToNative", raised(Killed))
        with contextlib.suppress(Killed):
            done("prepare", generation=2)
    trial = dumped(connection, "store-0815+trial")
    assert str(place.data_disk("data")) not in ElementTree.tostring(trial, encoding="unicode")
    (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"] or [None]
    assert kept is None


@pytest.mark.parametrize("then", ["discard", "restore", "retire"])
def test_what_was_prepared_goes_with_the_deployment(
    done, connection, place, ready, tmp_path, then, impatient
):
    done("stage", "define")
    done("prepare", "clear", generation=2)
    assert ready.seed.exists()
    arguments = {"restore": {"of": 1}, "retire": {"remove": True}}.get(then, {})
    done(then, generation=2, **arguments)
    assert not ready.folder.exists()


def test_the_room_of_a_prepared_disk_is_not_asked_for_twice(done, spec, pool):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1026m", "tmpfs", pool], check=True)
    try:
        done("stage", "prepare")
        free_mib = done("facts")["pool"]["free_mib"]
        assert done("facts")["prepared"]["size"] > 0
        assert judge.disk_needed_mib(spec, done("facts")) <= free_mib + 1
        subprocess.run(["mount", "-o", "remount,size=1026m", pool], check=True)
        done("stage", "prepare")
    finally:
        subprocess.run(["umount", pool], check=True)


def test_the_old_servers_end_is_told_however_often_clear_is_called(
    done, place, killed, monkeypatch, impatient
):
    done("stage", "define", "start")
    first = done("clear", generation=2)["off_for_s"]
    time.sleep(0.2)
    assert done("clear", generation=2)["off_for_s"] > first
    assert "off_for_s" not in done("clear", generation=3)
    done("define", generation=3)
    assert "off_for_s" not in done("clear", generation=4), "it did not run"


# define


def test_a_domain_is_defined_as_the_pillar_says(done, connection, place):
    facts = done("stage", "clear", "define")
    defined = dumped(connection)
    assert defined.get("type") == "qemu"
    assert defined.findtext("memory") == str(64 * 1024)
    assert defined.findtext("vcpu") == "1"
    assert [
        (disk.get("device"), disk.find("source").get("file"), disk.find("target").get("bus"))
        for disk in defined.iterfind("devices/disk")
    ] == [
        ("disk", str(place.disk), "virtio"),
        ("disk", str(place.data_disk("data")), "virtio"),
        ("cdrom", str(place.seed), "ide"),
    ]
    (interface,) = defined.iterfind("devices/interface")
    assert interface.get("type") == "user"
    assert interface.find("mac").get("address") == "52:54:00:12:34:56"
    assert interface.find("model").get("type") == "virtio"
    assert not connection.lookupByName("store-0815").isActive()
    assert facts["domain"]["ours"]
    assert facts["domain"]["generation"] == 1
    assert facts["domain"]["state"] == "shut off"


@pytest.fixture
def bridge():
    """A bridge of the machine's own network."""
    subprocess.run(["ip", "link", "add", "br-shop", "type", "bridge"], check=True)
    yield "br-shop"
    subprocess.run(["ip", "link", "delete", "br-shop"], check=True)


@pytest.fixture
def network(connection, bridge):
    """A network of libvirt's that leads to the bridge."""
    network = connection.networkDefineXML(
        f"<network><name>shop</name><forward mode='bridge'/><bridge name='{bridge}'/></network>"
    )
    network.create()
    yield network.name()
    network.destroy()
    network.undefine()


def test_bridge_and_network_are_connected_as_the_pillar_says(
    done, connection, spec, bridge, network
):
    macs = ["52:54:00:12:34:57", "52:54:00:12:34:58"]
    spec["interfaces"] = [
        {"name": "eth0", "type": "bridge", "source": bridge, "mac": macs[0], "address": "dhcp"},
        {"name": "eth1", "type": "network", "source": network, "mac": macs[1], "address": "dhcp"},
    ]
    assert done("facts")["sources_missing"] == []
    done("stage", "define", "start")
    assert [
        (
            interface.get("type"),
            interface.find("source").attrib,
            interface.find("mac").get("address"),
            interface.find("model").get("type"),
        )
        for interface in dumped(connection).iterfind("devices/interface")
    ] == [
        ("bridge", {"bridge": bridge}, macs[0], "virtio"),
        ("network", {"network": network}, macs[1], "virtio"),
    ]
    # The kernel has both on the bridge.
    assert len(list(pathlib.Path(f"/sys/class/net/{bridge}/brif").iterdir())) == 2


def test_nothing_of_the_domain_listens_on_the_network(done, connection, place):
    done("stage", "define", "start")
    live = dumped(connection, flags=0)
    assert not live.findall("devices/graphics")
    (serial,) = live.iterfind("devices/serial")
    assert serial.get("type") == "pty"
    assert serial.find("log").get("file") == str(place.console)
    assert place.console.exists()
    listening = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True).stdout
    assert "qemu" not in listening


def test_libvirt_keeps_whose_the_domain_is(done, connection):
    facts = done("stage", "define")
    element = dumped(connection).find(f"metadata/{{{OURS}}}deployment")
    assert element.attrib == {"store": "0815", "generation": "1", "id": "g1-d"}
    assert element.findtext(f"{{{OURS}}}public-key") == facts["public_key"]
    assert done("facts")["domain"]["public_key"] == facts["public_key"]


@pytest.mark.parametrize("clone", ["copy", "cow"])
def test_the_disk_is_the_image_grown_to_its_size(done, spec, place, clone):
    spec["clone"] = clone
    facts = done("stage", "define")
    found = json.loads(qemu_img("info", "--output=json", place.disk))
    assert found["virtual-size"] == facts["disk"]["virtual_size"] == 2 * GIB
    assert found.get("full-backing-filename") == (str(place.image) if clone == "cow" else None)
    assert holds(place.disk, 0x5A)
    assert place.disk.stat().st_mode & 0o777 == 0o600
    assert sha256(place.image) == spec["image"]["sha256"]
    done("start")


def test_the_private_key_is_in_the_seed_and_nowhere_else(done, place, pool, tmp_path, minion_opts):
    facts = done("stage", "define")
    assert place.seed.stat().st_mode & 0o777 == 0o600
    assert facts["seed"] == {"path": str(place.seed), "exists": True, "mode": "0600"}
    documents = seed_documents(place, tmp_path / "seed")
    assert set(documents) == {"user-data", "meta-data", "network-config"}
    label = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", place.seed],
        *(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert label.stdout.strip() == "cidata"
    files = {
        each["path"]: each["content"]
        for each in json.loads(documents["user-data"].partition("\n")[2])["write_files"]
    }
    pair = tmp_path / "minion.pem", tmp_path / "minion.pub"
    pair[0].write_text(files["/etc/salt/pki/minion/minion.pem"])
    pair[1].write_text(files["/etc/salt/pki/minion/minion.pub"])
    assert pair[1].read_text() == facts["public_key"]
    signature = salt.crypt.sign_message(str(pair[0]), b"said")
    assert salt.crypt.verify_signature(str(pair[1]), b"said", signature)
    public = serialization.load_pem_public_key(pair[1].read_bytes())
    assert public.key_size == minion_opts["keysize"]
    secret = pair[0].read_text().splitlines()[5]
    found = subprocess.run(
        ["grep", "-rlF", secret, pool, "/run", "/etc", "/var/log", minion_opts["root_dir"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == [str(place.seed)]


def test_defining_again_changes_nothing(done, place):
    facts = done("stage", "define")
    before = [path.stat() for path in (place.disk, place.seed, place.data_disk("data"))]
    assert done("define") == facts
    assert [path.stat() for path in (place.disk, place.seed, place.data_disk("data"))] == before


def test_another_deployment_or_a_running_guest_is_not_defined_over(done, refused, place):
    done("stage", "define")
    assert "of deployment 1 is there (shut off)" in refused("define", generation=2)
    done("start")
    assert "of deployment 1 is there (running)" in refused("define")


def test_a_disk_that_may_have_a_server_on_it_is_not_overwritten(done, refused, connection, place):
    done("stage", "define", "start", "finish")
    connection.lookupByName("store-0815").destroy()
    written(place.disk, 0x77)
    assert refused("define") == "the domain store-0815 lacks a file"
    connection.lookupByName("store-0815").undefine()
    assert refused("define") == f"there is a disk {place.disk} already"
    assert holds(place.disk, 0x77)


def test_what_virt_init_says_is_not_believed(done, refused, stub):
    done("stage")
    stub(virt__init=lambda **_: True)
    assert refused("define") == "virt.init did not define the domain store-0815"


def test_a_missing_virt_module_is_one_sentence(done, refused, modules, monkeypatch):
    done("stage")
    only = {name: modules[name] for name in ("config.get", "cp.get_file")}
    monkeypatch.setitem(globals_of(modules), "__salt__", only)
    assert refused("define") == "Salt's module virt is not loaded on the hypervisor"


def test_an_image_that_was_not_staged_is_not_used(refused, spec):
    assert refused("define") == f"the image {spec['image']['sha256']} is not in the cache"


def test_a_virtualization_that_the_hypervisor_lacks_is_refused(done, refused, spec):
    done("stage")
    spec["virt_type"] = "xen"
    assert "cannot run xen guests of OS type hvm" in refused("define")


@pytest.mark.parametrize(
    ("virt_type", "os_type", "expected"),
    [
        ("kvm", "hvm", {"cpu": {"maximum": 1, "mode": "host-passthrough"}, "consoles": None}),
        ("qemu", "hvm", {"cpu": 1, "serials": [{"type": "pty"}]}),
        ("xen", "hvm", {"hypervisor": "xen", "os_type": "hvm", "serials": [{"type": "pty"}]}),
        ("xen", "xen", {"os_type": "xen", "serials": None, "consoles": [{"type": "pty"}]}),
        ("xen", "xenpvh", {"os_type": "xenpvh", "consoles": [{"type": "pty"}]}),
    ],
)
def test_virt_init_is_told_all_that_it_would_guess(spec, place, virt_type, os_type, expected):
    arguments = guest.init_arguments(spec | {"os_type": os_type}, place, virt_type)
    assert arguments.items() >= expected.items()
    assert (arguments["start"], arguments["seed"]) == (False, False)
    assert (arguments["disk"], arguments["nic"], arguments["graphics"]) == (None, None, None)
    models = [interface.get("model") for interface in arguments["interfaces"]]
    assert models == ([None] if virt_type == "xen" else ["virtio"])
    assert arguments["disks"][-1]["device"] == ("cdrom" if os_type == "hvm" else "disk")


# start


def test_a_guest_is_started_and_watched(done, connection):
    done("stage", "define")
    facts = done("start")
    domain = connection.lookupByName("store-0815")
    assert domain.isActive()
    assert (facts["state"], facts["id"]) == ("running", domain.ID())
    assert (facts["attempts"], facts["errors"]) == (1, [])
    assert facts["started_at"]


def test_a_guest_that_runs_is_only_watched(done):
    done("stage", "define")
    first, second = done("start"), done("start")
    assert second["id"] == first["id"]
    assert second["started_at"] is None


def test_a_start_that_fails_twice_and_then_works(done, stub, modules, place):
    """The stub hides the disk from the real virt.start the first two times."""
    done("stage", "define")
    calls = []

    def start(name):
        calls.append(name)
        hidden = place.disk.with_suffix(".hidden")
        if len(calls) < 3:
            place.disk.rename(hidden)
        try:
            return modules["virt.start"](name)
        finally:
            if hidden.exists():
                hidden.rename(place.disk)

    stub(virt__start=start)
    facts = done("start")
    assert (facts["attempts"], facts["state"]) == (3, "running")
    assert all("Cannot access storage file" in error for error in facts["errors"])
    assert len(facts["errors"]) == 2


def test_a_start_that_always_fails_says_what_libvirt_said(done, call, place):
    done("stage", "define")
    hidden = place.disk.rename(place.disk.with_suffix(".hidden"))
    made = call("start")
    assert "did not start in 3 attempts: Cannot access storage file" in made["error"]
    assert "/var/log/libvirt/qemu/store-0815.log" in made["hint"]
    assert (made["facts"]["attempts"], made["facts"]["state"]) == (3, "shut off")
    hidden.rename(place.disk)
    assert done("start")["attempts"] == 1


def test_a_restart_of_libvirt_in_the_midst_of_a_step_costs_nothing(done, spec, libvirtd):
    done("stage", "define")
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 3}

    def restart():
        deadline = time.monotonic() + 30
        with libvirt.open("qemu:///system") as connection:
            while not connection.lookupByName("store-0815").isActive():
                assert time.monotonic() < deadline
                time.sleep(0.1)
        libvirtd.stop()
        libvirtd.start()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        facts = done("start")
        restarted.result()
    assert (facts["state"], facts["errors"]) == ("running", [])


def test_a_libvirt_that_does_not_come_back_is_told(done, refused, spec, libvirtd, monkeypatch):
    done("stage", "define", "start")
    monkeypatch.setattr(domains, "BACK_S", 0)
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 20}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(libvirtd.stop)
        try:
            assert refused("start").startswith("libvirt ")
        finally:
            stopped.result()
            libvirtd.start()


def test_a_guest_that_stops_at_once_has_not_started(done, stub, modules, connection):
    """The stub switches the guest off after the first real virt.start."""
    done("stage", "define")
    calls = []

    def start(name):
        calls.append(name)
        modules["virt.start"](name)
        if len(calls) == 1:
            connection.lookupByName(name).destroy()

    stub(virt__start=start)
    facts = done("start")
    assert facts["errors"] == ["it did not run for 0.1 s without a break"]
    assert facts["attempts"] == 2


def test_a_guest_that_was_started_anew_meanwhile_has_not_run_without_a_break(
    done, refused, spec, stub, modules, connection
):
    """The stub starts the guest twice, the second time while it is being watched."""
    done("stage", "define")
    spec["start"] = {"attempts": 1, "backoff_s": [0], "steady_s": 20}

    def again():
        domain = connection.lookupByName("store-0815")
        domain.destroy()
        domain.create()

    timer = threading.Timer(0.5, again)

    def start(name):
        modules["virt.start"](name)
        timer.start()

    stub(virt__start=start)
    sentence = refused("start")
    timer.join()
    assert "did not run for 20 s without a break" in sentence


def test_only_this_deployments_domain_is_started_or_finished(done, refused):
    done("stage")
    for step in ("start", "finish"):
        assert refused(step) == "the domain store-0815 of deployment 1 is not defined"
    done("define")
    for step in ("start", "finish"):
        assert refused(step, generation=2) == (
            "the domain store-0815 of deployment 2 is not defined"
        )


# finish


def test_the_seed_is_taken_away_for_good(done, connection, place):
    done("stage", "define", "start")
    domain = connection.lookupByName("store-0815")
    run = domain.ID()
    for _ in range(2):
        facts = done("finish")
        assert str(place.seed) not in domain.XMLDesc()
        assert dumped(connection).findall("devices/disk[@device='cdrom']") == []
        assert not place.seed.exists()
        assert domain.autostart()
        assert (facts["inserted"], facts["defined"], facts["autostart"]) == (False, False, True)
    assert connection.lookupByName("store-0815").ID() == run


def test_a_seed_on_a_disk_is_taken_away_too(done, connection, place):
    """Stands in for Xen without an emulated CD drive; QEMU gives up a USB disk as readily."""
    done("stage", "define")
    defined = dumped(connection)
    (seed,) = defined.findall("devices/disk[@device='cdrom']")
    seed.set("device", "disk")
    seed.find("target").attrib.update(dev="sdz", bus="usb")
    seed.remove(seed.find("address"))
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))
    done("start")
    domain = connection.lookupByName("store-0815")
    assert str(place.seed) in domain.XMLDesc()
    facts = done("finish")
    assert str(place.seed) not in domain.XMLDesc()
    assert str(place.seed) not in ElementTree.tostring(dumped(connection), encoding="unicode")
    assert (facts["inserted"], facts["defined"]) == (False, False)


def test_a_drive_that_closes_its_tray_again_is_asked_again(done, place, monkeypatch):
    """Stands in for a guest that resets the drive in the wrong moment, which a busy one does."""
    done("stage", "define", "start")
    update, refusals = libvirt.virDomain.updateDeviceFlags, [libvirt.libvirtError("tray")]

    def once_refused(*arguments):
        if refusals:
            raise refusals.pop()
        return update(*arguments)

    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", once_refused)
    assert not done("finish")["inserted"]
    assert not refusals


def test_the_console_shows_its_last_lines(done, place):
    done("stage", "define")
    assert done("console")["lines"] == []
    place.console.write_bytes(b"\xff first\r\n" + b"x" * 100_000 + b"\r\nlast but one\r\nlast\r\n")
    assert done("console", lines=2)["lines"] == ["last but one", "last"]


# discard


def left(place):
    """Return what is left of a server, but its data disks and the cached image."""
    parts = [place.disk, place.seed, place.nvram, place.intent]
    return [str(path) for path in (*parts, *place.pool.glob(".*.new")) if path.exists()]


def test_a_new_server_is_discarded_and_nothing_else(done, connection, place):
    done("stage", "define", "start")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")
    facts = done("discard")
    assert facts["domain"] == {"exists": False}
    assert (facts["disk"]["exists"], facts["seed"]["exists"]) == (False, False)
    assert connection.listAllDomains() == []
    assert left(place) == []
    assert place.data_disk("data").exists()
    assert place.image.exists()
    assert facts["left"] == []
    assert done("discard") == facts


def test_what_could_not_be_discarded_is_named(done, place, nvram, monkeypatch):
    """Stands in for a disk that cannot be removed, so that the definition stays as well."""
    done("stage", "define")
    assert done("discard", generation=2)["left"] == [], "it is another deployment's"
    subprocess.run(["virsh", "undefine", "store-0815"], check=True, capture_output=True)
    assert done("discard")["left"] == [str(place.disk), str(place.seed), str(nvram)]


def test_where_nothing_was_made_nothing_is_discarded(done, pool):
    assert done("discard")["domain"] == {"exists": False}
    assert [
        path for path in pool.rglob("*") if path.is_file() and path.parent.name != "locks"
    ] == []


@pytest.mark.parametrize("generation", [1, 3])
def test_the_server_of_another_deployment_is_not_discarded(done, connection, place, generation):
    done("stage")
    done("define", "start", generation=2)
    before = connection.lookupByName("store-0815").ID()
    facts = done("discard", generation=generation)
    assert facts["domain"]["generation"] == 2
    assert connection.lookupByName("store-0815").ID() == before
    assert place.disk.exists()
    assert place.seed.exists()


def test_what_was_set_aside_is_not_discarded(done, place, impatient):
    done("stage", "define")
    put = done("clear", generation=2)["set_aside"]
    done("define", generation=2)
    done("discard", generation=2)
    assert left(place) == []
    assert pathlib.Path(put["path"], "disk.qcow2").exists()


def test_a_disk_without_a_domain_is_not_discarded(done, place):
    place.disk.write_text("somebody's")
    assert done("discard")["disk"]["exists"]
    assert place.disk.read_text() == "somebody's"


def test_nvram_in_another_place_is_discarded_too(done, connection, place, tmp_path):
    done("stage", "define")
    nvram = place.pool / "vars.fd"
    nvram.write_text("boot order")
    defined = dumped(connection)
    ElementTree.SubElement(defined.find("os"), "loader", {"readonly": "yes", "type": "pflash"})
    defined.find("os/loader").text = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    ElementTree.SubElement(defined.find("os"), "nvram").text = str(nvram)
    connection.defineXML(ElementTree.tostring(defined, encoding="unicode"))
    done("discard")
    assert not nvram.exists()


# clear


def test_clearing_an_empty_hypervisor_changes_nothing(done):
    facts = done("clear")
    assert facts["set_aside"] is None
    assert not facts["domain"]["exists"]


def test_an_old_server_is_set_aside_as_a_whole(done, connection, place, impatient):
    key = done("stage", "define")["public_key"]
    done("start")
    old = connection.lookupByName("store-0815")
    uuid = old.UUIDString()
    old.setAutostart(True)
    written_through = place.disk.stat().st_ino
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    place.nvram.write_text("boot order")

    facts = done("clear", generation=2)
    aside = pathlib.Path(facts["set_aside"]["path"])
    assert re.fullmatch(r"0001-g1-\d{4}-\d\d-\d\dT\d{6}Z", aside.name)
    assert aside.parent == place.own / "set-aside" / "store-0815"
    assert set(facts["set_aside"]["files"]) == {
        *("disk.qcow2", "domain.xml", "nvram.fd", "minion.pub", "set-aside.json"),
    }
    assert (aside / "disk.qcow2").stat().st_ino == written_through
    assert (aside / "nvram.fd").read_text() == "boot order"
    assert (aside / "minion.pub").read_text() == key
    assert ElementTree.parse(aside / "domain.xml").findtext("uuid") == uuid
    assert aside.stat().st_mode & 0o777 == 0o700
    assert not facts["domain"]["exists"]
    assert [place.disk.exists(), place.seed.exists(), place.nvram.exists()] == [False] * 3
    assert connection.listAllDomains() == []
    assert done("clear", generation=2)["set_aside"] == facts["set_aside"]


def test_nvram_on_another_file_system_is_set_aside_too(done, place, monkeypatch):
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place.nvram.parent], check=True)
    try:
        place.nvram.write_text("boot order")
        with monkeypatch.context() as patch:
            # Killed after the copy, before the original goes.
            patch.setattr(pathlib.Path, "unlink", raised(Killed))
            with pytest.raises(Killed):
                done("clear")
        put = done("clear")["set_aside"]
        assert not place.nvram.exists()
        assert pathlib.Path(put["path"], "nvram.fd").read_text() == "boot order"
    finally:
        subprocess.run(["umount", place.nvram.parent], check=True)


def test_a_redeployed_server_gets_its_data_disk_and_a_key_of_its_own(done, place, impatient):
    old = done("stage", "define")
    written(place.data_disk("data"), 0x33)
    inode = place.data_disk("data").stat().st_ino
    done("start")
    new = done("clear", "stage", "define", generation=2)
    assert place.data_disk("data").stat().st_ino == inode
    assert holds(place.data_disk("data"), 0x33)
    assert str(place.data_disk("data")) in new["domain"]["disks"]
    assert new["public_key"] != old["public_key"]
    done("start", "finish", generation=2)


def test_a_data_disk_keeps_its_size(done, spec, place, impatient):
    done("stage", "define")
    spec["data_disks"] = [{"name": "data", "size_gib": 5}]
    facts = done("clear", "define", generation=2)
    assert facts["data_disks"][0]["virtual_size"] == 1 * GIB


def test_a_guest_that_obeys_is_not_switched_off(done, connection, monkeypatch):
    """Stands in for a guest with an operating system: it ends when asked to."""
    done("stage", "define", "start")
    asked = []

    def shutdown(domain):
        asked.append(domain.name())
        destroy(domain)

    destroy = libvirt.virDomain.destroy
    monkeypatch.setattr(libvirt.virDomain, "shutdown", shutdown)
    monkeypatch.setattr(libvirt.virDomain, "destroy", lambda _: pytest.fail("switched off"))
    done("clear", generation=2)
    assert asked == ["store-0815"]


def test_the_masters_copy_of_the_key_is_used_where_the_domain_has_none(done, place):
    done("stage", "define")
    subprocess.run(["virsh", "undefine", "store-0815"], check=True, capture_output=True)
    facts = done("clear", generation=2, public_key="OLD KEY")
    aside = pathlib.Path(facts["set_aside"]["path"])
    assert (aside / "minion.pub").read_text() == "OLD KEY"
    assert (aside / "disk.qcow2").exists()
    assert not place.disk.exists()


def test_a_clearing_that_another_deployment_ends_is_that_deployments(done, killed):
    done("stage", "define")
    assert killed(4, lambda: done("clear", generation=2))
    (put,) = done("clear", generation=3)["set_asides"]
    assert put["generation"] == 1


def test_a_clearing_tells_of_all_that_was_ever_set_aside(done):
    """Or a record that missed an earlier one, as a cancel makes it, would miss it for ever."""
    done("stage", "define")
    done("clear", generation=2)
    facts = done("clear", generation=3)
    assert facts["set_aside"] is None
    assert [each["generation"] for each in facts["set_asides"]] == [1]


def test_what_a_killed_attempt_left_of_the_seed_is_removed(done, place):
    done("stage", "define")
    left = [
        place.seed.with_name(f".{place.seed.name}.new"),
        place.disk.with_name(f".{place.disk.name}.new"),
    ]
    for path in left:
        path.write_text("half")
    done("clear", generation=2)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        f"<metadata><sd:deployment xmlns:sd='{OURS}' store='0816' generation='1'/></metadata>",
    ],
    ids=["without-metadata", "of-another-store"],
)
def test_a_domain_that_is_not_ours_is_never_touched(
    done, refused, connection, pool, metadata, place
):
    domain = foreign(connection, metadata)
    before = domain.XMLDesc(), domain.ID()
    done("stage")
    for step, arguments in (
        *((step, {}) for step in ("prepare", "clear", "define", "start", "finish")),
        ("restore", {"of": 1}),
        ("retire", {"remove": True}),
    ):
        assert refused(step, **arguments) == (
            "the domain store-0815 on this hypervisor does not belong to store 0815"
        )
    assert done("discard")["left"] == [], "nothing here is this deployment's"
    assert not done("facts")["domain"]["ours"]
    assert (domain.XMLDesc(), domain.ID()) == before
    assert [path.name for path in pool.iterdir()] == [".store-deploy"]
    assert not place.set_asides.exists()


def test_a_server_in_another_pool_is_not_cleared(done, refused, spec, pool, connection):
    done("stage", "define")
    spec["pool"] = str(pool / "new")
    (pool / "new").mkdir()
    assert f"is {pool}/store-0815.qcow2, not {pool}/new/store-0815.qcow2" in refused("clear")
    assert connection.lookupByName("store-0815")


def test_facts_list_all_that_was_set_aside(done, aside, place, killed):
    done("define", generation=2)
    assert killed(4, lambda: done("clear", generation=3))
    first, second = done("facts", generation=3)["set_asides"]
    assert (first["path"], first["generation"], first["cleared_for"]) == (str(aside), 1, "g2-d")
    assert (first["complete"], second["complete"]) == (True, False)
    assert (second["generation"], second["cleared_for"]) == (2, "g3-d")
    assert aside.name.endswith(f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime(first['at']))}")
    assert first["size"] == sum(path.stat().st_blocks * 512 for path in aside.iterdir())
    assert first["size"] >= 64 * 1024


# restore


def test_a_set_aside_server_is_put_back_as_it_was(
    done, refused, connection, place, nvram, impatient
):
    key = done("stage", "define")["public_key"]
    written(place.disk, 0x11)
    written(place.data_disk("data"), 0x33)
    nvram.write_text("boot order")
    uuid, inode = dumped(connection).findtext("uuid"), place.disk.stat().st_ino
    aside = aside_of(done("clear", generation=2))
    done("define", "start", generation=2)
    done("clear", generation=2)

    for _ in range(2):
        facts = done("restore", generation=2, of=1)
        assert facts["set_aside"] == str(aside)
        assert facts["public_key"] == key
        assert (facts["domain"]["generation"], facts["domain"]["state"]) == (1, "shut off")
        assert facts["domain"]["autostart"]
        assert dumped(connection).findtext("uuid") == uuid
        assert (place.disk.stat().st_ino, holds(place.disk, 0x11)) == (inode, True)
        assert holds(place.data_disk("data"), 0x33)
        assert nvram.read_text() == "boot order"
        assert not aside.exists()
    (other,) = done("facts")["set_asides"]
    assert other["generation"] == 2
    for of in (None, 2):
        assert refused("start", generation=2, of=of) == (
            "the domain store-0815 of deployment 2 is not defined"
        )
    assert done("start", generation=2, of=1)["state"] == "running"
    assert done("restore", generation=2, of=1)["domain"]["state"] == "running"
    assert done("discard", generation=2)["domain"]["generation"] == 1


def test_a_restored_server_is_set_aside_like_any_other(done, aside, place):
    done("restore", generation=2, of=1)
    (put,) = done("clear", generation=3)["set_asides"]
    assert put["generation"] == 1
    assert holds(pathlib.Path(put["path"], "disk.qcow2"), 0x11)
    assert done("restore", generation=3, of=1)["set_aside"] == put["path"]


def test_the_one_that_was_set_aside_last_is_restored(done, aside, place):
    old = dated(aside, "g1-2020-01-31T080000Z")
    done("define")
    written(place.disk, 0x12)
    newer = done("clear", generation=2)["set_aside"]["path"]
    assert done("restore", generation=2, of=1)["set_aside"] == newer
    assert holds(place.disk, 0x12)
    assert old.exists()


def test_what_is_not_set_aside_is_not_restored(refused, aside):
    assert refused("restore", generation=3, of=2) == (
        f"no server of deployment 2 of store-0815 is set aside; set aside are: {aside.name}"
    )
    dated(aside, f"{aside.name}.partial")
    assert refused("restore", generation=2, of=1) == (
        f"the clearing that began {aside.name}.partial is not over"
    )


@pytest.mark.parametrize("what", ["domain", "disk", "nvram"])
def test_nothing_is_restored_over_what_is_in_the_place(done, refused, aside, place, what):
    if what == "domain":
        done("define", generation=2)
        sentence = "the domain store-0815 of deployment 2 is in the place"
    else:
        file = getattr(place, what)
        file.write_text("somebody's")
        sentence = f"there is a file {file} in the place"
    before = contents(place.pool)
    assert refused("restore", generation=2, of=1) == sentence
    assert contents(place.pool) == before


@pytest.mark.parametrize("part", ["disk.qcow2", "domain.xml", "minion.pub"])
def test_half_a_server_is_not_restored(refused, aside, connection, part):
    (aside / part).unlink()
    assert refused("restore", generation=2, of=1) == f"{aside} lacks {part}"
    assert aside.exists()
    assert connection.listAllDomains() == []


def test_a_server_whose_data_disk_is_gone_is_not_restored(refused, aside, place):
    hidden = place.data_disk("data").rename(place.pool / "hidden")
    assert refused("restore", generation=2, of=1) == (
        f"the set-aside server needs {place.data_disk('data')}, which is not there"
    )
    assert aside.exists()
    hidden.rename(place.data_disk("data"))


def test_a_server_of_another_pool_or_store_is_not_restored(refused, aside, spec, pool):
    definition = (aside / "domain.xml").read_text()
    (aside / "domain.xml").write_text(re.sub(r"store=(.)0815", r"store=\g<1>0816", definition))
    assert "is not the definition of a server of store 0815" in refused(
        "restore", generation=2, of=1
    )
    (aside / "domain.xml").write_text(
        definition.replace(f"{pool}/store-0815.qcow2", "/old/store-0815.qcow2")
    )
    assert refused("restore", generation=2, of=1) == (
        f"the system disk of the set-aside server was /old/store-0815.qcow2, "
        f"not {pool}/store-0815.qcow2"
    )


def test_a_restore_that_is_not_over_lets_no_other_begin(done, refused, aside, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virConnect, "defineXML", raised(Killed))
        with pytest.raises(Killed):
            done("restore", generation=2, of=1)
    assert not aside.exists()
    assert refused("restore", generation=2, of=3) == "the restore of deployment 1 is not over"
    assert refused("define", generation=2) == (
        f"the restore that began {aside.name}.restoring is not over"
    )
    (found,) = done("facts")["set_asides"]
    assert not found["complete"]
    assert done("discard", generation=2)["left"] == [], "the disk is the old server's"


# retire


def test_retire_only_lists_what_a_store_has(done, connection, place, aside, nvram):
    done("define", "start", generation=2)
    nvram.write_text("boot order")
    place.console.with_suffix(".log.0").write_text("earlier")
    before = contents(place.pool), connection.lookupByName("store-0815").ID()
    facts = done("retire", generation=2)
    assert [(each["what"], each.get("name", each.get("path"))) for each in facts["found"]] == [
        ("domain", "store-0815"),
        ("disk", str(place.disk)),
        ("nvram", str(nvram)),
        ("seed", str(place.seed)),
        ("console", str(place.console)),
        ("console", f"{place.console}.0"),
        ("set_aside", str(aside)),
    ]
    sizes = {each["what"]: each["size"] for each in facts["found"]}
    assert sizes["disk"] == place.disk.stat().st_blocks * 512
    assert sizes["set_aside"] > 64 * 1024
    (kept,) = facts["kept"]
    assert (kept["what"], kept["path"]) == ("data_disk", str(place.data_disk("data")))
    assert (facts["removed"], facts["left"]) == ([], [])
    assert (contents(place.pool), connection.lookupByName("store-0815").ID()) == before


def test_a_retired_store_leaves_its_data_disks_and_the_image(done, connection, place, aside):
    done("define", "start", generation=2)
    listed = done("retire", generation=2)
    facts = done("retire", generation=2, remove=True)
    assert facts["removed"] == facts["found"]
    assert {each["what"] for each in listed["found"]} == {each["what"] for each in facts["found"]}
    assert facts["left"] == []
    assert [each["path"] for each in facts["kept"]] == [str(place.data_disk("data"))]
    assert connection.listAllDomains() == []
    cached = [place.image.with_suffix(suffix) for suffix in (".lock", ".qcow2", ".verified")]
    assert [path for path in contents(place.pool) if path.is_file()] == [
        *cached,
        place.data_disk("data"),
    ]
    assert holds(place.data_disk("data"), 0x33)
    assert not place.console.exists()
    again = done("retire", generation=2, remove=True)
    assert (again["found"], again["removed"]) == ([], [])
    assert [each["path"] for each in again["kept"]] == [str(place.data_disk("data"))]


def test_a_store_is_retired_with_all_data_disks_that_its_definitions_name(
    done, connection, spec, place, impatient
):
    spec["data_disks"] += [{"name": "old", "size_gib": 1}, {"name": "older", "size_gib": 1}]
    done("stage", "define", "clear")
    spec["data_disks"] = spec["data_disks"][:2]
    done("define", generation=2)
    spec["data_disks"] = spec["data_disks"][:1]
    other = place.pool / "store-0815-notours.qcow2"
    alien = place.pool / "by-hand.qcow2"
    for disk in (other, alien):
        qemu_img("create", "-f", "qcow2", disk, "1M")
    attached(connection, alien)
    facts = done("retire", generation=2, data_disks=True, remove=True)
    names = [each["path"] for each in facts["removed"] if each["what"] == "data_disk"]
    assert names == [str(place.data_disk(name)) for name in ("data", "old", "older")]
    assert (facts["left"], facts["kept"]) == ([], [])
    assert sorted(place.pool.glob("*.qcow2")) == [alien, other]


def test_a_disk_of_another_domain_is_not_retired(done, connection, place, impatient):
    done("stage", "define")
    disk = place.data_disk("data")
    attached(connection, disk, name="store-0815-data")
    facts = done("retire", data_disks=True, remove=True)
    (kept,) = facts["kept"]
    assert (kept["path"], kept["why"]) == (
        str(disk),
        "it is a disk of the domain store-0815-data",
    )
    assert disk.exists()
    assert [domain.name() for domain in connection.listAllDomains()] == ["store-0815-data"]


def test_a_server_in_another_pool_is_not_retired(done, refused, spec, pool, connection):
    done("stage", "define")
    spec["pool"] = str(pool / "new")
    (pool / "new").mkdir()
    assert "is " + str(pool / "store-0815.qcow2") in refused("retire", remove=True)
    assert connection.lookupByName("store-0815")


def test_a_server_that_cannot_be_retired_goes_on_running(done, refused, connection, pool):
    done("stage", "define", "start")
    before = connection.lookupByName("store-0815").ID()
    (pool / "other.qcow2").write_bytes(b"QFI\xfb damaged")
    assert refused("retire", remove=True).startswith("qemu-img failed: ")
    assert connection.lookupByName("store-0815").ID() == before


def test_where_a_store_has_nothing_nothing_is_retired(done):
    facts = done("retire", remove=True)
    lists = [facts[key] for key in ("found", "removed", "left", "kept")]
    assert lists == [[], [], [], []]


# prune


def test_only_old_set_aside_servers_are_pruned(done, aside, place, connection):
    old = dated(aside, time.strftime("g1-%Y-%m-%dT%H%M%SZ", time.gmtime(time.time() - 30 * DAY_S)))
    done("define", generation=2)
    young = aside_of(done("clear", generation=3))
    done("define", generation=3)
    for wanted, age in (([], 31 * DAY_S), ([old], 29 * DAY_S), ([old, young], 0)):
        facts = done("prune", generation=3, older_than_s=age)
        assert [each["path"] for each in facts["found"]] == [str(path) for path in wanted]
        assert (facts["removed"], facts["left"], facts["kept"]) == ([], [], [])
    assert old.exists()
    facts = done("prune", generation=3, older_than_s=29 * DAY_S, remove=True)
    assert facts["removed"] == facts["found"]
    assert [(each["what"], each["path"]) for each in facts["removed"]] == [("set_aside", str(old))]
    assert facts["removed"][0]["size"] >= 64 * 1024
    assert facts["left"] == []
    assert (old.exists(), young.exists(), place.disk.exists()) == (False, True, True)
    assert holds(place.data_disk("data"), 0x33)
    assert done("prune", generation=3, older_than_s=29 * DAY_S, remove=True)["found"] == []


@pytest.mark.parametrize("suffix", [".partial", ".restoring"])
def test_what_a_killed_job_left_is_not_pruned(done, aside, suffix):
    half = dated(aside, f"g1-2020-01-31T080000Z{suffix}")
    assert done("prune", generation=2, older_than_s=0, remove=True)["found"] == []
    assert (half / "disk.qcow2").exists()


def test_a_backing_file_is_not_pruned(done, aside, place, connection, pool):
    disk = aside / "disk.qcow2"
    overlay = pool / "other.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay)
    facts = done("prune", generation=2, older_than_s=0, remove=True)
    (kept,) = facts["kept"]
    assert (kept["path"], kept["why"]) == (str(aside), f"it is the backing file of {overlay}")
    assert facts["found"] == []
    assert holds(overlay, 0x11)
    overlay.unlink()
    attached(connection, disk, name="look")
    (kept,) = done("prune", generation=2, older_than_s=0, remove=True)["kept"]
    assert kept["why"] == "it is a disk of the domain look"
    assert disk.exists()


def test_a_damaged_disk_stops_a_removal_only_if_it_stays(done, refused, aside, pool):
    damaged = pool / "other.qcow2"
    damaged.write_bytes(b"QFI\xfb damaged")
    sentence = refused("prune", generation=2, older_than_s=0, remove=True)
    assert sentence.startswith("qemu-img failed: ")
    assert str(damaged) in sentence
    assert aside.exists()
    damaged.replace(aside / "disk.qcow2")
    assert done("prune", generation=2, older_than_s=0, remove=True)["left"] == []
    assert not aside.exists()


@pytest.mark.parametrize("age", [-1, "30d", None, True, float("nan")])
def test_an_age_that_is_none_is_refused(refused, age):
    assert refused("prune", older_than_s=age) == (
        f"older_than_s is {age!r}, not a number of seconds from 0 up"
    )


# killed at any line


def test_clear_goes_on_after_being_killed_at_any_line(done, place, killed):
    done("stage")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    for generation in range(1, 50):
        key = done("define", generation=generation)["public_key"]
        written(place.disk, generation)
        place.nvram.write_text("boot order")
        cut = killed(generation - 1, lambda: done("clear", generation=generation + 1))  # noqa: B023
        facts = done("clear", generation=generation + 1)
        put = facts["set_aside"]
        assert put in facts["set_asides"]
        aside = pathlib.Path(put["path"])
        assert put["generation"] == generation
        assert {path.name for path in aside.iterdir()} == {
            *("disk.qcow2", "domain.xml", "nvram.fd", "minion.pub", "set-aside.json"),
        }
        assert holds(aside / "disk.qcow2", generation)
        assert (aside / "minion.pub").read_text() == key
        assert not facts["domain"]["exists"]
        assert not place.disk.exists()
        if not cut:
            break
    assert generation > 8, "too few changes seen: the test watches the wrong calls"
    assert not list(place.set_asides.glob("*.partial"))


@pytest.mark.parametrize("then", ["restore", "clear"])
def test_a_restore_goes_on_or_is_taken_back_after_being_killed_at_any_line(
    done, connection, place, killed, aside, then
):
    key = (aside / "minion.pub").read_text()
    for changes in range(40):
        (put,) = done("facts")["set_asides"]
        cut = killed(changes, lambda: done("restore", generation=2, of=1))
        if then == "restore":
            facts = done("restore", generation=2, of=1)
            assert facts["set_aside"] == put["path"]
            assert facts["public_key"] == key
            assert facts["domain"]["autostart"]
            assert holds(place.disk, 0x11)
            assert place.nvram.read_text() == "boot order"
            assert place.set_asides.exists()
            assert list(place.set_asides.iterdir()) == []
        facts = done("clear", generation=2, public_key="ANOTHER KEY")
        (again,) = done("facts")["set_asides"]
        assert facts["set_asides"] == [again]
        assert again["generation"] == 1
        assert set(again["files"]) == set(put["files"])
        folder = pathlib.Path(again["path"])
        assert holds(folder / "disk.qcow2", 0x11)
        assert (folder / "nvram.fd").read_text() == "boot order"
        assert (folder / "minion.pub").read_text() == key
        assert connection.listAllDomains() == []
        assert not any(path.exists() for path in (place.disk, place.nvram, place.restored))
        if not cut:
            break
    assert changes > 9, "too few changes seen: the test watches the wrong calls"


def test_a_store_is_retired_after_being_killed_at_any_line(
    done, connection, spec, place, nvram, killed, impatient
):
    done("stage")
    named = [{"name": "data", "size_gib": 1}, {"name": "old", "size_gib": 1}]
    for changes in range(40):
        spec["data_disks"] = named
        done("define", "clear")
        done("define", generation=2)
        nvram.write_text("boot order")
        place.console.write_text("last words")
        spec["data_disks"] = named[:1]
        arguments = {"generation": 2, "data_disks": True, "remove": True}
        cut = killed(changes, lambda: done("retire", **arguments))  # noqa: B023
        facts = done("retire", **arguments)
        assert (facts["left"], facts["kept"]) == ([], [])
        assert connection.listAllDomains() == []
        assert left(place) == []
        assert list(place.pool.glob("*.qcow2")) == []
        assert not place.set_asides.exists()
        assert not place.console.exists()
        if not cut:
            break
    assert changes > 12, "too few changes seen: the test watches the wrong calls"


def test_what_a_killed_prune_leaves_is_not_restored(done, refused, aside, place, killed):
    whole, refusals = {path.name for path in aside.iterdir()}, 0
    for changes in range(20):
        cut = killed(changes, lambda: done("prune", generation=2, older_than_s=0, remove=True))
        (folder,) = place.set_asides.iterdir() if cut else [place.set_asides]
        if cut and {path.name for path in folder.iterdir()} != whole:
            assert "lacks" in refused("restore", generation=2, of=1)
            refusals += 1
        assert done("prune", generation=2, older_than_s=0, remove=True)["left"] == []
        assert done("facts")["set_asides"] == []
        if not cut:
            break
        done("define")
        place.nvram.write_text("boot order")
        done("clear", generation=2)
    assert refusals > 3, "too few changes seen: the test watches the wrong calls"


@pytest.mark.parametrize("then", ["prepare", "discard"])
def test_prepare_goes_on_or_is_discarded_after_being_killed_at_any_line(
    done, connection, spec, place, killed, tmp_path, then
):
    ready = new_server.of(place)
    done("stage", "define", "start")
    before = connection.lookupByName("store-0815").ID()
    for changes in range(50):
        generation = changes + 2
        cut = killed(changes, lambda: done("prepare", generation=generation))  # noqa: B023
        if then == "prepare":
            facts = done("prepare", generation=generation)
            assert holds(ready.disk, 0x5A)
            seed = seed_documents(ready, tmp_path / str(changes))["user-data"]
            assert json.dumps(facts["public_key"]) in seed
            assert len(list(ready.folder.iterdir())) == 3
        else:
            assert done("discard", generation=generation)["left"] == []
            assert not ready.folder.exists()
        assert [each.name() for each in connection.listAllDomains()] == ["store-0815"]
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        assert connection.lookupByName("store-0815").ID() == before
        if not cut:
            break
    assert changes > 10, "too few changes seen: the test watches the wrong calls"


def test_define_of_a_prepared_server_goes_on_after_being_killed_at_any_line(
    done, place, killed, tmp_path
):
    ready = new_server.of(place)
    done("stage")
    for changes in range(50):
        generation = changes + 1
        key = done("prepare", generation=generation)["public_key"]
        inode = ready.disk.stat().st_ino
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        facts = done("define", generation=generation)
        assert (facts["public_key"], place.disk.stat().st_ino) == (key, inode)
        seed = seed_documents(place, tmp_path / str(changes))["user-data"]
        assert json.dumps(key) in seed
        assert not ready.folder.exists()
        assert not place.intent.exists()
        assert done("define", generation=generation) == facts
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 8, "too few changes seen: the test watches the wrong calls"


def test_define_goes_on_after_being_killed_at_any_line(done, place, killed, tmp_path):
    done("stage")
    written_once = None
    for changes in range(50):
        generation = changes + 1
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        facts = done("define", generation=generation)
        assert facts["domain"]["ours"]
        assert facts["disk"]["virtual_size"] == 2 * GIB
        assert holds(place.disk, 0x5A)
        seed = seed_documents(place, tmp_path / str(changes))["user-data"]
        assert json.dumps(facts["public_key"]) in seed
        assert done("define", generation=generation) == facts
        written_once = written_once or place.data_disk("data").stat().st_ino
        assert place.data_disk("data").stat().st_ino == written_once
        assert not place.intent.exists()
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        assert not list(place.pool.glob(".*.new"))
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 12, "too few changes seen: the test watches the wrong calls"


def test_discard_goes_on_after_being_killed_at_any_line(done, connection, place, killed):
    done("stage")
    place.nvram.parent.mkdir(parents=True, exist_ok=True)
    for changes in range(20):
        generation = changes + 1
        done("define", "start", generation=generation)
        place.nvram.write_text("boot order")
        cut = killed(changes, lambda: done("discard", generation=generation))  # noqa: B023
        assert not done("discard", generation=generation)["domain"]["exists"]
        assert left(place) == []
        assert connection.listAllDomains() == []
        if not cut:
            break
    assert changes > 5, "too few changes seen: the test watches the wrong calls"


def test_a_define_that_was_killed_at_any_line_is_discarded(done, connection, place, killed):
    done("stage")
    for changes in range(50):
        generation = changes + 1
        cut = killed(changes, lambda: done("define", generation=generation))  # noqa: B023
        done("discard", generation=generation)
        assert left(place) == []
        assert connection.listAllDomains() == []
        assert not list(pathlib.Path("/run").glob("store-deploy-seed-*"))
        if not cut:
            break
    assert changes > 10, "too few changes seen: the test watches the wrong calls"


def test_finish_goes_on_after_being_killed_at_any_line(done, connection, place, killed, impatient):
    done("stage")
    for changes in range(20):
        generation = changes + 1
        done("define", "start", generation=generation)
        cut = killed(changes, lambda: done("finish", generation=generation))  # noqa: B023
        facts = done("finish", generation=generation)
        assert (facts["inserted"], facts["defined"], facts["autostart"]) == (False, False, True)
        assert not place.seed.exists()
        connection.lookupByName("store-0815").destroy()
        done("clear", generation=generation + 1)
        if not cut:
            break
    assert changes > 3, "too few changes seen: the test watches the wrong calls"
