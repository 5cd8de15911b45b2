# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Images from Salt's file server or from a path, which look at no clock: they end in time, too."""

import concurrent.futures
import contextlib
import hashlib
import signal
import subprocess
import threading

import pytest

from storelib.errors import Fault
from storelib.hypervisor import alarm, images, transfer

LONG_S = 100


@pytest.fixture
def image(tmp_path):
    return tmp_path / "images" / f"{'0' * 64}.qcow2"


@pytest.fixture
def late(image):
    """Stage the image, which must take too long, and check that nothing is left of it."""

    def late(source, get_file=None):
        with pytest.raises(Fault) as fault:
            images.stage(source, image, "0" * 64, get_file, transfer.Access(), 0.2)
        assert str(fault.value) == (
            f"the image {source} cannot be fetched: it took longer than 0.2 s"
        )
        assert fault.value.hint
        assert [each.suffix for each in image.parent.iterdir()] == [".lock"]
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        # Its lock is free.
        with images._alone(image):
            pass

    return late


def dribbles(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x")
            threading.Event().wait(0.01)


def stands_still(path):
    threading.Event().wait(LONG_S)


def stands_still_in_a_thread_of_its_own(path):
    """As Salt's own channels do."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        over = threading.Event()
        try:
            pool.submit(over.wait, LONG_S).result()
        finally:
            over.set()


def swallows_what_it_is_told_once(path):
    with contextlib.suppress(Exception):
        stands_still(path)
    stands_still(path)


def makes_something_else_of_it(path):
    try:
        stands_still(path)
    except Fault:
        raise RuntimeError("cannot close a running event loop") from None


def returns_all_the_same(path):
    with contextlib.suppress(Exception):
        stands_still(path)
    return path


@pytest.mark.parametrize(
    "slow",
    [
        *(dribbles, stands_still, stands_still_in_a_thread_of_its_own),
        *(swallows_what_it_is_told_once, makes_something_else_of_it, returns_all_the_same),
    ],
    ids=lambda slow: slow.__name__,
)
def test_what_comes_from_salts_file_server_ends_in_time(late, monkeypatch, slow):
    monkeypatch.setattr(alarm, "AGAIN_S", 0.2)
    late("salt://image.qcow2", lambda _, path: slow(path))


def test_what_comes_from_a_path_ends_in_time(late, tmp_path, monkeypatch):
    """As from a file system whose server is gone."""
    (tmp_path / "original").write_bytes(b"x")
    monkeypatch.setattr(images.shutil, "copyfile", lambda _, path: dribbles(path))
    late(str(tmp_path / "original"))


def test_a_minion_whose_jobs_are_threads_stages_as_well(image, tmp_path):
    """Without a limit: they hear no alarm."""
    path = tmp_path / "original.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        arguments = (str(path), image, sha256, None, transfer.Access(), LONG_S)
        pool.submit(images.stage, *arguments).result()
    assert image.read_bytes() == path.read_bytes()
