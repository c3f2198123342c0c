"""Patterns of texts: each stands beside its option, and has words that an error quotes."""

from __future__ import annotations

IN_WORDS: dict[str, str] = {}
"""All patterns, with their words: an error never shows a regular expression."""


def pattern(expression: str, words: str) -> str:
    """`expression`, once its words are known."""
    IN_WORDS[expression] = words
    return expression


# Those of several packages.
NAME = pattern(r"^[A-Za-z0-9_.-]{1,64}$", '1 to 64 letters, digits, "_", "." or "-"')
COOKIE_NAME = pattern(  # RFC 6265 section 4.1.1: a token
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$", "1 to 64 letters, digits or any of !#$%&'*+.^_`|~-"
)
