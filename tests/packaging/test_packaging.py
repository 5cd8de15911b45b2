# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Each way to install, upgrade and remove store-deploy, with the real tools, into a root of its own.

A real master's configuration is read from that root, and the doctor runs out of it.
"""

import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys

import packaged
import pytest
from packaged import AUTOSIGN, REPO, SETTINGS, STATE, USER, WAYS
from tests import pages
from tests.bus import BUS, listening

MASTER_D = "etc/salt/master.d"
UYUNI = ["make install FLAVOUR=uyuni", "make install FLAVOUR=uyuni-container", "RPM"]
MAKE = [way for way in WAYS if way.startswith("make")]
FORMS = {
    "make install FLAVOUR=uyuni": "usr/share/susemanager/formulas/metadata",
    "make install FLAVOUR=uyuni-container": "srv/formula_metadata",
    "RPM": "usr/share/susemanager/formulas/metadata",
}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """This version, and a newer one."""
    newer = packaged.newer(tmp_path_factory.mktemp("newer") / "store-deploy")
    older = tmp_path_factory.mktemp("this") / "store-deploy"
    older.symlink_to(REPO)
    return older, newer


@pytest.fixture
def way(request):
    return getattr(request, "param", "make install")


@pytest.fixture
def root(way, tmp_path, sources):
    """A master's root folder before anything is installed."""
    return WAYS[way](tmp_path, sources)


@pytest.fixture
def bus():
    """The socket of a running master, which has its folders."""
    with listening(USER):
        yield
    shutil.rmtree(BUS.parents[1])


each_way = pytest.mark.parametrize("way", WAYS, indirect=True)


def deploy_a_store(root):
    """Leave what a master has by then: a ledger, of its user, and Python's caches, of root's."""
    code = (
        "import pathlib, sys; from storemaster.deployment.ledger import Ledger;"
        "Ledger(pathlib.Path(sys.argv[1])).rung()"
    )
    path = ":".join(str(root.tree / name) for name in ("_utils", "salt/_utils"))
    ledger = root / STATE / "ledger.sqlite"
    told = [sys.executable, "-c", code, ledger]
    subprocess.run(told, check=True, env={**os.environ, "PYTHONPATH": path})
    subprocess.run([sys.executable, "-m", "compileall", "-q", root.tree], check=True)
    assert list(root.tree.rglob("__pycache__"))
    return ledger


def change(path):
    path.write_text(path.read_text().replace("max_active: 50", "max_active: 7"))
    assert "max_active: 7" in path.read_text()


def assert_of_the_masters_user(root):
    folder = (root / STATE).stat()
    assert (folder.st_uid, folder.st_mode & 0o777) == (pwd.getpwnam(USER).pw_uid, 0o700)


@pytest.mark.parametrize("way", ["make install", "RPM", "Debian package"], indirect=True)
def test_the_doctor_finds_no_fault_in_what_was_just_installed(root, bus):
    root.install()
    assert root.found() == {}
    assert_of_the_masters_user(root)


def test_a_link_that_was_removed_is_missed_and_its_original_is_where_the_page_says(root, bus):
    root.install()
    link = root / MASTER_D / "50-store-deploy-engine.conf"
    link.unlink()
    ((fault, mend),) = root.found().items()
    assert fault.startswith("the engine store_pump is not configured")
    assert mend.startswith(f"install master.d/{link.name}")
    assert f"originals of the files below | `/{packaged.SHARE}`" in pages.chapter("The master")
    assert (root.tree / "master.d" / link.name).exists()


