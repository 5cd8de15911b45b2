# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the pages say of installing and uninstalling, and of an installation where no verb runs.

Their commands are typed as they are written, on the private machine, and its master's user is not
root. Only what is not there is stood in for: systemd, sudo, the running master and its minions.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from tests import pages
from tests.bus import BUS, listening

USER = "salt"
CHECKOUT = pathlib.Path("/srv/store-deploy")
MAIN = pathlib.Path("/etc/salt/master")
pytestmark = pytest.mark.thorough

MASTER_D = pathlib.Path("/etc/salt/master.d")
MODULES = MASTER_D / "50-store-deploy-modules.conf"
SITE = MASTER_D / "60-site.conf"
STATE_DIR = pathlib.Path("/var/lib/salt/store-deploy")
MINION = pathlib.Path("/srv/minion")
DOCTOR = "salt-run deploy.doctor hypervisors=False"

STUBS = {
    "systemctl": """#!/bin/sh
[ "$1" = --version ] || echo "$*" >>/srv/systemctl
""",
    "sudo": f"""#!/bin/sh
[ "$1" = -u ] && [ "$2" = {USER} ] && shift 2
exec setpriv --reuid {USER} --regid {USER} --clear-groups "$@"
""",
    # A minion that is served by itself what the master's files say, each time anew.
    "salt": f"""#!{sys.executable}
import json, os, sys, salt.config
roots = salt.config.master_config("{MAIN}")["file_roots"]
minion = {{"id": "hv-0815", "root_dir": "{MINION}", "file_client": "local", "file_roots": roots}}
open("{MINION}/minion", "w").write(json.dumps(minion))
os.execlp("salt-call", "salt-call", "--local", "-c", "{MINION}", "--retcode-passthrough",
          *sys.argv[2:])
""",
}


def commands(chapter):
    """Return the lines of a chapter that are typed, one by one."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", pages.chapter(chapter))
    return re.findall(r"(?m)^(?: {4}| {7})(\S.*)$", text)


@pytest.fixture
def typed(tmp_path):
    """Return what types a line, and returns its exit status and all that it printed."""
    for name, script in STUBS.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    MINION.mkdir(exist_ok=True)

    def typed(line):
        done = subprocess.run(
            ["bash", "-c", f"PATH={tmp_path}:$PATH\n{line}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return typed


@pytest.fixture
def machine(typed):
    """A master as Salt's package leaves it, which runs."""
    # Another test may have left its ledger at the usual place.
    shutil.rmtree(STATE_DIR, ignore_errors=True)
    tops = [MAIN.parent, pathlib.Path("/var/lib/salt"), pathlib.Path("/srv"), BUS.parents[1]]
    there = {top: set(top.iterdir()) if top.exists() else set() for top in tops}
    MASTER_D.mkdir(exist_ok=True)
    MAIN.write_text(f"user: {USER}\n")
    with listening(USER):
        yield
    for top in tops:
        for path in set(top.iterdir()) - there[top]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture
def installed(machine, typed):
    clone, link = commands("A checkout as it stands")
    # That it is cloned is what the private machine begins with.
    assert clone.split()[:2] == ["git", "clone"]
    assert clone.split()[3] == str(CHECKOUT)
    assert typed(link) == (0, "")


def faults(typed):
    _, told = typed("salt-run deploy.doctor --out=json 2>/dev/null")
    return {each["fault"]: each["mend"] for each in json.loads(told)["faults"]}


def test_who_installs_as_the_page_says_is_told_what_is_left_to_do(installed, typed):
    """The user of Salt's packages has no folder /var/lib/salt of its own."""
    ((fault, mend),) = {k: v for k, v in faults(typed).items() if "autosign" not in k}.items()
    assert fault == f"{STATE_DIR} is not there and {USER} cannot make it"
    assert typed(mend) == (0, "")
    assert faults(typed) == {}
    assert {path.name for path in MASTER_D.iterdir()} == {
        path.name for path in (pages.REPO / "master.d").iterdir()
    }


def test_after_uninstalling_as_the_page_says_nothing_is_left_but_what_it_names(installed, typed):
    modules = MINION / "var/cache/salt/minion/extmods/modules/store_hypervisor.py"
    assert typed("salt '*' saltutil.sync_all")[0] == 0
    assert modules.exists()
    own = MASTER_D / "10-site.conf"
    own.write_text("file_roots: {base: [/srv/salt]}\n")
    clean, *rest = commands("Uninstall")
    ((remove, stays),) = re.findall(
        r"(?m)^\| a checkout .*?\| `(.*?)` \|(.*)", pages.chapter("Uninstall")
    )
    for line in (clean, remove, *rest):
        status, told = typed(line)
        assert status == 0, told
    assert pathlib.Path("/srv/systemctl").read_text() == "restart salt-master\n"
    assert list(MASTER_D.iterdir()) == [own]
    assert "'deploy.doctor' is not available." in typed(DOCTOR)[1]
    assert not modules.exists()
    assert f"`{STATE_DIR}`" in stays
    assert f"`{CHECKOUT}`" in stays


# Where no verb runs

