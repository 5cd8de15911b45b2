# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Webhooks, signed as the Standard Webhooks specification says.

Its three headers are an ID, which is the same at each try, the time of the try, and an HMAC-SHA256
of both and of the body. Libraries in many languages check them:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence

from storelib.errors import Refused
from storemaster.deployment import transition
from storemaster.deployment.outbox import Notice
from storemaster.deployment.receivers import Receiver
from storemaster.master import credentials
from storemaster.master.outbox import connecting
from storemaster.master.outbox.connecting import Send

ENCODED = "whsec_"
"""What a secret begins with that is written in base64, as the specification has them."""

LEAST = 16
"""Bytes that a secret has at least."""


def sender(opts: dict, receiver: Receiver) -> Send:
    """
    Return what POSTs notices, one at a time.

    Raises :class:`Refused` if the secret or the CA cannot be used.
    """
    told, shared = receiver.told, secret(opts, receiver)
    connecting.trust(told.get("ca_file"))

    def send(notices: Sequence[Notice]) -> None:
        for notice in notices:
            body = json.dumps(transition.event(notice.change)).encode()
            headers = signed(shared, notice.key, int(time.time()), body)
            connecting.send(told["webhook"], body, headers, told.get("ca_file"))

    return send


def signed(secret: bytes, key: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers with which a receiver tells that it is from us, new, and unchanged."""
    digest = hmac.new(secret, f"{key}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": key,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "idempotency-key": key,
    }


def secret(opts: dict, receiver: Receiver) -> bytes:
    """Return the secret that the receiver shares; raise :class:`Refused` if it is none."""
    where = f"store_deploy:outbox:{receiver.name}"
    text = credentials.read(opts, receiver.told, "secret", "the secret", where)
    try:
        encoded = text.removeprefix(ENCODED)
        found = text.encode() if encoded == text else base64.b64decode(encoded, validate=True)
    except ValueError:
        found = b""
    if len(found) < LEAST:
        raise Refused(
            f"the secret of {where} is none: it has {len(found)} bytes",
            f"allowed: {LEAST} or more; {ENCODED} before what openssl rand -base64 32 says is fine",
        )
    return found
