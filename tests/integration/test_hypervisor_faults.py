# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
A hypervisor that has reached its highstate and yet cannot do what it is asked for.

libvirt and QEMU are real. A start is refused by libvirt's own hook (``refuse-start``).
"""

import http.server
import pathlib
import re
import threading

import pytest
import store_site

ABSENT = {"timeouts": {"booting": 2}}
NO_BRIDGE = {"interfaces": [{"name": "eth0", "type": "bridge", "source": "br-absent"}]}
SILENT = "hv-silent"


@pytest.fixture(scope="module")
def hypervisor(site):
    """A hypervisor whose highstate has left its marker: what it lacks now, it lacks for good."""
    site.write_pillar("hv-ready")
    site.start_hypervisors("hv-ready")
    site.reaches_its_highstate("hv-ready")
    return "hv-ready"


@pytest.fixture(autouse=True)
def untouched(site):
    """Everything that belongs to others stays as it is."""
    before = site.others()
    yield
    assert site.others() == before


@pytest.fixture
def fails(site, hypervisor):
    """
    Deploy a store with changes of its pillar, and return why it failed, after general checks.

    After the test, with all of it mended, the store has to be deployed once more.
    """
    failed = {}

    def fails(store, state, hypervisor=hypervisor, **changes):
        failed[store] = hypervisor
        site.describe(hypervisor, store, **changes)
        done = site.salt_run("store", store, f"hypervisor={hypervisor}")
        assert not site.keys(f"store-{store}")
        return site.failed(done, state)

    yield fails
    for store, its_hypervisor in failed.items():
        # One test has done it by itself, up to the end.
        if site.record(store).state != "deployed":
            deploy_again(site, store, its_hypervisor)


def deploy_again(site, store, hypervisor):
    """Deploy a mended store until its domain is there, then cancel that: nothing is left of it."""
    minion, generation = f"store-{store}", site.record(store).generation
    site.describe(hypervisor, store)
    site.refuse_starts(minion, 0)
    site.stand_ins.absent.add(minion)
    assert site.begin(store)["generation"] == generation + 1
    if hypervisor != SILENT:
        site.entered(store, "starting")
        assert site.remains(minion)
    assert site.salt_run("cancel", store).status == 0
    record = site.ended(store)
    assert record.state == "cancelled", record.reason
    assert site.remains(minion) == []


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves one image; as long as ``cut`` is set, that many bytes of it, then nothing more."""

    def do_GET(self):
        if self.path != "/image.qcow2" or (self.server.cut and self.server.starts):
            self.send_error(404)
            return
        content = self.server.image.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.starts.append(start)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def web(site):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.image, server.cut, server.starts = site.image, None, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_image_with_another_checksum_is_refused(site, fails):
    image = {"source": str(site.image), "sha256": "5e" * 32}
    why = fails("checksum", "staging", image=image)
    assert why == (
        f"the image {site.image} has the sha256 {store_site.sha256(site.image)}, "
        f"the pillar says {'5e' * 32}; it is a qcow2 file of {site.image.stat().st_size} bytes"
    )


def test_an_image_that_the_server_does_not_have_is_named(fails, web):
    image = {"source": f"{web.url}/gone.qcow2", "sha256": "5e" * 32}
    assert "the server answers 404" in fails("gone", "staging", image=image)


def test_a_transfer_that_broke_off_is_told_and_goes_on_where_it_stopped(site, fails, web):
    other = store_site.POOL / "other-image.qcow2"
    store_site.run("qemu-img", "create", "-q", "-f", "qcow2", other, "1G")
    store_site.run("qemu-io", "-c", "write -P 0x17 0 1M", other)
    web.image, web.cut = other, 1000
    image = {"source": f"{web.url}/image.qcow2", "sha256": store_site.sha256(other)}
    site.stand_ins.absent.add("store-half")
    why = fails("half", "staging", image=image, **ABSENT)
    assert "the server answers 404" in why
    web.cut = None
    assert site.salt_run("store", "half").answer["failed_in"] == "booting"
    assert web.starts[-1] == 1000
    assert site.record("half").generation == 2


def test_an_image_that_is_larger_than_the_disk_is_refused(fails):
    large = store_site.POOL / "large.qcow2"
    store_site.run("qemu-img", "create", "-q", "-f", "qcow2", large, "3G")
    image = {"source": str(large), "sha256": store_site.sha256(large)}
    why = fails("large", "staging", image=image)
    assert why == "the disk (2 GiB) is smaller than the image (3 GiB)"


def test_a_hypervisor_that_does_not_answer_is_named(site, fails):
    store_site.Hypervisor(SILENT).enrol()
    why = fails(
        "silent", "awaiting_hypervisor", hypervisor=SILENT, timeouts={"awaiting_hypervisor": 2}
    )
    assert why.startswith("awaiting_hypervisor was not over after 2 s: hv-silent ")


