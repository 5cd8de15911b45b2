#!/usr/bin/env python3
# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
The lab: a real master, a real hypervisor minion and libvirt on a private machine.

    lab up [--salt 3008|3006] [--user root|salt] [--image FILE|none]
    lab minion ID                   one more hypervisor minion
    lab status | logs | down
    lab image                       build the store's image if needed, and print its path
    lab salt ... | salt-run ... | salt-call ... | salt-key ... | virsh ...
    lab sh [COMMAND]                a shell on that machine, or one command line in it

salt-call speaks as hv-0815. STORE_DEPLOY_LAB names the lab's folder: several can live side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[2]
HERE = REPO / "tests" / "lab"
HYPERVISOR = "hv-0815"
IMAGE = "images/store-server.qcow2"
FILE_ROOT = "srv/lab/salt"


class LabError(Exception):
    """The lab cannot do what it was asked for; the text says why."""


class Lab:
    """One lab, in one folder."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        folder = folder or os.environ.get("STORE_DEPLOY_LAB") or "/var/tmp/store-deploy-lab"
        self.folder = Path(folder).absolute()
        self.root = self.folder / "machine"
        """What the machine keeps on disk: /etc/salt there is etc/salt here."""

    # The state file tells later calls which machine to enter.

    @property
    def state(self) -> dict[str, Any]:
        """Of a running lab: salt, user, venv, ready, pid of its first process; otherwise empty."""
        try:
            state = json.loads((self.folder / "state.json").read_text())
            cmdline = Path(f"/proc/{state['pid']}/cmdline").read_text().split("\0")
        except FileNotFoundError:
            return {}
        return state if str(self.root) in cmdline else {}

    def _remember(self, **state: Any) -> None:
        (self.folder / "state.json").write_text(json.dumps({**self.state, **state}))

    # Commands on the machine.

    def command(self, *argv: str) -> list[str]:
        """The command that runs ``argv`` on the machine, with the lab's Salt first in its PATH."""
        state = self.state
        if not state:
            raise LabError(f"there is no lab in {self.folder}: start it with `lab up`")
        enter = ["nsenter", f"--target={state['pid']}", "--all"]
        return [*enter, "env", f"PATH={state['venv']}/bin:{os.environ['PATH']}", *argv]

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on the machine and return what came of it, output included."""
        return subprocess.run(
            self.command(*argv), **{"text": True, "capture_output": True, "check": False, **options}
        )

    def start(self, *argv: str) -> None:
        """Start a daemon that goes into the background by itself."""
        # Not to a pipe: a daemon would keep it open.
        with (self.folder / "machine.log").open("a") as log:
            done = self.run(
                *argv, capture_output=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if done.returncode:
            raise LabError(f"{argv[0]} ended with {done.returncode}{self._tail('machine.log')}")

    def _holds(self, *argv: str) -> bool:
        return self.run(*argv).returncode == 0

    def _wait(self, what: str, fact: Callable[[], bool], seconds: float, log: str) -> None:
        start = time.monotonic()
        while not fact():
            if time.monotonic() > start + seconds:
                raise LabError(f"not within {seconds} s: {what}{self._tail(log)}")
            time.sleep(0.2)
        say(f"{what} ({time.monotonic() - start:.1f} s)")

    def _tail(self, log: str) -> str:
        path = self.folder / log
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(["", f"the end of {path}:", *lines[-20:]])

    # Up and down.

    def up(self, salt: str, user: str, image: str | None) -> None:
        """Start what does not run yet, and return when all of it answers."""
        state = self.state
        if state.get("ready"):
            if (state["salt"], state["user"]) != (salt, user):
                raise LabError(
                    f"the lab runs Salt {state['salt']} as {state['user']}: `lab down` first"
                )
            say("the lab is up")
            return
        self.down()
        try:
            self._boot(salt, user)
            self._prepare(user, built_image(salt) if image is None else image)
            self.start("virtlogd", "-d")
            self.start("libvirtd", "-d")
            self.start("salt-master", "-d")
            self._wait(
                "libvirt answers", lambda: self._holds("virsh", "version"), 30, "machine.log"
            )
            port = "exec 3<>/dev/tcp/127.0.0.1/4506"
            self._wait(
                "the master listens",
                lambda: self._holds("bash", "-c", port),
                60,
                "machine/var/log/salt/master",
            )
            self.minion(HYPERVISOR)
            self._remember(ready=True)
        except BaseException:
            with contextlib.suppress(LabError):
                self.down()
            raise

    def down(self) -> None:
        """End every process of the lab and remove its folder."""
        with contextlib.suppress(KeyError, ProcessLookupError):
            pid = self.state["pid"]
            # The first process takes the machine's others with it, mounts and network too.
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.05)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _boot(self, salt: str, user: str) -> None:
        venv = output(HERE / "install", salt)
        self.folder.mkdir(parents=True)
        with (self.folder / "machine.log").open("w") as log:
            machine = subprocess.Popen(
                [
                    HERE / "machine",
                    self.root,
                    "sh",
                    "-c",
                    "echo up; exec sleep infinity >/dev/null",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert machine.stdout
        if machine.stdout.readline() != b"up\n":
            raise LabError(f"the machine does not start{self._tail('machine.log')}")
        children = Path(f"/proc/{machine.pid}/task/{machine.pid}/children")
        self._remember(pid=int(children.read_text()), salt=salt, user=user, venv=venv, ready=False)

    def _prepare(self, user: str, image: str) -> None:
        shutil.copytree(HERE / "root", self.root, dirs_exist_ok=True)
        etc = self.root / "etc" / "salt"
        (etc / "master.d").symlink_to("/srv/store-deploy/master.d")
        (etc / "lab.d" / "user.conf").write_text(f"user: {user}\n")
        checksum = "5e" * 32  # of nothing
        if image != "none":
            link = self.root / FILE_ROOT / IMAGE
            link.parent.mkdir()
            link.symlink_to(Path(image).resolve(strict=True))
            checksum = Path(f"{image}.sha256").read_text().split()[0]
        store = {"store_server": {"image": {"source": f"salt://{IMAGE}", "sha256": checksum}}}
        (etc / "lab-pillar" / "image.sls").write_text(json.dumps(store))
        # salt-run of 3008 wants the master's proc folder, which only a busy master makes.
        pki, cache = "/etc/salt/pki/master", "/var/cache/salt/master"
        self.start("mkdir", "-p", f"{pki}/minions", f"{cache}/proc")
        self.start("chown", "-R", f"{user}:{user}", pki, cache, "/var/lib/salt", "/var/log/salt")

    def minion(self, minion_id: str) -> None:
        """Start a hypervisor minion whose key the master already has, and wait for its answer."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", minion_id):
            raise LabError(f"{minion_id!r} is no minion ID for the lab: letters, digits, . and -")
        home = "/" if minion_id == HYPERVISOR else f"/srv/minions/{minion_id}"
        config = self.root / home[1:] / "etc" / "salt"
        pki = config / "pki" / "minion"
        if not pki.exists():
            pki.mkdir(parents=True)
            template = (HERE / "root/etc/salt/minion").read_text()
            (config / "minion").write_text(f"{template}id: {minion_id}\nroot_dir: {home}\n")
            pem, pub = pki / "minion.pem", pki / "minion.pub"
            output(
                "openssl",
                "genpkey",
                "-quiet",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
                pem,
            )
            pem.chmod(0o400)
            output("openssl", "pkey", "-in", pem, "-pubout", "-out", pub)
            accepted = self.root / "etc/salt/pki/master/minions"
            shutil.copy(pub, accepted / minion_id)
            shutil.chown(accepted / minion_id, accepted.stat().st_uid)
            self.start("salt-minion", "-d", "-c", f"{home}/etc/salt")
        ping = ["salt", "--timeout=3", "--out=raw", minion_id, "test.ping"]
        pong = str({minion_id: True})
        self._wait(
            f"{minion_id} answers",
            lambda: self.run(*ping).stdout.strip() == pong,
            180,
            f"machine{home.rstrip('/')}/var/log/salt/minion",
        )

    def status(self) -> bool:
        """Print what runs; tell whether all of it answers."""
        state = self.state
        if not state:
            print(f"there is no lab in {self.folder}")
            return False
        print(f"lab: {self.folder}, Salt {state['salt']}, master as {state['user']}", flush=True)
        checks = [("salt", "--timeout=3", "*", "test.ping"), ("virsh", "list", "--all")]
        return all([self.run(*check, capture_output=False).returncode == 0 for check in checks])


