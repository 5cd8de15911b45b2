# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a state of ours tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What was changed, or would be in a dry run: by what, old and new; and a sentence on it."""

    comment: str
    changes: dict[str, Any] = field(default_factory=dict)
