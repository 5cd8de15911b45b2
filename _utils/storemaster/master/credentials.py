# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Secrets that the settings name: in a file that nobody else reads, or where Salt's sdb has one."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import salt.utils.sdb

from storelib.errors import Refused


def read(opts: dict, told: Mapping[str, Any], key: str, what: str, where: str) -> str:
    """
    Return a secret.

    told, key
        The settings that name it, as ``key`` (an ``sdb://`` URI) or ``key_file``.
    what
        The secret of a sentence, such as ``the password for Uyuni``.
    where
        Name of these settings, such as ``store_deploy:uyuni``.

    Raises :class:`Refused` if it cannot be had, or if others may read it.
    """
    if uri := told.get(key):
        secret = salt.utils.sdb.sdb_get(uri, opts)
        if not isinstance(secret, str) or secret == uri:
            raise Refused(f"{uri} has no {key}", f"correct {where}:{key}")
        return secret
    path = Path(told[f"{key}_file"])
    try:
        with path.open() as file:
            there = os.fstat(file.fileno())
            if stat.S_IMODE(there.st_mode) & 0o077:
                raise Refused(f"others may read {path}", f"chmod 600 {path}")
            if there.st_uid not in (os.geteuid(), 0):
                owner = opts.get("user", "root")
                raise Refused(f"{path} is somebody else's", f"chown {owner} {path}")
            return file.read().rstrip("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise Refused(
            f"{what} cannot be read: {err}",
            f"write it into {path}, owned by {opts.get('user', 'the master')}, mode 0600",
        ) from err
