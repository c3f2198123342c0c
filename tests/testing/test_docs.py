"""The examples of docs/testing.md do what it says: each block is a test file of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import hermes_lb.testing
from hermes_lb.testing import faults

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"


def test_every_example_passes(pytester: pytest.Pytester) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    tests = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
    assert tests >= len(blocks) > 0
    for number, block in enumerate(blocks):
        pytester.path.joinpath(f"test_example_{number}.py").write_text(block)
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    outcome = pytester.runpytest_subprocess("--asyncio-mode=auto", "-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=tests)


def test_every_fault_is_described() -> None:
    text = DOCS.read_text()
    missing = [name for name in faults.__all__ if f"`{name}" not in text]
    assert missing == []


def test_every_public_name_is_there_and_described() -> None:
    text = DOCS.read_text()
    for name in hermes_lb.testing.__all__:
        assert getattr(hermes_lb.testing, name)
        assert re.search(rf"\b{name}\b", text), name
