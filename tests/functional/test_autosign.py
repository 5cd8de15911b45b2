# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be in the way of the autosign file: each is told in one sentence, nothing is left."""

import fcntl
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import time

import pytest

from storelib.errors import Fault
from storemaster.master import keys

GUEST = "store-0815"
SITE = b"till-*.example.com\n"
MASTER = 450
"""User and group of the master, as on Uyuni: the machine has a user salt."""
OTHER = 65534


@pytest.fixture
def folder():
    """A folder that the master's user owns, and that it can come to."""
    made = pathlib.Path(tempfile.mkdtemp())
    made.chmod(0o755)
    os.chown(made, MASTER, MASTER)
    (made / "state").mkdir(mode=0o700)
    os.chown(made / "state", MASTER, MASTER)
    yield made
    for each in (made / "autosign.conf", made):
        subprocess.run(["chattr", "-i", each], check=False, capture_output=True)
        subprocess.run(["umount", each], check=False, capture_output=True)
    shutil.rmtree(made) if made.is_dir() else made.unlink()


@pytest.fixture
def as_master():
    """Be the master's user, who is in no other group than its own."""
    groups = os.getgroups()

    def become():
        os.setgroups([])
        os.setegid(MASTER)
        os.seteuid(MASTER)

    yield become
    os.seteuid(0)
    os.setegid(0)
    os.setgroups(groups)


@pytest.fixture
def autosign(folder, monkeypatch):
    monkeypatch.setattr(keys, "LOCK_S", 0.2, raising=False)
    return keys.Autosign({"autosign_file": str(folder / "autosign.conf")}, folder / "state/lock")


def written(path, mode=0o600, owner=MASTER, group=MASTER):
    path.write_bytes(SITE)
    path.chmod(mode)
    os.chown(path, owner, group)


def directory(path):
    path.mkdir()


def below_a_file(path):
    shutil.rmtree(path.parent)
    path.parent.write_bytes(SITE)


def link_loop(path):
    path.symlink_to(path.name)


def pipe(path):
    os.mkfifo(path)
    os.chown(path, MASTER, MASTER)


def device(path):
    path.symlink_to("/dev/null")


def unreadable(path):
    written(path, owner=0, group=0)


def of_another_owner(path):
    written(path, mode=0o644, owner=0, group=0)


def of_a_group_that_may_more(path):
    written(path, mode=0o640, group=OTHER)


def folder_of_another_owner(path):
    written(path)
    os.chown(path.parent, 0, 0)


def immutable(path):
    written(path)
    subprocess.run(["chattr", "+i", path], check=True)


def mounted(path):
    written(path)
    subprocess.run(["mount", "--bind", path, path], check=True)


