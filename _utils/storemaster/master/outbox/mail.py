# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Mail, one for all notices of a minute.

By Python's own smtplib: Salt 3008 has no module for it any more, and that of 3006 checks no
certificate and has no time limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import smtplib
import socket
import time
from collections import Counter
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime
from urllib.parse import urlsplit

from storelib import commands
from storelib.errors import Refused
from storemaster.deployment.outbox import Notice
from storemaster.deployment.receivers import Receiver
from storemaster.master import credentials
from storemaster.master.outbox import connecting
from storemaster.master.outbox.connecting import Send

log = logging.getLogger(__name__)

PORTS = {"starttls": 587, "tls": 465, "none": 25}


TIMEOUT_S = 180.0
"""How long a server may take for a mail: some look through it before they take it."""


def sender(opts: dict, receiver: Receiver) -> Send:
    """
    Return what sends notices in one mail; they have the same addresses.

    Raises :class:`Refused` if the password or the CA cannot be used.
    """
    told = receiver.told
    parts = urlsplit(f"//{told['server']}")
    tls = told.get("tls", "starttls")
    host, port = parts.hostname or "", parts.port or PORTS[tls]
    context = connecting.trust(told.get("ca_file"))
    password = _password(opts, receiver)

    def wrap(raw: socket.socket) -> socket.socket:
        return context.wrap_socket(raw, server_hostname=host) if tls == "tls" else raw

    def send(notices: Sequence[Notice]) -> None:
        with connecting.connected(host, port, TIMEOUT_S, wrap) as sock:
            smtp = _Smtp(sock, host, port)
            if tls == "starttls":
                smtp.starttls(context=context)
            if password is not None:
                smtp.login(told["user"], password)
            refused = smtp.send_message(message(receiver, notices))
            # It was taken: what comes after that must not send it again.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()
        # The others have it, and would get it twice.
        for address, (code, why) in refused.items():
            words = connecting.printable(why.decode(errors="replace"))
            log.error("%s: %s refuses %s: %s %s", receiver.name, host, address, code, words)

    return send


class _Smtp(smtplib.SMTP):
    """On a connection that is there already."""

    def __init__(self, sock: socket.socket, host: str, port: int) -> None:
        self._ready = sock
        # Its own way to this machine's name asks a name server.
        super().__init__(host, port, local_hostname=socket.gethostname())

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        # smtplib's own hook, which its SMTP_SSL uses, too
        return self._ready


def message(receiver: Receiver, notices: Sequence[Notice]) -> EmailMessage:
    """Return the mail: at each try the same one, by its ID."""
    mail = EmailMessage(policy=SMTP)
    sender = receiver.told["sender"]
    key = hashlib.sha256("".join(each.key for each in notices).encode()).hexdigest()[:32]
    mail["From"] = sender
    mail["To"] = ", ".join(receiver.addresses(notices[0]))
    mail["Subject"] = _subject(notices)
    mail["Date"] = format_datetime(localtime())
    mail["Message-ID"] = f"<{key}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(_lines(notices)))
    return mail


def _subject(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        change = notices[0].change
        return f"store {change.store}: {change.state}"
    counts = Counter(each.change.state for each in notices)
    of_each = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    return f"{len(notices)} changes of stores: {of_each}"


def _lines(notices: Sequence[Notice]) -> list[str]:
    lines = []
    for notice in notices:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(notice.change.at))
        explain = commands.deploy("explain", notice.change.store)
        lines += [f"{at}  {connecting.sentence(notice)}", f"    {explain}"]
    return [*lines, ""]


def _password(opts: dict, receiver: Receiver) -> str | None:
    if "user" not in receiver.told:
        return None
    where = f"store_deploy:outbox:{receiver.name}"
    password = credentials.read(opts, receiver.told, "password", "the password", where)
    if not (receiver.told["user"] + password).isascii():
        raise Refused(
            f"user or password of {where} has letters beyond ASCII, which cannot be sent",
            "choose others",
        )
    return password
