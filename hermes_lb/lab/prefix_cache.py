"""A server's prefix cache: blocks of tokens, the least recently used leaves first.

A block is a number that stands for its tokens and all before them, so a prefix is found block by
block from the start until one is missing (vLLM, "Automatic Prefix Caching"; Mooncake, FAST 2025,
whose traces have 512 tokens a block).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK: Final = 512  # tokens


class PrefixCache:
    """At most `capacity` blocks."""

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: dict[int, None] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    def found(self, blocks: Iterable[range]) -> int:
        """How many blocks from the start are here. It changes nothing."""
        known, count = self._blocks, 0
        for block in chain.from_iterable(blocks):
            if block not in known:
                break
            count += 1
        return count

    def use(self, blocks: Iterable[range]) -> None:
        """Add all of a request's blocks, as the most recently used.

        The last ones of a request are the first of it to leave, as in vLLM: without them the rest
        is still of use.
        """
        known = self._blocks
        for block in reversed(list(chain.from_iterable(blocks))):
            if block in known:
                del known[block]
            known[block] = None
        surplus = len(known) - self._capacity
        if surplus > 0:
            for block in list(_first(known, surplus)):
                del known[block]


def _first(blocks: dict[int, None], count: int) -> Iterable[int]:
    it = iter(blocks)
    return [next(it) for _ in range(count)]