@each_way
def test_an_upgrade_keeps_the_settings_that_were_changed_and_the_ledger(root, way):
    root.install()
    ledger = deploy_a_store(root)
    before = ledger.read_bytes()
    change(root / SETTINGS)
    root.upgrade()
    assert root.opts("store_deploy")[0]["max_active"] == 7
    suffix = {"RPM": ".rpmnew", "Debian package": ".dpkg-dist"}.get(way)
    new = (
        root / f"{SETTINGS}{suffix}"
        if suffix
        else root.tree / "master.d" / pathlib.Path(SETTINGS).name
    )
    assert "max_active: 60" in new.read_text()
    assert f"`{suffix or '/usr/share/store-deploy/master.d'}`" in pages.chapter("Upgrade")
    assert ledger.read_bytes() == before
    told = (root.tree / "salt/_utils/storelib/__init__.py").read_text()
    assert '"99.0.0"' in told
    assert (root.tree / "reactor/new.sls").exists()
    assert not os.path.lexists(root / MASTER_D / "50-store-deploy-reactor.conf")
    assert {path.name for path in root.tree.parent.glob("store-deploy.*")} == set()


@pytest.mark.parametrize("way", MAKE, indirect=True)
def test_everybody_can_read_what_comes_from_a_closed_checkout(root, tmp_path):
    root.old = packaged.newer(tmp_path / "closed")
    packaged.run("chmod", "-R", "go=", root.old)
    before = set(root.path.rglob("*"))
    root.install()
    made = [path for path in root.path.rglob("*") if path not in before and not path.is_symlink()]
    assert [path for path in made if path.stat().st_mode & 0o044 != 0o044] == [root / STATE]
    assert [path for path in made if path.is_dir() and not path.stat().st_mode & 1] == [
        root / STATE
    ]


@each_way
def test_an_upgrade_brings_the_settings_that_were_not_changed(root):
    root.install()
    root.upgrade()
    assert "max_active: 60" in (root / SETTINGS).read_text()
    assert list(root.tree.rglob("__pycache__")) == []


@each_way
def test_nothing_is_left_of_what_was_installed_and_never_used(root, way):
    before = packaged.files(root.path)
    root.install()
    root.remove()
    if way == "Debian package":
        assert packaged.files(root.path) - before - {STATE} == {SETTINGS, AUTOSIGN}
        root.purge()
    assert packaged.files(root.path) - before - {STATE} == set()


def named(way):
    """Return what the page says that is left after a removal, and after a purge."""
    (row,) = [
        re.split(r"(?<!\\)\|", line)[1:-1]
        for line in pages.chapter("Uninstall").splitlines()
        if line.startswith("| ") and way.startswith(line[2:].partition(" |")[0])
    ]
    return {each.strip("/") for each in re.findall(r"`(/[^`]+)`", row[2])}


def left(root, before):
    """Return what is left, the ledger's folder and a tree of Python's caches as one each."""
    paths = packaged.files(root.path) - before
    trees = {path for path in paths if (root / path).is_relative_to(root.tree)}
    assert {pathlib.Path(path).suffix for path in trees} <= {".pyc"}
    states = {path for path in paths if path.startswith(f"{STATE}/")}
    short = ({str(root.tree.relative_to(root.path))} if trees else set()) | (
        {STATE} if states else set()
    )
    return paths - trees - states | short


@each_way
def test_what_is_left_when_stores_exist_is_what_the_page_names(root, way):
    before = packaged.files(root.path)
    root.install()
    ledger = deploy_a_store(root)
    content = ledger.read_bytes()
    change(root / SETTINGS)
    root.remove()
    assert left(root, before) == named(way)
    assert ledger.read_bytes() == content


def test_a_purge_keeps_the_ledger_too(tmp_path, sources):
    root = packaged.Deb(tmp_path, sources)
    before = packaged.files(root.path)
    root.install()
    ledger = deploy_a_store(root)
    change(root / SETTINGS)
    root.remove()
    root.purge()
    assert left(root, before) == named("Debian package") - {SETTINGS, AUTOSIGN}
    assert ledger.exists()


@pytest.mark.parametrize("way", UYUNI, indirect=True)
def test_beside_uyunis_configuration_its_names_win_and_nothing_of_it_is_lost(root, bus, way):
    root.make_uyunis()
    root.install()
    tree = "/" + str(root.tree.relative_to(root.path))
    theirs = packaged.SUSEMANAGER
    kept = [key for key in theirs if key not in ("file_roots", "ext_pillar")]
    roots, pillars, modules, *others = root.opts("file_roots", "ext_pillar", "module_dirs", *kept)
    assert others == [theirs[key] for key in kept]
    assert roots == {"base": [*theirs["file_roots"]["base"], f"{tree}/salt"]}
    assert [name for each in pillars for name in each] == ["suma_minion", "store_deploy"]
    assert modules == [tree]
    assert root.found() == {}
    assert_of_the_masters_user(root)
    for form in ("store-defaults", "store-server"):
        for path in (REPO / "uyuni" / form).iterdir():
            assert (root / FORMS[way] / form / path.name).read_bytes() == path.read_bytes()


