# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What GRUB is told, so that Xen is booted by default and Linux where Xen cannot be loaded."""

import pytest

from storelib.errors import Fault
from storelib.hypervisor.setup import boot, made

MENU = """\
set default="${saved_entry}"
menuentry 'Debian GNU/Linux' --class os $menuentry_id_option 'gnulinux-simple-1f0c' {
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-1f0c' {
\tmenuentry 'Debian, with Linux 6.1' --class os $menuentry_id_option 'gnulinux-6.1-advanced' {
\t}
}
menuentry 'Debian GNU/Linux, with Xen' --class xen $menuentry_id_option 'xen-gnulinux-simple-1f0c' {
}
"""

# As GRUB's own commands do, of which only these two are needed: on a block of text.
TOOLS = {
    "grub-editenv": 'case "$2" in list) cat ENV;; unset) : > ENV;; esac',
    "grub-set-default": 'echo "saved_entry=$1" > ENV',
    "grub-mkconfig": 'cp MENU "$2"',
}


@pytest.fixture
def loader(tmp_path, monkeypatch):
    """A boot loader whose files are here."""
    (tmp_path / "menu").write_text(MENU)
    (tmp_path / "env").write_text("")
    for name, script in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        for word in ("ENV", "MENU"):
            script = script.replace(word, str(tmp_path / word.lower()))
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    config = tmp_path / "grub.cfg"
    config.write_text(MENU)
    there = boot.Grub(config, "grub")
    monkeypatch.setattr(boot, "grub", lambda: there)
    monkeypatch.setattr(boot, "FALLBACK", str(tmp_path / "07_store-deploy"))
    monkeypatch.setattr(boot.Grub, "defaults", str(tmp_path / "defaults"))
    monkeypatch.setattr(made, "NOTE", tmp_path / "made.json")
    return there


def test_xen_and_linux_are_found_at_the_top_of_the_menu(loader):
    assert loader.entries() == ("xen-gnulinux-simple-1f0c", "gnulinux-simple-1f0c")


def test_xen_is_saved_as_the_default_with_linux_to_fall_back_to(loader, tmp_path):
    would = boot.by_xen(dry=True)
    assert would.changes
    assert not (tmp_path / "defaults").exists()
    assert boot.by_xen(dry=False).changes == would.changes
    assert loader.saved() == "xen-gnulinux-simple-1f0c"
    assert "GRUB_DEFAULT=saved" in (tmp_path / "defaults").read_text()
    fallback = tmp_path / "07_store-deploy"
    assert "'set fallback=0'" in fallback.read_text()
    assert fallback.stat().st_mode & 0o111
    for dry in (True, False):
        assert boot.by_xen(dry).changes == {}


def test_what_is_fallen_back_to_is_named_by_its_place_in_the_menu(loader, tmp_path):
    """GRUB 2.06, in which an ID is no fallback, said so: "Failed to boot both default and…"."""
    site = "menuentry 'Rescue' $menuentry_id_option 'rescue' {\n}\nsubmenu 'Old' 'old' {\n}\n"
    for path in (tmp_path / "menu", loader.config):
        path.write_text(site + MENU)
    assert boot.by_xen(dry=False).changes
    assert "'set fallback=2'" in (tmp_path / "07_store-deploy").read_text()
    assert boot.by_xen(dry=False).changes == {}


def test_what_was_booted_before_comes_back(loader, tmp_path):
    loader.save("gnulinux-simple-1f0c")
    boot.by_xen(dry=False)
    boot.taken_back(made.noted()["boot"])
    assert loader.saved() == "gnulinux-simple-1f0c"
    assert not (tmp_path / "defaults").exists()
    assert not (tmp_path / "07_store-deploy").exists()


def test_a_menu_that_lacks_xen_changes_nothing(loader, tmp_path):
    without = MENU.partition("menuentry 'Debian GNU/Linux, with")[0]
    (tmp_path / "menu").write_text(without)
    loader.config.write_text(without)
    with pytest.raises(Fault, match="GRUB's menu, made anew, has no entry for Xen"):
        boot.by_xen(dry=False)
    assert not (tmp_path / "defaults").exists()
    assert made.noted() == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\n", "GRUB_DEFAULT=saved\nGRUB_TIMEOUT=5\n"),
        ("GRUB_TIMEOUT=5", "GRUB_TIMEOUT=5\nGRUB_DEFAULT=saved\n"),
    ],
)
def test_a_file_of_defaults_that_is_the_systems_keeps_its_other_lines(
    tmp_path, monkeypatch, before, after
):
    (tmp_path / "grub").write_text(before)
    monkeypatch.setattr(boot.Grub, "defaults", str(tmp_path / "grub"))
    assert boot._saved(boot.Grub(tmp_path / "grub.cfg", "grub2")) == after
