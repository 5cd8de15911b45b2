# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What a spreadsheet makes of a store ID that it takes for something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from storemaster.deployment import formats

MONTH = r"(Jan|Feb|Mar|M\u00e4r|Mrz|Apr|May|Mai|Jun|Jul|Aug|Sep|Oct|Okt|Nov|Dec|Dez)[a-z\u00e4]*\.?"
DATE = re.compile(
    r"\d{4}-\d\d-\d\d([ T].*)?|\d{1,2}[./-]\d{1,2}[./-](\d\d|\d{4})"
    rf"|\d{{1,2}}[. -]+{MONTH}([ -]\d{{2,4}})?|{MONTH}[ -]\d{{1,4}}"
)
NUMBER = re.compile(r"[+-]?\d+[.,]\d*[Ee][+-]?\d+|[+-]?\d+[Ee][+-]\d+|\d+[.,]0+")

AS_TEXT = "format the column as text, and type the ID anew"
NEARLY_ALL, FEW = 0.95, 4


def damage(value: object) -> str:
    """Say what a spreadsheet has made of a store ID; an empty text if nothing is to be seen."""
    if not isinstance(value, str):
        return ""
    for pattern, what in ((DATE, "date"), (NUMBER, "number")):
        if pattern.fullmatch(value):
            return (
                f"store is {formats.shown(value)}, which looks as if a spreadsheet had made a "
                f"{what} of the ID: {AS_TEXT}"
            )
    bare = value.strip("'\"")
    if bare != value and formats.STORE_ID.fullmatch(bare):
        return f"store is {formats.shown(value)}, in CSV an ID has no quotes of its own: {bare}"
    return ""


def digits(values: Iterable[object]) -> int:
    """
    Return how many digits the store IDs of a list have, if they all should have as many.

    That is so if nearly all have, or if one begins with 0; otherwise it is 0.
    """
    known = [value for value in values if isinstance(value, str) and value.isdecimal()]
    if not known:
        return 0
    ((length, count),) = Counter(map(len, known)).most_common(1)
    padded = any(value.startswith("0") and len(value) == length for value in known)
    many = len(known) >= FEW and count >= min(NEARLY_ALL * len(known), len(known) - 1)
    return length if padded or many else 0


def lost_zeros(value: object, length: int) -> str:
    """Say that an ID seems to have lost its leading zeros; an empty text if it does not."""
    if not isinstance(value, str) or not value.isdecimal() or len(value) >= length:
        return ""
    return (
        f"store is {value}, with {len(value)} digits where the other IDs have {length}: if a "
        f"spreadsheet took the zeros away, write {value.zfill(length)} ({AS_TEXT}); if {value} is "
        "right, write the list as YAML, with the ID in quotes"
    )
