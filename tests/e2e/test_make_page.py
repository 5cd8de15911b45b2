# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""`make page` shows the page to whoever looks at its port, and leaves nothing."""

import json
import pathlib
import re
import signal
import subprocess
import urllib.request

import pytest
from tests.e2e.stores import until

REPO = pathlib.Path(__file__).parents[2]


def ours():
    return {path for path in pathlib.Path("/var/tmp").glob("store-deploy.*") if path.is_dir()}


@pytest.fixture(scope="module")
def shown():
    """Its process, and what it has printed when it is ready."""
    before = ours()
    process = subprocess.Popen(
        [REPO / "tests/lab/page", "0"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    yield "".join(lines)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    until(lambda: ours() == before, 30, "nothing is left")


def told(url, body, **headers):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    request.add_header("Accept", "application/json")
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["return"][0]


def test_it_prints_where_the_page_is_and_who_may_log_in(shown):
    page = re.search(r"http://127\.0\.0\.1:\d+/app", shown)[0]
    assert b"/static/main.js" in urllib.request.urlopen(page, timeout=60).read()
    root = page.removesuffix("app")
    user, role, password = re.search(r"(\w+) +(owner) +password: (.*)", shown).groups()
    log_in = {"username": user, "password": password, "eauth": "pam"}
    token = {"X-Auth-Token": told(f"{root}login", log_in)["token"]}
    call = {"client": "runner", "fun": "deploy.whoami"}
    assert told(root, [call], **token)["role"] == role
    rows = told(root, [{"client": "runner", "fun": "deploy.list"}], **token)
    states = {row["store"]: row["state"] for row in rows}
    assert states == {"0101": "deployed", "0103": "awaiting_hypervisor", "0104": "failed"}


@pytest.mark.parametrize("port", ["http", "65536", "-1"])
def test_a_port_that_is_none_is_told(port):
    done = subprocess.run(
        [REPO / "tests/lab/page", port], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 64
    assert done.stderr == f"page: {port} is no port, allowed: 0 to 65535\n"
