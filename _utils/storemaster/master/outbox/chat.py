# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Chat rooms, by the incoming webhook that Slack, Mattermost, Rocket.Chat and others have.

They all take a JSON document with ``text``. Salt 3008 has no module for any but Slack, and its
URL is a secret, which must not stand in the settings.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from storelib.errors import Refused
from storemaster.deployment import receivers
from storemaster.deployment.outbox import Notice
from storemaster.deployment.receivers import Receiver
from storemaster.master import credentials
from storemaster.master.outbox import connecting
from storemaster.master.outbox.connecting import Send

MOST = 3500
"""Characters of a message: what the rooms take."""


def sender(opts: dict, receiver: Receiver) -> Send:
    """
    Return what says notices, all of them in one message.

    Raises :class:`Refused` if the URL or the CA cannot be used.
    """
    url, ca_file = _url(opts, receiver), receiver.told.get("ca_file")
    connecting.trust(ca_file)

    def send(notices: Sequence[Notice]) -> None:
        connecting.post(url, {"text": text(notices)}, {}, ca_file)

    return send


def text(notices: Sequence[Notice]) -> str:
    """Return a message; what does not go into it is counted."""
    lines: list[str] = []
    for number, notice in enumerate(notices):
        # What others wrote calls nobody and leads nowhere: docs.slack.dev, Escaping text.
        line = html.escape(connecting.sentence(notice), quote=False)
        if sum(map(len, lines)) + len(lines) + len(line) > MOST:
            lines.append(f"and {len(notices) - number} more changes")
            break
        lines.append(line)
    return "\n".join(lines)


def _url(opts: dict, receiver: Receiver) -> str:
    where = f"store_deploy:outbox:{receiver.name}"
    url = credentials.read(opts, receiver.told, "chat", "the room's URL", where)
    allowed = receivers.KEYS["webhook"]["webhook"]
    if allowed.fault("chat", url):
        raise Refused(f"{where} names no URL of a room", f"allowed: {allowed.allowed}")
    return url
