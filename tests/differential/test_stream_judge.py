"""The judge of streams notices each thing that a careless balancer could do."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Encoder

from tests.differential.arena import RequestOutcome
from tests.differential.peers import MARKER_REQUEST
from tests.differential.stream_grammar import NEXT_STREAM, STREAM, StreamCase, frame, wire_of
from tests.differential.stream_judge import judge_stream, malformed, translation
from tests.differential.verdict import Disagreement

if TYPE_CHECKING:
    from tests.differential.stream_grammar import Fields

GET: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/a"),
    (b":authority", b"a"),
]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
ANSWERED = ("200", b"answer 0")
_NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def case_of(
    fields: Fields, body: bytes | None = None, trailers: Fields | None = None
) -> StreamCase:
    return StreamCase([wire_of(fields, body, trailers)], fields, body, trailers)


def answers_by_http2(first: tuple[str, bytes] | None, following: bytes) -> bytes:
    """What a client gets on both streams. None: the first one is reset."""
    wire = frame(4, 0, 0)
    answers = {NEXT_STREAM: ("200", following)}
    if first is None:
        wire += frame(3, 0, STREAM, (1).to_bytes(4))
    else:
        answers = {STREAM: first, **answers}
    encoder = Encoder()
    for stream, (status, body) in answers.items():
        wire += frame(1, 4, stream, encoder.encode([(b":status", status.encode())]))
        wire += frame(0, 1, stream, body)
    return wire


def outcome_of(
    case: StreamCase,
    *requests: bytes,
    first: tuple[str, bytes] | None = ANSWERED,
    following: bytes | None = None,
) -> RequestOutcome:
    """As if these requests, that of the next stream and the marker had reached an origin."""
    count = len(requests)
    return RequestOutcome(
        sent=case.pieces[0],
        streams=[b"".join(requests) + _NEXT, MARKER_REQUEST],
        order=[0] * (count + 1) + [1],
        methods=[b"GET"] * (count + 2),
        statuses=[200] * (count + 2),
        answers=answers_by_http2(first, following or b"answer %d" % count),
        witness=b"HTTP/1.1 200 X\r\nContent-Length: 8\r\n\r\nanswer %d" % (count + 1),
    )


def twin_of(*requests: bytes) -> RequestOutcome:
    return RequestOutcome(
        sent=b"",
        streams=[b"".join(requests), MARKER_REQUEST],
        order=[0] * len(requests) + [1],
        methods=[b"GET"] * (len(requests) + 1),
        statuses=[200] * (len(requests) + 1),
        witness=b"HTTP/1.1 200 X\r\nContent-Length: 8\r\n\r\nanswer %d" % len(requests),
    )


PASSED = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
WITH_BODY = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


def test_what_is_well_formed_may_arrive() -> None:
    case = case_of(GET)
    verdict = judge_stream(case, outcome_of(case, PASSED), twin_of(PASSED))
    assert (verdict.client, verdict.origin) == (["200"], [b"GET /a"])


def test_what_is_malformed_may_be_reset() -> None:
    case = case_of([*GET, (b"connection", b"close")])
    verdict = judge_stream(case, outcome_of(case, first=None), None)
    assert (verdict.client, verdict.refusal) == (["reset"], "reset a field of one hop")


@pytest.mark.parametrize(
    ("kind", "fields", "body", "requests"),
    [
        ("a field of one hop", [*GET, (b"connection", b"close")], None, [PASSED]),
        ("an odd path", [*GET[:2], (b":path", b"/a#b"), GET[3]], None, [PASSED]),
        ("less DATA", [*POST, (b"content-length", b"9")], b"hello", [WITH_BODY]),
        ("more DATA", [*POST, (b"content-length", b"3")], b"hello", [WITH_BODY]),
        ("several requests", POST, b"hello", [WITH_BODY, PASSED]),
        ("h11 refuses it", GET, None, [b"GET /a HTTP/1.1\r\nHost: a\r\nX: y\0\r\n\r\n"]),
    ],
)
def test_the_judge_notices_what_reaches_an_origin(
    kind: str, fields: Fields, body: bytes | None, requests: list[bytes]
) -> None:
    case = case_of(fields, body)
    with pytest.raises(Disagreement, match=kind):
        judge_stream(case, outcome_of(case, *requests), None)


@pytest.mark.parametrize(
    ("kind", "request_", "twin"),
    [
        ("another request", b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", [PASSED]),
        ("other fields", PASSED[:-2] + b"X: y\r\n\r\n", [PASSED]),
        ("other fields", PASSED.replace(b"Host: a", b"Host: b"), [PASSED]),
        ("HTTP/1.1 refuses it", PASSED, []),
        ("several requests", PASSED, [PASSED, PASSED]),
    ],
)
def test_the_judge_compares_with_http1(kind: str, request_: bytes, twin: list[bytes]) -> None:
    case = case_of(GET)
    with pytest.raises(Disagreement, match=kind):
        judge_stream(case, outcome_of(case, request_), twin_of(*twin))


def test_the_judge_notices_a_request_that_is_lost() -> None:
    case = case_of(GET)
    with pytest.raises(Disagreement, match=r"HTTP/2 refuses it, and HTTP/1\.1 does not"):
        judge_stream(case, outcome_of(case, first=None), twin_of(PASSED))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("the wrong answer", {"first": ("200", b"answer 1")}),
        ("the wrong answer", {"first": None}),
        ("the next stream gets something else", {"following": b"answer 0"}),
    ],
)
def test_the_judge_notices_another_answer(kind: str, changes: dict[str, Any]) -> None:
    case = case_of(GET)
    with pytest.raises(Disagreement, match=kind):
        judge_stream(case, outcome_of(case, PASSED, **changes), None)


@pytest.mark.parametrize(
    ("name", "is_accepted"), [(b"content-length", True), (b"host", True), (b"x-t", False)]
)
def test_a_stream_whose_request_was_whole_may_be_reset_for_its_trailers(
    name: bytes, is_accepted: bool
) -> None:
    case = case_of([*POST, (b"content-length", b"5")], b"hello", [(name, b"7")])
    with contextlib.nullcontext() if is_accepted else pytest.raises(Disagreement):
        judge_stream(case, outcome_of(case, WITH_BODY, first=None), None)


def test_the_judge_notices_that_the_next_stream_is_lost() -> None:
    case = case_of(GET)
    outcome = replace(outcome_of(case, PASSED), streams=[PASSED, MARKER_REQUEST], order=[0, 1])
    with pytest.raises(Disagreement, match="the next stream's request does not come"):
        judge_stream(case, outcome, None)


def test_the_translation_of_a_request() -> None:
    fields = [*POST, (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d"), (b"te", b"trailers")]
    case = case_of(fields, b"hello")
    assert not malformed(case)
    assert translation(case) == (
        b"POST /a HTTP/1.1\r\nHost: a\r\nx: y\r\nCookie: a=b; c=d\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
