# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""The site of the integration tests, with a master whose processes tell where they are."""

import pathlib
import sys

import pytest
import salt.version

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "integration"))

import fault  # noqa: E402
import injector  # noqa: E402
import matrix  # noqa: E402
import store_site  # noqa: E402
from tests.integration.conftest import site  # noqa: E402, F401

REPORT = HERE.parents[1] / "artifacts" / f"faults-{salt.version.__version__.split('.')[0]}.txt"


@pytest.fixture(scope="session")
def columns(site):  # noqa: F811
    """What became of the deployment that suffers a fault, by fault; made when first asked for."""
    site.stand_ins.minion = fault.QUICK
    site.master.environment = {**store_site.ENVIRONMENT, "PYTHONPATH": str(HERE / "shim")}
    site.write_pillar("hv-0815")
    site.start_hypervisors("hv-0815")
    # The others are given its modules.
    assert site.ask("hv-0815", "saltutil.sync_all", seconds=60)
    return matrix.Columns(site, injector.Injector())


def pytest_terminal_summary(terminalreporter):
    """Print the matrix, and keep it."""
    if matrix.COLUMNS:
        text = matrix.table(matrix.COLUMNS)
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(f"{text}\n{matrix.places(matrix.COLUMNS)}")
        terminalreporter.section("states and faults")
        terminalreporter.write(text)
