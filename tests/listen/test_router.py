"""Which route a request takes, by method, fields, query and content type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote_from_bytes, unquote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hermes_lb.config import Frontend, Limits
from hermes_lb.errors import RequestRefused
from hermes_lb.http import RequestParser
from hermes_lb.listen.router import Router
from tests.support.heads import request

GET = b"GET / HTTP/1.1"
POST = b"POST / HTTP/1.1"


class Routes:
    """A frontend's routes; each route's backend has the name of its place, counted from 1."""

    def __init__(self, *routes: dict[str, Any]) -> None:
        numbered = [{**route, "backend": f"{n}"} for n, route in enumerate(routes, 1)]
        frontend = Frontend.model_validate(
            {"name": "f", "bind": "*:1", "routes": numbered, "default_backend": "default"}
        )
        names = ["default", *(one["backend"] for one in numbered)]
        backends: Any = {name: SimpleNamespace(name=name, is_logged=True) for name in names}
        self._router = Router(frontend, backends)
        self._parser = RequestParser(Limits(), frontend.header_keys)

    def take(self, line: bytes, *fields: bytes) -> Any:
        """The backend's name, or the status of a refusal."""
        head = self._parser.parse(request(*fields, line=line))
        try:
            found = self._router.route(head)
        except RequestRefused as refusal:
            return refusal.status
        assert found is not None
        return found.backend.name


def takes(match: dict[str, Any], line: bytes, *fields: bytes) -> Any:
    """Whether a route of this `match` takes the request, or the status of a refusal."""
    return {"1": True, "default": False}.get(
        backend := Routes({"match": match}).take(line, *fields), backend
    )


def target(query: bytes) -> bytes:
    return b"GET /?%b HTTP/1.1" % query


CALL = {"header": {"Mcp-Method": "tools/call"}}
TWO = {"header": {"V": ["1", "2"]}}
OLD = {"header": {"V": {"prefix": "2025-"}}}
SOME = {"header": {"V": {"present": True}}}
NONE = {"header": {"V": {"present": False}}}


@pytest.mark.parametrize(
    ("match", "line", "fields", "expected"),
    [
        ({}, GET, [], True),
        ({"method": "POST"}, POST, [], True),
        ({"method": "POST"}, GET, [], False),
        ({"method": ["GET", "PUT"]}, GET, [], True),
        ({"method": ["GET", "PUT"]}, POST, [], False),
        ({"method": "GET"}, b"HEAD / HTTP/1.1", [], False),
        # A field: its name in any case, its value exactly.
        (CALL, GET, [b"Mcp-Method: tools/call"], True),
        (CALL, GET, [b"mcp-METHOD:tools/call"], True),
        (CALL, GET, [b"Mcp-Method:  \ttools/call \t"], True),
        (CALL, GET, [b"X: Mcp-Method: tools/call"], False),
        (CALL, GET, [b"X-Mcp-Method: tools/call"], False),
        (CALL, GET, [b"Mcp-Method: Tools/Call"], False),
        (CALL, GET, [b"Mcp-Method: tools/calls"], False),
        (CALL, GET, [b"Mcp-Method: tools/list"], False),
        (CALL, GET, [b"Mcp-Method:"], False),
        (CALL, GET, [], False),
        ({"header": {"V": ""}}, GET, [b"V:"], True),
        ({"header": {"V": ""}}, GET, [], False),
        ({"header": {"V": "a.c"}}, GET, [b"V: abc"], False),
        ({"header": {"A%B": "1%"}}, GET, [b"A%B: 1%"], True),
        ({"header": {"A.B": "1"}}, GET, [b"A-B: 1"], False),
        (TWO, GET, [b"V: 1"], True),
        (TWO, GET, [b"V: 2"], True),
        (TWO, GET, [b"V: 12"], False),
        (TWO, GET, [b"V: 1, 2"], False),
        (OLD, GET, [b"V: 2025-11-25"], True),
        (OLD, GET, [b"V: 2025-"], True),
        (OLD, GET, [b"V: 2026-07-28"], False),
        (OLD, GET, [b"V: x2025-"], False),
        ({"header": {"Authorization": {"prefix": "Bearer "}}}, GET, [b"Authorization: Bearer x"],
         True),
        (SOME, GET, [b"V: x"], True),
        (SOME, GET, [b"V:"], True),
        (SOME, GET, [b"V: x", b"V: y"], True),
        (SOME, GET, [], False),
        (NONE, GET, [], True),
        (NONE, GET, [b"V:"], False),
        (NONE, GET, [b"V: x", b"V: y"], False),
        ({"header": {"V": "1", "W": "2"}}, GET, [b"V: 1", b"W: 2"], True),
        ({"header": {"V": "1", "W": "2"}}, GET, [b"V: 1", b"W: 3"], False),
        ({"header": {"V": "1", "W": "2"}}, GET, [b"V: 0", b"W: 2"], False),
        ({"method": "POST", **TWO}, GET, [b"V: 1"], False),
        # A content type: in any case, without parameters.
        ({"content_type": "application/json"}, POST, [b"Content-Type: application/json"], True),
        ({"content_type": "application/json"}, POST,
         [b"content-type: Application/JSON ;charset=utf-8"], True),
        ({"content_type": "Application/JSON"}, POST, [b"Content-Type: application/json;"], True),
        ({"content_type": "application/json"}, POST, [b"Content-Type: application/json-seq"],
         False),
        ({"content_type": "application/json"}, POST, [b"Content-Type: application/json, text/html"],
         False),
        ({"content_type": "application/json"}, POST,
         [b"Content-Type: text/html; a=application/json"], False),
        ({"content_type": "application/json"}, POST, [], False),
        ({"content_type": ["text/*", "image/png"]}, POST, [b"Content-Type: TEXT/plain"], True),
        ({"content_type": ["text/*", "image/png"]}, POST, [b"Content-Type: image/png"], True),
        ({"content_type": ["text/*", "image/png"]}, POST, [b"Content-Type: image/gif"], False),
        ({"content_type": "text/*"}, POST, [b"Content-Type: text/"], False),
        ({"content_type": "text/*"}, POST, [b"Content-Type: text"], False),
    ],
)  # fmt: skip
def test_a_route_takes_what_fits_all_conditions(
    match: dict[str, Any], line: bytes, fields: list[bytes], expected: object
) -> None:
    if line == POST:
        fields = [*fields, b"Content-Length: 0"]
    assert takes(match, line, *fields) is expected


