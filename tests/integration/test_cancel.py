# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What an operator cancels is gone, and what was mended goes on; seen from outside."""

import contextlib
import http.server
import os
import pathlib
import threading

import pytest
import store_site

NVRAM = pathlib.Path("/var/lib/libvirt/qemu/nvram")
TOOLS = pathlib.Path("/srv/slow-tools")

SLOW = """#!/bin/sh
# In place of what makes the seed: begins it, and does no more until nobody reads what it prints.
while [ "$1" != -output ]; do shift; done
echo half >"$2"
exec tail -f "$2"
"""


@pytest.fixture(scope="module", autouse=True)
def hypervisors(site):
    """
    One hypervisor for what is cancelled, and two that need their own.

    The store of ``hv-late`` is begun, too: it takes half a minute to fail, which nobody waits for.
    """
    dark = store_site.Hypervisor("hv-dark")
    dark.environment = {**dark.environment, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    TOOLS.mkdir()
    (TOOLS / "xorrisofs").write_text(SLOW)
    (TOOLS / "xorrisofs").chmod(0o755)
    site.describe("hv-dark", "dark")
    site.describe("hv-late", "late", timeouts={"booting": 30}, guest_pillar={})
    site.write_pillar("hv-cancel")
    site.start_hypervisors("hv-late", "hv-cancel", dark)
    # A guest whose key is not accepted calls again after 10 s otherwise.
    before, site.stand_ins.minion = site.stand_ins.minion, {"acceptance_wait_time": 1}
    site.stand_ins.absent.add("store-late")
    site.begin("late")
    yield
    site.stand_ins.minion = before


@pytest.fixture(autouse=True)
def untouched(site):
    """Everything that belongs to others stays as it is."""
    before = site.others()
    yield
    assert site.others() == before


def left(site, store):
    """Return what there is of a store's server: domain, files, keys, autosign entry."""
    guest = f"store-{store}"
    domains = store_site.run("virsh", "list", "--all", "--name").split()
    files = [
        *store_site.POOL.rglob(f"*{guest}*"),
        *NVRAM.glob(f"*{guest}*"),
        *pathlib.Path("/run").glob(f"*{guest}*"),
    ]
    return {
        *(name for name in domains if name == guest),
        # The lock of the hypervisor's jobs is nobody's server.
        *(str(path) for path in files if path.parent.name != "locks"),
        *site.keys(guest),
        *(["autosign"] if site.armed(guest) else []),
    }


def pool(name):
    return str(store_site.POOL / name)


def begun(site, store, state, hypervisor="hv-cancel", **changes):
    """Begin a deployment, and wait until it has come to a state."""
    site.describe(hypervisor, store, **changes)
    site.begin(store, f"hypervisor={hypervisor}")
    return site.entered(store, state)


def cancel(site, store):
    done = site.salt_run("cancel", store)
    assert (done.status, done.answer["state"]) == (0, "cancelling"), done.stdout


def cancelled(site, store, was):
    """Wait until a deployment is cancelled, and nothing of its server is left."""
    record = site.ended(store)
    assert record.state == "cancelled", record.reason
    assert [change.state for change in site.history(store)][-3:] == [was, "cancelling", "cancelled"]
    assert left(site, store) == set()


class Half(http.server.BaseHTTPRequestHandler):
    """Serves the beginning of an image until the server is told to end, then nothing."""

    def do_GET(self):
        if self.server.over.is_set():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"QFI\xfb")
        self.server.asked.set()
        self.server.over.wait()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def half_an_image():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Half) as server:
        server.asked, server.over = threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()


def test_while_the_image_is_fetched(site):
    with half_an_image() as server:
        image = {"source": f"http://127.0.0.1:{server.server_port}/x.qcow2", "sha256": "5e" * 32}
        begun(site, "fetched", "staging", image=image)
        assert server.asked.wait(60)
        home = site.hypervisors["hv-cancel"].home
        job = home / "var/cache/salt/minion/proc" / site.record("fetched").job.jid
        assert job.exists()
        cancel(site, "fetched")
        cancelled(site, "fetched", "staging")
        server.over.set()
        store_site.until(lambda: not job.exists(), 60, "the hypervisor gives up the image")
    assert left(site, "fetched") == set()


