# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The image descriptions: what can be known of them without a build."""

import pathlib
import re
import stat
import subprocess
from xml.etree import ElementTree

import pytest
from kiwi.xml_description import XMLDescription
from kiwi.xml_state import XMLState

KIWI = pathlib.Path(__file__).resolve().parents[2] / "kiwi"
DESCRIPTIONS = ["debian", "leap"]
FILES = [path for path in KIWI.rglob("*") if path.is_file() and not path.is_symlink()]


def state(description, *profiles):
    return XMLState(XMLDescription(str(KIWI / description / "config.xml")).load(), [*profiles])


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_a_description_is_valid_by_the_schema_of_kiwi(description):
    assert state(description).get_build_type_name() == "oem"


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_the_descriptions_share_one_overlay_and_one_config_sh(description):
    for name in ("root", "config.sh"):
        link = KIWI / description / name
        assert link.is_symlink()
        assert link.resolve() == KIWI / name
        assert link.exists()


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_nobody_can_log_in_as_root_with_a_password(description):
    users = state(description).get_users()
    assert [(user.get_name(), user.get_password()) for user in users] == [("root", "!*")]


@pytest.mark.parametrize(
    ("profiles", "minion", "console"),
    [
        (["KVM", "Salt"], "salt-minion", "ttyS0"),
        (["KVM", "Bundle"], "venv-salt-minion", "ttyS0"),
        (["Xen", "Salt"], "salt-minion", "hvc0"),
        (["Xen", "Bundle"], "venv-salt-minion", "hvc0"),
    ],
)
def test_leap_has_a_profile_for_each_hypervisor_and_each_minion(profiles, minion, console):
    leap = state("leap", *profiles)
    packages = set(leap.get_system_packages())
    assert packages & {"salt-minion", "venv-salt-minion"} == {minion}
    assert "cloud-init" in packages
    assert f"console={console}" in leap.build_type.get_kernelcmdline()


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_the_repositories_come_from_outside(description):
    sources = ElementTree.parse(KIWI / description / "config.xml").iter("source")
    assert {source.get("path") for source in sources} == {"obsrepositories:/"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(KIWI)))
def test_no_file_names_a_host(path):
    assert not re.search(r"(https?|ftp)://|\d+\.\d+\.\d+\.\d+", path.read_text())


def test_the_overlay_brings_nothing_that_makes_a_machine_this_machine():
    names = {path.name for path in FILES}
    assert not names & {"machine-id", "minion_id", "minion.pem", "minion.pub", "minion_master.pub"}
    assert not [name for name in names if name.startswith("ssh_host_")]


@pytest.mark.parametrize("name", ["salt-minion", "venv-salt-minion"])
def test_a_minion_starts_only_with_id_and_key_and_only_after_the_seed_was_read(name):
    config = "/etc/salt" if name == "salt-minion" else "/etc/venv-salt-minion"
    unit = (KIWI / f"root/etc/systemd/system/{name}.service.d/10-store-deploy.conf").read_text()
    lines = unit.splitlines()
    assert f"ConditionPathExists={config}/minion_id" in lines
    assert f"ConditionPathExists={config}/pki/minion/minion.pem" in lines
    assert [line for line in lines if line.startswith("After=")] == ["After=cloud-init.service"]
    assert "KillMode=process" in lines
    assert "ExecStartPre=-/bin/sync" in lines


def test_each_salt_line_is_pinned_in_all_its_parts():
    pins = sorted(KIWI.glob("salt-*.txt"))
    assert [pin.stem for pin in pins] == ["salt-3006.25", "salt-3008.3"]
    for pin in pins:
        lines = [line for line in pin.read_text().splitlines() if not line.startswith("#")]
        assert pin.stem.replace("-", "==") in lines
        assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_scripts_can_be_run():
    for path in FILES:
        if path.read_text().startswith("#!"):
            assert path.stat().st_mode & stat.S_IXUSR, path


@pytest.mark.parametrize("arguments", [["--salt", "1.0"], ["--salt"], ["--output"], ["-x"]])
def test_the_build_refuses_what_it_does_not_know_before_it_does_anything(arguments, tmp_path):
    run = subprocess.run(
        [KIWI / "build", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (64, "")
    assert "usage: build" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "told"), [("missing/x.qcow2", "there is no folder"), ("", "is a folder")]
)
def test_where_the_image_cannot_be_written_is_said_before_it_is_built(tmp_path, output, told):
    done = subprocess.run(
        [KIWI / "build", "--output", f"{tmp_path}/{output}"],
        env={"PATH": "/usr/bin:/bin", "STORE_DEPLOY_CACHE": str(tmp_path / "cache")},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (73, "")
    assert told in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("generator", ["sysv", "rc-local"])
def test_what_a_stores_own_packages_start_by_a_script_is_started(generator):
    masked = re.search(r"(?s)for generator in (.*?); do", (KIWI / "config.sh").read_text())[1]
    assert "cryptsetup" in masked
    assert generator not in masked
