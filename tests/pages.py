# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The README and the pages of docs/, by their chapters: tests hold them to what they say."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FILES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text() for path in FILES)


def chapter(title: str) -> str:
    """Return what is under a heading, with the headings below it."""
    found = re.search(rf"(?ms)^(#+) {re.escape(title)}\n(.*?)(?=^(?!\1#)#+ |\Z)", TEXT)
    assert found, f"there is no chapter {title}"
    return found[2]
