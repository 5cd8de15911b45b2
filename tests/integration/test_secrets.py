# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Where the secrets of a deployment can be found while it is under way and when it is over.

Everything is searched for all of them, with Salt's logs at debug; the allowed places are named.
"""

import base64
import contextlib
import dataclasses
import os
import pathlib
import re
import secrets
import stat
import subprocess
import threading

import pytest
import salt.version
import store_site

from storelib import seal
from storemaster.deployment import lifecycle

GUEST, HYPERVISOR = "store-spied", "hv-spied"
CANARY = secrets.token_hex(16)
"""A value in guest_pillar."""
PLANTED = secrets.token_hex(16)
"""Put everywhere on purpose, to see that the search can find."""

FOLDERS = (
    *("/etc/libvirt", "/etc/salt", "/run", "/srv", "/tmp", "/var/cache/libvirt"),
    *("/var/cache/salt", "/var/cache/store-deploy", "/var/lib/libvirt", "/var/lib/salt"),
    *("/var/lib/store-deploy", "/var/log/libvirt", "/var/log/salt"),
)
"""What the machine has for itself, and /tmp, which it shares."""

SHARED = ("/dev/shm", "/var/tmp", str(pathlib.Path.home()))
"""Shared with others, who keep much there: only what was written since then is read."""

LARGE = 64 * 1024**2
"""What is larger in a shared folder is a disk of somebody else's test."""

CACHED_PILLAR = "/var/cache/salt/master/pillar/{}.p"
if salt.version.__saltstack_version__.major < 3008:
    CACHED_PILLAR = "/var/cache/salt/master/minions/{}/data.p"
SITE_PILLAR = "/etc/salt/lab-pillar/hv-spied.sls"
DISK = f"/srv/stand-ins/{GUEST}"

PLACES = {
    "private key": (
        # The seed, and what the guest has of it.
        f"{store_site.POOL}/{GUEST}-seed.iso",
        f"{DISK}/var/lib/cloud/instance/user-data",
        f"{DISK}/etc/salt/pki/minion/minion.pem",
    ),
    "root secret": (f"{store_site.STATE_DIR}/secret",),
    # Salt keeps each minion's last pillar.
    "secret of the guest": (CACHED_PILLAR.format(GUEST),),
    "secret of the hypervisor": (CACHED_PILLAR.format(HYPERVISOR),),
    "canary": (CACHED_PILLAR.format(GUEST), CACHED_PILLAR.format(HYPERVISOR), SITE_PILLAR),
}
"""The files that may hold a secret."""


class Processes:
    """What anybody on the machine can see of its processes, looked at again and again."""

    def __init__(self):
        self.seen = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _look(self):
        while not self._ended.wait(0.02):
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    # It may be gone already.
                    with contextlib.suppress(OSError):
                        self.seen.add((name, (process / name).read_bytes()))


@dataclasses.dataclass
class Spied:
    """All that was seen of one deployment, and its secrets."""

    needles: dict
    """What to look for, by the name of the secret."""
    events: list
    processes: set
    early: dict
    """Content and mode of each file while the seed was in the drive."""
    late: dict
    """The same when all was over."""

    def within(self, content):
        """Return the names of the secrets that are in ``content``."""
        return {name for name, texts in self.needles.items() if any(t in content for t in texts)}


def files(since):
    """Return content and mode of each file, in shared folders of those written ``since`` then."""
    # The checkout, and what is in FOLDERS once more by the path of the machine around.
    skipped = {"/srv/store-deploy", *(f"{folder}/{own_folder()}" for folder in SHARED)}
    found = {}
    for folder in (*FOLDERS, *SHARED):
        for parent, below, names in os.walk(folder):
            below[:] = [name for name in below if f"{parent}/{name}" not in skipped]
            for path in (pathlib.Path(parent, name) for name in names):
                # Some come and go.
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    new = status.st_ctime >= since and status.st_size < LARGE
                    if stat.S_ISREG(status.st_mode) and (new or folder in FOLDERS):
                        found[str(path)] = path.read_bytes(), status.st_mode & 0o777
    return found


def own_folder():
    """Return the name of the folder in which the private machine keeps what it has for itself."""
    mounts = [
        line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    (root,) = [fields[3] for fields in mounts if fields[4] == "/etc/salt"]
    return pathlib.Path(root).parents[1].name


def forms(raw):
    """Return how a secret of bytes may have been written down."""
    return [raw, raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw)]


@pytest.fixture(scope="module")
def planted():
    """Files in every searched place that does not end with the machine, and in one that does."""
    paths = [
        pathlib.Path(folder, f"planted-{PLANTED[:8]}")
        for folder in ("/run", "/srv", "/tmp", *SHARED)
    ]
    for path in paths:
        path.write_text(PLANTED)
    yield paths
    for path in paths:
        path.unlink()


