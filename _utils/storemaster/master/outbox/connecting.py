# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""Connections to receivers, which may answer slowly, wrongly or never."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from storelib.errors import Refused, StoreDeployError, one_line
from storemaster.deployment.outbox import Notice

TIMEOUT_S = 10.0
"""How long a web server may take for one notice, from first to last."""

TRUST_S = 60.0
"""How long certificate authorities are kept in memory."""

SHOWN = 80
"""Characters of another one's words that are told on."""

LATER = (401, 403, 404, 407, 408, 425, 429)
"""Answers of a web server that all notices would get."""

Wrap = Callable[[socket.socket], socket.socket]

Send = Callable[[Sequence[Notice]], None]
"""Tells a receiver; raises :class:`Undelivered`."""


class Undelivered(StoreDeployError):
    """A receiver could not be told; it may be, later."""


class Unwanted(Undelivered):
    """The receiver is there and does not take this one."""


@contextlib.contextmanager
def connected(host: str, port: int, seconds: float, wrap: Wrap) -> Iterator[socket.socket]:
    """
    Connect; whatever is done with the connection is over after that time.

    The time limit of a socket is one for each byte, so that who sends some now and then would keep
    it for ever.

    Raises :class:`Undelivered` for whatever goes wrong.
    """
    over = threading.Event()
    try:
        with socket.create_connection((host, port), seconds) as raw, raw.dup() as other:
            # The clock below is to be the one that ends it, and is told of by its name.
            raw.settimeout(2 * seconds)

            def end() -> None:
                over.set()
                with contextlib.suppress(OSError):
                    other.shutdown(socket.SHUT_RDWR)

            clock = threading.Timer(seconds, end)
            clock.daemon = True
            clock.start()
            try:
                with wrap(raw) as sock:
                    yield sock
            finally:
                clock.cancel()
    except (OSError, http.client.HTTPException, smtplib.SMTPException, ValueError) as err:
        unwanted = isinstance(err, (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError))
        why = f"{host}:{port}: {_why(err, over.is_set(), seconds)}"
        # Not as the cause: it may repeat what it was sent, a secret URL too.
        raise (Unwanted if unwanted else Undelivered)(why) from None


def _why(err: Exception, late: bool, seconds: float) -> str:
    if late or isinstance(err, TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({err.verify_message}): name its ca_file"
    if isinstance(err, http.client.RemoteDisconnected):
        return "it ended the connection without an answer"
    if isinstance(err, http.client.HTTPException):
        return f"it does not speak HTTP ({type(err).__name__})"
    if isinstance(err, smtplib.SMTPRecipientsRefused):
        told = (f"{name} ({code} {_text(why)})" for name, (code, why) in err.recipients.items())
        return f"it refuses {printable(', '.join(told))}"
    if isinstance(err, smtplib.SMTPResponseException):
        return f"it answers {err.smtp_code} {printable(_text(err.smtp_error))}"
    return printable(getattr(err, "strerror", None) or str(err) or type(err).__name__)


def _text(told: bytes | str) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else told


def printable(text: str) -> str:
    """Return another one's words as they can stand in a line of ours."""
    plain = one_line(text)
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}..."


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return what certificates are checked with; raise :class:`Refused` if it cannot be read."""
    # To read all authorities takes longer than all else of a notice; they change now and then.
    return _trusted(ca_file, int(time.monotonic() // TRUST_S))


@functools.lru_cache(maxsize=8)
def _trusted(ca_file: str | None, _: int) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as err:
        raise Refused(
            f"the CA cannot be read from {ca_file}: {err}", "correct the receiver's ca_file"
        ) from err


def post(
    url: str, body: Mapping[str, Any], headers: Mapping[str, str], ca_file: str | None
) -> None:
    """POST a JSON document; raise :class:`Undelivered` unless it is taken, by a status of 2xx."""
    send(url, json.dumps(body).encode(), headers, ca_file)


def send(url: str, body: bytes, headers: Mapping[str, str], ca_file: str | None) -> None:
    """POST what is JSON already."""
    parts = urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    context = trust(ca_file) if tls else None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def wrap(raw: socket.socket) -> socket.socket:
        return context.wrap_socket(raw, server_hostname=host) if context else raw

    with connected(host, port, TIMEOUT_S, wrap) as sock:
        connection = http.client.HTTPConnection(host, port)
        connection.default_port = 443 if tls else 80
        connection.sock = sock
        told = {"content-type": "application/json", "user-agent": "store-deploy", **headers}
        connection.request("POST", target, body, told)
        response = connection.getresponse()
        status = response.status
        connection.close()
    if 300 <= status < 400:
        raise Undelivered(
            f"{host}:{port}: it answers {status}, and redirections are not followed: name the URL "
            "that it leads to"
        )
    if not 200 <= status < 300:
        # That of them which is about what was sent, not about how often or by whom.
        unwanted = 400 <= status < 500 and status not in LATER
        answer = f"{status} {http.client.responses.get(status, '')}".rstrip()
        raise (Unwanted if unwanted else Undelivered)(f"{host}:{port}: it answers {answer}")


def sentence(notice: Notice) -> str:
    """Return what a person is told of a change."""
    change = notice.change
    by = f" by {change.actor}" if change.actor else ""
    why = f": {one_line(change.reason)}" if change.reason else ""
    came = f" (was {change.previous})" if change.previous else ""
    return f"store {change.store}: {change.state}{came}{by}{why}"
