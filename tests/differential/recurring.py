"""`python -m tests.differential.recurring`: what a head means does not depend on those before it.

Heads of a few dozen senders, many of them with something odd, in a random order: each goes
through a parser that has seen all others, and through llhttp with nothing remembered. Both must
say the same. Exit status 1 if they do not.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hermes_lb.affinity import CookieAffinity
from hermes_lb.affinity.cookie import CookieOptions
from hermes_lb.errors import InvalidResponse, RequestRefused
from hermes_lb.http import RequestHead, request, response, rules
from hermes_lb.http.fields import REQUEST_FIELDS, RESPONSE_FIELDS, HeaderPlans, _Connections
from hermes_lb.http.varying_lines import VaryingLines
from tests.http.messages import first_head
from tests.support.heads import (
    answer,
    attributes,
    counted_heads,
    forward,
    request_parser,
    response_parser,
)
from tests.support.pools import make_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"LOCK"]
_METHOD_WEIGHTS = [30, 30, 8, 8, 6, 6, 3, 3, 1]
_TARGETS = [
    b"/", b"/", b"/v1/chat/completions", b"/a?b=c", b"/%00", b"//", b"/*", b"/\x7f", b"/\xe9",
    b"/#f", b"*", b"a", b"http://b/c", b"HTTP://B:80", b"http://u@b/", b"/a b", b"/\t", b"",
    b"/" + b"a" * 999, b"/" + b"a" * 1000, b"/" + b"a" * 20_000, b'/"', b"/!$~", b"/^{|}",
]  # fmt: skip
_VERSIONS = [b"HTTP/1.1"] * 60 + [
    b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.10", b"",
]  # fmt: skip
_STATUS_LINES = [b"HTTP/1.1 200 OK"] * 50 + [
    b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 x", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 Not  Found",
    b"HTTP/1.1 101 x", b"HTTP/1.1 100 Continue", b"HTTP/1.1 200", b"HTTP/1.1 200 ",
    b"HTTP/1.2 200 a", b"HTTP/2.0 200 OK", b"HTTP/1.1 600 x", b"HTTP/1.1 99 x",
    b"HTTP/1.1 200 \x7f", b"\r\nHTTP/1.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 200 a\tb\xff",
    b"HTTP/1.1 2000 OK", b"",
]  # fmt: skip
_BOTH_SIDES = [
    b"Connection: keep-alive", b"Connection: close", b"connection:close", b"Connection: X-Own",
    b"Connection: x-own, close", b"Connection: upgrade", b"Connection: host, content-length",
    b"Connection:", b"Upgrade: websocket", b"Upgrade: h2c", b"Keep-Alive: timeout=5",
    b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED", b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: chunked\t", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:",
    b"Transfer-Encoding: identity", b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: \x0bchunked", b"Content-Length: 5", b"content-length: 5",
    b"CONTENT-LENGTH: 5", b"Content-Length:5", b"Content-Length:  5", b"Content-Length: 5 ",
    b"Content-Length:", b"Content-Length: ", b"Content-Length: +5", b"Content-Length: 5, 5",
    b"Content-Length: 0", b"Content-Length: 00000000000000000005",
    b"Content-Length: 123456789012345678", b"Content-Length: \xd9\xa5", b"Content_Length: 7",
    b"Content-Length : 5", b" Content-Length: 5", b"X-Length: Content-Length: 5", b"X-Own: y",
    b"X-Own: y ", b"X-Own:\ty", b"X-Own:y", b"X-Own:", b"X-Own: \xe9\xff", b"X-Own : y", b"X-Own",
    b"X-Own: a\nb", b"X-Own: a\rb", b"X-Own: \0", b"X-Own: \x7f", b" folded", b"\tfolded",
    b": y", b"", b"X(Own): y", b"X-\xe9: y", b"%s-%b: %d%%", b"X-Long: " + b"a" * 3000,
    b"TE: trailers", b"Trailer: X", b"Proxy-Connection: close", b"Via: 1.1 p",
    b"X-Own: y\nContent-Length: 5", b"X-Own: y\rContent-Length: 5", b"Date: now",
    b"X-Own: y\r\nContent-Length: 6",
]  # fmt: skip
_OF_REQUESTS = [
    b"Host: a", b"Host: b:80", b"Host: [::1]", b"host: a", b"Host:", b"Host: a/b", b"Host : a",
    b"Host: A.b.", b"Ho_st: a", b"Cookie: a=b", b"cookie: c=d; e=f", b"Authorization: Bearer x",
    b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: x", b"Expect:",
    b"X-Request-ID: r-1", b"X-Request-ID: r 1", b"X-Request-ID:", b"X-Forwarded-For: 1.2.3.4",
    b"X-Forwarded-Host: h", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 1",
    b"Forwarded: for=x", b"X-Real-IP: 1.1.1.1", b"Max-Forwards: 0", b"Max-Forwards: 3",
    b"Max-Forwards: x", b"Idempotency-Key: k", b"idempotency-key: k", b"Idempotency_Key: k",
    b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"traceparent: x",
    b"tracestate: a=b", b"User-Agent: OpenAI/Python 1.109.1", b"Accept: */*",
    b"Accept-Encoding: gzip, deflate", b"Content-Type: application/json", b"HTTP2-Settings: x",
]  # fmt: skip
_OF_RESPONSES = [
    b"Set-Cookie: a=b", b"set-cookie: c=d", b"Cache-Control: no-store", b"Pragma: no-cache",
    b"Expires: 0", b'ETag: "x"', b"Last-Modified: x", b"Content-Type: text/event-stream",
    b"Server: s", b"X-Request-Id: req_1", b"Connection: date", b"Connection: set-cookie, etag",
]  # fmt: skip
# Of lines whose values vary from head to head.
_VARYING = [
    b"X-Serial", b"x-serial", b"X-Own", b"X-Request-ID", b"x-request-id", b"traceparent", b"Date",
    b"Traceparent", b"tracestate", b"Authorization", b"ETag", b"X_Serial", b"X-%s-%b", b"Cookie",
    b"Set-Cookie", b"Connection", b"Content-Length", b"Host", b"Via", b"X-Forwarded-For", b"X:Y",
    b"Idempotency-Key", b"Content-Type", b"Cache-Control", b"Upgrade", b"Max-Forwards", b"TE",
]  # fmt: skip
_ODD_VALUES = [
    b"", b" ", b"a b", b" a", b"a ", b"a\t", b"\xe9", b"\x7f", b"\0", b"a\nb", b"a\rb", b"%b",
    b"%s%%", b"5", b"x", b"close", b"upgrade", b"X-Serial", b"a: b", b"a" * 128, b"a" * 129,
    b"a" * 2000, b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01", b"y\r\nX-Serial: z",
    b"y\r\n folded",
]  # fmt: skip
_ODD_BYTES = [bytes([byte]) for byte in b"\r\n \t\0:;,05+-_x\x0b\x7f\x85\xff"]
_ODD_BYTES += [b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\nContent-Length: 5", b"\r\nHost: b"]


class Heads:
    """An endless supply of heads, by a seed. Most have parts of earlier ones."""

    def __init__(self, seed: int, *, of_requests: bool) -> None:
        self._rng = rng = Random(seed)
        self._of_requests = of_requests
        lines = _BOTH_SIDES + (_OF_REQUESTS if of_requests else _OF_RESPONSES) * 3
        usual = _OF_REQUESTS if of_requests else _OF_RESPONSES
        self._lines = lines
        self._senders = []
        for number in range(40):
            pool = usual if number % 4 else lines
            own = rng.sample(pool, rng.randint(0, 6))
            if of_requests and number % 8:
                own = [b"Host: a", *(line for line in own if not line.lower().startswith(b"host"))]
            self._senders.append(own)
        self._shapes = [self._shape() for _ in range(16)]
        self._before: deque[tuple[bytes, list[bytes], bytes]] = deque(maxlen=32)

    def __iter__(self) -> Iterator[bytes]:
        rng = self._rng
        while True:
            if rng.random() < 0.015:
                yield from self._varied()
            if self._before and rng.random() < 0.6:
                first, lines, length = rng.choice(self._before)
                if rng.random() < 0.5:
                    first = self._first_line()
                if rng.random() < 0.5:
                    length = self._length()
            else:
                first, length = self._first_line(), self._length()
                lines = list(rng.choice(self._senders))
                for _ in range(rng.choice((0, 0, 0, 1, 2))):
                    self._change(lines)
            self._before.append((first, lines, length))
            data = first_head(b"\r\n".join([first, *self._with_length(lines, length)]))
            if rng.random() < 0.07:
                data = first_head(self._damaged(data))
            yield data

    def _shape(self) -> list[bytes]:
        """Lines of a sender; those that end in ": " get another value in each head."""
        rng = self._rng
        names = rng.sample(_VARYING[:6], 2) + rng.sample(_VARYING, 1)
        lines = list(rng.choice(self._senders))
        for name in rng.sample(names, rng.choice((1, 1, 1, 2, 2, 3))):
            lines.insert(rng.randint(0, len(lines)), name + b": ")
        return lines

    def _varied(self) -> Iterator[bytes]:
        """Heads of one sender, one after the other."""
        rng = self._rng
        shape, first, length = rng.choice(self._shapes), self._first_line(), self._length()
        for _ in range(rng.randint(10, 70)):
            lines = [
                line + self._value(line.lower()) if line.endswith(b": ") else line for line in shape
            ]
            if rng.random() < 0.15:
                self._change(lines)
            if rng.random() < 0.1:
                first = self._first_line()
            head = [first, *self._with_length(lines, length)]
            yield first_head(b"\r\n".join(head))

    def _value(self, name: bytes) -> bytes:
        rng = self._rng
        if rng.random() < 0.08:
            return rng.choice(_ODD_VALUES)
        digits = b"%032x" % rng.getrandbits(128)
        return b"00-%b-%b-01" % (digits, digits[:16]) if name == b"traceparent: " else digits

    def _first_line(self) -> bytes:
        rng = self._rng
        if not self._of_requests:
            return rng.choice(_STATUS_LINES)
        method = rng.choices(_METHODS, _METHOD_WEIGHTS)[0]
        target = rng.choice(_TARGETS) if rng.random() < 0.15 else b"/%d" % rng.randrange(9)
        return b"%b %b %b" % (method, target, rng.choice(_VERSIONS))

    def _length(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.4:
            return b""
        name = rng.choice((b"Content-Length: ", b"Content-Length: ", b"content-length: "))
        return name + b"%d" % rng.randrange(2000)

    def _with_length(self, lines: list[bytes], length: bytes) -> list[bytes]:
        if not length:
            return lines
        place = len(lines) * (len(lines) % 3) // 2  # the same for the same lines
        return [*lines[:place], length, *lines[place:]]

    def _change(self, lines: list[bytes]) -> None:
        rng = self._rng
        way = rng.randrange(6)
        place = rng.randint(0, len(lines))
        if way < 3:
            lines.insert(place, rng.choice(self._lines))
        elif way == 3 and lines:
            lines.insert(place, rng.choice(lines))
        elif way == 4 and place < len(lines):
            lines[place] = lines[place].swapcase()
        elif rng.random() < 0.05:
            lines[place:place] = [b"X-Many: y"] * rng.choice((98, 99, 100, 101))
        else:
            del lines[place : place + 1]

    def _damaged(self, data: bytes) -> bytes:
        rng = self._rng
        place = rng.randrange(len(data))
        odd = rng.choice((b"", *_ODD_BYTES))
        return data[:place] + odd + data[place + rng.randrange(2) :]


class Sides:
    """A parser that remembers, and llhttp with nothing remembered, not even by the modules."""

    def __init__(self, *, of_requests: bool) -> None:
        self._module: Any = request if of_requests else response
        make: Callable[[], Any] = request_parser if of_requests else response_parser
        self._parser, self._other = make(), make()
        nothing: dict[str, Any] = {
            "_plans": HeaderPlans(REQUEST_FIELDS if of_requests else RESPONSE_FIELDS),
            "connections": _Connections(most=1, longest=0),
            "host_names": rules._Hosts(most=1, longest=0),
        }
        for table in nothing.values():
            table.remember = lambda key, size, value: value
        self._nothing = {name: nothing[name] for name in nothing if hasattr(self._module, name)}

    def with_memory(self, data: bytes) -> dict[str, object]:
        """The outcome by the parser that has read all heads before."""
        return _outcome(self._parser.parse, data)

    def without_memory(self, data: bytes) -> dict[str, object]:
        """The outcome by llhttp."""
        module = vars(self._module)
        kept = {name: module[name] for name in self._nothing}
        module.update(self._nothing)
        try:
            return _outcome(self._other._parse, data)
        finally:
            module.update(kept)


#: Of a head: made from its names, and from earlier answers about it, which are compared.
_DERIVED = ("plan", "storable")
(_SERVER,) = make_pool({"name": "a"}).servers
_AFFINITY = CookieAffinity(CookieOptions(cookie="SERVERID"), [_SERVER])


def _outcome(parse: Callable[[bytes], Any], data: bytes) -> dict[str, object]:
    """All that is said of a head, and what is sent for it."""
    try:
        head = parse(data)
    except (RequestRefused, InvalidResponse) as refusal:
        return {"refused": str(refusal), "status": getattr(refusal, "status", 502)}
    said = {name: getattr(head, name) for name in attributes(head) if name not in _DERIVED}
    rare = said.pop("rare", None)
    if rare is not None:
        said |= {f"rare.{name}": getattr(rare, name) for name in attributes(rare)}
    if isinstance(head, RequestHead):
        return said | {"sent": forward(head)}
    cookies = [_AFFINITY.inserted(_SERVER, method, head) for method in _METHODS]
    return said | {"sent": answer(head), "cache": head.cache_fields(), "cookies": cookies}


@dataclass
class Tally:
    """What a run has seen.

    `known`: heads that llhttp did not have to read; `varied`: of these, the ones that are known but
    for the values of a few lines.
    """

    heads: int = 0
    accepted: int = 0
    known: int = 0
    varied: int = 0
    found: list[tuple[bytes, dict[str, object], dict[str, object]]] = field(default_factory=list)


def compare(seed: int, heads: int, *, of_requests: bool) -> Tally:
    """Read `heads` of them both ways; stops at the tenth that differs."""
    sides, tally = Sides(of_requests=of_requests), Tally()
    with counted_heads() as read, _counted_finds() as varied:
        for data in islice(Heads(seed, of_requests=of_requests), heads):
            read.clear()
            varied.clear()
            remembering = sides.with_memory(data)
            tally.known += not read
            tally.varied += bool(varied) and not read
            forgetful = sides.without_memory(data)
            tally.heads += 1
            tally.accepted += "refused" not in forgetful
            if remembering != forgetful:
                tally.found.append((data, remembering, forgetful))
                if len(tally.found) == 10:
                    break
    return tally


@contextmanager
def _counted_finds() -> Iterator[list[object]]:
    """The results for heads of which some lines vary."""
    found: list[object] = []
    find = VaryingLines.find

    def count(self: VaryingLines[Any], block: bytes) -> Any:
        hit = find(self, block)
        if hit is not None:
            found.append(hit)
        return hit

    with patch.object(VaryingLines, "find", count):
        yield found


_PART = 50_000  # heads of one parser; then another one begins


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential.recurring")
    parser.add_argument("--heads", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    began, total, sums = time.monotonic(), 0, Counter[str]()
    for number in count():
        left = options.heads - total
        if left <= 0:
            return 0
        of_requests = number % 3 != 2
        tally = compare(options.seed + number, min(_PART, left), of_requests=of_requests)
        total += tally.heads
        side = "requests" if of_requests else "responses"
        sums.update({side: tally.heads, f"{side} accepted": tally.accepted})
        sums[f"{side} not read by llhttp"] += tally.known
        sums[f"{side} with varying lines"] += tally.varied
        figures = ", ".join(f"{name} {figure:,}" for name, figure in sums.items())
        print(f"{time.monotonic() - began:6.0f} s  {figures}", flush=True)
        for data, remembering, forgetful in tally.found:
            print(f"{data!r}\n  remembered: {remembering}\n  by llhttp:  {forgetful}")
        if tally.found:
            return 1
    raise AssertionError("a count has no end")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
