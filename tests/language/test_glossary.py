"""docs/glossary.md: one row a term, in order, each with a sentence and a path that exists."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tests.language.passages import ROOT

PAGE = (ROOT / "docs/glossary.md").read_text("utf-8")
TABLES = [
    re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([^`]+)` \|$", part, re.MULTILINE)
    for part in PAGE.split("\n## ")
]
TERMS = [row for rows in TABLES for row in rows]


@pytest.mark.parametrize(("term", "meaning", "path"), TERMS, ids=lambda text: text[:24])
def test_a_term_has_one_sentence_and_a_place(term: str, meaning: str, path: str) -> None:
    assert meaning.endswith(".")
    assert not re.search(r"\. [A-Z]", meaning)
    assert (ROOT / path).exists(), term


def test_no_term_is_missing_from_the_count() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == len(TERMS) > 40
    assert len({term for term, *_ in TERMS}) == len(TERMS)


def test_each_table_is_sorted() -> None:
    for rows in TABLES:
        terms = [term.lower() for term, *_ in rows]
        assert all(left <= right for left, right in pairwise(terms)), terms
