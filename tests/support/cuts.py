"""The same bytes, cut in every way."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, none empty, cut at these places (modulo its length)."""
    size = len(data) or 1
    ends = sorted({place % size for place in places} | {0, len(data)})
    return [data[i:j] for i, j in pairwise(ends)]


def ways(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, in two at each place, and a few times at random."""
    random = Random(len(data))
    return [
        [data],
        byte_by_byte(data),
        *(cut(data, [i]) for i in range(1, min(len(data), 64))),
        *(cut(data, random.choices(range(len(data) + 1), k=5)) for _ in range(5)),
    ]
