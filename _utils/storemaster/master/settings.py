# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The master's settings of this product: the mapping ``store_deploy`` in its configuration."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from storelib import files
from storelib.errors import Refused
from storemaster.deployment import naming, receivers
from storemaster.deployment.approvals import ACTS
from storemaster.deployment.formats import MINION_ID
from storemaster.master import config_files
from storemaster.master.config_files import RESTART

STATE_DIR = "/var/lib/salt/store-deploy"
MAX_ACTIVE = 50


class Setting(NamedTuple):
    """What a setting may be; ``None`` leaves it at its default."""

    good: Callable[[object], bool]
    allowed: str


class Parts(NamedTuple):
    """What a setting of many parts may be."""

    faults: Callable[[object], Iterable[str]]
    """Tells what is wrong in a value, a sentence each."""


def _is_template(value: object) -> bool:
    filled = value.replace("{store}", "0") if isinstance(value, str) else ""
    return filled != value and bool(MINION_ID.fullmatch(filled))


UYUNI = ("url", "user", "password_file", "password", "ca_file")


def _is_uyuni(value: object) -> bool:
    if not isinstance(value, dict) or not set(value) <= set(UYUNI):
        return False
    texts = all(isinstance(each, str) and each.isprintable() for each in value.values())
    once = ("password" in value) != ("password_file" in value)
    return (
        texts
        and once
        # Without a user in it, for it is told in reasons and logs.
        and bool(re.fullmatch(r"https://[^/@?#\s]+(/[^@?#\s]*)?", value.get("url", "")))
        and bool(value.get("user"))
        # Never the password itself, which the whole configuration would show.
        and value.get("password", "sdb://").startswith("sdb://")
        and all(value.get(key, "/").startswith("/") for key in ("password_file", "ca_file"))
    )


ROLES = ("viewer", "operator", "owner")


def _are_roles(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(user, str) and _is_role({"role": told} if isinstance(told, str) else told)
        for user, told in value.items()
    )


def _is_role(told: object) -> bool:
    if not isinstance(told, dict) or not {"role"} <= set(told) <= {"role", "groups", "stores"}:
        return False
    groups, stores = told.get("groups", []), told.get("stores", "")
    if not isinstance(groups, list) or not all(isinstance(each, str) for each in groups):
        return False
    try:
        re.compile(stores)
    except (re.error, TypeError):
        return False
    return told["role"] in ROLES


SETTINGS: dict[str, Setting | Parts] = {
    "dns": Parts(naming.faults),
    "hypervisor_id": Setting(_is_template, "a minion ID with {store} in it, such as hv-{store}"),
    "max_active": Setting(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
        "a whole number, 1 or more",
    ),
    "outbox": Parts(receivers.faults),
    "roles": Setting(
        _are_roles,
        f"a mapping of users, or of this machine's groups with a % behind, to {' | '.join(ROLES)}, "
        "or to a mapping of role, with groups (a list of names) or stores (a regular expression of "
        "whole IDs) if you like",
    ),
    "state_dir": Setting(lambda v: isinstance(v, str) and v.startswith("/"), "an absolute path"),
    "two_persons": Setting(
        lambda v: isinstance(v, list) and all(isinstance(each, str) and each in ACTS for each in v),
        f"a list of {' | '.join(ACTS)}",
    ),
    "uyuni": Setting(
        _is_uyuni,
        "a mapping of url (https://HOST/rpc/api), user, and password_file (an absolute path) or "
        "password (an sdb:// URI), with ca_file (an absolute path) if you like",
    ),
}


def faults(opts: dict) -> Iterator[tuple[str, str]]:
    """Find what is wrong with the settings, and how to mend each."""
    yield from wrong(opts).values()


def wrong(opts: dict) -> dict[str, tuple[str, str]]:
    """Return fault and mend of each setting that is wrong; at ``store_deploy`` that of them all."""
    return {key: (fault, _mend(opts, key)) for key, fault in _wrong(opts).items()}


def _wrong(opts: dict) -> dict[str, str]:
    ours = opts.get("store_deploy")
    if ours is not None and not isinstance(ours, dict):
        return {"store_deploy": f"store_deploy is {ours!r}, allowed: a mapping of settings"}
    found = {}
    for key, value in (ours or {}).items():
        if key not in SETTINGS:
            found[str(key)] = f"store_deploy: {key} is no setting, allowed: {', '.join(SETTINGS)}"
        elif value is not None and (fault := _fault(key, value)):
            found[key] = f"store_deploy: {key}{fault}"
    return found


