# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the doctor finds where the master's user is not root, with the eyes of that user.

Each mend is followed to the letter by root; then that user looks again.
"""

import contextlib
import os
import pathlib
import pwd
import tempfile

import installation
import pytest
from installation import SITE

from storemaster.deployment.ledger import Ledger
from storemaster.master import configuration, doctor, keys, settings

USER = "salt"


@contextlib.contextmanager
def as_user():
    """Be the master's user, in no other group than its own."""
    groups, user = os.getgroups(), pwd.getpwnam(USER)
    os.setgroups([])
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def master():
    """An installation where everybody can come to the files, and the state folder is the user's."""
    with tempfile.TemporaryDirectory() as folder:
        made = installation.Installation(pathlib.Path(folder), USER)
        for path in (made.folder, made.files.parent, made.files):
            path.chmod(0o755)
        user = pwd.getpwnam(USER)
        os.chown(made.folder / "store-deploy", user.pw_uid, user.pw_gid)
        yield made


@pytest.fixture
def found(master):
    """Return what one check finds as the master's user; root has read the configuration."""

    def found(check):
        # A configuration that root cannot read either is not what is tried here.
        opts = master.opts
        with as_user():
            return dict(check(opts))

    return found


def named_and_mended(master, found, check, fault):
    """Check that exactly this fault is named, and that following the mend mends it."""
    told = found(check)
    assert list(told) == [fault]
    master.do(told[fault])
    assert found(check) == {}


# The configuration


def closed_file(master):
    path = master.files / "50-store-deploy-engine.conf"
    path.chmod(0o600)
    return path


def write_only_file(master):
    path = master.files / "50-store-deploy-engine.conf"
    path.chmod(0o200)
    return path


def link_into_a_closed_folder(master):
    private = master.folder / "private"
    private.mkdir(mode=0o700)
    path = master.files / "50-store-deploy-engine.conf"
    path.rename(private / path.name)
    path.symlink_to(private / path.name)
    return path


def closed_folder(master):
    master.files.chmod(0o700)
    return master.files


def folder_that_cannot_be_listed(master):
    master.files.chmod(0o711)
    return master.files


def closed_main_file(master):
    master.main.chmod(0o600)
    return master.main


@pytest.mark.parametrize(
    "happens",
    [
        *(closed_file, write_only_file, link_into_a_closed_folder, closed_folder),
        *(folder_that_cannot_be_listed, closed_main_file),
    ],
    ids=lambda happens: happens.__name__,
)
def test_configuration_that_the_masters_user_cannot_read_is_found(master, found, happens):
    assert found(configuration.faults) == {}
    path = happens(master)
    before = path.stat()
    fault = f"{USER} cannot read {path}: what runs as {USER} ends there, or goes on without it"
    named_and_mended(master, found, configuration.faults, fault)
    now = path.stat()
    assert now.st_uid == before.st_uid, "who reads it need not be able to change it"
    assert now.st_mode & 0o007 == before.st_mode & 0o007, "what is in it may be secret"


def test_a_closed_folder_of_all_configuration_is_opened_step_by_step(master, found):
    master.files.parent.chmod(0o700)
    told = found(configuration.faults)
    assert told
    master.do(next(iter(told.values())))
    assert found(configuration.faults) == {}


# The autosign file


def autosign(master, name="autosign.conf", mode=0o644):
    path = master.folder / "store-deploy" / name
    path.touch()
    path.chmod(mode)
    return path


def of_root(master):
    return autosign(master)


def of_root_alone(master):
    return autosign(master, mode=0o600)


def below_a_folder_of_root(master):
    path = autosign(master)
    user = pwd.getpwnam(USER)
    own = master.folder / "own"
    own.mkdir(mode=0o755)
    path = path.rename(own / path.name)
    os.chown(path, user.pw_uid, user.pw_gid)
    master.say(SITE, autosign_file=str(path))
    return path


def in_a_folder_without_search(master):
    path = below_a_folder_of_root(master)
    user = pwd.getpwnam(USER)
    os.chown(path.parent, user.pw_uid, user.pw_gid)
    os.chown(path, 0, 0)
    return path


