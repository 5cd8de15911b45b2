# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""How Uyuni's API is called, and what is told of one that cannot be; no Uyuni takes part."""

import subprocess
import xmlrpc.client

import pytest
import salt.config

from storelib.errors import Refused
from storemaster.master import settings, uyuni

pytest_plugins = ["tests.uyuni.api_server"]


@pytest.fixture
def call(told):
    """Call a method in a session of its own."""

    def call(name, *arguments, **changes):
        with uyuni.session({"store_deploy": {"uyuni": {**told, **changes}}}) as opened:
            return opened.call(name, *arguments)

    return call


def test_one_logs_in_calls_and_logs_out(server, call):
    sid = server.uyuni.register("store-0815")
    assert call("system.getMinionIdMap") == {"store-0815": sid}
    assert server.sent == ["auth.login", "system.getMinionIdMap", "auth.logout"]
    assert not server.uyuni.sessions


def test_a_session_that_is_over_is_renewed(server, told):
    server.uyuni.register("store-0815")
    with uyuni.session({"store_deploy": {"uyuni": told}}) as opened:
        assert opened.call("system.getMinionIdMap")
        server.uyuni.sessions.clear()
        assert opened.call("system.getMinionIdMap")
    assert server.sent.count("auth.login") == 2


def test_a_fault_is_told_and_nothing_is_asked_again(server, call):
    refused = r"refuses system\.obtainReactivationKey: No such system"
    with pytest.raises(uyuni.Denied, match=refused) as told:
        call("system.obtainReactivationKey", 7)
    assert told.value.code == 1001
    assert server.sent.count("system.obtainReactivationKey") == 1


@pytest.mark.parametrize("arguments", [(), (1, "NO_CLEANUP", 3)])
def test_an_overload_that_is_not_there_is_a_fault(server, call, arguments):
    server.uyuni.register("store-0815")
    with pytest.raises(uyuni.Denied, match=r"Could not find method: system\.deleteSystem"):
        call("system.deleteSystem", *arguments)


def test_a_wrong_password_is_told_without_it(server, call, told):
    server.uyuni.password = "another"
    with pytest.raises(uyuni.Denied, match="password or username is incorrect") as refused:
        call("system.getMinionIdMap")
    assert "horse" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("status", uyuni.BUSY)
def test_a_busy_server_is_asked_again(server, call, status):
    server.statuses += [status, status]
    assert call("system.getMinionIdMap") == {}


def test_one_that_stays_busy_is_away(server, call):
    server.statuses += [503] * 3
    with pytest.raises(uyuni.Away, match=r"does not answer auth\.login: HTTP 503"):
        call("system.getMinionIdMap")


def test_what_uyuni_itself_cannot_do_now_may_be_asked_again(server, call, monkeypatch):
    def away():
        raise xmlrpc.client.Fault(-1, "unhandled internal exception: connection refused")

    away.counts = (0,)
    monkeypatch.setattr(server.uyuni, "system_getMinionIdMap", away)
    with pytest.raises(uyuni.Away, match=r"cannot do system\.getMinionIdMap now: unhandled"):
        call("system.getMinionIdMap")


@pytest.mark.parametrize("status", [301, 404])
def test_another_answer_than_the_apis_is_told(server, call, status):
    server.statuses.append(status)
    with pytest.raises(uyuni.Denied, match=f"does not speak as Uyuni's API does: HTTP {status}"):
        call("system.getMinionIdMap")
    assert server.sent == []


def test_garbage_is_no_answer(server, call):
    server.garbage = b"<html>log in"
    with pytest.raises(uyuni.Away, match=r"does not answer auth\.login: no XML"):
        call("system.getMinionIdMap")


def test_a_server_that_never_answers_is_away(call, monkeypatch, server):
    monkeypatch.setattr(uyuni, "TIMEOUT_S", 0.2)
    with server.lock, pytest.raises(uyuni.Away, match="timed out"):
        call("system.getMinionIdMap")


def test_nobody_there_is_away(call):
    with pytest.raises(uyuni.Away, match="refused"):
        call("system.getMinionIdMap", url="https://localhost:1/rpc/api")


def test_a_certificate_of_an_unknown_ca_is_refused(call, server, told):
    del told["ca_file"]
    with pytest.raises(uyuni.Denied, match="is not to be trusted: self-signed") as refused:
        call("system.getMinionIdMap")
    assert "ca_file" in refused.value.hint
    assert server.sent == []


def test_a_certificate_for_another_name_is_refused(call, server):
    with pytest.raises(uyuni.Denied, match="is not to be trusted: IP address mismatch"):
        call("system.getMinionIdMap", url=server.url.replace("localhost", "127.0.0.1"))


def test_a_password_that_others_may_read_is_not_used(call, told, server):
    subprocess.run(["chmod", "640", told["password_file"]], check=True)
    with pytest.raises(Refused, match="others may read") as refused:
        call("system.getMinionIdMap")
    assert refused.value.hint == f"chmod 600 {told['password_file']}"
    assert server.sent == []


@pytest.mark.parametrize("key", ["password_file", "ca_file"])
def test_a_file_that_is_not_there_is_named(call, key):
    with pytest.raises(Refused, match="/nowhere"):
        call("system.getMinionIdMap", **{key: "/nowhere"})


def test_without_settings_no_uyuni_is_known():
    with pytest.raises(Refused, match="no Uyuni is known"), uyuni.session({}):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://uyuni.example.com/rpc/api"},
        {"url": "https://me:hunter2@uyuni.example.com/rpc/api"},
        {"user": ""},
        {"password": "hunter2"},
        {"password_file": "relative"},
        {"ca_file": 5},
        {"token": "x"},
        {"password": "sdb://vault/uyuni"},
    ],
    ids=str,
)
def test_wrong_settings_are_told_without_their_values(told, changes):
    with pytest.raises(
        Refused, match="store_deploy: uyuni is wrong, allowed: a mapping"
    ) as refused:
        settings.uyuni({"store_deploy": {"uyuni": {**told, **changes}}})
    assert "hunter2" not in str(refused.value)


def test_a_password_may_be_in_salts_sdb(server, told, tmp_path, monkeypatch):
    del told["password_file"]
    opts = salt.config.apply_master_config(
        {
            "root_dir": str(tmp_path),
            "store_deploy": {"uyuni": {**told, "password": "sdb://mine/UYUNI_PASSWORD"}},
            "mine": {"driver": "env"},
        }
    )
    opts["grains"] = {}
    monkeypatch.setenv("UYUNI_PASSWORD", "correct horse")
    with uyuni.session(opts) as opened:
        assert opened.call("system.getMinionIdMap") == {}
