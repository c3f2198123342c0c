"""The judge of responses notices each thing that a careless balancer could do."""

from __future__ import annotations

import pytest

from tests.differential.arena import ResponseOutcome
from tests.differential.peers import MARKER_RESPONSE
from tests.differential.response_judge import judge_response
from tests.differential.response_referees import FIN, OPEN, RESET
from tests.differential.verdict import Disagreement, Verdict
from tests.support.heads import request, response

GET = request()
HEAD = request(line=b"HEAD / HTTP/1.1")
GET_10 = request(line=b"GET / HTTP/1.0")
DATE = b"Date: Tue, 01 Dec 2026 08:00:00 GMT"
CHUNKED = response(DATE, b"Transfer-Encoding: chunked")
PLAIN = response(DATE, b"Content-Length: 5") + b"hello"
UNDATED = response(b"Content-Length: 5") + b"hello"
UNTIL_CLOSE = response(DATE) + b"hello"
NO_LAST_CHUNK = CHUNKED + b"5\r\nhello\r\n"
OURS = b"502 Bad Gateway: no"
BAD_GATEWAY = response(DATE, b"Content-Length: 19", line=b"HTTP/1.1 502 Bad Gateway") + OURS


def _judge(
    sent: bytes, got: bytes, closed: str = OPEN, ending: str = OPEN, asked: bytes = GET
) -> Verdict:
    """`closed`: how the client's connection ended; if it did not, the marker comes behind it."""
    is_kept = closed == OPEN
    received = got + MARKER_RESPONSE if is_kept else got
    outcome = ResponseOutcome(asked, sent, ending, received, closed, is_kept, MARKER_RESPONSE)
    return judge_response(outcome)


@pytest.mark.parametrize(
    ("sent", "got", "closed", "ending", "client"),
    [
        (PLAIN, PLAIN, OPEN, OPEN, ["200", "200"]),
        (PLAIN, PLAIN, FIN, OPEN, ["200"]),
        (UNDATED, PLAIN, OPEN, OPEN, ["200", "200"]),
        (UNTIL_CLOSE, NO_LAST_CHUNK + b"0\r\n\r\n", OPEN, FIN, ["200", "200"]),
        (NO_LAST_CHUNK, NO_LAST_CHUNK, FIN, FIN, ["cut"]),
        (NO_LAST_CHUNK, UNTIL_CLOSE, RESET, FIN, ["cut"]),
        (NO_LAST_CHUNK, b"", FIN, FIN, ["cut"]),
        (b"garbage", BAD_GATEWAY, OPEN, FIN, ["502", "200"]),
    ],
)
def test_what_is_right(
    sent: bytes, got: bytes, closed: str, ending: str, client: list[str]
) -> None:
    assert _judge(sent, got, closed, ending).client == client


def test_blanks_before_an_extension_are_read_though_no_strict_reader_does() -> None:
    sent = CHUNKED + b"5 ;a = b\r\nhello\r\n0\t;c\r\n\r\n"
    assert _judge(sent, NO_LAST_CHUNK + b"0\r\n\r\n").client == ["200", "200"]


@pytest.mark.parametrize("extension", [b"", b" ;a = b"])
@pytest.mark.parametrize("interim", [b"Transfer-Encoding: chunked", b"Connection: close"])
def test_an_empty_line_before_a_status_line_is_read_though_no_strict_reader_does(
    interim: bytes, extension: bytes
) -> None:
    """Together with other liberties, too."""
    sent = b"HTTP/1.1 199 X\r\n" + interim + b"\r\n\r\n\r\n" + NO_LAST_CHUNK + b"0\r\n\r\n"
    got = b"HTTP/1.1 199 X\r\n\r\n" + NO_LAST_CHUNK + b"0\r\n\r\n"
    given = sent.replace(b"5\r\nhello", b"5" + extension + b"\r\nhello")
    assert _judge(given, got).client == ["200", "200"]


def test_a_setting_for_a_proxy_does_not_go_on() -> None:
    sent = PLAIN.replace(b"\r\n\r\n", b"\r\nProxy: x\r\n\r\n", 1)
    assert _judge(sent, PLAIN).client == ["200", "200"]


@pytest.mark.parametrize(("got", "closed"), [(BAD_GATEWAY, OPEN), (PLAIN[:-1], FIN)])
def test_a_refusal_of_what_all_understand_is_noted(got: bytes, closed: str) -> None:
    assert _judge(PLAIN, got, closed).strict in ("502", "cut")