def _fault(key: str, value: object) -> str:
    """Return how a sentence goes on that says what is wrong with a value; empty if nothing is."""
    setting = SETTINGS[key]
    if isinstance(setting, Parts):
        told = "; ".join(setting.faults(value))
        return f": {told}" if told else ""
    if setting.good(value):
        return ""
    # It may have a password in the wrong place.
    shown = "wrong" if key == "uyuni" else repr(value)
    return f" is {shown}, allowed: {setting.allowed}"


def _mend(opts: dict, key: str) -> str:
    """Name the file that says it: a site may have its settings in one of its own."""
    whole = key == "store_deploy"
    path = config_files.having(opts, "store_deploy", "" if whole else key)
    where = path or "the file of the master's configuration that has it"
    if whole:
        return f"write store_deploy as a mapping in {where}; {RESTART}"
    act = f"correct {key}" if key in SETTINGS else f"remove {key} from what is"
    return f"{act} under store_deploy in {where}; {RESTART}"


def check(opts: dict, *keys: str) -> None:
    """Raise :class:`Refused` if one of these settings is wrong."""
    found = _wrong(opts)
    for key in ("store_deploy", *keys):
        if key in found:
            raise Refused(found[key], _mend(opts, key))


def state_dir(opts: dict) -> Path:
    """
    Return the folder of the ledger and the locks.

    Raises :class:`Refused` if the setting is wrong: an empty ledger in the default's place would
    know none of the stores.
    """
    check(opts, "state_dir")
    return Path(_settings(opts).get("state_dir") or STATE_DIR)


def ledger_path(opts: dict) -> Path:
    """Return the ledger's path."""
    return state_dir(opts) / "ledger.sqlite"


def root_secret(opts: dict) -> bytes:
    """Return the master's own secret, from which those of the minions are derived."""
    path = state_dir(opts) / "secret"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".secret.{os.getpid()}.{threading.get_ident()}")
        files.replace(temporary, secrets.token_bytes(32), 0o600)
        # Whoever is first makes it; it is never replaced.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
        files.sync(path.parent)
    return path.read_bytes()


def max_active(opts: dict) -> int:
    """Return how many deployments may be under way at once; the default if that is wrong."""
    usable = "max_active" not in _wrong(opts)
    return int((usable and _settings(opts).get("max_active")) or MAX_ACTIVE)


def hypervisor_id(opts: dict, store: str) -> str | None:
    """Return the minion ID that the template ``hypervisor_id`` makes of a store ID."""
    check(opts, "hypervisor_id")
    template = _settings(opts).get("hypervisor_id")
    return str(template).replace("{store}", store) if template else None


def roles(opts: dict) -> dict | None:
    """Return what is told of users, ``None`` if nothing; raise :class:`Refused` if it is wrong."""
    check(opts, "roles")
    told: dict | None = _settings(opts).get("roles")
    return told


def outbox(opts: dict) -> list[receivers.Receiver]:
    """Return who is told of changes; raise :class:`Refused` if that is wrong."""
    check(opts, "outbox", "dns")
    return usable_receivers(opts)


def usable_receivers(opts: dict) -> list[receivers.Receiver]:
    """Return those of the receivers that are right, whatever is wrong with others."""
    told = _settings(opts).get("outbox")
    named = told if isinstance(told, dict) else {}
    right = {name: each for name, each in named.items() if not any(receivers.faults({name: each}))}
    dns = _settings(opts).get("dns")
    found = receivers.receivers(right)
    if dns is not None and not any(naming.faults(dns)):
        found.append(naming.receiver(dns))
    return found


def two_persons(opts: dict) -> list[str]:
    """Return the acts that want a second person; raise :class:`Refused` if that is wrong."""
    check(opts, "two_persons")
    return _settings(opts).get("two_persons") or []


def uyuni(opts: dict) -> dict[str, str]:
    """Return how to log in to Uyuni's API; raise :class:`Refused` if this master has none."""
    check(opts, "uyuni")
    told = dict(_settings(opts).get("uyuni") or {})
    if not told:
        raise Refused(
            "no Uyuni is known to this master",
            "write url, user and password_file under store_deploy:uyuni in its configuration",
        )
    return told


def _settings(opts: dict) -> dict:
    ours = opts.get("store_deploy")
    return ours if isinstance(ours, dict) else {}
