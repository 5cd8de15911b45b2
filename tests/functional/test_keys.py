# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Minion keys and the autosign entry, with the key store of the Salt that is installed."""

import contextlib
import fnmatch
import re
import stat

import pytest
import salt.config
import salt.key
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storelib.errors import Fault
from storelib.hypervisor import seed_iso
from storemaster.deployment.master_api import ACCEPTED
from storemaster.master import keys, operator_requests, settings

GUEST = "store-0815"
FOLDERS = {state: folder for folder, state in keys.FOLDERS.items()}
NEIGHBOURS = ("store-0815a", "store-08155", "xstore-0815", "store-081")


@pytest.fixture(scope="module")
def pems():
    """Two public keys."""
    return [seed_iso.key_pair(2048)[1] for _ in range(2)]


@pytest.fixture
def opts(tmp_path):
    opts = salt.config.apply_master_config(
        {
            "root_dir": str(tmp_path),
            **{key: str(tmp_path / key) for key in ("pki_dir", "cachedir", "sock_dir")},
            "autosign_file": str(tmp_path / "autosign.conf"),
            "store_deploy": {"state_dir": str(tmp_path)},
        }
    )
    opts["__role"] = "master"
    for folder in keys.FOLDERS:
        (tmp_path / "pki_dir" / folder).mkdir(parents=True)
    for folder in ("sock_dir", "cachedir"):
        (tmp_path / folder).mkdir()
    return opts


def put(opts, state, minion, pem):
    """Put a key where the master keeps one of that state."""
    path = settings.state_dir(opts) / "pki_dir" / FOLDERS[state] / minion
    path.write_text(pem)
    return path


@pytest.mark.parametrize("state", FOLDERS)
def test_a_key_is_known_and_purged_in_every_state(opts, pems, state):
    path = put(opts, state, GUEST, pems[0])
    others = [put(opts, each, name, pems[1]) for each in FOLDERS for name in NEIGHBOURS]
    (known,) = keys.known(opts, GUEST).items()
    assert known[0] == state
    assert keys.same(known[1], pems[0])
    keys.purge(opts, GUEST)
    assert keys.known(opts, GUEST) == {}
    assert not path.exists()
    assert all(other.read_text() == pems[1] for other in others)


def test_nothing_is_deleted_where_there_is_no_key(opts, monkeypatch):
    def never(*_, **__):
        raise AssertionError("each deletion has the whole fleet authenticate again")

    monkeypatch.setattr(salt.key, "get_key", never)
    keys.purge(opts, GUEST)
    assert keys.known(opts, GUEST) == {}


@pytest.mark.parametrize("state", FOLDERS)
def test_an_accepted_key_takes_the_place_of_any_other(opts, pems, state):
    put(opts, state, GUEST, pems[0])
    keys.accept(opts, GUEST, pems[1])
    (known,) = keys.known(opts, GUEST).items()
    assert known[0] == ACCEPTED
    assert keys.same(known[1], pems[1])


@pytest.mark.parametrize(("line", "minion"), [(GUEST, GUEST), ("store-*", GUEST), ("x", "")])
def test_who_is_named_by_the_autoreject_file_is_known(opts, line, minion):
    path = settings.state_dir(opts) / "autoreject.conf"
    path.write_text(line + "\n")
    path.chmod(0o600)
    with operator_requests.open_master({**opts, "autoreject_file": str(path)}) as master:
        assert master.autorejected(GUEST) is bool(minion)
    with operator_requests.open_master(opts) as master:
        assert not master.autorejected(GUEST)


def test_a_key_is_the_same_however_it_is_written_down(pems):
    windows = pems[0].replace("\n", "\r\n") + "\n"
    assert keys.same(pems[0], windows)
    assert not keys.same(*pems)
    assert not keys.same(pems[0], "no key at all")


@pytest.mark.parametrize("kind", [ed25519.Ed25519PrivateKey, x25519.X25519PrivateKey])
def test_a_key_of_another_kind_is_another_key(pems, kind):
    """Salt stores whatever it is sent, and a stranger may send it."""
    public = kind.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert not keys.same(pems[0], pem)
    assert keys.same(pem, pem)


@pytest.mark.parametrize("hash_type", ["sha256", "md5", "sha512"])
@pytest.mark.parametrize("stored", [str, str.strip, lambda pem: f"{pem}\n", None])
def test_a_fingerprint_is_the_one_that_salt_key_prints(opts, pems, stored, hash_type):
    opts["hash_type"] = hash_type
    if stored is None:
        # As a minion sends it, which has not called yet.
        told = keys.fingerprint(opts, GUEST, pems[0])
        put(opts, ACCEPTED, GUEST, "\n".join(pems[0].strip().splitlines()))
    else:
        put(opts, ACCEPTED, GUEST, stored(pems[0]))
        told = keys.fingerprint(opts, GUEST, pems[0])
    with contextlib.ExitStack() as stack:
        key = salt.key.get_key(opts)
        if hasattr(key, "__exit__"):
            stack.enter_context(key)
        assert key.finger(GUEST, hash_type) == {"minions": {GUEST: told}}


def test_without_a_key_there_is_no_fingerprint(opts, pems):
    assert keys.fingerprint(opts, GUEST, "") == ""
    put(opts, ACCEPTED, GUEST, pems[1])
    assert keys.fingerprint(opts, GUEST, pems[0]) != keys.fingerprint(opts, GUEST, pems[1])


# The autosign entry


@pytest.fixture
def autosign(opts):
    return keys.Autosign(opts, settings.state_dir(opts) / "autosign.lock")


@pytest.mark.parametrize("text", [b"", b"a-host\n", b"a-host", b"# x\r\n\n*.example.com\n\xff\n"])
def test_the_sites_own_lines_are_kept_byte_for_byte(autosign, text):
    autosign.path.write_bytes(text)
    autosign.path.chmod(0o640)
    autosign.arm(GUEST)
    autosign.arm(GUEST)
    assert autosign.armed(GUEST)
    assert autosign.path.read_bytes().startswith(text)
    assert autosign.path.read_bytes().count(re.escape(GUEST).encode()) == 1
    autosign.disarm(GUEST)
    assert not autosign.armed(GUEST)
    assert autosign.path.read_bytes().rstrip(b"\n") == text.rstrip(b"\n")
    assert stat.S_IMODE(autosign.path.stat().st_mode) == 0o640


@pytest.mark.parametrize("minion", [GUEST, "a.b", "till_1.example.com"])
def test_the_entry_means_exactly_this_minion(autosign, minion):
    autosign.arm(minion)
    (line,) = autosign.path.read_text().splitlines()
    # As Salt reads it: a glob, then a regular expression.
    assert re.fullmatch(line, minion)
    for other in (*NEIGHBOURS, minion.replace(".", "x") + "x", minion[:-1], f"{minion}0"):
        assert not fnmatch.fnmatch(other, line)
        assert not re.fullmatch(line, other)


def test_a_file_that_we_make_is_private(autosign):
    autosign.arm(GUEST)
    assert stat.S_IMODE(autosign.path.stat().st_mode) == 0o600


def test_without_an_autosign_file_it_is_said_what_to_do(opts):
    autosign = keys.Autosign({**opts, "autosign_file": None}, settings.state_dir(opts) / "lock")
    with pytest.raises(Fault, match="no autosign_file") as refused:
        autosign.arm(GUEST)
    assert "admission: pinned" in refused.value.hint
    autosign.disarm(GUEST)