def test_a_hypervisor_without_libvirt_is_told(site, fails):
    site.libvirtd.kill()
    try:
        why = fails("nolibvirt", "awaiting_hypervisor")
    finally:
        site.libvirtd.start()
        site.stand_ins.follow()
    assert why.startswith("hv-ready: libvirt cannot be reached: ")


def test_a_full_pool_is_told(site, fails):
    pool = store_site.POOL / "tiny"
    pool.mkdir()
    store_site.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", pool)
    why = fails("tiny", "awaiting_hypervisor", pool=str(pool))
    assert re.search(rf"pool {pool} has \d+ MiB free, \d+ MiB are needed", why)


@pytest.mark.parametrize("pool", ["/var/lib/libvirt/absent", "absent"])
def test_a_missing_pool_is_told(fails, pool):
    why = fails("nopool", "awaiting_hypervisor", pool=pool)
    assert "pool" in why
    assert "absent" in why


def test_too_little_memory_is_told(fails):
    why = fails("memory", "awaiting_hypervisor", memory_mib=16 * 1024 * 1024)
    assert "memory_mib asks for 16777216" in why


def test_a_missing_bridge_is_told(fails):
    why = fails("bridge", "awaiting_hypervisor", **NO_BRIDGE)
    assert "bridge br-absent does not exist" in why


def test_a_plan_names_a_missing_bridge_and_touches_nothing(site, hypervisor):
    site.describe(hypervisor, "planned", **NO_BRIDGE)
    before = site.everything()
    done = site.salt_run("plan", "planned", f"hypervisor={hypervisor}")
    assert done.status == 1
    (fault,) = done.answer["faults"]
    assert fault.startswith("bridge br-absent does not exist")
    assert site.everything() == before
    assert all(before[kind] for kind in ("autosign", "domains", "keys", "pool"))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("salt://none.qcow2", "the master does not serve the image salt://none.qcow2 to a minion"),
        ("salt://none.qcow2?saltenv=dev", "does not serve the image salt://none.qcow2?saltenv=dev"),
        ("/srv/none.qcow2", "the image /srv/none.qcow2 does not exist on the hypervisor: put"),
        ("{url}/none.qcow2?token=secret", "{url}/none.qcow2 cannot be fetched: the server answers"),
    ],
)
def test_a_plan_names_an_image_that_cannot_be_fetched(site, hypervisor, web, source, fault):
    image = {"source": source.format(url=web.url), "sha256": "ab" * 32}
    site.describe(hypervisor, "planned", image=image)
    done = site.salt_run("plan", "planned", f"hypervisor={hypervisor}")
    assert done.status == 1
    (found,) = done.answer["faults"]
    assert fault.format(url=web.url) in found


def test_a_plan_knows_an_image_that_can_be_fetched(site, hypervisor, web):
    served = pathlib.Path("/srv/lab/salt/planned.qcow2")
    for source in (f"{web.url}/image.qcow2", "salt://planned.qcow2"):
        served.write_bytes(site.image.read_bytes())
        image = {"source": source, "sha256": "ab" * 32}
        site.describe(hypervisor, "planned", image=image)
        done = site.salt_run("plan", "planned", f"hypervisor={hypervisor}")
        served.unlink()
        assert (done.status, done.answer["faults"]) == (0, [])


def test_a_domain_that_is_not_ours_is_left_alone(site, fails):
    site.define("store-foreign")
    before = store_site.run("virsh", "dumpxml", "store-foreign")
    why = fails("foreign", "awaiting_hypervisor")
    assert "a domain store-foreign is there that store-deploy did not make" in why
    assert store_site.run("virsh", "dumpxml", "store-foreign") == before
    store_site.run("virsh", "undefine", "store-foreign")


def test_what_cannot_be_prepared_is_told_and_nothing_is_left(site, fails):
    site.define("store-tried+trial")
    why = fails("tried", "preparing")
    assert why == "there is a domain store-tried+trial, which store-deploy did not make"
    assert not list(store_site.POOL.glob(".store-deploy/prepared/store-tried*"))
    store_site.run("virsh", "undefine", "store-tried+trial")


def test_a_start_that_always_fails_is_given_up(site, fails):
    site.refuse_starts("store-refused", 99)
    why = fails("refused", "starting")
    assert why.startswith("the domain store-refused did not start in 3 attempts: ")
    assert site.record("refused").evidence.failure["attempts"] == 3


def test_a_guest_that_never_calls_fails_and_can_be_deployed_afterwards(site, fails):
    site.refuse_starts("store-quiet", 2)
    site.stand_ins.absent.add("store-quiet")
    why = fails("quiet", "booting", **ABSENT)
    assert why == "booting was not over after 2 s: store-quiet has not called yet"
    # Two starts were refused, and that was no fault.
    assert site.record("quiet").attempts == 3

    site.stand_ins.absent.remove("store-quiet")
    site.describe("hv-ready", "quiet")
    done = site.salt_run("store", "quiet")
    assert (done.status, done.answer["generation"]) == (0, 2), done.stdout
