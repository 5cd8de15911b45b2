# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Who called a verb of the runner: what Salt has authenticated, or the user of a shell."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from pathlib import Path

from storemaster.deployment.actor import API, MASTER, REACTOR, SHELL, Actor

REACTORS_USER = "Reactor"
"""As whom Salt's reactor calls (salt/utils/reactor.py, ``event_user``)."""

LOGIN = Path("/proc/self/loginuid")
NO_LOGIN = 2**32 - 1
"""The kernel's word for a process that nobody's login has begun (proc(5), ``loginuid``)."""

LENGTH = 64


def caller(user: object) -> Actor:
    """
    Return who calls.

    user
        Salt's ``__user__`` in the runner: the one who was authenticated, by salt-api or by
        ``salt-run --auth``; such a call runs in a process of the master.
    """
    if Path(sys.argv[0]).name == "salt-run":
        return Actor(_printed(_of_shell()), SHELL)
    ways = {REACTORS_USER: REACTOR, _own(): MASTER}
    name = str(user or "")
    return Actor(_printed(_account(name)), ways.get(name, API))


def _account(name: str) -> str:
    """Return the name of an account of this machine, which a directory knows by others, too."""
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwnam(name).pw_name
    return name


def _own() -> str:
    """Return whom this process runs as: so the master's schedule calls."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _of_shell() -> str:
    """Return who has logged in, or who said sudo; root can be anybody."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        login = int(LOGIN.read_text())
        if login not in (NO_LOGIN, 0):
            return pwd.getpwuid(login).pw_name
    # By now Salt has become the master's user, whoever that is.
    return os.environ.get("SUDO_USER") or _own()


def _printed(name: str) -> str:
    """Return a name as it can be shown; another name never looks like this one."""
    shown = "".join(
        each if each.isprintable() and each != "\\" else ascii(each)[1:-1] for each in name
    )
    return shown if len(shown) <= LENGTH else f"{shown[: LENGTH - 1]}…"