@pytest.fixture(scope="module")
def spied(site, planted):
    """Deploy a store with everybody's log at debug, and look at everything meanwhile."""
    since = min(path.stat().st_ctime for path in planted)
    debug = "log_level_logfile: debug\n"
    folder = pathlib.Path("/srv/minions", HYPERVISOR, "etc/salt/minion.d")
    folder.mkdir(parents=True)
    (folder / "debug.conf").write_text(debug)
    site.master.kill()
    site.master.start(log_level_logfile="debug")
    site.describe(HYPERVISOR, "spied", guest_pillar={"greeting": "Hello", "till": CANARY})
    pathlib.Path(SITE_PILLAR).chmod(0o600)
    site.start_hypervisors(HYPERVISOR)
    guest = pathlib.Path(DISK)
    with site.events("") as heard, Processes() as processes:
        told = ["sh", "-c", f"sleep 1; : {PLANTED}"]
        subprocess.run(told, check=True, env={"PLANTED": PLANTED, **store_site.ENVIRONMENT})
        assert site.ask(HYPERVISOR, "test.arg", PLANTED, seconds=60)
        site.begin("spied")
        site.entered("spied", "rebooting", 300)
        # From its second boot on.
        (guest / "etc/salt/minion.d/99-debug.conf").write_text(debug)
        early = files(since)
        record = site.deployed("spied")
    late = files(since)
    root = (store_site.STATE_DIR / "secret").read_bytes()
    key = (guest / "etc/salt/pki/minion/minion.pem").read_bytes()
    spied = Spied(
        {
            "planted": [PLANTED.encode()],
            "canary": [CANARY.encode()],
            "private key": key.splitlines()[1:-1],
            "root secret": forms(root),
            "secret of the guest": [seal.secret(root, GUEST, record.evidence.public_key).encode()],
            "secret of the hypervisor": [
                seal.secret(root, HYPERVISOR, record.evidence.hypervisor_key).encode()
            ],
        },
        [repr(event).encode() for event in heard],
        processes.seen,
        early,
        late,
    )
    yield spied
    site.master.kill()
    site.master.start()


def test_what_was_planted_is_found_everywhere(spied, planted):
    for name in ("cmdline", "environ"):
        assert any(
            "planted" in spied.within(text) for kind, text in spied.processes if kind == name
        )
    assert any("planted" in spied.within(event) for event in spied.events)
    where = {
        path for path, (content, _) in spied.late.items() if "planted" in spied.within(content)
    }
    assert where >= {str(path) for path in planted}
    assert any(path.startswith("/var/cache/salt/master/jobs/") for path in where)


def test_each_secret_is_where_it_must_be(spied):
    """The others would look for the wrong thing otherwise."""
    for name, places in PLACES.items():
        for place in places:
            content, _ = spied.early.get(place) or spied.late[place]
            assert name in spied.within(content), f"{name} is not in {place}"


def test_no_secret_is_on_the_event_bus(spied):
    """From the call for its hypervisor to its end, each state is in an event of its own."""
    states = set(re.findall(r"'state': '(\w+)'", str(spied.events)))
    assert states >= {*lifecycle.PASSED, "deployed"}
    assert set().union(*map(spied.within, spied.events)) == {"planted"}


def test_no_secret_is_in_the_arguments_or_the_environment_of_a_process(spied):
    assert set().union(*(spied.within(text) for _, text in spied.processes)) == {"planted"}


def test_no_secret_is_in_a_file_that_is_not_its_own(spied):
    """Job cache and logs are among the files."""
    logs = [path for path in spied.late if re.fullmatch(r".*/var/log/salt/(master|minion)", path)]
    assert len([path for path in logs if b"[DEBUG" in spied.late[path][0]]) >= 3
    wrong = {
        f"{name} is in {path}"
        for path, (content, _) in [*spied.early.items(), *spied.late.items()]
        for name in spied.within(content) - {"planted"}
        if path not in PLACES[name]
    }
    assert not wrong


def test_nobody_but_its_owner_can_read_a_secret(spied):
    open_ones = {
        f"{path} has mode {mode:o}"
        for path, (content, mode) in [*spied.early.items(), *spied.late.items()]
        if spied.within(content) - {"planted"} and mode & 0o077
    }
    assert not open_ones


def test_when_it_is_over_the_private_key_is_in_the_guest_only(spied):
    own = f"{DISK}/etc/salt/pki/minion/minion.pem"
    where = {p for p, (content, _) in spied.late.items() if "private key" in spied.within(content)}
    assert where == {own}
