# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""
Seals: how the master knows that a report comes from the minion that it asked.

Any accepted minion can read every published job and forge every job return. What it has not got is
the secret that the asked minion shares with the master: that one reaches it in its own pillar.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any


def secret(root: bytes, minion: str, public_key: str) -> str:
    """
    Return the secret that a minion shares with the master, as long as it has that key.

    root
        The master's own secret, which never leaves it.
    minion
        Minion ID.
    public_key
        The minion's public key, PEM, as it was recorded.
    """
    bound = f"{minion}\n{''.join(public_key.split())}"
    return hmac.new(root, bound.encode(), hashlib.sha256).hexdigest()


def of(content: Mapping[str, Any], shared: str) -> str:
    """Return the seal of what is to be believed; ``shared`` is the minion's secret."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(shared.encode(), text.encode(), hashlib.sha256).hexdigest()


def holds(content: Mapping[str, Any], seal: str, shared: str) -> bool:
    """Say whether ``seal`` is the seal of that content, which may be any minion's word."""
    try:
        expected = of(content, shared)
    except (TypeError, ValueError, RecursionError):
        # No module of ours made it: it has types or texts that JSON has not.
        return False
    return bool(shared) and hmac.compare_digest(expected.encode(), seal.encode(errors="replace"))
