# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The one way in which a file is replaced, and the one lock."""

import multiprocessing
import os
import pathlib
import signal
import stat
import threading

import pytest

from storelib import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "a/b/note"
    files.write(path, "one")
    files.write(path, "zwei \u00fc", 0o600)
    assert path.read_bytes() == "zwei \u00fc".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path.parent) == ["note"]


def test_the_mode_is_the_one_that_was_asked_for_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "note", "one", 0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note").stat().st_mode) == 0o644


@pytest.mark.parametrize("broken", ["fsync", "rename", "fchmod"])
def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch, broken):
    path = tmp_path / "note"
    path.write_text("one")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OSError, match="No space left"):
            files.write(path, "two")
    assert path.read_text() == "one"
    assert names(tmp_path) == ["note"]


def test_nobody_can_open_a_secret_before_it_has_its_mode(tmp_path, monkeypatch):
    seen = []
    real = os.fchmod

    def looked_at(descriptor, mode):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", looked_at)
    files.replace(tmp_path / "secret", b"x", 0o640)
    assert seen == [0o600]


def test_what_a_kill_left_under_the_temporary_name_is_not_written_to(tmp_path):
    path, temporary, elsewhere = (tmp_path / name for name in ("note", ".note.new", "elsewhere"))
    elsewhere.write_text("somebody's")
    temporary.symlink_to(elsewhere)
    files.replace(path, b"two", 0o600, temporary)
    assert (path.read_text(), elsewhere.read_text()) == ("two", "somebody's")
    assert not path.is_symlink()
    assert names(tmp_path) == ["elsewhere", "note"]


def test_what_is_in_the_way_of_the_temporary_file_stays(tmp_path):
    (tmp_path / ".note.new").mkdir()
    with pytest.raises(OSError, match=r"\.note\.new"):
        files.replace(tmp_path / "note", b"two", 0o600, tmp_path / ".note.new")
    assert names(tmp_path) == [".note.new"]


def hold(path, held):
    with files.locked(path) as mine:
        assert mine
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(10)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("wait_s", [0, 0.1])
def test_a_lock_that_stays_with_another_process_is_not_had(tmp_path, holder, wait_s):
    with files.locked(tmp_path / "lock", wait_s) as held:
        assert not held
    with files.locked(tmp_path / "other", wait_s) as held:
        assert held


@pytest.mark.parametrize("wait_s", [None, 60])
def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path, holder, wait_s):
    timer = threading.Timer(0.2, holder.kill)
    timer.start()
    with files.locked(tmp_path / "lock", wait_s) as held:
        assert held
    timer.join()


def test_a_lock_can_be_had_again_whatever_the_umask_was_when_it_was_made(tmp_path):
    before = os.umask(0o277)
    try:
        with files.locked(tmp_path / "lock") as held:
            assert held
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_the_text_of_a_lock_stays(tmp_path):
    path = pathlib.Path(tmp_path / "lock")
    path.write_text("x")
    with files.locked(path):
        assert path.read_text() == "x"