def say(text: str) -> None:
    """Tell the person at the terminal how it goes."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def output(*argv: str | Path) -> str:
    """Run a command of this machine that has to succeed, and return what it printed."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LabError(f"{argv[0]} ended with {done.returncode}")
    return done.stdout.strip()


def built_image(salt: str) -> str:
    """The image of a Salt line, built if there is none of what is in the checkout."""
    requirements = (REPO / "tests" / f"requirements-{salt}.txt").read_text()
    version = re.search(r"^salt==(.+)$", requirements, re.MULTILINE)
    assert version
    return output(REPO / "kiwi" / "build", "--salt", version[1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    line = argparse.ArgumentParser(add_help=False)
    line.add_argument("--salt", choices=["3008", "3006"], default=os.environ.get("SALT", "3008"))
    up = verbs.add_parser("up", parents=[line])
    up.add_argument("--user", choices=["root", "salt"], default="root", help="of the master")
    up.add_argument("--image", help="of the store; default: the one that kiwi/build makes")
    verbs.add_parser("image", parents=[line])
    for verb in ("down", "status", "logs"):
        verbs.add_parser(verb)
    verbs.add_parser("minion").add_argument("id")
    return parser.parse_args()


def become(argv: list[str]) -> NoReturn:
    os.execvp(argv[0], argv)


def main() -> int:
    """Do what the command line says."""
    lab = Lab()
    verb, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    try:
        if verb.startswith("salt") or verb == "virsh":
            become(lab.command(verb, *rest))
        if verb == "sh":
            become(
                lab.command(
                    *(rest if len(rest) > 1 else ["bash", *(["-c", *rest] if rest else [])])
                )
            )
        args = arguments()
        if verb == "up":
            lab.up(args.salt, args.user, args.image)
        elif verb == "minion":
            lab.minion(args.id)
        elif verb == "image":
            print(built_image(args.salt))
        elif verb == "status":
            return 0 if lab.status() else 1
        elif verb == "logs":
            logs = [path for path in lab.folder.glob("machine/var/log/**/*") if path.is_file()]
            become(["tail", "--lines=30", str(lab.folder / "machine.log"), *map(str, sorted(logs))])
        else:
            lab.down()
    except LabError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
