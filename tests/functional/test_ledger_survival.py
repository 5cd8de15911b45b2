# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The ledger on a disk that is full or read-only, or held; its backup as the README has it."""

import contextlib
import dataclasses
import re
import subprocess
import sys
import time

import pytest
from tests import pages

from storelib.errors import LedgerError
from storemaster.deployment import requests
from storemaster.deployment.evidence import Evidence
from storemaster.deployment.ledger import Ledger
from storemaster.deployment.spec import from_pillar
from storemaster.master import doctor, pump, settings

STORE = {
    "store": "0815",
    "image": {"source": "/x.qcow2", "sha256": "5e" * 32},
    "master": "salt.example.com",
}


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", path)
    yield path
    # Not lazily: whatever was raised, and is kept by pytest, holds nothing open.
    subprocess.run(["umount", path], check=True)


def begin(ledger):
    return requests.begin(ledger, 1.0, from_pillar(STORE, "hv-0815"), "hv-0815", "operator")


def save(path):
    """Open the ledger, save a step and return its number."""
    with Ledger(path) as ledger:
        record = ledger.get("0815")
        long = Evidence(failure={"n": record.attempts + 1, "long": "x" * 20_000})
        saved = dataclasses.replace(record, attempts=record.attempts + 1, evidence=long)
        return ledger.save(saved, "saved").attempts


def whole(path, saved):
    """Say whether all that was acknowledged is there, and fits together."""
    with Ledger(path) as ledger:
        record = ledger.get("0815")
        assert ledger._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(ledger.history("0815")) == record.attempts + 1
        return record.attempts == saved


def fill(folder, leave=0):
    """Take all the room but ``leave`` bytes."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    if leave:
        filler.open("r+b").truncate(filler.stat().st_size - leave)
    return filler


@pytest.mark.parametrize("leave", [0, 4096, 16384, 40960, 81920])
def test_a_full_disk_is_one_sentence_and_tears_nothing(disk, leave):
    path = disk / "ledger.sqlite"
    with Ledger(path) as ledger:
        begin(ledger)
    saved = [save(path)]
    filler = fill(disk, leave)
    with pytest.raises(LedgerError) as refused:
        saved.extend(save(path) for _ in range(100))
    assert refused.value.reason.startswith(f"the ledger {path} cannot be used: ")
    assert "\n" not in refused.value.reason
    assert "disk space" in refused.value.hint
    filler.unlink()
    assert whole(path, saved[-1])
    assert save(path) == saved[-1] + 1


def test_a_disk_that_fills_while_the_ledger_is_open_tears_nothing(disk):
    path = disk / "ledger.sqlite"
    with Ledger(path) as ledger:
        record = begin(ledger)
        filler = fill(disk)
        long = Evidence(failure={"long": "x" * 200_000})
        attempt = dataclasses.replace(record, attempts=1, evidence=long)
        with pytest.raises(LedgerError, match="full"):
            ledger.save(attempt, "saved")
        assert ledger.get("0815") == record
        filler.unlink()
        ledger.save(attempt, "saved")
    assert whole(path, 1)


@pytest.mark.thorough
def test_a_disk_that_is_full_from_the_beginning_is_one_sentence(disk):
    filler = fill(disk)
    with pytest.raises(LedgerError, match=r"cannot be used: .*") as refused:
        Ledger(disk / "ledger.sqlite")
    assert "disk space" in refused.value.hint
    filler.unlink()
    with Ledger(disk / "ledger.sqlite") as ledger:
        assert ledger.all() == []
        begin(ledger)


def test_a_read_only_disk_is_one_sentence_and_afterwards_it_goes_on(disk):
    path = disk / "ledger.sqlite"
    with Ledger(path) as ledger:
        begin(ledger)
    saved = save(path)
    mount("-o", "remount,ro", disk)
    try:
        with pytest.raises(LedgerError) as refused:
            save(path)
    finally:
        mount("-o", "remount,rw", disk)
    assert refused.value.reason.startswith(f"the ledger {path} cannot be used: ")
    assert "owner, mode" in refused.value.hint
    assert whole(path, saved)
    assert save(path) == saved + 1


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_bell_does_not_keep_a_reactors_thread_while_another_process_writes(path):
    """The reactor has ten threads for all bells, and a writer that hangs must not take them."""
    with Ledger(path) as ledger:
        begin(ledger)
    command = [sys.executable, "-c", HOLD, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as writer:
        assert writer.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(LedgerError, match="locked"):
            pump.notify({}, "0815", "store-0815", ready=False)
        # About a second; every other writer waits ten.
        assert time.monotonic() - began < 5
        writer.stdin.close()
    assert pump.notify({}, "0815", "store-0815", ready=False)
    with Ledger(path) as ledger:
        assert {bell.name for bell in ledger.rung()} == {"0815", "store-0815"}


# Backup and restore


@pytest.fixture
def commands(tmp_path):
    """The README's commands for the backup and for the restore, one shell script each."""
    chapter = pages.chapter("The ledger")
    blocks = re.findall(r"(?m)(?:^    .*\n)+", chapter)
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "salt-run"):
        # The master is not part of this test; what is called is noted.
        stub = tmp_path / "bin" / name
        stub.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n')
        stub.chmod(0o755)

    def run(script):
        script = script.replace("/var/backups", str(tmp_path))
        done = subprocess.run(
            ["bash", "-euc", f"PATH={tmp_path}/bin:$PATH\n{script}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return [lambda block=block: run(block) for block in blocks]


@pytest.fixture
def path():
    """The ledger at its usual place, on the private machine."""
    path = settings.ledger_path({})

    def removed():
        for file in path.parent.glob("ledger.sqlite*"):
            file.unlink()

    # A doctor that was told no folder of its own has looked here.
    removed()
    yield path
    removed()


def test_a_ledger_is_backed_up_while_it_is_used_and_restored_as_the_readme_says(
    path, commands, tmp_path
):
    backup, restore, _adopt = commands
    with Ledger(path) as ledger:
        begin(ledger)
        save(path)
        # What is still in the log of writes only has to be in the backup, too.
        assert path.with_name("ledger.sqlite-wal").stat().st_size
        backup()
    assert save(path) == 2
    path.write_bytes(b"garbage" * 999)
    restore()
    assert whole(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.owner() == path.parent.owner()
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [
        "systemctl stop salt-master",
        "systemctl start salt-master",
        "salt-run deploy.doctor",
    ]
    backup()
    assert save(path) == 2


@pytest.mark.parametrize("at", ["the beginning", "a page that nothing reads at first"])
def test_a_damage_that_the_doctor_names_is_mended_as_the_readme_says(path, commands, at):
    backup, restore, _adopt = commands
    with Ledger(path) as ledger:
        for n in range(200):
            spec = from_pillar({**STORE, "store": f"s{n}"}, "hv")
            requests.begin(ledger, 1.0, spec, "hv", "test")
    backup()
    with path.open("r+b") as file:
        file.seek(0 if at == "the beginning" else path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    opts = {"user": path.parent.owner()}
    ((fault, mend),) = doctor._state_dir(opts)
    assert fault.startswith(f"the ledger {path} ")
    # The commands are of this chapter.
    assert "docs/recover.md, The ledger" in mend
    restore()
    assert list(doctor._state_dir(opts)) == []
    with Ledger(path) as ledger:
        assert len(ledger.all()) == 200
