"""What a request is expected to cost, in tokens: its input by its length, its output by averages.

A balancer reads no tokens. The input is the Content-Length, divided by `input_bytes`; of a body
without a length it is the average one. The output is the average of earlier responses, divided by
`output_bytes`: of the session (`hash_on`), or of the route (the method and the first two segments
of the path), or of all. Only responses that came whole and are no errors count.

A client that ends its requests early is not cheap by that: their responses do not count. Nor is one
after a series of short answers: a session is expected to cost at least a quarter of its route. A
length that is announced counts as 16 million tokens at most. Averages are kept for 4,096 keys of
sessions at least, and 512 of routes: the ones that have recurred, whatever comes between.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydantic import Field

from hermes_lb.balancing.hashing import KeyOptions, key_source

if TYPE_CHECKING:
    from hermes_lb.balancing.request import Request

_MOST_TOKENS: Final = 1 << 24
_SESSIONS: Final = 4096
_ROUTES: Final = 512
_SHARE: Final = 0.2  # of an average, that the last response makes
_UNKNOWN: Final = 256  # tokens of output, before the first response
_ROUTE_PART: Final = 4  # a session costs a quarter of its route at least

_length = re.compile(rb"\r\n(?i:content-length):[ \t]*([0-9]{1,18})").search
_route = re.compile(rb"[A-Z]+ /[^/? ]*(?:/[^/? ]*)?").match


class WorkOptions(KeyOptions):
    input_bytes: float = Field(4.0, ge=0.01, le=1e6)  # of a request's body, a token
    output_bytes: float = Field(4.0, ge=0.01, le=1e6)  # of a response, a token
    output_weight: float = Field(2.0, ge=0.0, le=1000.0)  # what one costs, in tokens of input


DEFAULTS: Final = WorkOptions()


class Averages:
    """Running averages by key, of those that recur: two generations of `most`."""

    __slots__ = ("_most", "_old", "_recent")

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: dict[int, float] = {}
        self._old: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._old)

    def find(self, key: int) -> float:
        """-1: unknown."""
        average = self._recent.get(key)
        if average is None:
            average = self._old.get(key, -1.0)
        return average

    def learn(self, key: int, value: float) -> None:
        before = self.find(key)
        average = value if before < 0.0 else before + _SHARE * (value - before)
        if key not in self._recent and len(self._recent) >= self._most:
            self._old, self._recent = self._recent, {}
        self._recent[key] = average


class Cost:
    """Of one request: the tokens it is expected to cost, and where to learn what it did cost."""

    __slots__ = ("input", "route", "session", "tokens")

    def __init__(self, read: int, tokens: int, session: int, route: int) -> None:
        self.input = read
        self.tokens = tokens
        self.session = session
        self.route = route


class ExpectedWork:
    """Of one pool."""

    def __init__(self, options: WorkOptions) -> None:
        self.key = key_source(options.hash_on)
        self._per_input = 1.0 / options.input_bytes
        self._per_output = options.output_weight / options.output_bytes
        self._first = _UNKNOWN * options.output_weight
        self._sessions = Averages(_SESSIONS)
        self._routes = Averages(_ROUTES)
        self._output = -1.0  # of all, in tokens of input
        self._input = 0.0

    def of(self, request: Request) -> Cost:
        """What this request is expected to cost."""
        head = request.request_head
        found = _length(head, 0, head.find(b"\r\n\r\n") + 2)
        if found is not None:
            read = min(int(int(found[1]) * self._per_input), _MOST_TOKENS)
            self._input += _SHARE * (read - self._input)
        else:
            read = 0 if head[:4] in (b"GET ", b"HEAD") else int(self._input)
        line = _route(head)
        session, route = hash(self.key(request)), hash(b"" if line is None else line[0])
        return Cost(read, 1 + read + int(self._expected(session, route)), session, route)

    def learn(self, cost: Cost, output: int) -> int:
        """What the request has cost; `output`: bytes of its response."""
        value = min(output * self._per_output, float(_MOST_TOKENS))
        self._output = (
            value if self._output < 0.0 else self._output + _SHARE * (value - self._output)
        )
        self._sessions.learn(cost.session, value)
        self._routes.learn(cost.route, value)
        return 1 + cost.input + int(value)

    def _expected(self, session: int, route: int) -> float:
        of_route = self._routes.find(route)
        if of_route < 0.0:
            of_route = self._output if self._output >= 0.0 else self._first
        of_session = self._sessions.find(session)
        return of_route if of_session < 0.0 else max(of_session, of_route / _ROUTE_PART)
