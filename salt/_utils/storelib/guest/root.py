# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The guest's files, under a root that tests can move. Nothing in this folder knows Salt."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
"""Where the guest's files are; tests point it at a folder."""


def at(path: str) -> Path:
    """Return where a path of the guest's is."""
    return ROOT / path.lstrip("/")


def name_of(path: Path) -> str:
    """Return the path as the guest itself names it."""
    return f"/{path.relative_to(ROOT)}"


def matches(pattern: str) -> list[Path]:
    """Return where the guest's paths are that match a pattern, sorted."""
    return sorted(ROOT.glob(pattern.lstrip("/")))


def text_of(path: str) -> str:
    """Return what is in a file, without space around it; empty if there is none."""
    try:
        return at(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
