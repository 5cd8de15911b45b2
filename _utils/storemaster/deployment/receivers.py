# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Whom the site wants told of changes, as its settings name them: ``store_deploy:outbox``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from storemaster.deployment import lifecycle
from storemaster.deployment.outbox import Notice

DNS = "dns"
"""Name and kind of the receiver that is the site's name servers."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")
SERVER = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
TLS = ("starttls", "tls", "none")


@dataclass(frozen=True)
class Receiver:
    """Somebody who is told."""

    name: str
    kind: str
    """``webhook`` | ``mail`` | ``chat`` | ``dns``."""
    told: Mapping[str, Any]
    """What the settings say."""

    def wants(self, notice: Notice) -> bool:
        """Say whether a change is one that the receiver is told."""
        states, groups = self.told.get("states"), self.told.get("groups")
        return (
            (states is None or notice.change.state in states)
            and (groups is None or notice.group in groups)
            and (self.kind != "mail" or bool(self.addresses(notice)))
        )

    def addresses(self, notice: Notice) -> tuple[str, ...]:
        """Return who gets a mail: those of the list, and who asked for the deployment."""
        asked_by = self.told.get("addresses", {}).get(notice.asked_by)
        named = [*self.told["mail"], *([asked_by] if asked_by else [])]
        return tuple(dict.fromkeys(named))


def receivers(told: Mapping[str, Any]) -> list[Receiver]:
    """Return the receivers that right settings name."""
    return [
        Receiver(name, next(kind for kind, key in FIRST.items() if set(key) & set(each)), each)
        for name, each in told.items()
    ]


class Key:
    """A key of a receiver's settings, and what it may be."""

    def __init__(self, good: Callable[[Any], bool], allowed: str, shown: bool = True) -> None:
        self.allowed = allowed
        self._good, self._shown = good, shown

    def fault(self, name: str, value: object) -> str:
        """Return what is wrong with a value; secrets are not shown."""
        try:
            if self._good(value):
                return ""
        except (AttributeError, TypeError, ValueError):
            pass
        return f"{name} is {repr(value) if self._shown else 'wrong'}, allowed: {self.allowed}"


def _is_url(value: str) -> bool:
    parts = urlsplit(value)
    # Without a user in it, for it is told in reasons and logs.
    plain = value.isascii() and value.isprintable() and " " not in value and not parts.username
    return plain and bool(parts.hostname) and parts.port != 0 and _is_safe(parts.scheme, parts)


def _is_safe(scheme: str, parts: Any) -> bool:
    if scheme == "https":
        return True
    try:
        loopback = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        loopback = parts.hostname == "localhost"
    return scheme == "http" and loopback


def _is_addresses(value: object, least: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= least
        and all(isinstance(each, str) and bool(ADDRESS.fullmatch(each)) for each in value)
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and value != []


FILE = Key(lambda v: v.startswith("/") and v.isprintable(), "an absolute path", shown=False)
SDB = Key(lambda v: v.startswith("sdb://"), "an sdb:// URI", shown=False)
STATES = Key(
    lambda v: _are_texts(v) and set(v) <= set(lifecycle.STATES),
    "a list of states of a deployment",
)
GROUPS = Key(_are_texts, "a list of groups")

COMMON = {"states": STATES, "groups": GROUPS}
KEYS: dict[str, dict[str, Key]] = {
    "webhook": {
        "webhook": Key(
            _is_url, "https://HOST/PATH without a user in it (http only to this machine)", False
        ),
        "secret_file": FILE,
        "secret": SDB,
        "ca_file": FILE,
    },
    "mail": {
        "mail": Key(lambda v: _is_addresses(v, 0), "a list of mail addresses"),
        "addresses": Key(
            lambda v: _is_addresses(list(v.values()), 1) and all(isinstance(k, str) for k in v),
            "a mapping of users to mail addresses",
        ),
        "server": Key(
            lambda v: bool(SERVER.fullmatch(v)) and urlsplit(f"//{v}").port != 0,
            "HOST or HOST:PORT",
            shown=False,
        ),
        "sender": Key(lambda v: bool(ADDRESS.fullmatch(v)), "a mail address"),
        "tls": Key(lambda v: v in TLS, " | ".join(TLS)),
        "user": Key(lambda v: v.isprintable() and v != "", "a user's name"),
        "password_file": FILE,
        "password": SDB,
        "ca_file": FILE,
    },
    "chat": {"chat_file": FILE, "chat": SDB, "ca_file": FILE},
}
"""What each kind may say; the first of them tells the kind."""

FIRST = {"webhook": ("webhook",), "mail": ("mail",), "chat": ("chat", "chat_file")}
NEEDED = {
    "webhook": (("webhook",), ("secret_file", "secret")),
    "mail": (("mail",), ("server",), ("sender",)),
    "chat": (("chat", "chat_file"),),
}
ONE_OF = (("secret_file", "secret"), ("password_file", "password"), ("chat_file", "chat"))


def faults(told: object) -> Iterator[str]:
    """Find what is wrong with the setting, a sentence each."""
    if not isinstance(told, Mapping):
        yield "it is no mapping of receivers by their names"
        return
    for name, each in told.items():
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            yield f"{name!r} is no name, allowed: letters, digits, . _ - (64 of them at most)"
        elif name == DNS:
            yield f"{DNS} is what store_deploy:dns is called: take another name"
        elif not isinstance(each, Mapping):
            yield f"{name} is no mapping"
        else:
            yield from (f"{name}: {fault}" for fault in _of_one(each))


def _of_one(told: Mapping[str, Any]) -> Iterator[str]:
    kinds = [kind for kind, keys in FIRST.items() if set(keys) & set(told)]
    if len(kinds) != 1:
        yield f"it needs one of {', '.join(FIRST)}"
        return
    keys = KEYS[kinds[0]] | COMMON
    for key, value in told.items():
        if key not in keys:
            yield f"{key} is no key of a {kinds[0]}, allowed: {', '.join(keys)}"
        elif fault := keys[key].fault(key, value):
            yield fault
    for names in NEEDED[kinds[0]]:
        if not set(names) & set(told):
            yield f"it needs {' or '.join(names)}"
    for names in ONE_OF:
        if set(names) <= set(told):
            yield f"it has both {' and '.join(names)}: one is enough"
    if kinds == ["mail"]:
        if not told["mail"] and not told.get("addresses"):
            yield "nobody gets its mail: it needs an address in mail or addresses"
        if ("user" in told) != bool({"password_file", "password"} & set(told)):
            yield "user and its password go together"
        if told.get("tls") == "none" and "user" in told:
            yield "with tls: none the password would be readable on its way"
