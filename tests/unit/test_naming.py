# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Which names and addresses of a store may stand in the DNS."""

import dataclasses

import pytest
from test_ledger import record

from storelib.errors import Fault
from storemaster.deployment import naming, outbox, views
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.outbox import Outbox

TOLD = {
    "servers": ["192.0.2.53", "2001:db8::53#5353"],
    "zones": ["stores.example.com", "10.in-addr.arpa"],
    "networks": ["10.0.0.0/8"],
    "key_name": "store-deploy",
    "key_file": "/etc/salt/dns",
}


def store(hostname="store-0815.stores.example.com", server=None, probes=None):
    evidence = Evidence(server=server, probes=probes)
    return record(spec={"hostname": hostname}, evidence=evidence)


def test_what_is_right_is_taken():
    assert list(naming.faults(TOLD)) == []
    more = {"algorithm": "hmac-sha512", "ttl": 60}
    assert list(naming.faults({**TOLD, **more})) == []


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("servers", [], "servers is [], allowed: a list of addresses"),
        ("servers", ["ns.example.com"], "servers is ['ns.example.com'], allowed"),
        ("servers", ["192.0.2.53#0"], "servers is ['192.0.2.53#0'], allowed"),
        ("servers", "192.0.2.53", "servers is '192.0.2.53', allowed"),
        ("zones", ["a b"], "zones is ['a b'], allowed: a list of zones"),
        ("zones", ["-a.example"], "zones is ['-a.example'], allowed"),
        ("networks", ["10.0.0.1/8"], "networks is ['10.0.0.1/8'], allowed: a list of networks"),
        ("networks", [7.5], "networks is [7.5], allowed"),
        ("key_name", "", "key_name is '', allowed: the name of a TSIG key"),
        ("key_file", "dns", "key_file is wrong, allowed: an absolute path"),
        ("algorithm", "hmac-md5", "algorithm is 'hmac-md5', allowed: hmac-sha256 | "),
        ("ttl", True, "ttl is True, allowed: a whole number of seconds"),
        ("ttl", -1, "ttl is -1, allowed"),
        ("ttl", "300", "ttl is '300', allowed"),
        ("zone", "x", "zone is no key of it, allowed: servers, "),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(key, value, fault):
    (found,) = naming.faults({**TOLD, key: value})
    assert found.startswith(fault)


def test_a_secret_in_the_settings_is_not_shown():
    told = {name: value for name, value in TOLD.items() if name != "key_file"}
    (found,) = naming.faults({**told, "key": "hunter2"})
    assert found == "key is wrong, allowed: an sdb:// URI"


def test_what_is_needed_is_told_all_at_once():
    assert len(list(naming.faults({}))) == 5
    assert list(naming.faults(["x"])) == ["it is no mapping"]


def test_addresses_are_those_that_the_server_told_within_the_networks():
    told = {"addresses": ["127.0.0.1", "10.0.0.7", "fe80::1%eth0", "192.0.2.7", "10.0.0.7", "x"]}
    found = naming.addresses(store(probes=told), ["10.0.0.0/8", "2001:db8::/32"])
    assert [str(each) for each in found] == ["10.0.0.7"]
    back = store(probes=told, server={"addresses": ["10.0.0.8"]})
    assert [str(each) for each in naming.addresses(back, ["10.0.0.0/8"])] == ["10.0.0.8"]


@pytest.mark.parametrize("told", [{"addresses": []}, {"addresses": ["192.0.2.7"]}])
def test_without_one_it_is_told(told):
    with pytest.raises(Fault, match="no address of store-0815 is within"):
        naming.addresses(store(probes=told), ["10.0.0.0/8"])


@pytest.mark.parametrize("told", [None, {}, {"results": []}])
def test_a_server_that_was_never_asked_has_told_nothing(told):
    assert naming.addresses(store(probes=told), ["10.0.0.0/8"]) is None


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("a.stores.example.com", "stores.example.com"),
        ("a.b.stores.example.com", "b.stores.example.com"),
        ("b.stores.example.com", "stores.example.com"),
        ("stores.example.com", ""),
        ("xstores.example.com", ""),
        ("a", ""),
    ],
)
def test_the_innermost_zone_is_the_one_that_is_changed(name, zone):
    assert (
        naming.zone_of(name, ["stores.example.com", "B.stores.example.com."]).lower().rstrip(".")
        == zone
    )


def test_a_hostname_is_compared_as_names_are():
    found = naming.hostname(store("Store-0815.Stores.Example.com."), TOLD["zones"])
    assert found == "store-0815.stores.example.com"


def test_explain_says_that_the_name_is_not_as_it_should_be(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        box = Outbox(ledger, "dns")
        box.collect(lambda _: True)
        made = ledger.save(dataclasses.replace(store(), state="deployed", due=None), "so it is")
        box.collect(lambda _: True)
        assert outbox.fault_of(ledger, "0815", 1, "dns") == ""
        assert "dns" not in views.explain(made, 1.0, ledger)
        box.failed(box.due(1.0), "no name server answers", 1.0)
        told = views.explain(made, 1.0, ledger)["dns"]
        assert told.startswith("its name is not as it should be: no name server answers; salt-run")
