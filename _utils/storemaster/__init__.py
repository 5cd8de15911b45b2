# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What of store-deploy runs on the master, and is never served to minions."""

from pathlib import Path

import storelib


def _refuse_another(there: Path, ours: Path) -> None:
    """
    Raise ``ImportError`` unless ``storelib`` is the one beside this package, or the same.

    ``salt-run saltutil.sync_all`` makes a copy of what minions get, and Salt takes that first: it
    would go on with the old half of the code after an upgrade.
    """
    for path in () if there.samefile(ours) else ours.rglob("*.py"):
        copied = there / path.relative_to(ours)
        if not copied.exists() or copied.read_bytes() != path.read_bytes():
            raise ImportError(
                f"{there} hides the storelib of {ours.parents[1]}: rm -r {there}; "
                "systemctl restart salt-master"
            )


_refuse_another(Path(storelib.__file__).parent, Path(__file__).parents[1] / "storelib")