TABLE = [
    [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in pages.chapter("When something is wrong with the installation").splitlines()
    if line.startswith("| ") and "what `salt-run` prints" not in line
]
NOT_AVAILABLE, STATUS_64, TRACEBACK, RETURNED_FALSE = TABLE


def looks(row):
    """Return what a row says to type."""
    return [each for each in re.findall(r"`([^`]+)`", row[1]) if " " in each]


@pytest.fixture
def copied(installed):
    """The checkout at a place where its modes can be changed, which the page is written for."""
    # A bind mount of a copy, so that the paths stay those of the page.
    copy = pathlib.Path("/srv/copy")
    skip = shutil.ignore_patterns(".git", "tests", "__pycache__", ".venv*")
    shutil.copytree(CHECKOUT, copy, symlinks=True, ignore=skip)
    subprocess.run(["mount", "--bind", copy, CHECKOUT], check=True)
    yield CHECKOUT
    subprocess.run(["umount", CHECKOUT], check=True)


def modules_missing():
    MODULES.unlink()


def modules_no_yaml():
    MODULES.unlink()
    MODULES.write_text("module_dirs: [\n")


def another_default_include():
    MAIN.write_text(f"{MAIN.read_text()}default_include: other.d/*.conf\n")


def set_by_an_include():
    MAIN.write_text(f"{MAIN.read_text()}include: more.conf\n")
    MAIN.with_name("more.conf").write_text("module_dirs: [/srv/modules]\n")


def set_to_a_word():
    SITE.write_text("module_dirs: /srv/modules\n")


@pytest.mark.parametrize(
    "happens",
    [modules_missing, modules_no_yaml, another_default_include, set_by_an_include, set_to_a_word],
    ids=lambda happens: happens.__name__,
)
def test_what_is_not_configured_is_found_where_the_page_says(installed, typed, happens):
    closed, configured = looks(NOT_AVAILABLE)[:2]
    happens()
    status, told = typed(DOCTOR)
    assert (status, NOT_AVAILABLE[0].strip("`") in told) == (0, True)
    assert typed(closed)[0] == 0
    status, told = typed(configured)
    assert status == 0
    assert str(CHECKOUT) not in told


@pytest.mark.parametrize("path", ["", "_runners"])
def test_a_checkout_that_is_closed_is_found_where_the_page_says(copied, typed, path):
    (copied / path).chmod(0o700)
    status, told = typed(DOCTOR)
    assert (status, NOT_AVAILABLE[0].strip("`") in told) == (0, True)
    closed, configured, mend = looks(NOT_AVAILABLE)
    assert typed(closed)[0] != 0
    assert typed(mend) == (0, "")
    assert typed(closed)[0] == 0
    assert str(CHECKOUT) in typed(configured)[1]
    assert "not available" not in typed(DOCTOR)[1]


@pytest.mark.parametrize("path", ["_utils", "salt/_utils/storelib"])
def test_half_a_checkout_that_is_closed_is_found_where_the_page_says(copied, typed, path):
    (copied / path).chmod(0o700)
    status, told = typed(DOCTOR)
    assert (status, RETURNED_FALSE[0].strip("`").rstrip(".") in told) == (0, True)
    mend, *_ = looks(RETURNED_FALSE)
    assert typed(mend) == (0, "")
    assert "__virtual__" not in typed(DOCTOR)[1]


def link_to_nowhere():
    MODULES.unlink()
    MODULES.symlink_to("/nowhere")


def folder():
    MODULES.unlink()
    MODULES.mkdir()


def no_utf_8():
    MODULES.unlink()
    MODULES.write_bytes(b"\xff\n")


@pytest.mark.parametrize(
    "happens", [link_to_nowhere, folder, no_utf_8], ids=lambda happens: happens.__name__
)
def test_a_file_with_which_salt_does_not_start_is_found_where_the_page_says(
    installed, typed, happens
):
    happens()
    status, told = typed(DOCTOR)
    assert (status, f"exit status {status}" in STATUS_64[0]) == (64, True)
    assert "deploy.doctor" not in told
    (look,) = looks(STATUS_64)
    assert typed(look)[1].splitlines()[-1] == str(MODULES)
    assert len([each for each in typed(look)[1].splitlines() if each.startswith("/")]) == 1


def test_a_file_that_the_masters_user_cannot_read_is_found_where_the_page_says(installed, typed):
    content = MODULES.read_text()
    MODULES.unlink()
    MODULES.write_text(content)
    MODULES.chmod(0o600)
    status, told = typed(DOCTOR)
    assert status == 1
    assert "Traceback" in told
    assert f"Permission denied: '{MODULES}'" in told
    for mend in looks(TRACEBACK):
        assert typed(mend.replace("FILE", str(MODULES))) == (0, "")
    assert "Traceback" not in typed(DOCTOR)[1]
    assert MODULES.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_the_masters_user_cannot_read_is_named_by_the_doctor(installed, typed):
    """What root has read counts, until something reads it once more."""
    MASTER_D.chmod(0o700)
    found = faults(typed)
    (mend,) = [mend for fault, mend in found.items() if f"cannot read {MASTER_D}" in fault]
    assert typed(mend) == (0, "")
    assert not any("cannot read" in fault for fault in faults(typed))
