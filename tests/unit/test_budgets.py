# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is printed at the end of `make test` says which part took how long, and how long it may."""

from tests import budgets
from tests.pages import REPO


def test_a_run_is_told_by_part_the_longest_one_first():
    notes = ["3008 unit 351 0\n", "3006 test_time.py 12 2\n", "3008 matrix 400 0\n"]
    assert [line.split() for line in budgets.table(notes, 2400).splitlines()] == [
        ["part", "seconds", "budget"],
        ["3008", "matrix", "400", "-"],
        ["3008", "unit", "351", "350", "over", "its", "budget"],
        ["3006", "test_time.py", "12", "1100", "failed"],
        ["all,", "side", "by", "side", "2400", "3000"],
    ]


def test_the_tiers_of_make_test_have_a_budget_and_what_is_beside_them_has_none():
    assert all(budgets.budget_s(tier) for tier in ("unit", "functional", "packaging", "e2e"))
    assert budgets.budget_s("matrix") == 0


def test_a_file_of_integration_has_the_budget_of_the_others_if_it_has_none_of_its_own():
    assert budgets.budget_s("test_cancel.py") == budgets.BUDGETS["other"][0]
    for name in budgets.BUDGETS:
        if name.startswith("test_"):
            assert (REPO / "tests/integration" / name).exists()
