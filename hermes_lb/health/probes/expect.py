"""Whether a response is good: status, header and body against the configuration. No I/O.

A text is compared as it is; after a "~" comes a regular expression (Python's `re`), as in nginx's
`match`. It is searched for in `BODY_MAX` bytes at most. One with nested repetitions can still take
very long on a body made for it, and blocks the balancer meanwhile: it is the operator's own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hermes_lb.http.load_report import parse_load
from hermes_lb.options.units import status_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Enough for a health page; the rest of a longer one is neither awaited nor searched.
BODY_MAX = 64 * 1024


def reported_load(headers: Sequence[str], body: bytes) -> float | None:
    """The load that the server reports, in requests; None if it reports none.

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
    return parse_load(load) if isinstance(load, bytes) else None


def announces_drain(values: Sequence[str]) -> bool:
    """Whether these values of `X-Hermes-Draining`, in a 503, ask for no new requests."""
    return any(value.strip().lower() not in ("0", "false") for value in values)


class Expectation:
    """What a good response has to have."""

    def __init__(
        self, statuses: Sequence[int | str], header: str | None = None, body: str | None = None
    ) -> None:
        """Each as the configuration has it (`expect_status`, ...); None: any."""
        self._statuses = [status_range(status) for status in statuses]
        self._status_text = ", ".join(map(str, statuses))
        self._header = header
        name, colon, value = (header or "").partition(":")
        self._header_name = name.strip()
        self._is_header_good = _matcher(value.strip(), whole=True) if colon else None
        self._body = body
        self._is_body_good = _matcher(body or "", whole=False)

    def fault(self, status: int, header: Callable[[str], Sequence[str]], body: bytes) -> str | None:
        """The fault of a response, in a few words for people; None if it is good.

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
    """`whole`: a plain text must be equal, not contained."""
    if expected.startswith("~"):
        search = re.compile(expected[1:].strip().encode()).search
        return lambda data: search(data) is not None
    text = expected.encode()
    return (lambda data: data == text) if whole else (lambda data: text in data)
