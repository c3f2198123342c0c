"""No test is lost: `default` and `rest` are all of them, and pytest counts the others.

Each suite runs these tests in a pytest of its own, with this number of processes (0: its own).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.support.loops import pytest_asyncio_loop_factories"
TESTS = """
import pytest
from hypothesis import given, strategies as st
from tests.support.examples import examples
from tests.support.loops import on_both_loops

def test_plain():
    assert examples(200).max_examples == {examples}

@pytest.mark.slow
def test_slow(): ...

@on_both_loops
async def test_loops(): ...

@given(st.integers())
def test_property(number): ...

@pytest.mark.hypothesis
def test_marked(): ...
"""
HANGS = """
import threading
import pytest

@pytest.fixture
def hangs():
    yield
    threading.Event().wait()

def test_fails(hangs):
    assert False
"""
PROPERTIES = {"property", "marked"}
DEFAULT = {"plain", "loops[uvloop]", *PROPERTIES}
LEFT_OUT = {"slow", "loops[asyncio]"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "processes", "examples", "ran", "deselected"),
    [
        ("default", 2, 20, DEFAULT, 2),
        ("rest", 0, 200, LEFT_OUT | PROPERTIES, 2),
        ("all", 0, 200, DEFAULT | LEFT_OUT, 0),
    ],
)
def test_a_suite(
    tmp_path: Path, suite: str, processes: int, examples: int, ran: set[str], deselected: int
) -> None:
    tests = TESTS.replace("{examples}", str(examples))
    ended = _pytest(tmp_path, tests, "-n", str(processes), "--suite", suite)
    said = ended.stdout
    assert ended.returncode == 0, said
    names = [re.search(r"::test_(\S+)", line) for line in said.splitlines() if "PASSED" in line]
    assert {name[1] for name in names if name} == ran
    counted = re.search(r"(\d+) deselected", said.splitlines()[-1])
    assert int(counted[1] if counted else 0) == deselected, said


@pytest.mark.slow
def test_a_teardown_that_hangs_behind_a_failure_ends(tmp_path: Path) -> None:
    """pytest-timeout alone stops its timer when a test fails."""
    ended = _pytest(tmp_path, HANGS, "-n", "0", "--timeout", "2")
    assert ended.returncode == 1
    assert "in hangs" in ended.stdout  # the stack
    assert "Timeout" in ended.stdout


def _pytest(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    command = [
        sys.executable, "-m", "pytest", "-v", "-c", str(ROOT / "pyproject.toml"),
        f"--rootdir={folder}", "-p", "tests.conftest", "-p", "no:randomly",
        "-p", "no:cacheprovider", *options, str(folder),
    ]  # fmt: skip
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
