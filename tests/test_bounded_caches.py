"""Caches whose keys clients or servers choose are bounded in bytes, whatever fills them."""

from __future__ import annotations

import importlib
import pkgutil
import tracemalloc
from collections.abc import Callable
from random import Random

import pytest

import hermes_lb
from hermes_lb.affinity import cookie
from hermes_lb.balancing import STRATEGIES, ip_hash
from hermes_lb.config import Limits
from hermes_lb.http import RequestParser, ResponseParser, build_response, identity_fields
from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.http.fields import REQUEST_FIELDS, HeaderPlans, connections
from hermes_lb.http.rules import host_names
from hermes_lb.limits import per_client
from hermes_lb.observe import combined, httplog, json_log
from hermes_lb.proxy.http2.fields import as_http1, is_name, response_fields
from hermes_lb.proxy.http2.upstream_fields import as_fields, as_head
from tests.support.heads import request, response
from tests.support.pools import FakeRequest, make_pool

Fill = Callable[[int], object]

# Bytes that one cache may take in a process, whatever it is filled with.
_MOST = 5_000_000


def _eight(number: int) -> bytes:
    return b"%08x" % number


def _status_lines() -> Fill:
    parse = ResponseParser(100).parse
    return lambda i: build_response(
        parse(response(line=b"HTTP/1.1 200 " + _eight(i) * 3900)), b"", True, True, 0
    )


def _heads(parser: RequestParser | ResponseParser, make: Callable[[bytes], bytes]) -> Fill:
    def fill(i: int) -> None:
        data = make(_eight(i))
        for _ in range(3):  # the second time it is stored, the third time found
            parser.parse(data)

    return fill


def _request_heads() -> Fill:
    return _heads(RequestParser(Limits()), lambda text: request(*[b"Cookie: " + text] * 90))


def _long_request_heads() -> Fill:
    return _heads(RequestParser(Limits()), lambda text: request(b"X: " + text * 250))


def _heads_with_length() -> Fill:
    length, line = b"Content-Length: 5", b"POST / HTTP/1.1"
    return _heads(
        RequestParser(Limits()),
        lambda text: request(*[b"Cookie: " + text] * 90, length, line=line),
    )


def _response_heads() -> Fill:
    return _heads(ResponseParser(100), lambda text: response(*[b"X: " + text] * 50))


def _varying_lines() -> Fill:
    """Blocks with a line that varies, each of them a few times."""
    parse = RequestParser(Limits()).parse

    def fill(i: int) -> None:
        for value in range(3):
            parse(request(*[b"A%d: " % (i % 4) + _eight(i) * 12] * 15, b"X: %d" % value))

    return fill


def _plans() -> Fill:
    plans = HeaderPlans(REQUEST_FIELDS)
    return lambda i: plans[tuple(b"%b%x" % (_eight(i), j) for j in range(98))]


def _plans_of_short_names() -> Fill:
    plans = HeaderPlans(REQUEST_FIELDS)
    names = [b"%02x" % i for i in range(98)]
    return lambda i: plans[tuple(Random(i).sample(names, len(names)))]


def _options(i: int) -> object:
    return connections[b",".join(b"%x" % (i * 25 + j) for j in range(25))[:128]]


def _cacheable(i: int) -> object:
    return cookie._is_cacheable(b"GET", 200, ((b"cache-control", _eight(i) * 3900),))


