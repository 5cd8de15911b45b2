# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Whole deployments into real guests, each begun by the operator's command in a lab of its own.

Three stores, each with its hypervisor minion: 0815 is deployed and later replaced, 0816 fails its
highstate, 0817 never calls. SALT chooses the Salt line, STORE_DEPLOY_IMAGE an image that is built
already. The logs of a session that failed are kept in artifacts/e2e.
"""

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.stores import PATIENT, Stores, until
from tests.lab.lab import FILE_ROOT, REPO, Lab

ARTIFACTS = REPO / "artifacts" / "e2e"
BROKEN = {"receipt-printer": {"test.fail_without_changes": [{"comment": "out of paper"}]}}


@pytest.fixture(scope="session")
def stores(request):
    """The lab, with the three stores in its pillar and their hypervisors at their highstate."""
    # However the session is ended, the lab ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab(f"/var/tmp/store-deploy-e2e.{os.getpid()}")
    try:
        lab.up(os.environ.get("SALT", "3008"), "root", os.environ.get("STORE_DEPLOY_IMAGE"))
        stores = Stores(lab)
        stores.describe(
            "0815",
            hostname="store-0815.example.com",
            data_disks=[{"name": "data", "size_gib": 1}],
            timeouts=PATIENT,
        )
        stores.describe(
            "0816", guest_pillar={"greeting": "Hello from store 0816"}, timeouts=PATIENT
        )
        # Nobody is at that address of QEMU's network.
        stores.describe("0817", master="10.0.2.99", timeouts={"booting": 150})
        states = lab.root / FILE_ROOT
        (states / "broken.sls").write_text(json.dumps(BROKEN))
        top = {"hv-*": ["store_hypervisor.ready"], "store-*": ["demo"], "store-0816": ["broken"]}
        (states / "top.sls").write_text(json.dumps({"base": top}))
        lab.minion("hv-0816")
        lab.minion("hv-0817")
        stores.read("salt", "--timeout=60", "hv-*", "state.apply", seconds=200)
        yield stores
    finally:
        if request.session.testsfailed and lab.folder.exists():
            shutil.rmtree(ARTIFACTS, ignore_errors=True)
            shutil.copytree(lab.root / "var/log", ARTIFACTS)
        lab.down()


@pytest.fixture(scope="session")
def deployments(stores):
    """The three deployments, as futures: two at once, since a guest's boot takes a core."""
    pool = ThreadPoolExecutor(2)
    yield {store: pool.submit(stores.deploy, store) for store in ("0815", "0816", "0817")}
    # What is still under way ends with the lab.
    pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="session")
def private_key(stores, deployments, tmp_path_factory):
    """The private key of the first server of store 0815, from the seed while it is there."""
    seed = stores.seed("0815")
    until(seed.exists, 300, f"{seed} is written")
    document = tmp_path_factory.mktemp("seed") / "user-data"
    extract = ["xorriso", "-osirrox", "on", "-indev", seed, "-extract", "/user-data", document]
    subprocess.run(extract, check=True, capture_output=True, timeout=60)
    files = json.loads(document.read_text().removeprefix("#cloud-config\n"))["write_files"]
    (key,) = [file["content"] for file in files if file["path"].endswith("/minion.pem")]
    return key


@pytest.fixture(scope="session")
def deployed(stores, deployments, private_key):
    """The outcome of the first deployment of store 0815."""
    outcome = deployments["0815"].result()
    assert outcome.status == 0, outcome
    return outcome


@pytest.fixture(scope="session")
def guest(stores, deployed):
    """What the first server of store 0815 tells of itself when it is deployed."""
    told = stores.identity("0815")
    assert told, "store-0815 does not answer"
    return told
