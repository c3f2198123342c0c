"""Every row of the table of hostile input and faults has a test, here or in `tests/faults`.

A row counts where a test carries its mark, `@pytest.mark.row(n)`, or where a table that a test is
parametrised with has a line `row(n, ...)`. The files are read, not run.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parent / "faults")
ROWS = range(1, 37)


def _numbers(tree: ast.AST) -> Iterator[int]:
    """The numbers of all `row(n, ...)` and `....row(n)` in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called, number = node.func, node.args[0]
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == "row" and isinstance(number, ast.Constant) and type(number.value) is int:
                yield number.value


def rows_of(source: str) -> Counter[int]:
    """Row -> how many tests and lines of tables it has in this module."""
    module = ast.parse(source)
    tables = {
        target.id: statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    used: list[ast.AST] = []
    for test in module.body:
        if isinstance(test, ast.ClassDef) and test.name.startswith("Test"):
            used.append(test)
        elif isinstance(test, ast.AsyncFunctionDef | ast.FunctionDef):
            used += test.decorator_list if test.name.startswith("test_") else []
    names = {node.id for part in used for node in ast.walk(part) if isinstance(node, ast.Name)}
    used += [table for name, table in tables.items() if name in names or name == "pytestmark"]
    return Counter(number for part in used for number in _numbers(part))


def test_every_row_has_a_test() -> None:
    found: Counter[int] = Counter()
    for folder in FOLDERS:
        for file in sorted(folder.glob("test_*.py")):
            if file != Path(__file__):
                found += rows_of(file.read_text())
    assert [number for number in ROWS if not found[number]] == []
    assert [number for number in found if number not in ROWS] == []


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("@pytest.mark.row(7)\ndef test_a(): ...", [7]),
        ("@mark.row(7)\n@mark.row(8)\nasync def test_a(): ...", [7, 8]),
        ("T = [row(1, 'a'), row(2, 'b')]\n@parametrize('x', T)\ndef test_a(): ...", [1, 2]),
        ("@parametrize('x', [row(3, 'a')])\ndef test_a(): ...", [3]),
        ("pytestmark = [pytest.mark.row(9)]\ndef test_a(): ...", [9]),
        ("class TestA:\n    @pytest.mark.row(5)\n    def test_a(self): ...", [5]),
        # These are not run.
        ("T = [row(1, 'a')]\ndef test_a(): ...", []),
        ("@pytest.mark.row(7)\ndef helper(): ...", []),
        ("# @pytest.mark.row(7)\ndef test_a(): 'row(7)'", []),
    ],
)
def test_a_row_counts_only_where_a_test_runs_it(source: str, rows: list[int]) -> None:
    assert sorted(rows_of(source)) == rows