def read_only(path):
    written(path)
    subprocess.run(["mount", "--bind", path.parent, path.parent], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", path.parent], check=True)


def lock_is_unreadable(path):
    written(path)
    (path.parent / "state/lock").touch(mode=0o600)


def lock_is_a_directory(path):
    written(path)
    (path.parent / "state/lock").mkdir()


def lock_cannot_be_made(path):
    written(path)
    os.chown(path.parent / "state", 0, 0)


def lock_is_held(path):
    written(path)
    file = (path.parent / "state/lock").open("w")
    os.chown(file.name, MASTER, MASTER)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def temporary_is_a_directory(path):
    written(path)
    (path.parent / f".{path.name}.store-deploy").mkdir()


IN_THE_WAY = (
    *(directory, below_a_file, link_loop, pipe, device, unreadable, of_another_owner),
    *(of_a_group_that_may_more, folder_of_another_owner, immutable, mounted, read_only),
    *(lock_is_unreadable, lock_is_a_directory, lock_cannot_be_made, lock_is_held),
    temporary_is_a_directory,
)


def listing(folder):
    """Return what is there, and what is in it."""
    if not folder.is_dir():
        return folder.read_bytes()
    return {
        (path.name, path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_gid): (
            path.is_file() and path.stat().st_size and path.read_bytes()
        )
        for path in folder.iterdir()
    }


ACTS = {
    "arm": lambda autosign: autosign.arm(GUEST),
    "rewrite": lambda autosign: autosign.rewrite(),
    "check": lambda autosign: autosign.check(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("happens", IN_THE_WAY, ids=lambda happens: happens.__name__)
def test_what_is_in_the_way_is_told_in_one_sentence_and_nothing_is_left(
    folder, autosign, as_master, happens, act
):
    held = happens(folder / "autosign.conf")
    before = listing(folder)
    as_master()
    with pytest.raises(Fault) as refused:
        ACTS[act](autosign)
    os.seteuid(0)
    place = os.path.realpath(folder / "autosign.conf")
    assert any(str(path) in refused.value.reason for path in (folder, place))
    assert "\n" not in refused.value.reason
    assert refused.value.hint
    assert listing(folder) == before
    assert pathlib.Path("/dev/null").is_char_device()
    if held:
        held.close()


@pytest.mark.parametrize(
    "happens",
    [unreadable, immutable, mounted, read_only, folder_of_another_owner, lock_is_held],
    ids=lambda happens: happens.__name__,
)
def test_a_line_that_cannot_be_removed_is_told(folder, autosign, as_master, monkeypatch, happens):
    monkeypatch.setattr("test_autosign.SITE", SITE + b"store\\-0815\n")
    held = happens(folder / "autosign.conf")
    as_master()
    with pytest.raises(Fault, match=str(folder)) as refused:
        autosign.disarm(GUEST)
    assert "store-0815" in refused.value.reason
    os.seteuid(0)
    if held:
        held.close()


@pytest.mark.parametrize(
    "happens", [directory, below_a_file, link_loop, pipe], ids=lambda happens: happens.__name__
)
def test_what_is_no_file_has_no_line(folder, autosign, as_master, happens):
    happens(folder / "autosign.conf")
    as_master()
    autosign.disarm(GUEST)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o604])
def test_a_group_that_may_no_more_than_others_is_given_up(folder, autosign, as_master, mode):
    """The doctor's mend makes one: chown of the file and its folder, with the group left."""
    path = folder / "autosign.conf"
    written(path, mode, group=0)
    as_master()
    autosign.arm(GUEST)
    autosign.disarm(GUEST)
    found = path.stat()
    assert path.read_bytes() == SITE
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (MASTER, mode)


@pytest.mark.parametrize(
    "happens",
    [
        *(unreadable, of_another_owner, of_a_group_that_may_more, folder_of_another_owner),
        *(lock_is_unreadable, lock_cannot_be_made),
    ],
    ids=lambda happens: happens.__name__,
)
def test_the_mend_works_when_it_is_followed_literally(folder, autosign, as_master, happens):
    happens(folder / "autosign.conf")
    as_master()
    with pytest.raises(Fault) as refused:
        autosign.arm(GUEST)
    os.seteuid(0)
    mend = re.match(r"(chown [^,;]+)[,;]", refused.value.hint)
    subprocess.run(mend[1].split(), check=True)
    os.seteuid(MASTER)
    autosign.arm(GUEST)
    assert autosign.armed(GUEST)
    autosign.disarm(GUEST)
    assert (folder / "autosign.conf").read_bytes() == SITE


def test_an_owner_that_can_be_kept_is_kept(folder, autosign):
    """The master's user is root."""
    path = folder / "autosign.conf"
    written(path, 0o640, owner=OTHER, group=MASTER)
    autosign.arm(GUEST)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OTHER, MASTER, 0o640)


@pytest.mark.parametrize("text", [b"", SITE, SITE + b"last", b"\xff\n\n"])
def test_rewriting_changes_no_byte(folder, autosign, text):
    path = folder / "autosign.conf"
    path.write_bytes(text)
    path.chmod(0o640)
    before = path.stat().st_ino
    autosign.rewrite()
    assert path.read_bytes() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before, "it was written as it will be with our line"
    assert [each.name for each in folder.iterdir() if each.is_file()] == [path.name]


def nothing(path):
    """Have no file yet."""


def of_a_group_that_may_no_more(path):
    written(path, mode=0o644, group=0)


def readable_only(path):
    written(path, mode=0o400)


def link(path):
    written(path.with_name("real"))
    path.symlink_to("real")


def left_by_a_kill(path):
    written(path)
    written(path.with_name(f".{path.name}.store-deploy"))


@pytest.mark.parametrize(
    "happens",
    [written, nothing, of_a_group_that_may_no_more, readable_only, link, left_by_a_kill],
    ids=lambda happens: happens.__name__,
)
def test_checking_touches_nothing_and_says_nothing_where_a_line_can_be_added(
    folder, autosign, as_master, happens
):
    happens(folder / "autosign.conf")
    before = listing(folder), folder.stat().st_mtime_ns
    as_master()
    autosign.check()
    assert (listing(folder), folder.stat().st_mtime_ns) == before
    autosign.arm(GUEST)
    assert autosign.armed(GUEST)


def test_a_master_without_an_autosign_file_is_told_by_checking_it(folder):
    with pytest.raises(Fault, match="the master has no autosign_file"):
        keys.Autosign({}, folder / "state/lock").check()


def test_a_file_that_is_missing_is_made_by_rewriting_it(folder, autosign):
    autosign.rewrite()
    path = folder / "autosign.conf"
    assert path.read_bytes() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(folder, autosign):
    (folder / "real").write_bytes(SITE)
    (folder / "autosign.conf").symlink_to("real")
    autosign.arm(GUEST)
    assert (folder / "autosign.conf").is_symlink()
    assert (folder / "real").read_bytes().startswith(SITE)


def test_a_lock_that_is_given_back_in_time_is_waited_for(folder, autosign, monkeypatch):
    held = lock_is_held(folder / "autosign.conf")
    monkeypatch.setattr(time, "sleep", lambda _: held.close())
    autosign.arm(GUEST)
    assert autosign.armed(GUEST)
