"""Blocks of fields that recur but for the values of a few lines, such as the id of a request.

Which lines vary is learned from blocks that come one after the other and differ in nothing else.
Their values are cut out of a block, and the rest is looked up. Only plain values of fields that
are forwarded as they are, or whose meaning is a function of their value, may vary: so what a block
means is that of its rest, with these values in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hermes_lb.http.recurring_cache import RecurringCache

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
Values = tuple[bytes, ...]

_MOST_LINES: Final = 3  # of a block
_MOST_SETS: Final = 4  # of names, each another look-up for a block that is not known

# No blanks at the ends, which would be dropped. Most tokens have less than 256 bytes.
_MOST_BYTES: Final = 256
_PLAIN = re.compile(rb"[!-~](?:[ -~]{0,254}[!-~])?").fullmatch


class VaryingLines(Generic[Value]):
    """A cache for blocks of which some lines vary, with up to `_MOST_SETS` sets of their names.

    A set that has a hit moves one place ahead (the transpose rule of Rivest, 1976), and a new one
    takes the place of the last: names that a client makes up displace none that is in use.
    """

    __slots__ = ("_before", "_may_vary", "_sets", "misses")

    def __init__(self, may_vary: Callable[[bytes], bool]) -> None:
        """`may_vary`: of the name of a field, in lower case."""
        self._may_vary = may_vary
        self.misses = 0  # look-ups since the last hit
        self._sets: list[tuple[Values, RecurringCache[Value]]] = []
        self._before: list[bytes] = []  # the lines of the last block that was offered

    def find(self, block: bytes) -> tuple[Value, Values] | None:
        """The value stored for a block that differs in some values only, and those of `block`."""
        sets = self._sets
        for place, (openings, blocks) in enumerate(sets):
            cut = _cut(block, openings)
            if cut is None:
                continue
            rest, values = cut
            found = blocks.recent.get(rest)
            if found is None:
                found = blocks.find(rest)
            if found is not None:
                if place:
                    sets[place - 1], sets[place] = sets[place], sets[place - 1]
                self.misses = 0
                return found, values
        self.misses += 1
        return None

    def offer(self, block: bytes, make: Callable[[Values, Values], Value | None]) -> None:
        """`block` was not found, nor does it recur as a whole.

        `make` is called with the names of its varying lines and their values, if its rest recurs:
        what it returns is stored, unless that is None.
        """
        for openings, blocks in self._sets:
            cut = _cut(block, openings)
            if cut is not None:
                rest, values = cut
                names = tuple(opening[2:-2] for opening in openings)
                if blocks.recurs(rest) and _are_single(block, names):
                    value = make(names, values)
                    if value is not None:
                        blocks.store(rest, value)
                        return
        self._compare(block)

    def _compare(self, block: bytes) -> None:
        """Learn the names of the lines in which `block` differs from the one before."""
        before, self._before = self._before, block.split(b"\r\n")
        if len(before) != len(self._before):
            return
        pairs: list[tuple[bytes, bytes]] = []
        for old, new in zip(before, self._before, strict=True):
            if old != new:
                if len(pairs) == _MOST_LINES:
                    return
                pairs.append((old, new))
        openings = []
        for old, new in pairs:
            name, colon, _ = new.partition(b": ")
            if not old.startswith(name + colon) or not self._may_vary(name.lower()):
                return
            openings.append(b"\r\n" + name + b": ")
        learned = tuple(openings)
        if learned and all(learned != known for known, _ in self._sets):
            del self._sets[_MOST_SETS - 1 :]
            self._sets.append((learned, RecurringCache(most=128, room=32 * 1024)))


def _cut(block: bytes, openings: Values) -> tuple[bytes, Values] | None:
    """The rest of `block`, and the values of the lines that begin so, in this order.

    None if one is missing, or not plain. Each rest belongs to one block only, for these values: it
    was cut where it has the openings first.
    """
    rest = b""
    values = []
    start = 0
    for opening in openings:
        at = block.find(opening, start)
        if at < 0:
            return None
        at += len(opening)
        end = block.find(b"\r\n", at)
        value = block[at:end]
        if not ((value.isalnum() and len(value) <= _MOST_BYTES) or _PLAIN(value)):
            return None
        rest += block[start:at]
        values.append(value)
        start = end
    return rest + block[start:], tuple(values)


def _are_single(block: bytes, names: Values) -> bool:
    """True if none of these fields comes twice, however its name is written."""
    lower = b"\r\n" + block.lower()
    return all(lower.count(b"\r\n" + name.lower() + b":") == 1 for name in names)


def template(lines: bytes, names: Values, values: Values, *, dropped: bytes = b"") -> bytes | None:
    """Forwarded `lines` with a place for each of the values; None if they do not have all of them.

    `dropped`: the name, in lower case, of a field that they never have.
    """
    text = b"\r\n" + lines
    parts = []
    start = 2
    for name, value in zip(names, values, strict=True):
        if name.lower() == dropped:
            parts.append(b"%.0b")  # takes the value, and writes nothing
            continue
        at = text.find(b"\r\n%b: %b\r\n" % (name, value), start - 2)
        if at < 0:
            return None
        at += len(name) + 4
        parts += (text[start:at].replace(b"%", b"%%"), b"%b")
        start = at + len(value)
    parts.append(text[start:].replace(b"%", b"%%"))
    return b"".join(parts)
