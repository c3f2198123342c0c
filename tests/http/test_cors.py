"""Which pages may read a response, by the Fetch standard."""

from __future__ import annotations

import pytest

from hermes_lb.http.cors import Cors, is_preflight, origin_of

APP = b"https://app.example"


def rules(*origins: str, credentials: bool = False, fields: tuple[str, ...] = ("*",)) -> Cors:
    return Cors(origins, ["GET", "PUT"], fields, ["X-A"], 600.0, credentials=credentials)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (["https://app.example"], APP, APP),
        (["https://app.example"], b"http://app.example", b""),
        (["https://app.example"], b"https://app.example:8443", b""),
        (["https://app.example"], b"https://app.example.evil.example", b""),
        (["https://app.example"], b"https://evil.example/https://app.example", b""),
        (["https://app.example"], b"https://appxexample", b""),
        (["https://app.example"], b"", b""),
        (["https://app.example"], b"null", b""),
        (["null"], b"null", b"null"),
        (["https://*.example"], APP, APP),
        (["https://*.example"], b"https://a.b.example", b"https://a.b.example"),
        (["https://*.example"], b"https://example", b""),
        (["https://*.example"], b"https://evil.test/x.example", b""),
        (["https://*.example"], b"https://evil.test#.example", b""),
        (["https://a.example", "https://app.example"], APP, APP),
        (["*"], b"null", b"*"),
        (["*"], APP, b"*"),
    ],
)
def test_an_origin_is_allowed_if_it_is_one_of_them(
    origins: list[str], origin: bytes, allowed: bytes
) -> None:
    line = b"Access-Control-Allow-Origin: %b\r\n" % allowed
    assert (line in rules(*origins).applied(b"", origin)) is bool(allowed)
    if not allowed:
        assert b"Access-Control-Allow" not in rules(*origins).applied(b"", origin)


@pytest.mark.parametrize(
    ("lines", "vary"),
    [
        (b"", 1),
        (b"Vary: Accept-Encoding\r\n", 2),
        (b"vary: accept, ORIGIN\r\n", 1),
        (b"Vary: *\r\n", 1),
    ],
)
def test_a_cache_is_told_once_that_the_origin_matters(lines: bytes, vary: int) -> None:
    assert rules("https://app.example").applied(lines, APP).lower().count(b"vary:") == vary
    assert b"Origin" not in rules("*").applied(b"", b"").replace(b"Allow-Origin", b"")


def test_the_servers_permissions_are_replaced() -> None:
    lines = (
        b"Access-Control-Allow-Origin: *\r\nA: 1\r\naccess-control-allow-credentials: true\r\n"
        b"Access-Control-Expose-Headers: X-B\r\n"
    )
    assert rules("https://app.example", credentials=True).applied(lines, APP) == (
        b"A: 1\r\nAccess-Control-Expose-Headers: X-B\r\n"
        b"Access-Control-Allow-Origin: https://app.example\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: X-A\r\nVary: Origin\r\n"
    )


ASKED = (
    b"Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n"
    b"Access-Control-Request-Headers: x-a, x-b\r\n"
)


def test_a_preflight_is_allowed_what_it_asks_for() -> None:
    assert rules("https://app.example").preflight(ASKED) == (
        b"Access-Control-Allow-Origin: https://app.example\r\n"
        b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        b"Access-Control-Allow-Methods: GET, PUT\r\nAccess-Control-Max-Age: 600\r\n"
        b"Access-Control-Allow-Headers: x-a, x-b\r\n"
    )


def test_a_preflight_is_allowed_the_fields_of_the_route_only() -> None:
    answer = rules("https://app.example", fields=("X-C",)).preflight(ASKED)
    assert b"Access-Control-Allow-Headers: X-C\r\n" in answer


def test_another_pages_preflight_is_allowed_nothing() -> None:
    assert rules("https://b.example").preflight(ASKED) == (
        b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
    )


@pytest.mark.parametrize(
    ("lines", "origin"),
    [
        (b"ORIGIN:  https://app.example \r\n", APP),
        (b"X-Origin: a\r\n", b""),
        (b"Origin: a\r\nOrigin: b\r\n", b""),
        (b"A: b\r\nOrigin: null\r\n", b"null"),
    ],
)
def test_the_origin_of_a_request(lines: bytes, origin: bytes) -> None:
    assert origin_of(lines) == origin


def test_a_preflight_names_a_method() -> None:
    assert is_preflight(ASKED)
    assert not is_preflight(b"X: access-control-request-method: PUT\r\n")
