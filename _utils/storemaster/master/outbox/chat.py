# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Chat rooms, by the incoming webhook that Slack, Mattermost, Rocket.Chat and others have.

They all take a JSON document with ``text``. Salt 3008 has no module for any but Slack, and its
URL is a secret, which must not stand in the settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from storelib.errors import Refused
from storemaster.deployment import receivers
from storemaster.deployment.outbox import Notice
from storemaster.deployment.receivers import Receiver
from storemaster.master import credentials
from storemaster.master.outbox import connecting

MOST = 3500
"""Characters of a message: what the rooms take."""


def send(opts: dict, receiver: Receiver, notices: Sequence[Notice]) -> None:
    """Say all of them in one message."""
    lines: list[str] = []
    for number, notice in enumerate(notices):
        line = connecting.sentence(notice)
        if sum(map(len, lines)) + len(lines) + len(line) > MOST:
            lines.append(f"and {len(notices) - number} more: salt-run deploy.list")
            break
        lines.append(line)
    connecting.post(
        _url(opts, receiver), {"text": "\n".join(lines)}, {}, receiver.told.get("ca_file")
    )


def _url(opts: dict, receiver: Receiver) -> str:
    where = f"store_deploy:outbox:{receiver.name}"
    url = credentials.read(opts, receiver.told, "chat", "the room's URL", where)
    allowed = receivers.KEYS["webhook"]["webhook"]
    if allowed.fault("chat", url):
        raise Refused(f"{where} names no URL of a room", f"allowed: {allowed.allowed}")
    return url


def check(opts: dict, receiver: Receiver) -> None:
    """Raise :class:`Refused` if its URL or its CA cannot be used."""
    _url(opts, receiver)
    connecting.trust(receiver.told.get("ca_file"))
