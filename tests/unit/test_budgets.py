# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""What is printed at the end of `make test` says which part took how long, and why one failed."""

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


def test_at_the_end_it_is_said_why_a_part_failed_each_reason_once(tmp_path, capsys):
    told = "test_a.py .EE\nE   AssertionError: no\nE   AssertionError: no\nE   OSError: gone\n"
    for name, status, printed in (("3008-e2e", 2, told), ("3006-unit", 0, "E   of old\n")):
        line, _, part = name.partition("-")
        (tmp_path / f"{name}.note").write_text(f"{line} {part} 7 {status}\n")
        (tmp_path / f"{name}.log").write_text(printed)
    budgets.main(tmp_path, 9)
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "",
        "3008-e2e failed:",
        "E   AssertionError: no",
        "E   OSError: gone",
    ]


def test_a_part_that_failed_for_no_known_reason_shows_its_end():
    assert budgets.reasons("\n".join(map(str, range(99)))) == [str(each) for each in range(79, 99)]