def test_a_master_beside_uyunis_configuration_runs_what_was_installed(tmp_path, sources):
    root = packaged.Rpm(tmp_path, sources)
    root.make_uyunis()
    (root / MASTER_D / "10-lab.conf").write_text("interface: 127.0.0.1\nworker_threads: 2\n")
    root.install()
    assert root.found("timeout", "60", "bash", "-e", "-c", packaged.RUNNING) == {}


def test_in_containers_all_is_in_volumes(tmp_path, sources):
    root = packaged.MakeContainer(tmp_path, sources)
    before = packaged.files(root.path)
    root.install()
    volumes = ("etc/salt/", "srv/formula_metadata/", "var/lib/salt/")
    made = packaged.files(root.path) - before
    assert made
    assert [name for name in made if not name.startswith(volumes)] == []


def test_without_a_destdir_the_same_comes_to_the_masters_own_places(root, tmp_path, sources):
    other = packaged.Make(tmp_path / "other", sources)
    before = packaged.files(root.path)
    other.install()
    for folder in ("usr/share", "var/lib/salt"):
        (root / folder).mkdir(parents=True)
    done = root.run("make", "-C", REPO, "install")
    assert (done.returncode, done.stderr) == (0, "")
    assert packaged.files(root.path) == packaged.files(other.path)
    done = root.run("make", "-C", REPO, "uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert packaged.files(root.path) == before


# A site's own


@pytest.mark.parametrize("name", ["etc/salt/master", f"{MASTER_D}/10-site.conf"])
def test_an_autosign_file_of_the_sites_own_is_left_alone(root, name):
    with (root / name).open("a") as told:
        told.write("autosign_file: /etc/salt/autosign.conf\n")
    told = root.install()
    assert f"autosign_file is in {root / name} and stays as it is" in told
    assert not (root / AUTOSIGN).exists()
    assert root.opts("autosign_file") == ["/etc/salt/autosign.conf"]


def test_autosign_can_be_left_out(root):
    root.do(root.old, "install", AUTOSIGN="no")
    assert not (root / AUTOSIGN).exists()


@pytest.mark.parametrize("way", ["RPM", "Debian package"], indirect=True)
def test_a_package_brings_no_autosign_file_but_by_a_package_of_its_own(root):
    root.install_one(autosign=False)
    assert not (root / AUTOSIGN).exists()
    root.install_one(autosign=True)
    assert (root / AUTOSIGN).exists()


def test_a_word_for_autosign_that_is_none_is_refused(root):
    told = refused(root, root.old, "install", AUTOSIGN="false")
    assert told == "store-deploy: AUTOSIGN is false, allowed: yes | no"


@pytest.mark.parametrize("way", MAKE, indirect=True)
def test_a_file_that_an_administrator_has_put_in_the_place_of_a_link_is_kept(root):
    root.install()
    own = root / MASTER_D / "50-store-deploy-schedule.conf"
    text = own.read_text() if own.exists() else (root.tree / "master.d" / own.name).read_text()
    own.unlink()
    own.write_text(text.replace("seconds: 30", "seconds: 60"))
    told = root.upgrade()
    assert f"{own} was changed and stays as it is" in told
    assert "seconds: 60" in own.read_text()
    assert f"{own} was changed and stays" in root.remove()
    assert "seconds: 60" in own.read_text()


def test_the_same_version_is_installed_once_more_without_a_change(root):
    root.install()
    before = {
        name: os.readlink(root / name)
        for name in packaged.files(root.path)
        if (root / name).is_symlink()
    }
    change(root / SETTINGS)
    root.install()
    assert "max_active: 7" in (root / SETTINGS).read_text()
    assert {name: os.readlink(root / name) for name in before} == before


# What is refused, in one sentence, before anything is done


def refused(root, source, target, **told):
    """Return why ``make`` refuses, after a look at whether it has changed nothing."""
    before = packaged.files(root.path)
    done = root.make(source, target, **told)
    assert done.returncode != 0
    assert packaged.files(root.path) == before
    (sentence,) = [line for line in done.stdout.splitlines() if not line.startswith("make: ")]
    return sentence


def test_an_unknown_kind_of_master_is_refused(root):
    done = root.make(root.old, "install", FLAVOUR="suma")
    assert done.returncode != 0
    assert "usage: install plain | uyuni | uyuni-container" in done.stdout
    assert packaged.files(root.path) == {"etc/salt/master", "etc/passwd", "etc/group"}


def test_a_destdir_that_is_no_folder_is_refused(root):
    path = root.path / "file"
    path.touch()
    told = refused(root, root.old, "install", DESTDIR=path)
    assert told == f"store-deploy: DESTDIR is {path}, which is no folder: name one"


def test_a_newer_version_is_not_replaced_by_an_older_one(root):
    root.upgrade()
    told = refused(root, root.old, "install")
    assert "version 99.0.0 is installed, which is newer than " in told


def test_rpm_does_not_replace_a_newer_version_by_an_older_one(tmp_path, sources):
    root = packaged.Rpm(tmp_path, sources)
    root.upgrade()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        root.install()
    assert "which is newer than store-deploy-" in refused.value.stderr


@pytest.fixture
def share(root):
    """A file system for what is installed in /usr/share."""
    share = root / "usr/share"
    share.mkdir(parents=True)
    packaged.run("mount", "-t", "tmpfs", "tmpfs", share)
    yield share
    packaged.run("umount", share)


def test_an_upgrade_for_which_there_is_no_room_leaves_the_old_version(root, share):
    root.install()
    used = shutil.disk_usage(share).used + 2**17
    packaged.run("mount", "-o", f"remount,size={used}", share)
    before = packaged.files(root.path)
    done = root.make(root.new, "install")
    assert done.returncode != 0
    assert "No space left on device" in done.stdout
    assert packaged.files(root.path) == before
    assert '"99.0.0"' not in (root.tree / "salt/_utils/storelib/__init__.py").read_text()


def test_one_kind_is_not_installed_over_another(root):
    root.install()
    told = refused(root, root.old, "install", FLAVOUR="uyuni-container")
    assert "it is installed for plain, not for uyuni-container: remove that first" in told


def test_what_a_package_has_installed_is_neither_replaced_nor_removed(tmp_path, sources):
    rpm = packaged.Rpm(tmp_path, sources)
    rpm.install()
    root = packaged.Make.__new__(packaged.Make)
    root.__dict__.update(rpm.__dict__)
    assert "is there and is not from here: remove the package" in refused(root, root.old, "install")
    assert "there is nothing of it in" in refused(root, root.old, "uninstall")


def test_links_to_a_checkout_are_to_be_removed_first(root):
    link = root / MASTER_D / "50-store-deploy-engine.conf"
    link.symlink_to("/srv/store-deploy/master.d/50-store-deploy-engine.conf")
    told = refused(root, root.old, "install")
    assert f"{link} leads to /srv/store-deploy/master.d/" in told


def test_to_remove_what_is_not_there_is_refused(root):
    told = refused(root, root.old, "uninstall")
    assert told == f"store-deploy: there is nothing of it in {root.path} to remove"


@pytest.mark.parametrize(
    ("words", "told"),
    [((), "usage: build"), (("tar",), "usage: build"), (("rpm", REPO / "LICENSE"), "is no folder")],
)
def test_a_package_of_an_unknown_kind_or_without_a_folder_for_it_is_refused(words, told):
    build = [REPO / "packaging/build", *words]
    done = subprocess.run(build, text=True, capture_output=True)
    assert done.returncode != 0
    assert told in done.stderr
