"""The docstring of a package that lists its modules lists all of them, and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# One name or several, and what they are, in two columns.
_ENTRY = re.compile(r"^ *((?:\w+, )*\w+)  +\S", re.MULTILINE)


def docstring(package: Path) -> str:
    return ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""


def is_listing(package: Path) -> bool:
    return len(_ENTRY.findall(docstring(package))) > 2


LISTING = sorted(
    str(found.parent.relative_to(ROOT))
    for name in ("hermes_lb", "agent_worker")
    for found in (ROOT / name).glob("*/__init__.py")
    if is_listing(found.parent)
)


@pytest.mark.parametrize("package", LISTING)
def test_a_list_of_modules_is_complete(package: str) -> None:
    text = docstring(ROOT / package)
    modules = {file.stem for file in (ROOT / package).glob("[!_]*.py")}
    assert modules - set(re.findall(r"\w+", text)) == set()


@pytest.mark.parametrize("package", LISTING)
def test_a_list_of_modules_has_none_that_is_gone(package: str) -> None:
    named = {
        name for names in _ENTRY.findall(docstring(ROOT / package)) for name in names.split(", ")
    }
    there = {path.stem for path in (ROOT / package).iterdir()}
    assert named - there == set()


def test_the_large_packages_list_their_modules() -> None:
    assert {"hermes_lb/proxy", "hermes_lb/workers", "agent_worker/sessions"} <= set(LISTING)