def test_while_a_guest_is_awaited(site):
    guest = "store-awaited"
    site.stand_ins.absent.add(guest)
    begun(site, "awaited", "booting", firmware="efi")
    store_site.until(lambda: site.armed(guest), 30, "the door is open")
    files = [pool(f"{guest}.qcow2"), pool(f"{guest}-seed.iso"), str(NVRAM / f"{guest}_VARS.fd")]
    assert left(site, "awaited") == {guest, "autosign", *files}
    cancel(site, "awaited")
    cancelled(site, "awaited", "booting")


@pytest.fixture
def endless(site):
    """A highstate of store waits that does not end; return the file that it makes first."""
    top = store_site.LAB / "srv/lab/salt/top.sls"
    served = pathlib.Path("/srv/lab/salt")
    (served / "top.sls").write_text(f"{top.read_text()}  store-waits:\n    - endless\n")
    name = "touch /srv/endless && sleep infinity"
    (served / "endless.sls").write_text(f"endless:\n  cmd.run:\n    - name: {name}\n")
    yield site.stand_ins.disk("store-waits") / "srv/endless"
    (served / "endless.sls").unlink()
    (served / "top.sls").write_text(top.read_text())


def test_while_the_highstate_runs(site, endless):
    guest = "store-waits"
    begun(site, "waits", "configuring")
    store_site.until(endless.exists, 120, "the highstate runs")
    assert left(site, "waits") >= {guest, "minions", pool(f"{guest}.qcow2")}
    cancel(site, "waits")
    cancelled(site, "waits", "configuring")
    # Until then it could have called again.
    store_site.until(lambda: guest not in site.stand_ins.processes, 30, "the guest is off")
    assert left(site, "waits") == set()


def test_while_the_hypervisor_is_away_the_intent_is_kept(site):
    """It went in the midst of making the seed, of which the private key is in what is left."""
    hypervisor, prepared = site.hypervisors["hv-dark"], pool(".store-deploy/prepared/store-dark")
    private = "/run/store-deploy-seed-store-dark"
    begun(site, "dark", "preparing", "hv-dark")
    half = pathlib.Path(prepared, ".seed.iso.new")
    store_site.until(half.exists, 60, "the seed is begun")
    hypervisor.kill()
    cancel(site, "dark")
    # The pump has looked.
    store_site.until(lambda: "still at work" in site.record("dark").reason, 60, "it is waited for")
    assert site.record("dark").state == "cancelling"
    assert left(site, "dark") == {prepared, private}
    assert half.exists()
    hypervisor.environment = store_site.ENVIRONMENT
    hypervisor.start()
    cancelled(site, "dark", "preparing")


def retried(site, store):
    """Retry a failed deployment, and return the record when it has ended again."""
    done = site.salt_run("retry", store)
    assert (done.status, done.answer["generation"]) == (0, 1), done.stdout
    return site.ended(store)


def test_a_failed_deployment_that_was_mended_goes_on_to_its_end(site):
    guest = "store-late"
    record = site.ended("late")
    assert (record.state, record.failed_in) == ("failed", "booting")
    # Somebody boots it by hand. The door is shut by now.
    site.stand_ins.absent.remove(guest)
    store_site.run("virsh", "destroy", guest)
    store_site.run("virsh", "start", guest)
    store_site.until(lambda: site.keys(guest), 120, "the guest calls")
    own = (site.stand_ins.disk(guest) / "etc/salt/pki/minion/minion.pub").read_text().strip()
    assert site.keys(guest) == {"minions_pre": own}

    record = retried(site, "late")
    assert (record.state, record.failed_in) == ("failed", "configuring"), record.reason
    assert site.keys(guest) == {"minions": own}
    # What its highstate lacked.
    site.describe("hv-late", "late")

    record = retried(site, "late")
    assert record.state == "deployed", record.reason
    tries = [c.reason for c in site.history("late") if c.reason.startswith("deploy.retry")]
    assert tries == [f"deploy.retry, goes on in {state}" for state in ("starting", "configuring")]
    assert left(site, "late") == {guest, "minions", pool(f"{guest}.qcow2")}
    assert site.ask(guest, "test.ping") is True
