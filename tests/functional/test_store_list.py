# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A list becomes pillar by ``salt-run`` itself, and each hypervisor's is what the list says."""

import json
import pathlib
import shutil
import subprocess

import pytest
import salt.config
import salt.pillar
import yaml

from storemaster.deployment.spec import from_pillar

REPO = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "pillar" / "examples"
SECRET = "{{ grains.id }} s3cr3t"


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A site's pillar root, made of the shipped files, with the checksum of an image."""
    roots = tmp_path_factory.mktemp("pillar")
    shutil.copy(REPO / "pillar" / "top.sls", roots)
    shutil.copytree(REPO / "pillar" / "stores", roots / "stores")
    defaults = roots / "stores" / "defaults.sls"
    defaults.write_text(defaults.read_text().replace("0" * 64, "5e" * 32))
    return roots


@pytest.fixture(scope="module")
def site(roots, tmp_path_factory):
    """A master's configuration."""
    root = tmp_path_factory.mktemp("site")
    config = {
        "root_dir": str(root),
        "user": "root",
        "module_dirs": [str(REPO)],
        "pillar_roots": {"base": [str(roots)]},
        "store_deploy": {"state_dir": str(root / "state")},
    }
    (root / "master").write_text(json.dumps(config))
    # salt-run of 3008 wants what only a master makes.
    (root / "var/cache/salt/master/proc").mkdir(parents=True)
    return root


@pytest.fixture
def salt_run(site):
    def salt_run(verb, *arguments, cwd="/"):
        command = ["salt-run", "-c", str(site), f"deploy.{verb}", *map(str, arguments)]
        done = subprocess.run(
            command, text=True, capture_output=True, timeout=120, check=False, cwd=cwd
        )
        assert "Traceback" not in done.stderr + done.stdout, done
        return done

    return salt_run


def told(done, status=0):
    assert done.returncode == status, done
    return json.loads(done.stdout)


@pytest.fixture
def compiled(site):
    """Return what the master makes of a hypervisor's pillar."""
    opts = salt.config.master_config(str(site / "master"))
    opts = {**opts, "__role": "master", "grains": {}}

    def compiled(minion):
        found = salt.pillar.Pillar(opts, {"id": minion}, minion, "base").compile_pillar()
        return found.get("store_server")

    return compiled


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["kvm-dhcp.csv", "xen-static.csv", "group.yaml"])
def test_the_examples_become_pillar_that_describes_stores(salt_run, compiled, name):
    """By the layout that is shipped, under its defaults."""
    done = told(salt_run("import", EXAMPLES / name, "apply=True", "--out=json"))
    assert (len(done["new"]), done["bytes_written"] > 0) == (3, True)
    for each in done["new"]:
        made = from_pillar(compiled(each["name"]), each["name"])
        assert (made.store, made.master) == (each["store"], "salt.example.com")
        assert made.interfaces[0].type == "bridge", "what is shared, beside a store's own address"
    again = told(salt_run("import", EXAMPLES / name, "apply=True", "--out=json"))
    assert (again["new"], again["changed"], again["bytes_written"]) == ([], [], 0)


def test_an_overridden_value_of_a_group_counts(salt_run, compiled):
    told(salt_run("import", EXAMPLES / "group.yaml", "apply=True", "--out=json"))
    made = [from_pillar(compiled(f"hv-{n}"), "hv") for n in ("0615", "0617")]
    assert [each.memory_mib for each in made] == [4096, 16384]
    assert {each.image.source for each in made} == {"salt://images/store-server-north.qcow2"}
    assert [each.interfaces[0].address for each in made] == ["dhcp", "10.6.17.10/24"]


@pytest.mark.thorough
def test_a_text_that_jinja_knows_is_in_the_pillar_as_it_was_in_the_list(
    salt_run, compiled, tmp_path
):
    row = {"hypervisor": "hv-jinja", "store": "jinja", "guest_pillar": {"a": SECRET}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump([row]))
    told(salt_run("import", "one.yaml", "apply=True", "--out=json", cwd=tmp_path))
    assert compiled("hv-jinja")["guest_pillar"] == {"a": SECRET}
    row["guest_pillar"]["a"] += "!"
    (tmp_path / "one.yaml").write_text(yaml.safe_dump([row]))
    for arguments in ([], ["--out=json"]):
        done = salt_run("import", tmp_path / "one.yaml", *arguments)
        assert "guest_pillar" in done.stdout
        assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.thorough
def test_what_is_exported_is_unchanged_when_it_is_imported(salt_run, tmp_path):
    for name in ("all.csv", "all.yaml"):
        done = told(salt_run("export", name, "--out=json", cwd=tmp_path))
        shown = told(salt_run("import", tmp_path / name, "--out=json"))
        assert len(shown["unchanged"]) == done["stores"] > 0
        assert (shown["new"], shown["changed"], shown["vanished"]) == ([], [], [])
    rows = {row["hypervisor"]: row for row in told(salt_run("export", "--out=json"))["stores"]}
    assert rows["hv-0815"]["guest_pillar"] == "(not shown)"
    assert rows["hv-0815"]["data_disks"] == {"data": {"size_gib": 100}}


def test_faults_end_with_1_and_name_line_and_column(salt_run, tmp_path, roots):
    before = sorted(roots.rglob("*"))
    text = "hypervisor;store;memory_mib\nhv-a;2001;x\nhv-a;2002;4096\nhv-c;1. Apr;4096\n"
    (tmp_path / "bad.csv").write_text(text)
    data = told(salt_run("import", tmp_path / "bad.csv", "apply=True", "--out=json"), 1)
    assert data["error"] == "bad.csv has 3 faults; nothing was written"
    assert [(each["line"], each["column"]) for each in data["faults"]] == [
        *((2, "C"), (3, "A"), (4, "B"))
    ]
    done = salt_run("import", tmp_path / "bad.csv", "apply=True")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any("- line 2, column C: memory_mib is 'x', allowed: a whole" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert sorted(roots.rglob("*")) == before


def test_what_is_for_people_takes_80_columns(salt_run):
    done = salt_run("import", EXAMPLES / "kvm-dhcp.csv")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "unchanged" in done.stdout


def test_a_file_that_is_not_there_is_refused_in_one_sentence(salt_run):
    done = told(salt_run("import", "/nowhere.csv", "--out=json"), 1)
    assert done["error"] == "/nowhere.csv is not there"
    done = told(salt_run("import", "/nowhere.csv", "aply=True", "--out=json"), 1)
    assert "aply" in done["error"]


def test_defaults_that_do_not_compile_are_told(salt_run, roots):
    defaults = roots / "stores" / "defaults.sls"
    text = defaults.read_text()
    # Of a text that is no YAML Salt logs where that was found, too.
    defaults.write_text("include: [nowhere]")
    try:
        done = told(salt_run("import", EXAMPLES / "kvm-dhcp.csv", "--out=json"), 1)
    finally:
        defaults.write_text(text)
    assert "defaults.sls does not compile" in done["error"]