STREAM = {"query": {"stream": "true"}}
SPACE = {"query": {"q": "a b"}}


@pytest.mark.parametrize(
    ("match", "query", "expected"),
    [
        (STREAM, b"stream=true", True),
        (STREAM, b"a=1&stream=true&b=2", True),
        (STREAM, b"&&stream=true&", True),
        (STREAM, b"str%65am=true", True),
        (STREAM, b"%73%74%72%65%61%6d=%74%72%75%65", True),
        (STREAM, b"%73%74%72%65%61%6D=true", True),
        (STREAM, b"stream=true%00", False),
        (STREAM, b"stream=true=", False),
        (STREAM, b"stream=TRUE", False),
        (STREAM, b"Stream=true", False),
        (STREAM, b"upstream=true", False),
        (STREAM, b"streams=true", False),
        (STREAM, b"stream%3dtrue", False),
        (STREAM, b"a=1%26stream=true", False),
        (STREAM, b"a=1;stream=true", False),
        (STREAM, b"a=1?stream=true", False),
        (STREAM, b"stream", False),
        (STREAM, b"", False),
        ({"query": {"stream": ["true", "1"]}}, b"stream=1", True),
        ({"query": {"stream": ""}}, b"stream", True),
        ({"query": {"stream": ""}}, b"stream=", True),
        ({"query": {"stream": ""}}, b"stream=1", False),
        ({"query": {"stream": {"present": True}}}, b"str%65am", True),
        ({"query": {"stream": {"present": True}}}, b"a=stream", False),
        ({"query": {"stream": {"present": True}}}, b"streams=1", False),
        ({"query": {"a.b": "1"}}, b"a-b=1", False),
        (STREAM, b"streams=1&stream=true", True),
        ({"query": {"stream": {"present": False}}}, b"str%65am", False),
        ({"query": {"stream": {"present": False}}}, b"a=stream", True),
        ({"query": {"stream": {"prefix": "t"}}}, b"stream=%74rue", True),
        ({"query": {"stream": {"prefix": "t"}}}, b"stream=f", False),
        (SPACE, b"q=a+b", True),
        (SPACE, b"q=a%20b", True),
        (SPACE, b"q=a%2bb", False),
        ({"query": {"q": "a+b"}}, b"q=a%2Bb", True),
        ({"query": {"q": "a+b"}}, b"q=a+b", False),
        ({"query": {"q": "50%"}}, b"q=50%", True),
        ({"query": {"q": "50%"}}, b"q=50%25", True),
        ({"query": {"q": "%20"}}, b"q=%20", False),
        ({"query": {"q": "%20"}}, b"q=%2520", True),
        ({"query": {"q": "a&b=c#"}}, b"q=a%26b=c%23", True),
        ({"query": {"q": "\u00e9"}}, b"q=%C3%a9", True),
        ({"query": {"a": "1", "b": "2"}}, b"b=2&a=1", True),
        ({"query": {"a": "1", "b": "2"}}, b"a=1", False),
    ],
)  # fmt: skip
def test_a_parameter_is_compared_decoded(
    match: dict[str, Any], query: bytes, expected: bool
) -> None:
    assert takes(match, target(query)) is expected


