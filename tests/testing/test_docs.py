"""The examples of docs/testing.md work: each block is run as a test file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hermes_lb.testing
from hermes_lb.testing import faults

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("is_strict", [False, True])
def test_every_example_passes(pytester: pytest.Pytester, is_strict: bool) -> None:
    """With the page's configuration; in strict mode, with the mark that it names."""
    tests = 0
    for number, source in enumerate(blocks("python")):
        found = len(re.findall(r"^(?:async )?def test_", source, re.MULTILINE))
        assert found > 0
        tests += found
        marked = re.sub(r"^(?=async def test_)", "@pytest.mark.asyncio\n", source, flags=re.M)
        pytester.path.joinpath(f"test_example_{number}.py").write_text(
            f"import pytest\n{marked}" if is_strict else source
        )
    assert tests > 0
    [configuration] = blocks("toml")
    pytester.makepyprojecttoml(configuration)
    mode = ["--asyncio-mode=strict"] if is_strict else []
    outcome = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *mode)
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
