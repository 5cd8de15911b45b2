# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether salt-api is reached as it should be, and Salt's own rights are those of the roles."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from storemaster.master import config_files, settings
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault

RESTART_API = "systemctl restart salt-api"
CLIENTS = ("runner", "runner_async")
OURS = "'@runner': ['deploy.*']"
"""What ``external_auth`` is to say of a user who has a role."""


def faults(opts: dict) -> Iterator[Fault]:
    """Find an API that is open, deaf or not there, and rights that no role holds for."""
    told = opts.get("rest_cherrypy")
    if isinstance(told, Mapping):
        yield from _reached(opts, told)
    yield from _rights(opts)


def _reached(opts: dict, told: Mapping[str, Any]) -> Iterator[Fault]:
    # rest_cherrypy's own defaults
    host, port = str(told.get("host", "0.0.0.0")), int(told.get("port", 8000))
    where = config_files.having(opts, "rest_cherrypy", "") or "the master's configuration"
    if not _is_loopback(host) and (told.get("disable_ssl") or not told.get("ssl_crt")):
        yield (
            f"salt-api is open at {host}:{port}, beside any proxy and without TLS",
            f"set host to 127.0.0.1 under rest_cherrypy in {where}, or give it ssl_crt and ssl_key "
            f"instead of disable_ssl; {RESTART_API}",
        )
    enabled = opts.get("netapi_enable_clients") or []
    if missing := [each for each in CLIENTS if each not in enabled]:
        yield (
            f"salt-api refuses all calls of {' and '.join(missing)}",
            f"add {', '.join(missing)} to netapi_enable_clients; {RESTART_API}",
        )
    try:
        socket.create_connection((_address(host), port), 5).close()
    except OSError as err:
        yield (
            f"salt-api is configured, but nobody answers at {host}:{port}: {err.strerror or err}",
            f"{RESTART_API}; if it ends again, its log says why",
        )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _address(host: str) -> str:
    """Return where one who listens at this address is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _rights(opts: dict) -> Iterator[Fault]:
    """Compare what Salt lets those through to who have a role."""
    ours = opts.get("store_deploy")
    # Roles that are wrong are told of by the settings.
    if not isinstance(ours, dict) or not ours.get("roles") or "roles" in settings.wrong(opts):
        return
    given: dict[str, list[Any]] = {}
    for told in (opts.get("external_auth") or {}).values():
        for name, entries in (told or {}).items():
            # Names that begin with ^ are settings of the back end.
            if not str(name).startswith("^"):
                given.setdefault(str(name), []).extend(_list(entries))
    where = config_files.having(opts, "external_auth", "") or "the master's configuration"
    for name in ours["roles"]:
        if more := sorted({each for entry in given.get(name, []) for each in _more(entry)}):
            yield (
                f"external_auth gives {name} more than the verbs, and no role holds for that: "
                f"{', '.join(more)}",
                f"leave {name} {OURS} alone in {where}; {RESTART}",
            )
    # Others may stand for many: everybody, or a query of a directory.
    if any(name == "*" or "(" in name for name in given):
        return
    if outside := [name for name in ours["roles"] if name not in given]:
        yield (
            f"external_auth lets {', '.join(outside)} through nowhere, so that a role is of no use",
            f"give {', '.join(outside)} {OURS} under external_auth in {where}; {RESTART}",
        )


def _more(entry: object) -> list[str]:
    """Return what an entry of ``external_auth`` gives beside verbs of ours."""
    if entry == "@deploy":
        return []
    if not isinstance(entry, Mapping):
        return [str(entry)]
    more = []
    for target, functions in entry.items():
        # With their arguments they are mappings.
        named = [name for each in _list(functions) for name in _list_of(each)]
        if target in ("@runner", "@runners"):
            more += [f"{target} {name}" for name in named if not name.startswith("deploy.")]
        elif target != "@deploy":
            more.append(str(target))
    return more


def _list_of(function: object) -> list[str]:
    return [str(name) for name in (function if isinstance(function, Mapping) else [function])]


def _list(told: object) -> list[Any]:
    return told if isinstance(told, list) else [told]