_NAMES = st.sampled_from(["t", "%74", "a", "t%", "%2574", ""])
_SPELT = st.lists(
    st.sampled_from(["t", "%74", "%", "%25", "+", "%2b", "%20", "%C3%A9", "&", "="]), max_size=2
).map("".join)


@given(st.lists(st.tuples(_NAMES, _SPELT), max_size=2), _SPELT.map(unquote_plus), st.booleans())
def test_decoding_is_that_of_the_url_standard(
    pairs: list[tuple[str, str]], text: str, is_prefix: bool
) -> None:
    """As Python's own parser of forms reads it."""
    assume(text or not is_prefix)
    query = "&".join("=".join(pair) for pair in pairs)
    values = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "t"]
    expected: object = any(map(str.startswith if is_prefix else str.__eq__, values, [text]))
    condition = {"prefix": text} if is_prefix else text
    found = takes({"query": {"t": condition}}, target(query.encode()))
    assert found == (400 if len(values) > 1 else expected)


@given(st.binary(max_size=8), st.text(min_size=1, max_size=8))
def test_no_spelling_of_another_value_fits(sent: bytes, wanted: str) -> None:
    query = b"q=" + quote_from_bytes(sent, safe="").encode()
    assert takes({"query": {"q": wanted}}, target(query)) is (sent == wanted.encode())


@pytest.mark.parametrize(
    ("match", "line", "fields"),
    [
        (CALL, GET, [b"Mcp-Method: tools/call", b"Mcp-Method: tools/list"]),
        (CALL, GET, [b"Mcp-Method: tools/list", b"X: y", b"mcp-method: tools/list"]),
        (CALL, GET, [b"Mcp-Method: tools/call", b"Mcp-Method:"]),
        (OLD, GET, [b"V: 2025-", b"V: 2025-"]),
        ({"content_type": "text/*"}, GET, [b"Content-Type: a/b", b"Content-Type: text/html"]),
        (STREAM, target(b"stream=true&stream=false"), []),
        (STREAM, target(b"stream=false&str%65am=true"), []),
        (STREAM, target(b"stream&stream=true"), []),
        (STREAM, b"GET http://a?stream=false&stream=true HTTP/1.1", []),
    ],
)
def test_several_values_where_one_is_compared_are_refused(
    match: dict[str, Any], line: bytes, fields: list[bytes]
) -> None:
    assert takes(match, line, *fields) == 400


@pytest.mark.parametrize(
    ("route", "line", "fields"),
    [
        ({"path": "/other", "match": CALL}, GET, [b"Mcp-Method: a", b"Mcp-Method: b"]),
        ({"host": "other", "match": CALL}, GET, [b"Mcp-Method: a", b"Mcp-Method: b"]),
        ({"match": {"method": "PUT", **CALL}}, GET, [b"Mcp-Method: a", b"Mcp-Method: b"]),
        ({"match": {**CALL, **STREAM}}, target(b"stream=1&stream=2"), [b"Mcp-Method: a"]),
        ({"match": {"header": {"A": "1", "B": "2"}}}, GET, [b"A: 0", b"B: 1", b"B: 2"]),
        ({"match": CALL}, GET, [b"X: a", b"X: b"]),
    ],
)
def test_several_values_that_decide_nothing_are_not_refused(
    route: dict[str, Any], line: bytes, fields: list[bytes]
) -> None:
    assert Routes(route).take(line, *fields) == "default"


def test_the_first_route_that_fits_wins() -> None:
    routes = Routes(
        {"path_prefix": "/mcp", "match": {"header": {"V": "2026-07-28"}}},
        {"path_prefix": "/mcp", "match": {"header": {"V": {"prefix": "2025-"}}}},
        {"path_prefix": "/mcp", "match": {"header": {"V": {"present": False}}}},
        {"host": "a", "path": "/mcp"},
    )
    line = b"GET /mcp HTTP/1.1"
    found = [routes.take(line, *fields) for fields in (
        [b"V: 2026-07-28"], [b"V: 2025-11-25"], [], [b"V: 2024-11-05"])]  # fmt: skip
    assert found == ["1", "2", "3", "4"]
    assert routes.take(GET, b"V: 2026-07-28") == "default"


class _NoFields:
    """A head whose fields, method and query must not be looked at."""

    host_name = "a"
    target = b"/x?y"


def test_without_conditions_no_field_is_looked_at() -> None:
    router = Routes({"host": "a", "path": "/x"}, {"match": CALL})._router
    found = router.route(_NoFields())  # type: ignore[arg-type]
    assert found is not None
    assert found.backend.name == "1"


def test_a_path_that_does_not_fit_ends_the_comparison() -> None:
    router = Routes({"path": "/y", "match": CALL})._router
    found = router.route(_NoFields())  # type: ignore[arg-type]
    assert found is not None
    assert found.backend.name == "default"
