# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a running master has on a private machine, for commands that look for it."""

import contextlib
import os
import pathlib
import pwd
import socket

BUS = pathlib.Path("/run/salt/master/master_event_pub.ipc")
CACHE = pathlib.Path("/var/cache/salt")


@contextlib.contextmanager
def listening(user):
    """Have the socket of a master that runs as ``user``, and the folders that it makes."""
    owner = pwd.getpwnam(user)
    # salt-run of 3008 wants the proc folder, which only a busy master makes.
    (CACHE / "master/proc").mkdir(parents=True, exist_ok=True)
    BUS.parent.mkdir(parents=True, exist_ok=True)
    for path in (BUS.parents[1], BUS.parent, *CACHE.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(BUS))
        opened.listen(100)
        BUS.chmod(0o777)
        yield
