# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Uyuni's API, by XML-RPC over verified TLS.

Of the two ways in this is the one whose arguments are told by their position: it does not depend on
the names that Uyuni's parameters have. Written from its API pages and sources (uyuni-docs-api
eb37522); a server of our own that speaks as they say is what the tests call.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

from storelib.errors import Refused, StoreDeployError
from storemaster.master import credentials, settings

TIMEOUT_S = 30
"""How long Uyuni may take for one answer."""

PAUSES_S = (1, 3)
"""How long is waited before the next try, where no answer came."""

BUSY = (429, 500, 502, 503, 504)
"""HTTP's words for a server that is there and cannot answer now."""

UNHANDLED = -1
"""The fault for whatever goes wrong there, a database that is away, say; and for wrong calls."""

WRONG_CALL = re.compile(r"method|session|argument|param", re.IGNORECASE)

EXISTS = 1100
"""The fault of ``system.createSystemProfile`` for a name or address that is known."""


class Away(StoreDeployError):
    """Uyuni did not answer; it may, later."""


class Denied(StoreDeployError):
    """Uyuni answered with a fault."""

    def __init__(self, reason: str, hint: str = "", code: int = 0) -> None:
        super().__init__(reason, hint)
        self.code = code


class Session:
    """A user who is logged in, and logged in again where the session is over."""

    def __init__(self, url: str, user: str, password: str, ca_file: str | None = None) -> None:
        self._url, self._user, self._password = url, user, password
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as err:
            raise Refused(
                f"the CA for Uyuni cannot be read from {ca_file}: {err}",
                "correct store_deploy:uyuni:ca_file in the master's configuration",
            ) from err
        self._proxy = xmlrpc.client.ServerProxy(
            url, transport=_Transport(context), use_builtin_types=True
        )
        self._key = ""

    def call(self, name: str, *arguments: Any) -> Any:
        """
        Call a method, such as ``system.getId``, and return its answer.

        Raises :class:`Away` if none comes, :class:`Denied` with the fault that comes.
        """
        fresh = not self._key
        if fresh:
            self._key = self._asked("auth.login", self._user, self._password)
        try:
            return self._asked(name, self._key, *arguments)
        except Denied as err:
            if fresh or "session" not in err.reason.lower():
                raise
            self._key = ""
        return self.call(name, *arguments)

    def close(self) -> None:
        """Log out, if Uyuni is there to be told."""
        if self._key:
            with contextlib.suppress(StoreDeployError):
                self._asked("auth.logout", self._key, once=True)
        self._proxy("close")()

    def _asked(self, name: str, *arguments: Any, once: bool = False) -> Any:
        for pause in (*(() if once else PAUSES_S), None):
            try:
                return getattr(self._proxy, name)(*arguments)
            except xmlrpc.client.Fault as err:
                if err.faultCode == UNHANDLED and not WRONG_CALL.search(err.faultString):
                    raise Away(
                        f"Uyuni cannot do {name} now: {err.faultString}", "see its own log"
                    ) from None
                raise Denied(
                    f"Uyuni refuses {name}: {err.faultString} ({err.faultCode})",
                    f"see to it there, or to what store_deploy:uyuni says (user {self._user})",
                    err.faultCode,
                ) from None
            except ssl.SSLCertVerificationError as err:
                raise Denied(
                    f"the certificate of {self._url} is not to be trusted: {err.verify_message}",
                    "name its CA: store_deploy:uyuni:ca_file in the master's configuration",
                ) from None
            except xmlrpc.client.ProtocolError as err:
                why = f"HTTP {err.errcode} {err.errmsg}"
                if err.errcode not in BUSY:
                    raise Denied(
                        f"{self._url} does not speak as Uyuni's API does: {why}",
                        "correct store_deploy:uyuni:url: https://HOST/rpc/api",
                    ) from None
            except (OSError, http.client.HTTPException, xmlrpc.client.ResponseError) as err:
                why = str(err) or type(err).__name__
            except (xml.parsers.expat.ExpatError, ValueError) as err:
                why = f"no XML ({err})"
            if pause is not None:
                time.sleep(pause)
        raise Away(f"Uyuni does not answer {name}: {why}", f"is {self._url} up? It is asked again")


class _Transport(xmlrpc.client.SafeTransport):
    """With a time limit, which the library's own lacks."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(use_builtin_types=True, context=context)

    def make_connection(self, host: Any) -> http.client.HTTPSConnection:
        connection = super().make_connection(host)
        connection.timeout = TIMEOUT_S
        return connection


@contextlib.contextmanager
def session(opts: dict) -> Iterator[Session]:
    """
    Log in as the settings say; log out in the end.

    Raises :class:`Refused` if they say nothing.
    """
    told = settings.uyuni(opts)
    where = "store_deploy:uyuni"
    password = credentials.read(opts, told, "password", "the password for Uyuni", where)
    opened = Session(told["url"], told["user"], password, told.get("ca_file"))
    try:
        yield opened
    finally:
        opened.close()
