# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the ext_pillar gives to whom, through the master's real loader, keys and pillar."""

import dataclasses
import json
import pathlib
import re
import shutil

import pytest
import salt.config
import salt.loader
import salt.pillar
from tests import pages

from storelib import seal
from storelib.errors import SpecError
from storelib.hypervisor import seed_iso
from storemaster.deployment import requests
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.master import keys, operator_requests, pump, salt_master, settings

REPO = pathlib.Path(__file__).resolve().parents[2]
STORE = {
    "store": "0815",
    "image": {"source": "/x.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
    "guest_pillar": {"tills": 4},
}
HYPERVISOR, GUEST = "hv-0815", "store-0815"


@pytest.fixture(scope="module")
def public_keys():
    """Three public keys: the hypervisor's, the guest's and an impostor's."""
    return [seed_iso.key_pair(2048)[1] for _ in range(3)]


@pytest.fixture
def opts(tmp_path):
    """Options of a master whose pillar has one hypervisor."""
    roots = tmp_path / "pillar"
    roots.mkdir()
    (roots / "top.sls").write_text(json.dumps({"base": {HYPERVISOR: ["store"]}}))
    (roots / "store.sls").write_text(json.dumps({"store_server": STORE}))
    opts = salt.config.apply_master_config(
        {
            "root_dir": str(tmp_path),
            "pki_dir": str(tmp_path / "pki"),
            "cachedir": str(tmp_path / "cache"),
            "pillar_roots": {"base": [str(roots)]},
            "pillar_dirs": [str(REPO / "_pillar")],
            "store_deploy": {"state_dir": str(tmp_path / "state")},
        }
    )
    opts["__role"] = "master"
    opts["grains"] = {}
    for state in keys.FOLDERS:
        (tmp_path / "pki" / state).mkdir(parents=True)
    return opts


@pytest.fixture
def given(opts):
    """Return what the ext_pillar gives to a minion."""

    def given(minion):
        functions = salt.loader.minion_mods(opts)
        return salt.loader.pillars(opts, functions)["store_deploy"](minion, {})

    return given


@pytest.fixture
def deployment(opts, public_keys):
    """Put a deployment on record that has used both keys."""
    spec = from_pillar(STORE, HYPERVISOR)
    found = Evidence(hypervisor_key=public_keys[0], public_key=public_keys[1])
    with Ledger(settings.ledger_path(opts)) as ledger:
        record = requests.begin(ledger, 1.0, spec, HYPERVISOR, "operator")
        return ledger.save(dataclasses.replace(record, evidence=found))


def secret_of(opts, minion, key):
    return {"store_deploy": {"secret": seal.secret(settings.root_secret(opts), minion, key)}}


def test_without_a_ledger_nobody_gets_anything_and_nothing_is_made(opts, given):
    assert given(HYPERVISOR) == {}
    assert not settings.state_dir(opts).exists()


def test_who_has_the_recorded_key_gets_a_secret_and_the_guest_its_pillar(
    opts, given, deployment, public_keys
):
    keys.accept(opts, HYPERVISOR, public_keys[0])
    keys.accept(opts, GUEST, public_keys[1])
    assert given(HYPERVISOR) == secret_of(opts, HYPERVISOR, public_keys[0])
    assert given(GUEST) == {"tills": 4, **secret_of(opts, GUEST, public_keys[1])}
    assert given(HYPERVISOR)["store_deploy"] != given(GUEST)["store_deploy"]


@pytest.mark.parametrize("minion", [HYPERVISOR, GUEST])
def test_who_has_another_key_or_none_gets_nothing(opts, given, deployment, public_keys, minion):
    assert given(minion) == {}
    keys.accept(opts, minion, public_keys[2])
    assert given(minion) == {}


def test_a_minion_of_no_deployment_gets_nothing(opts, given, deployment, public_keys):
    keys.accept(opts, "till-4711", public_keys[0])
    assert given("till-4711") == {}


@pytest.mark.parametrize("minion", [HYPERVISOR, GUEST])
def test_before_a_key_is_on_record_nobody_gets_anything(opts, given, public_keys, minion):
    with Ledger(settings.ledger_path(opts)) as ledger:
        requests.begin(ledger, 1.0, from_pillar(STORE, HYPERVISOR), HYPERVISOR, "operator")
    keys.accept(opts, minion, public_keys[0])
    assert given(minion) == {}


def test_the_guest_keeps_its_secret_when_its_hypervisors_pillar_does_not_compile(
    opts, given, deployment, public_keys
):
    keys.accept(opts, GUEST, public_keys[1])
    pathlib.Path(opts["pillar_roots"]["base"][0], "store.sls").write_text("{{ nonsense(")
    assert given(GUEST) == secret_of(opts, GUEST, public_keys[1])


# With Salt's caches on


@pytest.fixture(params=["disk", "memory"])
def cached(opts, request, deployment, public_keys):
    """Return how a master answers a request for pillar, which it caches."""
    opts |= {"pillar_cache": True, "pillar_cache_backend": request.param}
    opts |= {"pillar_cache_ttl": 3600, "minion_data_cache": True, "file_client": "local"}
    opts["ext_pillar"] = [{"store_deploy": {}}]
    # As the master does when it starts.
    pathlib.Path(opts["cachedir"], "pillar_cache").mkdir(parents=True)

    def cached(minion=GUEST, pillarenv=None):
        asked = {**opts, "pillarenv": pillarenv}
        return salt.pillar.get_pillar(
            asked, {}, minion, "base", pillarenv=pillarenv
        ).compile_pillar()

    keys.accept(opts, GUEST, public_keys[1])
    keys.accept(opts, HYPERVISOR, public_keys[0])
    for minion in (GUEST, HYPERVISOR):
        for pillarenv in (None, "base"):
            assert "store_deploy" in cached(minion, pillarenv)
    return cached


def impostor(opts, public_keys):
    """Let another machine with the guest's ID be accepted, by whatever hand."""
    folder = pathlib.Path(opts["pki_dir"])
    (folder / "minions" / GUEST).write_text(public_keys[2])


def hostile(opts, public_keys):
    """Let it have called before the old key was deleted."""
    (pathlib.Path(opts["pki_dir"]) / "minions_pre" / GUEST).write_text(public_keys[2])


def purged(world, opts, public_keys):
    world.purge_key(GUEST)


def purged_while_another_knocks(world, opts, public_keys):
    world.purge_key(GUEST)
    hostile(opts, public_keys)


def deleted_by_hand_then_armed(world, opts, public_keys):
    (pathlib.Path(opts["pki_dir"]) / "minions" / GUEST).unlink()
    world.arm(GUEST)


def deleted_by_hand_then_purged(world, opts, public_keys):
    (pathlib.Path(opts["pki_dir"]) / "minions" / GUEST).unlink()
    world.purge_key(GUEST)


def deleted_by_hand_then_swept(world, opts, public_keys):
    (pathlib.Path(opts["pki_dir"]) / "minions" / GUEST).unlink()
    pump.reconcile({**opts, "fun": "runner.deploy.reconcile"}, world, sweep=True)


def another_accepted(world, opts, public_keys):
    world.accept_key(GUEST, public_keys[2])


@pytest.mark.parametrize(
    "happens",
    [
        *(purged, purged_while_another_knocks, another_accepted, deleted_by_hand_then_armed),
        *(deleted_by_hand_then_purged, deleted_by_hand_then_swept),
    ],
    ids=lambda happens: happens.__name__,
)
def test_the_next_one_with_the_guests_id_gets_nothing_from_a_cache(
    opts, cached, public_keys, happens, tmp_path
):
    # On 3008 a deleted key takes the cached pillar with it, unless this is set.
    opts |= {"preserve_minion_cache": True, "autosign_file": str(tmp_path / "autosign")}
    with operator_requests.open_master(opts) as world:
        happens(world, opts, public_keys)
    impostor(opts, public_keys)
    for pillarenv in (None, "base"):
        assert cached(GUEST, pillarenv) == {}
    assert "store_deploy" in cached(HYPERVISOR), "nobody else's is forgotten"


def test_the_masters_own_secret_is_private_and_stays(opts):
    secret = settings.root_secret(opts)
    assert len(secret) == 32
    assert settings.root_secret(opts) == secret
    path = settings.state_dir(opts) / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["secret"]


def test_the_shipped_example_describes_a_store_in_both_of_its_files(opts):
    opts["pillar_roots"] = {"base": [str(REPO / "pillar")]}
    compiled = salt.pillar.Pillar(opts, {}, HYPERVISOR, "base").compile_pillar()
    assert set(compiled) == {"store_server"}, "Salt adds _errors"
    with pytest.raises(SpecError, match=r"wrong: image.sha256 is '0+', a placeholder") as refused:
        from_pillar(compiled["store_server"], HYPERVISOR)
    assert refused.value.reason.count(", allowed: ") == 1, "nothing else is wrong"
    compiled["store_server"]["image"]["sha256"] = STORE["image"]["sha256"]
    spec = from_pillar(compiled["store_server"], HYPERVISOR)
    # What all stores share, and what is this one's own.
    assert (spec.master, spec.interfaces[0].source) == ("salt.example.com", "br0")
    assert spec.verify == ({"tcp": 22}, {"service": "sshd"})
    assert (spec.store, spec.hostname) == ("0815", "store-0815.example.com")
    assert [(disk.name, disk.size_gib) for disk in spec.data_disks] == [("data", 100)]
    assert compiled["store_server"]["guest_pillar"]


def test_the_shipped_example_gives_a_store_to_no_other_minion(opts):
    opts["pillar_roots"] = {"base": [str(REPO / "pillar")]}
    assert salt.pillar.Pillar(opts, {}, GUEST, "base").compile_pillar() == {}


@pytest.fixture
def site(opts, tmp_path):
    """A site's pillar root, made of the shipped files; return its folder."""
    roots = tmp_path / "roots"
    shutil.copytree(REPO / "pillar", roots)
    opts["pillar_roots"] = {"base": [str(roots)]}
    return roots


def compiled(opts, minion):
    return salt.pillar.Pillar(opts, {"id": minion}, minion, "base").compile_pillar()


def test_by_the_shipped_layout_a_store_is_one_file_and_each_gets_its_own(opts, site):
    shipped = (site / "stores" / "hv-0815.yaml").read_text()
    for minion in ("hv-0417", "kvm.0418.example.com"):
        (site / "stores" / f"{minion}.yaml").write_text(shipped.replace("0815", minion[-4:]))
    for minion in ("hv-0815", "hv-0417", "kvm.0418.example.com"):
        told = compiled(opts, minion)
        assert told["store_server"]["store"] == minion[-4:]
        assert told["store_server"]["master"] == "salt.example.com", "the defaults, too"
        assert set(told) == {"store_server"}
    for minion in ("hv-0416", "store-0815", "kvm.0418", "defaults", "init", "hv-0815.yaml"):
        assert compiled(opts, minion) == {}


def test_by_the_shipped_layout_a_minion_is_who_its_key_says_not_its_grains(opts, site):
    told = salt.pillar.Pillar(opts, {"id": "hv-0815"}, "hv-9", "base").compile_pillar()
    assert told == {}


def test_an_entry_of_the_top_file_for_each_hypervisor_works_too(opts, site):
    (top,) = re.findall(r"(?s)```yaml\n# The hypervisor hv-0417 .*?\n(.*?)```", pages.TEXT)
    (site / "top.sls").write_text(top)
    store = (site / "stores" / "hv-0815.yaml").read_text().replace("0815", "0417")
    (site / "stores" / "store-0417.sls").write_text(store)
    told = compiled(opts, "hv-0417")["store_server"]
    assert (told["store"], told["master"]) == ("0417", "salt.example.com")
    assert compiled(opts, GUEST) == {}


def described_in_prod(opts, tmp_path, **changes):
    """Describe the store in the environment prod, in another way."""
    prod = tmp_path / "prod"
    prod.mkdir()
    (prod / "top.sls").write_text(json.dumps({"prod": {HYPERVISOR: ["store"]}}))
    (prod / "store.sls").write_text(json.dumps({"store_server": {**STORE, **changes}}))
    opts["pillar_roots"]["prod"] = [str(prod)]


def test_a_hypervisors_pillar_is_compiled_in_the_environments_that_it_told(opts, tmp_path):
    """And the guest's pillar with it, until it tells of others; what it is asked says nothing."""
    described_in_prod(opts, tmp_path, cpus=7)
    base = tmp_path / "pillar"
    world = salt_master.SaltMaster(opts)
    told = {"saltenv": "", "pillarenv": "prod"}
    (base / "top.sls").write_text("{}")
    opts["pillar_source_merging_strategy"] = "none"
    assert world.store_server(HYPERVISOR) is None
    assert salt_master.store_server(opts, HYPERVISOR, told)["cpus"] == 7
    assert world.store_server(HYPERVISOR) is None
    assert world.store_server(HYPERVISOR, told)["cpus"] == 7
    assert world.store_server(HYPERVISOR)["cpus"] == 7
    assert salt_master.store_server(opts, HYPERVISOR)["cpus"] == 7
    assert world.store_server("hv-9") is None
    assert world.store_server(HYPERVISOR, {"saltenv": "prod", "pillarenv": ""})["cpus"] == 7
    assert world.store_server(HYPERVISOR, {"saltenv": "", "pillarenv": ""}) is None
    assert not list((tmp_path / "state/environments").iterdir())


def test_a_ready_hypervisors_pillar_is_compiled_once_for_the_deployment_that_it_begins(
    opts, monkeypatch
):
    compiled = []
    compile_pillar = salt.pillar.Pillar.compile_pillar
    monkeypatch.setattr(
        salt.pillar.Pillar,
        "compile_pillar",
        lambda self, *rest: compiled.append(self.minion_id) or compile_pillar(self, *rest),
    )
    master, told = salt_master.SaltMaster(opts), {"saltenv": "", "pillarenv": ""}
    ready = master.store_server(HYPERVISOR)
    master.looked_at("g1", HYPERVISOR, ready)
    assert master.store_server(HYPERVISOR, told, "g1") == ready
    assert compiled == [HYPERVISOR]
    # Who waits for long is given what it says now.
    master.store_server(HYPERVISOR, told, "g1")
    assert len(compiled) == 2
    # What another deployment began with, or in another environment, or long ago, is not its own.
    master.looked_at("g1", HYPERVISOR, ready)
    master.store_server(HYPERVISOR, told, "g2")
    master.store_server(HYPERVISOR, {"saltenv": "", "pillarenv": "base"}, "g1")
    assert len(compiled) == 4
    master.looked_at("g1", HYPERVISOR, ready)
    monkeypatch.setattr(salt_master, "LOOKED_S", 0)
    master.store_server(HYPERVISOR, told, "g1")
    assert len(compiled) == 5


def test_without_an_environment_the_pillar_is_what_salt_gives_to_such_a_minion(opts, tmp_path):
    described_in_prod(opts, tmp_path, memory_mib=4096)
    grains = {"id": HYPERVISOR}
    minions = salt.pillar.Pillar(opts, grains, HYPERVISOR, None).compile_pillar()["store_server"]
    assert minions["memory_mib"] == 4096
    assert salt_master.store_server(opts, HYPERVISOR) == minions
