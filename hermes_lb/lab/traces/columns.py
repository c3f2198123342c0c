"""A table in CSV whose columns are known by name."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def rows(lines: Iterable[str], names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's line, and the values of these columns.

    Raises ValueError for a row that has too few.
    """
    table = csv.reader(lines)
    header = [name.strip() for name in next(table, [])]
    places = [header.index(name) for name in names]
    for row in table:
        if not row:
            continue
        if len(row) <= max(places):
            raise ValueError(f"line {table.line_num} has {len(row)} columns of {len(header)}")
        yield table.line_num, [row[place] for place in places]


def number(text: str, line: int, most: float = 1e12) -> float:
    """0 or more; an empty one is 0. Raises ValueError with the line."""
    try:
        value = float(text or 0.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= most:
        raise ValueError(f"line {line}: {text[:40]!r} is not a number from 0 to {most:g}")
    return value
