"""The judge of requests notices each thing that a careless balancer could do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.differential.arena import RequestOutcome
from tests.differential.peers import MARKER_REQUEST, Answers
from tests.differential.request_judge import judge_requests
from tests.differential.request_referees import LlhttpRequests, by_llhttp
from tests.differential.verdict import Disagreement
from tests.support.heads import NEXT, request

ONE = request(b"X-Own: y", line=b"GET /one HTTP/1.1")
TWO = request(b"Content-Length: 5", line=b"POST /two HTTP/1.1") + b"hello"
REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\nConnection: close\r\n\r\n"
    b"400 Bad Request: no\n"
)


def _passed_on(sent: bytes, stream: bytes | None = None, *, early: int = 0) -> RequestOutcome:
    """As if `stream`, or what was sent, had reached an origin that reads it as llhttp does."""
    stream = sent if stream is None else stream
    messages = by_llhttp(stream).messages
    answers = Answers(early)
    return RequestOutcome(
        sent=sent,
        early=early,
        streams=[stream, MARKER_REQUEST],
        order=[0] * _heads(stream) + [1],
        answers=b"".join(answers.next(message.method) for message in messages),
        methods=answers.methods,
        statuses=answers.statuses,
        witness=answers.next(b"GET"),
    )


def _heads(stream: bytes) -> int:
    reader = LlhttpRequests()
    reader.feed(stream)
    return len(reader.methods)


def _refused(sent: bytes) -> RequestOutcome:
    return replace(_passed_on(sent, b""), answers=REFUSAL, is_closed=True)


@pytest.mark.parametrize(
    ("sent", "client", "origin"),
    [
        (ONE, ["200"], [b"GET /one"]),
        (ONE + TWO, ["200", "200"], [b"GET /one", b"POST /two hello"]),
        (request(line=b"HEAD / HTTP/1.1") + ONE, ["200", "200"], [b"HEAD /", b"GET /one"]),
        (TWO[:-1], [], []),
        (b"", [], []),
    ],
)
def test_what_was_sent_may_arrive(sent: bytes, client: list[str], origin: list[bytes]) -> None:
    verdict = judge_requests(_passed_on(sent))
    assert (verdict.client, verdict.origin, verdict.refusal) == (client, origin, "")


def test_what_is_refused_may_be_refused() -> None:
    verdict = judge_requests(_refused(b"GET / HTTP/9.9\r\n\r\n"))
    assert (verdict.client, verdict.refusal, verdict.strict) == (
        ["400"], "400 Bad Request: no", ""
    )  # fmt: skip


def test_a_refusal_of_what_all_understand_is_noted() -> None:
    verdict = judge_requests(_refused(ONE))
    assert verdict.strict == "400 Bad Request: no"


def _post(*fields: bytes, body: bytes) -> bytes:
    return request(*fields, line=b"POST / HTTP/1.1") + body


_CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(_post(b"Content-Length: 6", _CHUNKED, body=b"0\r\n\r\nG"), id="CL.TE"),
        pytest.param(_post(_CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n"), id="TE.CL"),
        pytest.param(_post(_CHUNKED, b"Transfer-Encoding: x", body=b"0\r\n\r\n"), id="TE.TE"),
        pytest.param(_post(b"Content-Length: 0", b"Content-Length: 31", body=NEXT), id="CL.CL"),
        pytest.param(_post(b"Content-Length: +5", body=b"hello"), id="plus"),
        pytest.param(_post(b"X: y\nContent-Length: 31", body=NEXT), id="bare LF"),
        pytest.param(_post(b"X: y", b" folded", body=b""), id="fold"),
        pytest.param(_post(_CHUNKED, body=b"5;\nhello\r\n0\r\n\r\n"), id="LF in an extension"),
        pytest.param(_post(_CHUNKED, body=b"5_0\r\nhello\r\n0\r\n\r\n"), id="underscore"),
        pytest.param(_post(_CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"), id="LF behind a chunk"),
        pytest.param(
            _post(_CHUNKED, body=b"10000000000000005\r\nhello\r\n0\r\n\r\n"), id="overflow"
        ),
        pytest.param(request(host=b"Host: a\r\nHost: b"), id="two hosts"),
    ],
)
def test_what_is_smuggled_through_untouched_is_noticed(sent: bytes) -> None:
    with pytest.raises(Disagreement, match=r"^forwarded: "):
        judge_requests(_passed_on(sent))


@pytest.mark.parametrize(
    ("sent", "stream", "kind"),
    [
        (ONE, ONE + NEXT, "nobody reads a request where we forward one"),
        (TWO, TWO.replace(b"hello", b"HELLO"), "h11 reads another body"),
        (ONE, ONE.replace(b"/one", b"/two"), "h11 reads another target"),
        (ONE, ONE.replace(b"GET", b"PUT"), "h11 reads another method"),
        (ONE, ONE.replace(b"Host: a", b"Host: b"), "h11 reads another host"),
        (ONE, ONE.replace(b"X-Own: y", b"X-Own: z"), "h11 reads another field"),
        (ONE, ONE.replace(b"X-Own: y\r\n", b""), "h11 reads another field"),
        (ONE, ONE.replace(b"X-Own", b"X-Other: z\r\nX-Own"), "h11 reads another field"),
        (request(line=b"GET http://b/ HTTP/1.1"), request(), "h11 reads another host"),
        (ONE + TWO, ONE, "a request is lost"),
        (TWO, TWO[:-1], "a request is cut, and nobody is told"),
        (TWO + ONE, ONE + TWO, "h11 reads another method"),
    ],
)
def test_what_was_not_sent_is_noticed(sent: bytes, stream: bytes, kind: str) -> None:
    with pytest.raises(Disagreement) as problem:
        judge_requests(_passed_on(sent, stream))
    assert problem.value.kind == kind


@pytest.mark.parametrize("payload", [b"hello", b"HELLO"])
def test_blanks_before_an_extension_are_read_though_no_referee_does(payload: bytes) -> None:
    sent = _post(_CHUNKED, body=b"5 ;a = b\r\nhello\r\n0\t;c\r\n\r\n")
    stream = _post(_CHUNKED, body=b"5\r\n%b\r\n0\r\n\r\n" % payload)
    if payload == b"hello":
        assert judge_requests(_passed_on(sent, stream)).refusal == ""
    else:
        with pytest.raises(Disagreement, match="reads another body"):
            judge_requests(_passed_on(sent, stream))


def test_blanks_before_an_extension_of_a_request_that_is_not_whole() -> None:
    sent = _post(_CHUNKED, body=b"5 ;a=b\r\nhello\r\n0\r\n\r")
    stream = _post(_CHUNKED, body=b"5\r\nhello\r\n")
    assert judge_requests(_passed_on(sent, stream)).refusal == ""


def test_a_name_that_cgi_takes_for_another_is_noticed() -> None:
    with pytest.raises(Disagreement, match="a name that CGI reads as another"):
        judge_requests(_passed_on(request(b"Content_Length: 5")))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"order": [1]}, "more than was answered reaches the origin"),
        ({"order": [1, 0]}, "the next client's request does not come"),
        ({"witness": b""}, "an answer is missing"),
        ({"witness": b"HTTP/1.1 200 X\r\nContent-Length: 8\r\n\r\nanswer 0"},
            "the next client gets something else"),
        ({"answers": b""}, "an answer is missing"),
        ({"answers": b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nanswer 0"},
            "an answer is malformed"),
        ({"answers": b"HTTP/1.1 200 X\r\nContent-Length: 8\r\n\r\nanswer 1"}, "the wrong answer"),
        ({"answers": REFUSAL}, "the wrong answer"),
        ({"trouble": ["a bug is logged"]}, "trouble"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_noticed(changes: dict[str, Any], kind: str) -> None:
    outcome = _passed_on(ONE)
    judge_requests(outcome)
    with pytest.raises(Disagreement) as problem:
        judge_requests(replace(outcome, **changes))
    assert problem.value.kind == kind


@pytest.mark.parametrize(
    ("behind", "is_closed"),
    [
        (REFUSAL, False),
        (REFUSAL + b"x", True),
        (b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
def test_behind_the_answers_comes_a_refusal_or_nothing(behind: bytes, is_closed: bool) -> None:
    outcome = _passed_on(ONE)
    with pytest.raises(Disagreement) as problem:
        judge_requests(replace(outcome, answers=outcome.answers + behind, is_closed=is_closed))
    assert problem.value.kind == "behind the answers comes no refusal"


@pytest.mark.parametrize("behind", ["an early answer", "a refused expectation"])
def test_no_connection_is_used_again_behind_such_an_answer(behind: str) -> None:
    with pytest.raises(Disagreement, match=f"used again behind {behind}"):
        judge_requests(replace(_passed_on(ONE), reused={behind: ONE}))
