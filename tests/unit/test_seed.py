# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The seed tells cloud-init everything, once, in its own language."""

import json

import pytest
import yaml

from storelib import seed
from storemaster.deployment import spec

PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----\n"
PUBLIC = "-----BEGIN PUBLIC KEY-----\nZ3Vlc3Q=\n-----END PUBLIC KEY-----\n"
MASTER = "-----BEGIN PUBLIC KEY-----\nbWFzdGVy\n-----END PUBLIC KEY-----\n"
FOLDERS = {"salt-minion": "/etc/salt", "venv-salt-minion": "/etc/venv-salt-minion"}


def described(**changes):
    pillar = {
        "store": "0417",
        "hostname": "store-0417.example.com",
        "image": {"source": "/x", "sha256": "5e" * 32},
        "master": "salt.example.com",
        **changes,
    }
    return spec.from_pillar(pillar, "hv-0417").as_dict()


def documents(**changes):
    return seed.documents(described(**changes), 3, PRIVATE, PUBLIC, MASTER)


def written(**changes):
    """Return the guest's files as path: (mode, text)."""
    files = yaml.safe_load(documents(**changes)["user-data"])["write_files"]
    return {file["path"]: (file["permissions"], file["content"]) for file in files}


def ethernets(*interfaces):
    made = yaml.safe_load(documents(interfaces=list(interfaces))["network-config"])
    assert made["version"] == 2
    return made["ethernets"]


def test_the_documents_are_those_that_nocloud_reads_and_each_is_a_yaml_mapping():
    made = documents()
    assert set(made) == {"user-data", "meta-data", "network-config"}
    for text in made.values():
        assert isinstance(yaml.safe_load(text), dict)


def test_the_first_line_of_user_data_says_what_it_is():
    assert documents()["user-data"].partition("\n")[0] == "#cloud-config"


def test_each_deployment_is_a_new_instance_to_cloud_init():
    assert yaml.safe_load(documents()["meta-data"]) == {
        "instance-id": "store-0417-g3",
        "local-hostname": "store-0417.example.com",
    }


def test_the_guest_is_named_short_and_in_full():
    user = yaml.safe_load(documents()["user-data"])
    assert (user["hostname"], user["fqdn"]) == ("store-0417", "store-0417.example.com")


@pytest.mark.parametrize(("minion", "folder"), FOLDERS.items(), ids=FOLDERS)
def test_each_kind_of_minion_finds_its_files_where_it_looks(minion, folder):
    assert {path: mode for path, (mode, _) in written(minion=minion).items()} == {
        f"{folder}/pki/minion/minion.pem": "0400",
        f"{folder}/pki/minion/minion.pub": "0644",
        f"{folder}/pki/minion/minion_master.pub": "0644",
        f"{folder}/minion.d/10-store-deploy.conf": "0644",
        f"{folder}/minion.d/~store-deploy-bootstrap.conf": "0644",
        "/etc/store-deploy/bootstrap.json": "0644",
        f"{folder}/minion_id": "0644",
    }


@pytest.mark.parametrize("minion", FOLDERS)
def test_the_minion_id_comes_last_since_it_may_start_the_minion(minion):
    assert list(written(minion=minion))[-1] == f"{FOLDERS[minion]}/minion_id"


def test_the_files_hold_what_minion_and_firstboot_need():
    texts = {path: text for path, (_, text) in written().items()}
    assert texts["/etc/salt/pki/minion/minion.pub"] == PUBLIC
    assert texts["/etc/salt/pki/minion/minion_master.pub"] == MASTER
    assert texts["/etc/salt/minion_id"] == "store-0417"
    assert yaml.safe_load(texts["/etc/salt/minion.d/10-store-deploy.conf"]) == {
        "master": "salt.example.com",
        "id": "store-0417",
    }
    bootstrap = yaml.safe_load(texts["/etc/salt/minion.d/~store-deploy-bootstrap.conf"])
    assert bootstrap["startup_states"] == "sls"
    assert bootstrap["sls_list"] == "provisioning_helper.firstboot"
    assert json.loads(texts["/etc/store-deploy/bootstrap.json"]) == {
        "store": "0417",
        "generation": 3,
        "minion_id": "store-0417",
        "hostname": "store-0417.example.com",
    }


