"""The examples of the documents, so that tests use what is written there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, mark: str, kind: str) -> str:
    """The first block of this kind ("toml", "python", "console") behind `mark`, in `docs/`."""
    _, _, behind = (_DOCS / page).read_text().partition(mark)
    return behind.partition(f"```{kind}\n")[2].partition("```")[0]


def example(page: str, mark: str) -> dict[str, Any]:
    """The first configuration behind `mark`, in `docs/`."""
    return tomllib.loads(block(page, mark, "toml"))


def stick_rules(backend: str) -> list[dict[str, Any]]:
    """Those for ids that a server creates in its JSON."""
    mark = "**Ids that a server creates in its JSON.**"
    rules: list[dict[str, Any]] = example("operations.md", mark)["backends"][backend]["stick"]
    return rules
