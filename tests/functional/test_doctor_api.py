# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of salt-api and of the rights of who logs in."""

import socket

import pytest
import salt.utils.yaml
from installation import SHIPPED, SITE, Installation, uncommented

OURS = [{"@runner": ["deploy.*"]}]
ROLES = {"vera": "viewer", "store-owners%": "owner"}


@pytest.fixture
def port():
    """A port of this machine where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def site(tmp_path, port):
    """An installation with the shipped API, which listens on that port."""
    site = Installation(tmp_path)
    shipped = uncommented((SHIPPED / "60-store-deploy-api.conf").read_text(), "/srv")
    told = salt.utils.yaml.safe_load(shipped)
    site.say(SITE, **{**told, "rest_cherrypy": {**told["rest_cherrypy"], "port": port}})
    return site


def found(site):
    """Return what is found of the API and of rights, with how to mend it."""
    words = ("salt-api", "external_auth", "roles")
    return {f: mend for f, mend in site.found().items() if any(word in f for word in words)}


def change(site, key, **told):
    site.say(SITE, **{key: {**site.read(SITE)[key], **told}})


def test_the_shipped_api_is_as_it_should_be(site):
    assert site.opts["rest_cherrypy"]["host"] == "127.0.0.1"
    assert found(site) == {}


def test_without_an_api_nothing_is_said_of_one(tmp_path):
    assert found(Installation(tmp_path)) == {}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", None])
def test_an_api_that_is_open_without_tls_is_told(site, host):
    change(site, "rest_cherrypy", host=host)
    if host is None:
        told = site.read(SITE)["rest_cherrypy"]
        site.say(SITE, rest_cherrypy={k: v for k, v in told.items() if k != "host"})
    fault = next(iter(found(site)))
    assert fault.startswith(f"salt-api is open at {host or '0.0.0.0'}:")
    assert "beside any proxy and without TLS" in fault
    assert f"in {site.files / SITE}" in found(site)[fault]


def test_with_tls_of_its_own_it_may_be_open(site):
    change(site, "rest_cherrypy", host="0.0.0.0", disable_ssl=False, ssl_crt="/c", ssl_key="/k")
    assert found(site) == {}


def test_an_api_that_does_not_answer_is_told(site, port):
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    change(site, "rest_cherrypy", port=free)
    ((fault, mend),) = found(site).items()
    assert fault == (
        f"salt-api is configured, but nobody answers at 127.0.0.1:{free}: Connection refused"
    )
    assert "; systemctl restart salt-api; if it ends again" in mend


@pytest.mark.parametrize("told", [["local"], "local", True, None])
def test_an_api_that_takes_no_calls_of_verbs_is_told_and_mended(site, told):
    site.say(SITE, netapi_enable_clients=told)
    ((fault, mend),) = found(site).items()
    assert fault == "salt-api refuses all calls of runners"
    assert mend.startswith("add runner to netapi_enable_clients; ")
    site.say(SITE, netapi_enable_clients=["local", "runner"])
    assert found(site) == {}


@pytest.mark.parametrize(
    "wrong", [{"port": "abc"}, {"port": None}, {"port": 70000}, {"host": "x" * 80, "ssl_crt": "/c"}]
)
def test_a_place_where_nobody_can_listen_is_told(site, wrong):
    change(site, "rest_cherrypy", disable_ssl=False, **wrong)
    ((fault, mend),) = found(site).items()
    assert fault.startswith("salt-api is configured, but nobody answers at ")
    assert f"see to host and port in {site.files / SITE}" in mend


def test_an_api_that_is_not_for_us_is_not_ours_to_judge(site):
    site.say(
        SITE,
        store_deploy=None,
        external_auth={"file": {"admin": [".*"]}},
        netapi_enable_clients=None,
        rest_cherrypy={"host": "0.0.0.0", "port": 1},
    )
    assert found(site) == {}


@pytest.mark.parametrize("wrong", [["pam"], {"pam": ["vera"]}, "pam"])
def test_rights_that_are_none_end_no_look(site, wrong):
    site.say(SITE, external_auth=wrong)
    assert [fault.partition(" lets ")[0] for fault in found(site)] == ["external_auth"]


@pytest.mark.parametrize(
    ("entries", "more"),
    [
        ([".*"], ".*"),
        (["@runner"], "@runner"),
        (["@deploy", "@wheel"], "@wheel"),
        ([{"@runner": ["deploy.*", "state.orchestrate"]}], "@runner state.orchestrate"),
        ([{"@runner": [{"jobs.*": {"args": ["x"]}}]}], "@runner jobs.*"),
        ([{"@runner": [".*"]}, {"web*": ["test.ping"]}], "@runner .*, web*"),
    ],
)
def test_rights_beyond_the_verbs_are_told_of_who_has_a_role(site, entries, more):
    auth = {"vera": entries, "store-owners%": OURS, "root": [".*"], "^filename": "/x"}
    site.say(SITE, external_auth={"file": auth}, store_deploy={"roles": ROLES})
    ((fault, mend),) = found(site).items()
    assert fault == (
        f"external_auth gives vera more than the verbs, and no role holds for that: {more}"
    )
    assert f"alone in {site.files / SITE}" in mend


@pytest.mark.parametrize(
    "entries",
    [OURS, ["@deploy"], [{"@deploy": ["status", "list"]}], [{"@runners": "deploy.list"}]],
)
def test_rights_to_verbs_are_none_too_many(site, entries):
    auth = {"vera": entries, "store-owners%": OURS}
    site.say(SITE, external_auth={"pam": auth}, store_deploy={"roles": ROLES})
    assert found(site) == {}


def test_a_role_of_somebody_whom_salt_lets_through_nowhere_is_told(site):
    roles = {"vera": "viewer", "nora": "owner"}
    site.say(SITE, external_auth={"pam": {"ve.*": OURS}}, store_deploy={"roles": roles})
    ((fault, mend),) = found(site).items()
    assert fault.startswith("external_auth lets nora through nowhere")
    assert mend.startswith("give nora '@runner': ['deploy.*'] under external_auth in ")


@pytest.mark.parametrize("given", ["store-owners%", "vera"])
def test_a_group_may_have_the_user_and_a_user_be_in_the_group(site, given):
    site.say(SITE, external_auth={"pam": {given: OURS}}, store_deploy={"roles": ROLES})
    assert found(site) == {}


@pytest.mark.parametrize("many", ["*", "ldap(cn=stores)"])
def test_where_an_entry_stands_for_many_nobody_is_missed(site, many):
    site.say(SITE, external_auth={"ldap": {many: OURS}}, store_deploy={"roles": ROLES})
    assert found(site) == {}
