"""Which responses are good to a check."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hermes_lb.backends import Pool
from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.config import Address, Backend, Server
from hermes_lb.health.probes.expect import Expectation, reported_load
from hermes_lb.health.probes.http import HttpOptions
from hermes_lb.http import ResponseParser


def expectation(**health: Any) -> Expectation:
    options = HttpOptions.model_validate(health)
    return Expectation(options.expect_status, options.expect_header, options.expect_body)


def fault(body: bytes = b"", header: str | None = None, status: int = 200, **health: Any) -> object:
    """The fault of a response with this body and one header field, or none."""
    name, _, value = (header or "").partition(": ")
    return expectation(**health).fault(
        status, lambda asked: [value] if header and asked.lower() == name.lower() else [], body
    )


@pytest.mark.parametrize(
    ("expected", "body", "good"),
    [
        ("ok", b"all is ok here", True),
        ("ok", b"OK", False),
        ("ok", b"", False),
        ("a.c", b"abc", False),  # a text, no expression
        ("grün".encode().decode(), "grün".encode(), True),
        ("~^ok$", b"ok", True),
        ("~ ^ok$", b"ok", True),
        ("~^ok$", b"ok, more or less", False),
        ("~(?i)ok", b"it is OK", True),
        (r"~\d+ agents", b"\xff\xfe 12 agents", True),
    ],
)
def test_body(expected: str, body: bytes, good: bool) -> None:
    problem = fault(body, expect_body=expected)
    assert problem == (None if good else f"200, expected {expected} in the body")


@pytest.mark.parametrize(
    ("expected", "header", "problem"),
    [
        ("X-Ready", "x-ready: no", None),
        ("X-Ready", None, "200 without X-Ready"),
        ("X-Ready: yes", "X-Ready: yes", None),
        ("X-Ready: yes", "X-Ready: yes, indeed", "200, expected the header X-Ready: yes"),
        ("X-Ready: yes", None, "200 without X-Ready"),
        ("X-Ready: ~^y", "X-Ready: yes, indeed", None),
        ("X-Ready: ~^y", "X-Ready: no", "200, expected the header X-Ready: ~^y"),
        ("X-Time: 10:30", "X-Time: 10:30", None),
        ("X-Ready:", "X-Ready: yes", "200, expected the header X-Ready:"),
    ],
)
def test_header(expected: str, header: str | None, problem: str | None) -> None:
    assert fault(header=header, expect_header=expected) == problem


def test_one_of_several_fields_of_the_name_is_enough() -> None:
    expected = expectation(expect_header="X-Ready: yes")
    assert expected.fault(200, lambda _: ["no", "yes"], b"") is None


def test_all_of_them_must_hold_and_the_status_is_reported_first() -> None:
    health = {"expect_status": "2xx", "expect_header": "X-Ready", "expect_body": "ok"}
    assert fault(b"ok", "X-Ready: 1", 204, **health) is None
    assert fault(b"", None, 500, **health) == "500, expected 2xx"
    assert fault(b"", None, 204, **health) == "204 without X-Ready"
    assert fault(b"", "X-Ready: 1", 204, **health) == "204, expected ok in the body"


@pytest.mark.parametrize(
    ("health", "message"),
    [
        ({"expect_body": "~("}, "this is no regular expression"),
        ({"expect_header": "X-Ready: ~["}, "this is no regular expression"),
        ({"expect_header": "two words"}, "should match pattern"),
        ({"expect_header": "X: a\r\nY: b"}, "should match pattern"),
        ({"expect_body": ""}, "at least 1 character"),
        ({"method": "HEAD", "expect_body": "ok"}, "a response to HEAD has no body"),
    ],
)
def test_what_makes_no_sense_is_refused(health: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HttpOptions.model_validate(health)


@pytest.mark.parametrize(
    ("headers", "body", "load"),
    [
        (["3.5"], b"", 3.5),
        (["3"], b'{"load": 9}', 3.0),
        (["many"], b'{"load": 9}', None),
        (["\udcff"], b"", None),  # a byte that is no UTF-8, as aiohttp gives it
        ([], b'{"status": "ok", "load": 9}', 9.0),
        ([], b'{"load": 2.25}', 2.25),
        ([], b'{"status": "ok"}', None),
        ([], b"", None),
        ([], b"[1]", None),
        ([], b'"load"', None),
        ([], b"4", None),
        ([], b'{"load": null}', None),
        ([], b'{"load": true}', None),
        ([], b'{"load": "4"}', None),
        ([], b'{"load": [4]}', None),
        ([], b"[" * 100_000, None),
        ([], b"\xff", None),
    ],
)
def test_what_an_answer_says_of_its_servers_load(
    headers: list[str], body: bytes, load: float | None
) -> None:
    assert reported_load(headers, body) == load


@pytest.mark.parametrize(
    "written",
    ["0", "4", "0.5", "999999999", "-1", "-0", "+1", "1e3", "1_000", "1.", ".5", "1234567890",
     "0.30000000000000004", "9" * 5000, "NaN", "Infinity", "true", "", "²", "٣"],
)  # fmt: skip
def test_a_check_reads_a_load_as_an_answer_to_a_request_does(written: str) -> None:
    server = Pool("p", Backend(servers=[Server(name="s", address=Address("h", 1))])).servers[0]
    strategy = LeastLoad()
    head = ResponseParser(10_000).parse(
        f"HTTP/1.1 200 OK\r\nX-Hermes-Load: {written}\r\n\r\n".encode()
    )
    assert head is not None
    strategy.answered(server, head, 0.1, 0.0)
    told = strategy.load(server, 0.0) if strategy._elsewhere else None
    assert reported_load([written], b"") == told
    assert reported_load([], f'{{"load": {written}}}'.encode()) == told
