"""Is this answer good? Status, header and body against what the configuration expects. No I/O.

A text is compared as it is; after a "~" comes a regular expression (Python's `re`), as in nginx's
`match`. It is searched for in `BODY_MAX` bytes at most. One with nested repetitions can still take
very long on a body made for it, and blocks the balancer meanwhile: it is the operator's own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hermes_lb.balancing.least_load import load_from
from hermes_lb.config import status_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb import config

# Enough for any honest health page; the rest of a longer one is neither awaited nor looked at.
BODY_MAX = 64 * 1024


def reported_load(headers: Sequence[str], body: bytes) -> float | None:
    """How much the server says that it has to do, in requests; None if it says nothing of it.

    `X-Hermes-Load` counts, or without one "load" in a JSON body, a number and not a string.
    """
    if headers:
        load: object = headers[0].encode(errors="replace")
    else:
        try:
            # A number stays as it is written, and is the only thing that becomes bytes.
            load = json.loads(body, parse_int=str.encode, parse_float=str.encode)["load"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
    return load_from(load) if isinstance(load, bytes) else None


def announces_drain(values: Sequence[str]) -> bool:
    """Whether the values of `X-Hermes-Draining`, in an answer of 503, ask for no new requests."""
    return any(value.strip().lower() not in ("0", "false") for value in values)


class Expectation:
    """What a good answer looks like."""

    def __init__(self, health: config.Health) -> None:
        self._statuses = [status_range(status) for status in health.expect_status]
        self._status_text = ", ".join(map(str, health.expect_status))
        self._header = health.expect_header
        name, colon, value = (health.expect_header or "").partition(":")
        self._header_name = name.strip()
        self._is_header_good = _matcher(value.strip(), whole=True) if colon else None
        self._body = health.expect_body
        self._is_body_good = _matcher(health.expect_body or "", whole=False)

    def fault(self, status: int, header: Callable[[str], Sequence[str]], body: bytes) -> str | None:
        """What is wrong with an answer, in a few words for a person; None if it is good.

        `header` gives all values of a field; `body` is its beginning.
        """
        if not any(low <= status <= high for low, high in self._statuses):
            return f"{status}, expected {self._status_text}"
        if self._header is not None:
            values = header(self._header_name)
            is_good = self._is_header_good
            if not values:
                return f"{status} without {self._header_name}"
            if is_good is not None and not any(is_good(value.encode()) for value in values):
                return f"{status}, expected the header {self._header}"
        if self._body is not None and not self._is_body_good(body):
            return f"{status}, expected {self._body} in the body"
        return None


def _matcher(expected: str, *, whole: bool) -> Callable[[bytes], bool]:
    """`whole`: a plain text must be all there is, not a part."""
    if expected.startswith("~"):
        search = re.compile(expected[1:].strip().encode()).search
        return lambda data: search(data) is not None
    text = expected.encode()
    return (lambda data: data == text) if whole else (lambda data: text in data)
