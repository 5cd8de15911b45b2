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
from storelib.errors import PillarError, SpecError
from storelib.hypervisor import seed_iso
from storemaster.deployment import requests
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.master import keys, operator_requests, pump, salt_master, settings, uyuni_pillar

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
    # Its first states run all the same; later ones would take away what it runs on.
    has_booted_twice(opts, deployment)
    told = given(GUEST)
    assert "the pillar of hv-0815 does not compile" in told.pop("_errors")[0]
    assert told == secret_of(opts, GUEST, public_keys[1])


@pytest.mark.parametrize(
    ("state", "given_it"),
    [("awaiting_hypervisor", False), ("preparing", True), ("defining", True), ("booting", False)],
)
def test_only_the_hypervisor_gets_a_reactivation_key_and_only_while_it_makes_the_seed(
    opts, given, deployment, public_keys, state, given_it
):
    keys.accept(opts, HYPERVISOR, public_keys[0])
    keys.accept(opts, GUEST, public_keys[1])
    folder = settings.state_dir(opts) / "registration"
    folder.mkdir()
    (folder / f"{deployment.deployment}.arranged").write_text('{"management_key": "re-1-cafe"}')
    with Ledger(settings.ledger_path(opts)) as ledger:
        ledger.save(dataclasses.replace(deployment, state=state))
    assert ("re-1-cafe" in str(given(HYPERVISOR))) is given_it
    assert "re-1-cafe" not in str(given(GUEST))


# On a master of Uyuni


def has_booted_twice(opts, record):
    with Ledger(settings.ledger_path(opts)) as ledger:
        record = ledger.get(record.store)
        booted = dataclasses.replace(record.evidence, boot_ids=["b1", "b2"])
        return ledger.save(dataclasses.replace(record, evidence=booted))


@pytest.fixture
def uyuni(opts, public_keys, deployment, tmp_path):
    """Have the master be one of Uyuni; return a function that registers minions there."""
    keys.accept(opts, HYPERVISOR, public_keys[0])
    keys.accept(opts, GUEST, public_keys[1])
    folder, known = tmp_path / "theirs", tmp_path / "known.json"
    folder.mkdir()
    (folder / "suma_minion.py").write_text(
        "import json, pathlib\n"
        "def ext_pillar(minion_id, pillar, path):\n"
        "    known = json.loads(pathlib.Path(path).read_text())\n"
        "    return {'formulas': [], **({'org_id': 1} if minion_id in known else {})}\n"
    )
    opts["pillar_dirs"].append(str(folder))
    opts["ext_pillar"] = [{"suma_minion": str(known)}, {"store_deploy": {}}]

    def register(*minions):
        known.write_text(json.dumps(minions))

    register()
    return register


NONE = "Uyuni gives no pillar to {}: its database does not answer, or {} is not registered there"


@pytest.mark.parametrize("minion", [HYPERVISOR, GUEST])
def test_no_state_is_applied_without_what_uyuni_gives(opts, uyuni, deployment, minion):
    uyuni(HYPERVISOR)
    has_booted_twice(opts, deployment)
    uyuni(*({HYPERVISOR, GUEST} - {minion}))
    told = compiled(opts, minion)
    assert told["_errors"][0].startswith(NONE.format(minion, minion)), told
    assert told["store_deploy"]["secret"], "it can report that"
    uyuni(HYPERVISOR, GUEST)
    assert "_errors" not in compiled(opts, minion)


def test_what_uyuni_does_not_give_to_a_hypervisor_is_no_reason_to_take_it_from_its_guest(
    opts, uyuni, deployment
):
    uyuni(GUEST)
    has_booted_twice(opts, deployment)
    assert compiled(opts, GUEST)["_errors"][0].startswith(NONE.format(HYPERVISOR, HYPERVISOR))


def test_the_first_states_of_a_guest_run_before_uyuni_knows_it(opts, uyuni, deployment):
    uyuni(HYPERVISOR)
    told = compiled(opts, GUEST)
    assert "_errors" not in told
    assert told["store_deploy"]["secret"]


def test_who_is_none_of_ours_is_left_alone(opts, uyuni):
    assert compiled(opts, "till-4711") == {"formulas": []}


def test_an_order_in_which_nothing_can_be_known_changes_nothing(opts, uyuni, deployment):
    has_booted_twice(opts, deployment)
    opts["ext_pillar"].reverse()
    uyuni(HYPERVISOR)
    assert "_errors" not in compiled(opts, GUEST)


def test_a_classic_minion_is_left_to_a_guest_unless_its_own_pillar_says_otherwise(
    opts, uyuni, deployment
):
    uyuni(HYPERVISOR, GUEST)
    assert compiled(opts, GUEST)["mgr_avoid_venv_salt_minion"] is True
    told = {**STORE, "guest_pillar": {"mgr_avoid_venv_salt_minion": False}}
    path = pathlib.Path(opts["pillar_roots"]["base"][0], "store.sls")
    path.write_text(json.dumps({"store_server": told}))
    assert compiled(opts, GUEST)["mgr_avoid_venv_salt_minion"] is False
    opts["ext_pillar"] = [{"store_deploy": {}}]
    path.write_text(json.dumps({"store_server": STORE}))
    assert "mgr_avoid_venv_salt_minion" not in compiled(opts, GUEST)


def test_a_hypervisor_without_uyunis_pillar_is_not_taken_for_one_without_a_store(opts, uyuni):
    with pytest.raises(PillarError, match=re.escape(NONE.format(HYPERVISOR, HYPERVISOR))):
        salt_master.store_server(opts, HYPERVISOR)
    uyuni(HYPERVISOR)
    assert salt_master.store_server(opts, HYPERVISOR)["store"] == "0815"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ""),
        ({"master": "10.0.0.1"}, "master is 10.0.0.1: by that Uyuni does not know"),
        ({"master": "salt"}, "master is salt: by that Uyuni does not know"),
        ({"guest_pillar": {"mgr_avoid_venv_salt_minion": False}}, "puts the Salt Bundle in"),
        (
            {
                "guest_pillar": {"mgr_avoid_venv_salt_minion": False},
                "minion": "venv-salt-minion",
            },
            "",
        ),
    ],
)
def test_what_uyuni_would_make_of_a_guest_is_found(opts, uyuni, changes, found):
    told = {**STORE, **changes}
    wrong = list(uyuni_pillar.wrong(opts, from_pillar(told, HYPERVISOR), told))
    assert [found in fault for fault, _ in wrong] == [True] * bool(found)
    opts["ext_pillar"] = [{"store_deploy": {}}]
    assert not list(uyuni_pillar.wrong(opts, from_pillar(told, HYPERVISOR), told))


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


@pytest.mark.thorough
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