@pytest.mark.parametrize(
    ("sent", "got", "closed", "ending", "kind"),
    [
        # A clean end of a body that was cut.
        (NO_LAST_CHUNK, PLAIN, OPEN, FIN, "a whole response, of which no strict reader knows"),
        (NO_LAST_CHUNK, UNTIL_CLOSE, FIN, FIN, "a whole response, of which no strict reader knows"),
        (UNTIL_CLOSE, PLAIN, OPEN, RESET, "a whole response, of which no strict reader knows"),
        # Another response than that of the server.
        (PLAIN, PLAIN.replace(b"hello", b"HELLO"), OPEN, OPEN, "h11 reads another body"),
        (PLAIN, PLAIN.replace(b"200", b"404"), OPEN, OPEN, "h11 reads another status"),
        (PLAIN, PLAIN.replace(b"\r\n", b"\r\nX: y\r\n", 1), OPEN, OPEN, "h11 reads another field"),
        (PLAIN.replace(b"\r\n", b"\r\nX: y\r\n", 1), PLAIN, OPEN, OPEN, "h11 reads another field"),
        (response(line=b"HTTP/1.1 103 x") + PLAIN, PLAIN, OPEN, OPEN,
            "h11 reads another informational response"),
        # Bytes that can be read in two ways.
        (PLAIN, CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OPEN, OPEN,
            "received: h11 and llhttp differ"),
        (PLAIN, response(b"Content-Length: +5") + b"hello", FIN, OPEN,
            "received: h11 and llhttp differ"),
        (PLAIN, response(b"X: y", b" folded", b"Content-Length: 5") + b"hello", FIN, OPEN,
            "received: h11 and llhttp differ"),
        # Dates.
        (PLAIN, UNDATED, OPEN, OPEN, "a response without a Date"),
        (UNDATED, UNDATED, OPEN, OPEN, "a response without a Date"),
        (b"garbage", BAD_GATEWAY.replace(DATE + b"\r\n", b""), OPEN, FIN,
            "a response without a Date"),
        (PLAIN, PLAIN.replace(b"08:00", b"09:00"), OPEN, OPEN, "h11 reads another field"),
        (UNDATED, PLAIN.replace(b"GMT", b"UTC"), OPEN, OPEN, "a Date of ours that is none"),
        (UNDATED, PLAIN.replace(DATE, DATE + b"\r\n" + DATE), OPEN, OPEN,
            "a Date of ours that is none"),
        # More, or less, than one response for each request.
        (PLAIN, PLAIN + b"x", FIN, OPEN, "received: bytes behind the response"),
        (PLAIN + PLAIN, PLAIN + PLAIN, OPEN, OPEN, "received: bytes behind the response"),
        (PLAIN, PLAIN[:-1], OPEN, OPEN, "received: malformed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed(
    sent: bytes, got: bytes, closed: str, ending: str, kind: str
) -> None:
    with pytest.raises(Disagreement) as problem:
        _judge(sent, got, closed, ending)
    assert problem.value.kind == kind


def test_a_body_in_the_answer_to_head_is_noticed() -> None:
    with pytest.raises(Disagreement) as problem:
        _judge(PLAIN, PLAIN, asked=HEAD)
    assert problem.value.kind == "received: bytes behind the response"


def test_informational_responses_are_not_for_http10() -> None:
    hints = response(line=b"HTTP/1.1 103 x")
    with pytest.raises(Disagreement) as problem:
        _judge(hints + PLAIN, hints + PLAIN, FIN, asked=GET_10)
    assert problem.value.kind == "h11 reads another informational response"
    assert _judge(hints + PLAIN, PLAIN, FIN, asked=GET_10).client == ["200"]


def test_a_missing_answer_to_the_next_request_is_noticed() -> None:
    with pytest.raises(Disagreement) as problem:
        judge_response(ResponseOutcome(GET, PLAIN, OPEN, PLAIN, OPEN, True, MARKER_RESPONSE))
    assert problem.value.kind == "the next request gets no answer"


def test_a_wrong_answer_to_the_next_client_is_noticed() -> None:
    with pytest.raises(Disagreement) as problem:
        judge_response(ResponseOutcome(GET, PLAIN, OPEN, PLAIN, FIN, False, PLAIN))
    assert problem.value.kind == "the next client gets something else"


def test_trouble_is_noticed() -> None:
    with pytest.raises(Disagreement, match="trouble\n  a bug is logged"):
        judge_response(ResponseOutcome(GET, PLAIN, trouble=["a bug is logged"]))
