"""Escapes and cuts what clients sent, for a line of a log.

A pipe takes up to PIPE_BUF bytes (4,096 on Linux) in one piece, so that lines which several
processes write to one pipe never mix. No format's line is longer than `LONGEST_LINE`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# POSIX asks for 512 at least, Linux has 4,096. One is for the line's end.
LONGEST_LINE = 4095


def fit(text: str, most: int, escape: Callable[[str], str]) -> str:
    """`text`, escaped and cut so that it has at most `most` characters then."""
    text = text[:most]
    escaped = escape(text)
    while len(escaped) > most:
        text = text[: len(text) * most // len(escaped)]
        escaped = escape(text)
    return escaped


class Captured(NamedTuple):
    """Fields of a request that are looked at only because a log shows them; b"" if absent."""

    referer: bytes = b""
    user_agent: bytes = b""


NOTHING_CAPTURED = Captured()

_FIELDS = re.compile(rb"^(?:(referer)|user-agent): (.*)\r$", re.IGNORECASE | re.MULTILINE).findall


def capture(fields: bytes) -> Captured:
    """From lines of `Name: value`, each with its CRLF. Of several of a name the first counts."""
    referer = user_agent = b""
    for is_referer, value in _FIELDS(fields):
        if is_referer:
            referer = referer or value
        else:
            user_agent = user_agent or value
    return Captured(referer, user_agent) if referer or user_agent else NOTHING_CAPTURED
