# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A store list into Uyuni's forms and out again, through its API; Uyuni is a stand-in."""

import pathlib

import pytest
from tests.uyuni import api

from storelib.errors import StoreDeployError
from storemaster.master import store_lists

pytest_plugins = ["tests.uyuni.api_server"]

REPO = pathlib.Path(__file__).resolve().parents[2]
MAC = "52:54:00:00:00:09"
LIST = """
groups:
  north:
    image: {source: salt://x.qcow2, sha256: "SHA256"}
    master: uyuni.example.com
    verify: [{tcp: 22}]
    registration: reactivation
    activation_key: 1-store
stores:
  - {hypervisor: hv-1, store: '0417', group: north}
  - {hypervisor: hv-9, store: '0418', group: north, hypervisor_mac: "MAC"}
""".replace("SHA256", "5e" * 32).replace("MAC", MAC)


@pytest.fixture
def opts(tmp_path, told):
    return {"store_deploy": {"state_dir": str(tmp_path / "state"), "uyuni": told}}


@pytest.fixture
def imported(server, opts, tmp_path):
    """Import a list; return what is told of it."""
    server.uyuni.forms = {**api.layouts(REPO / "uyuni"), "locale": {}}
    sid = server.uyuni.register("hv-1", formulas=["locale"], data={"locale": {"zone": "CET"}})
    path = tmp_path / "stores.yaml"
    path.write_text(LIST)

    def imported(apply=True):
        return store_lists.import_(opts, str(path), apply, "uyuni", None, True, print)

    imported.sid = sid
    return imported


def test_a_list_becomes_groups_profiles_and_form_data_and_a_second_run_writes_nothing(
    server, imported
):
    told = imported()
    assert [each["name"] for each in told["new"]] == ["group north", "hv-1", "hv-9"]
    system = server.uyuni.systems[imported.sid]
    assert system["formulas"] == ["locale", "store-server"]
    assert system["data"]["locale"] == {"zone": "CET"}
    assert system["data"]["store-server"]["store_server"] == {"store": "0417"}
    assert server.uyuni.named("hv-9")["mac"] == MAC
    assert system["groups"] == server.uyuni.named("hv-9")["groups"] == {"north"}
    again = imported()
    assert (again["bytes_written"], again["new"], again["changed"]) == (0, [], [])


def test_without_apply_uyuni_is_only_read(server, imported):
    imported(apply=False)
    changing = ("set", "create", "addOr", "delete")
    assert server.sent
    assert not [name for name in server.sent if name.partition(".")[2].startswith(changing)]


def test_what_was_imported_is_exported_without_its_secrets(opts, imported):
    imported()
    told = store_lists.export(opts, None, "uyuni", None, print)
    assert sorted(each["store"] for each in told["stores"]) == ["0417", "0418"]
    assert "1-store" not in str(told)


def test_a_server_that_goes_away_is_told_and_the_same_command_goes_on(server, imported):
    imported(apply=False)
    server.statuses += [200] * 12 + [503] * 3
    with pytest.raises(StoreDeployError, match="Uyuni does not answer"):
        imported()
    assert imported()["bytes_written"] > 0
    assert imported()["bytes_written"] == 0
