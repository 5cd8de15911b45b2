# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What the unit tests share: a master that is a stub, with a real ledger."""

import pytest
import salt._logging

pytest.register_assert_rewrite("fake_master", "store_lists")
from fake_master import FakeMaster  # noqa: E402

# It would print what was logged once more after pytest's last line.
salt._logging.shutdown_temp_handler()


@pytest.fixture
def master(tmp_path):
    """Return a stub of the master, which at the end must have seen nothing that must not be."""
    made = FakeMaster(tmp_path / "ledger.sqlite")
    yield made
    made.end()
    assert made.wrong == []