def _http2_requests() -> Fill:
    get = (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a")
    more = tuple((b"x-%d" % n, b"v") for n in range(60))
    return lambda i: as_http1((*get, (b":path", b"/" + _eight(i)), *more), has_body=False)


def _http2_responses() -> Fill:
    return lambda i: response_fields(200, (b"X-A: %b\r\n" % _eight(i)) * 60)


def _http2_upstream_requests() -> Fill:
    more = b"".join(b"X-%d: v\r\n" % n for n in range(90))
    return lambda i: as_fields(b"GET /%b HTTP/1.1\r\n%bHost: h" % (_eight(i), more), b"http")


def _http2_servers() -> Fill:
    more = tuple((b"x-%d" % n, b"v") for n in range(60))
    return lambda i: as_head(
        ((b":status", b"200"), (b"x-a", _eight(i)), *more), ended=True, is_head=False
    )


def _strategy(name: str) -> Callable[[], Fill]:
    """Sessions and clients that invent their keys, each with a request that ends."""

    def start() -> Fill:
        pool, strategy, rng = make_pool({}), STRATEGIES[name](), Random(1)

        def fill(i: int) -> None:
            path = _eight(i) * 20
            request = FakeRequest(
                _address(i) * 20, request_head=b"POST /%b HTTP/1.1\r\n\r\n" % path
            )
            for _ in range(1 + i % 2):
                server = strategy.pick(pool, request, i / 1000, rng)
                assert server is not None
                pool.lease(server, i / 1000, request).release(i)

        return fill

    return start


def _address(i: int) -> str:
    return f"2001:db8:1111:2222:{i >> 16:x}:{i & 65535:x}:3333:4444"


# The cache, what fills it, and how many entries are more than enough.
FILLED = [
    ("response._status_lines", _status_lines, 300),
    ("RequestParser: many fields", _request_heads, 1100),
    ("RequestParser: long fields", _long_request_heads, 1100),
    ("RequestParser: with a length", _heads_with_length, 1100),
    ("RequestParser: varying lines", _varying_lines, 1100),
    ("ResponseParser", _response_heads, 300),
    ("forward._identities", lambda: lambda i: identity_fields(_address(i), b"https"), 2100),
    ("fields._requests", _http2_requests, 600),
    ("fields._blocks", _http2_responses, 300),
    ("upstream_fields._requests", _http2_upstream_requests, 300),
    ("upstream_fields._heads", _http2_servers, 300),
    ("fields._names", lambda: lambda i: is_name(_eight(i) * 7), 1100),
    ("fields.HeaderPlans", _plans, 1500),
    ("fields.HeaderPlans: short names", _plans_of_short_names, 1500),
    ("fields.connections", lambda: _options, 1100),
    ("rules.host_names", lambda: lambda i: host_names[_eight(i) * 31], 5000),
    ("httplog.request_text",
     lambda: lambda i: httplog.request_text(b"GET", _eight(i) * 127, 1), 5000),
    ("combined.request_text",
     lambda: lambda i: combined.request_text(b"GET", _eight(i) * 225, 1), 5000),
    ("combined.field_text", lambda: lambda i: combined.field_text(_eight(i) * 128), 5000),
    ("json_log._text", lambda: lambda i: json_log.text(_eight(i) * 150, 1200), 5000),
    ("json_log.name", lambda: lambda i: json_log.name(_address(i)), 5000),
    ("cookie._is_cacheable", lambda: _cacheable, 400),
    ("least_sessions: live sessions", _strategy("least_sessions"), 12_000),
    ("least_tokens: averages", _strategy("least_tokens"), 9000),
    ("fair_queue: clients", _strategy("fair_queue"), 9000),
    ("ip_hash.hash_key", lambda: lambda i: ip_hash.hash_key(_address(i)), 25_000),
    ("per_client.client_key", lambda: lambda i: per_client.client_key(_address(i)), 5000),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "number"), [pytest.param(*case[1:], id=case[0]) for case in FILLED]
)
def test_strangers_fill_it(start: Callable[[], Fill], number: int) -> None:
    fill = start()
    fill(0)
    tracemalloc.start()
    try:
        before, most = tracemalloc.get_traced_memory()[0], 0
        for i in range(1, number):
            fill(i)
            if i % 64 == 0 or i == number - 1:
                most = max(most, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert most < _MOST


# Caches that no client can fill: their keys are seconds, configured, or there are none.
_OURS = {
    "allowed.json_schema", "append_command.terms_of", "combined.date", "histogram._places",
    "httplog._moment", "httplog.date", "json_log._second", "maglev.table", "metric_table.version",
    "openapi._schemas", "openapi.document", "usage._booted_at",
}  # fmt: skip


def test_every_cache_of_a_module_is_known_here() -> None:
    caches: dict[int, set[str]] = {}  # by identity: one may be imported by others
    for info in pkgutil.walk_packages(hermes_lb.__path__, "hermes_lb."):
        if info.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            if isinstance(value, BoundedCache) or (
                hasattr(value, "cache_info") and value.__module__ == info.name
            ):
                names = caches.setdefault(id(value), set())
                names.add(f"{info.name.rpartition('.')[2]}.{name}")
    known = _OURS | {name.partition(":")[0] for name, *_ in FILLED}
    plans = {"request._plans", "response._plans"}  # of `fields.HeaderPlans`, whose bounds they have
    assert [names for names in caches.values() if not names & (known | plans)] == []