def test_the_private_key_is_in_one_place_and_only_root_may_read_it():
    files = written()
    holders = [path for path, (_, text) in files.items() if "c2VjcmV0" in text]
    assert holders == ["/etc/salt/pki/minion/minion.pem"]
    assert files[holders[0]] == ("0400", PRIVATE)
    assert sum(text.count("c2VjcmV0") for text in documents().values()) == 1


def test_there_is_no_key_and_no_command_in_the_seed_that_nobody_asked_for():
    assert set(yaml.safe_load(documents()["user-data"])) == {"hostname", "fqdn", "write_files"}


def test_an_interface_with_dhcp_is_found_by_its_hardware_address_and_named():
    eth0 = {"name": "eth0", "source": "br0", "mac": "52:54:00:00:00:01"}
    assert ethernets(eth0) == {
        "eth0": {
            "match": {"macaddress": "52:54:00:00:00:01"},
            "set-name": "eth0",
            "dhcp4": True,
        }
    }


def test_an_interface_with_a_static_address_has_its_route_and_name_servers_and_no_dhcp():
    eth0 = {
        "name": "eth0",
        "source": "br0",
        "mac": "52:54:00:00:00:01",
        "address": "10.1.2.3/24",
        "gateway": "10.1.2.1",
        "dns": ["10.1.2.1", "192.0.2.53"],
    }
    assert ethernets(eth0) == {
        "eth0": {
            "match": {"macaddress": "52:54:00:00:00:01"},
            "set-name": "eth0",
            "addresses": ["10.1.2.3/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "10.1.2.1"}],
            "nameservers": {"addresses": ["10.1.2.1", "192.0.2.53"]},
        }
    }


def test_a_static_address_may_do_without_route_and_name_servers():
    (eth1,) = ethernets({"name": "eth1", "source": "br1", "address": "10.9.9.9/30"}).values()
    assert eth1["addresses"] == ["10.9.9.9/30"]
    assert not {"routes", "nameservers", "dhcp4"} & set(eth1)


def test_every_interface_is_configured():
    first = {"name": "eth0", "source": "br0"}
    second = {"name": "eth1", "source": "br1", "address": "10.9.9.9/30"}
    assert list(ethernets(first, second)) == ["eth0", "eth1"]


def test_names_that_yaml_would_take_for_a_number_or_a_boolean_stay_texts():
    made = documents(store="0417", minion_id="0417", hostname="off")
    assert yaml.safe_load(made["meta-data"])["local-hostname"] == "off"
    user = yaml.safe_load(made["user-data"])
    assert user["hostname"] == "off"
    assert user["write_files"][-1]["content"] == "0417"


EFFECTIVE = {
    "master": "salt.example.com",
    "id": "store-0417",
    "saltenv": None,
    "startup_states": "sls",
    "sls_list": "provisioning_helper.firstboot",
}


@pytest.mark.parametrize(
    "changed",
    [{}, {"master": "SALT.example.com"}, {"sls_list": ["provisioning_helper.firstboot"]}],
)
def test_a_minion_that_goes_by_the_seed_is_not_outvoted(changed):
    assert seed.outvoted(described(), {**EFFECTIVE, **changed}) == ""


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"master": "other.example.com"}, "master: other.example.com"),
        ({"id": "store-0417.example.com"}, "id: store-0417.example.com"),
        ({"saltenv": "test"}, "saltenv: test"),
        ({"startup_states": ""}, "startup_states: none"),
        ({"sls_list": ["site", "provisioning_helper.firstboot"]}, "sls_list: ['site', "),
    ],
)
def test_what_outvotes_the_seed_is_named(changed, told):
    assert seed.outvoted(described(), {**EFFECTIVE, **changed}).startswith(told)


def test_the_keys_for_uyuni_are_in_the_one_file_that_goes_with_the_deployment():
    keys = {"activation_key": "1-store", "management_key": "re-1-cafe"}
    made = seed.documents(described(), 3, PRIVATE, PUBLIC, MASTER, keys)
    files = yaml.safe_load(made["user-data"])["write_files"]
    (holding,) = [file for file in files if "re-1-cafe" in file["content"]]
    assert (holding["path"], holding["permissions"]) == (
        f"/etc/salt/{seed.BOOTSTRAP_CONFIG}",
        "0600",
    )
    assert json.loads(holding["content"])["grains"] == {"susemanager": keys}
    plain = {path: mode for path, (mode, _) in written().items()}
    assert plain[f"/etc/salt/{seed.BOOTSTRAP_CONFIG}"] == "0644"
    assert "susemanager" not in documents()["user-data"]
