# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether salt-api is reached as it should be, and Salt's own rights are those of the roles."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from salt.utils.stringutils import expr_match

from storemaster.master import config_files, settings
from storemaster.master.config_files import RESTART
from storemaster.master.configuration import Fault
from storemaster.master.roles import GROUP

RESTART_API = "systemctl restart salt-api"
CLIENT = "runner"
OURS = "'@runner': ['deploy.*']"
"""What ``external_auth`` is to say of a user who has a role."""


def faults(opts: dict) -> Iterator[Fault]:
    """Find an API that is open, deaf or not there, and rights that no role holds for."""
    told, roles = opts.get("rest_cherrypy"), _roles(opts)
    # Where nobody who logs in has anything to do with us, it is others' API, such as Uyuni's.
    if isinstance(told, Mapping) and (roles or "deploy" in str(opts.get("external_auth"))):
        yield from _reached(opts, told)
    if roles:
        yield from _rights(opts, roles)


def _roles(opts: dict) -> dict[str, Any]:
    """Return the roles; those that are wrong are told of by the settings."""
    ours = opts.get("store_deploy")
    if not isinstance(ours, dict) or "roles" in settings.wrong(opts):
        return {}
    return dict(ours.get("roles") or {})


def _reached(opts: dict, told: Mapping[str, Any]) -> Iterator[Fault]:
    # rest_cherrypy's own defaults
    host, port = str(told.get("host", "0.0.0.0")), told.get("port", 8000)
    where = _where(opts, "rest_cherrypy")
    if not _is_loopback(host) and (told.get("disable_ssl") or not told.get("ssl_crt")):
        yield (
            f"salt-api is open at {host}:{port}, beside any proxy and without TLS",
            f"set host to 127.0.0.1 under rest_cherrypy in {where}, or give it ssl_crt and ssl_key "
            f"instead of disable_ssl; {RESTART_API}",
        )
    if CLIENT not in _list(opts.get("netapi_enable_clients")):
        yield (
            "salt-api refuses all calls of runners",
            f"add {CLIENT} to netapi_enable_clients; {RESTART_API}",
        )
    try:
        socket.create_connection((_address(host), int(port)), 5).close()
    except (OSError, OverflowError, TypeError, ValueError) as err:
        yield (
            f"salt-api is configured, but nobody answers at {host}:{port}: "
            f"{getattr(err, 'strerror', '') or err}",
            f"see to host and port in {where}; {RESTART_API}; if it ends again, its log says why",
        )


def _where(opts: dict, key: str) -> object:
    """Name the file that says it."""
    return config_files.having(opts, key) or "the master's configuration"


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _address(host: str) -> str:
    """Return where one who listens at this address is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _rights(opts: dict, roles: Mapping[str, Any]) -> Iterator[Fault]:
    """Compare what Salt lets those through to who have a role."""
    auth = opts.get("external_auth")
    given: dict[str, list[Any]] = {}
    for told in auth.values() if isinstance(auth, Mapping) else ():
        for name, entries in told.items() if isinstance(told, Mapping) else ():
            # Names that begin with ^ are settings of the back end.
            if not str(name).startswith("^"):
                given.setdefault(str(name), []).extend(_list(entries))
    where = _where(opts, "external_auth")
    for name in roles:
        if more := sorted({each for entry in given.get(name, []) for each in _more(entry)}):
            yield (
                f"external_auth gives {name} more than the verbs, and no role holds for that: "
                f"{', '.join(more)}",
                f"leave {name} {OURS} alone in {where}; {RESTART}",
            )
    # An entry may stand for many: everybody, a query of a directory, a group of users.
    if any(name == "*" or "(" in name for name in given):
        return
    kinds = {name.endswith(GROUP) for name in given}
    outside = [
        name
        for name in roles
        if name.endswith(GROUP) not in {not kind for kind in kinds}
        and not any(expr_match(name, each) for each in given)
    ]
    if outside:
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
        named = [name for each in _list(functions) for name in _names(each)]
        if target in ("@runner", "@runners"):
            more += [f"{target} {name}" for name in named if not name.startswith("deploy.")]
        elif target != "@deploy":
            more.append(str(target))
    return more


def _names(function: object) -> list[str]:
    return [str(name) for name in (function if isinstance(function, Mapping) else [function])]


def _list(told: object) -> list[Any]:
    return told if isinstance(told, list) else [told]