@pytest.mark.parametrize(
    "happens",
    [of_root, of_root_alone, below_a_folder_of_root, in_a_folder_without_search],
    ids=lambda happens: happens.__name__,
)
def test_an_autosign_file_that_the_masters_user_cannot_write_is_found(master, found, happens):
    path = happens(master)
    named_and_mended(master, found, doctor.autosign, f"{USER} cannot write {path}")
    with as_user():
        keys.Autosign({"autosign_file": str(path)}, master.folder / "store-deploy/lock").arm("hv-1")
    assert path.read_text() == "hv\\-1\n"
    assert path.stat().st_uid == pwd.getpwnam(USER).pw_uid


def test_an_autosign_file_that_the_masters_user_cannot_make_is_found(master, found):
    path = master.folder / "own/autosign.conf"
    path.parent.mkdir(mode=0o755)
    master.say(SITE, autosign_file=str(path))
    fault = f"{path} is not there and {USER} cannot make it"
    named_and_mended(master, found, doctor.autosign, fault)


def test_what_the_lists_of_rights_do_not_tell_of_the_autosign_file_is_found(master, found):
    """Here a group that may read it, and that the master's user cannot give a file."""
    path = autosign(master, mode=0o640)
    os.chown(path, pwd.getpwnam(USER).pw_uid, 0)
    told = found(doctor.autosign)
    (mend,) = told.values()
    assert next(iter(told)).startswith(f"the autosign file {path} cannot be written: ")
    master.do(mend.partition(",")[0])
    assert found(doctor.autosign) == {}


def test_an_autosign_file_that_others_can_write_is_found(master, found):
    path = autosign(master, mode=0o666)
    fault = f"{path} can be written by others, so Salt ignores it"
    told = found(doctor.autosign)
    assert list(told) == [fault]
    master.do(told[fault])
    named_and_mended(master, found, doctor.autosign, f"{USER} cannot write {path}")


# The state folder


@pytest.fixture
def ledger(master):
    """The master's own ledger and secret, as it makes them."""
    with as_user():
        Ledger(settings.ledger_path(master.opts)).__exit__()
        settings.root_secret(master.opts)
    return settings.ledger_path(master.opts)


@pytest.mark.parametrize("name", ["", "ledger.sqlite", "secret"])
def test_a_state_folder_of_somebody_else_is_told_as_that(master, ledger, found, name):
    """And not only as a ledger that cannot be opened, for whatever reason."""
    path = ledger.parent / name
    os.chown(path, 0, 0)
    fault = f"{path} does not belong to {USER}"
    named_and_mended(master, found, doctor._state_dir, fault)


@pytest.mark.parametrize("name", ["", "ledger.sqlite", "secret"])
def test_what_others_may_read_in_the_state_folder_is_found(master, ledger, found, name):
    path = ledger.parent / name
    mode = path.stat().st_mode
    path.chmod(mode | 0o044)
    fault = f"{path} can be read by others"
    named_and_mended(master, found, doctor._state_dir, fault)
    assert path.stat().st_mode == mode


def test_a_state_folder_that_the_masters_user_cannot_make_is_found(master, found):
    path = master.folder / "own/store-deploy"
    master.say("50-store-deploy-settings.conf", store_deploy={"state_dir": str(path)})
    fault = f"{path} is not there and {USER} cannot make it"
    named_and_mended(master, found, doctor._state_dir, fault)
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_place_of_the_state_folder_is_found(master, found):
    path = master.folder / "store-deploy"
    path.rmdir()
    path.write_text("not ours to remove")
    named_and_mended(master, found, doctor._state_dir, f"{path} is no folder")
    assert path.with_suffix(".old").read_text() == "not ours to remove"


def test_a_state_folder_behind_a_closed_one_is_found(master, found, ledger):
    master.folder.chmod(0o700)
    fault = f"{USER} cannot come to {ledger.parent}"
    named_and_mended(master, found, doctor._state_dir, fault)
    assert master.folder.stat().st_mode & 0o777 == 0o710
