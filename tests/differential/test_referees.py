"""The referees are independent: they agree on what is valid, and differ on what is not."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.differential import request_referees, response_referees
from tests.differential.readings import INCOMPLETE, Answer, Request
from tests.differential.response_referees import FIN, OPEN, RESET
from tests.http.messages import Message, requests, responses
from tests.support.cuts import byte_by_byte
from tests.support.examples import examples
from tests.support.heads import NEXT, request, response

CHUNKED = request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1")


def _request(body: bytes = b"", end: int | None = None, **changes: bytes) -> Request:
    plain = Request(b"GET", b"/", b"1.1", ((b"host", b"a"),), body, end)
    return plain._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", request_referees.REFEREES)
def test_requests_one_behind_the_other(name: str) -> None:
    stream = request() + CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + NEXT
    reading = request_referees.REFEREES[name](stream)
    assert reading.problem == ""
    assert [(m.method, m.target, m.body) for m in reading.messages] == [
        (b"GET", b"/", b""), (b"POST", b"/", b"hello"), (b"GET", b"/next", b""),
    ]  # fmt: skip
    assert reading.messages[1].fields == ((b"host", b"a"), (b"transfer-encoding", b"chunked"))
    ends = [len(request()), len(stream) - len(NEXT), len(stream)]
    assert [m.end for m in reading.messages] in (ends, [None] * 3)


@pytest.mark.parametrize("name", request_referees.REFEREES)
@pytest.mark.parametrize("whole", [request(), CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
def test_a_part_of_a_request_is_incomplete(name: str, whole: bytes) -> None:
    read = request_referees.REFEREES[name]
    for size in range(1, len(whole)):
        assert read(whole[:size]) == ([], INCOMPLETE)
        before, problem = read(request() + whole[:size])
        assert (len(before), problem) == (1, INCOMPLETE)


@pytest.mark.parametrize("name", request_referees.CAREFUL)
def test_what_is_read_before_a_refusal_stays(name: str) -> None:
    reading = request_referees.REFEREES[name](request() + request(b"A b"))
    assert len(reading.messages) == 1
    assert reading.problem not in ("", INCOMPLETE)


@pytest.mark.parametrize("name", request_referees.REFEREES)
def test_an_upgrade_is_a_request_like_others(name: str) -> None:
    upgrade = request(b"Connection: Upgrade", b"Upgrade: websocket")
    reading = request_referees.REFEREES[name](upgrade + NEXT)
    assert [message.target for message in reading.messages] == [b"/", b"/next"]


def test_httptools_reads_no_body_of_an_upgrade() -> None:
    """So it has no say in what such a request means."""
    upgrade = request(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5")
    reading = request_referees.by_llhttp(upgrade + b"hello" + NEXT)
    assert reading == ([], "httptools does not read the body of an upgrade")


@pytest.mark.parametrize("cut", [False, True])
def test_an_origin_reads_as_it_comes(cut: bool) -> None:
    reader = request_referees.LlhttpRequests()
    stream = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + NEXT
    for piece in byte_by_byte(stream) if cut else [stream]:
        reader.feed(piece)
    assert [message.body for message in reader.messages] == [b"hello", b""]
    assert reader.methods == [b"POST", b"GET"]


@pytest.mark.parametrize(
    "stream",
    [
        request(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\nhello",
        request(b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
        request(b"Content-Length: 5, 5") + b"hello",
        request(b"X: y", b" folded"),
        request(b"X: y\nZ: z"),
        CHUNKED + b"5_0\r\nhello\r\n0\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_referees_differ_where_it_can_be_read_in_two_ways(stream: bytes) -> None:
    readings = [repr(read(stream)) for read in request_referees.REFEREES.values()]
    assert len(set(readings)) > 1


@examples(50)
@given(requests())
def test_referees_agree_on_valid_requests(message: Message) -> None:
    upgrade = any(field.name == b"Upgrade" for field in message.fields)
    for name, read in request_referees.REFEREES.items():
        reading = read(message.head + message.body + NEXT)
        if (name == "llhttp" and upgrade) or "Duplicate" in reading.problem:
            continue  # httptools and aiohttp have rules of their own, see above and in the judge
        assert [(m.method, m.body) for m in reading.messages] == [
            (message.method, message.payload), (b"GET", b"")
        ], name  # fmt: skip


PLAIN = response(b"Content-Length: 5") + b"hello"


@pytest.mark.parametrize("name", response_referees.REFEREES)
def test_the_first_final_response(name: str) -> None:
    read = response_referees.REFEREES[name]
    before = response(line=b"HTTP/1.1 100 x") + response(b"X: y", line=b"HTTP/1.1 103 x")
    found = read(before + PLAIN, b"GET", OPEN).response
    assert found is not None
    assert (found.status, found.body, found.informational) == (200, b"hello", (103,))
    assert found.fields == ((b"content-length", b"5"),)
    assert found.end == len(before + PLAIN)


@pytest.mark.parametrize("name", response_referees.REFEREES)
@pytest.mark.parametrize("behind", [b"x", PLAIN])
def test_what_is_behind_is_not_read(name: str, behind: bytes) -> None:
    found = response_referees.REFEREES[name](PLAIN + behind, b"GET", OPEN).response
    assert found is not None
    assert (found.body, found.end) in ((b"hello", len(PLAIN)), (b"hello", None))


@pytest.mark.parametrize("name", response_referees.REFEREES)
@pytest.mark.parametrize("ending", [OPEN, FIN, RESET])
@pytest.mark.parametrize(
    "whole", [PLAIN, response(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_part_of_a_response_is_incomplete(name: str, ending: str, whole: bytes) -> None:
    read = response_referees.REFEREES[name]
    assert read(whole, b"GET", ending).response is not None
    for size in range(len(whole)):
        assert read(whole[:size], b"GET", ending) == Answer(None, INCOMPLETE)


@pytest.mark.parametrize("name", response_referees.REFEREES)
def test_only_a_fin_ends_a_body_without_framing(name: str) -> None:
    read = response_referees.REFEREES[name]
    stream = response(b"X: y") + b"hello"
    found = read(stream, b"GET", FIN).response
    assert found is not None
    assert (found.body, found.end) == (b"hello", len(stream))
    assert read(stream, b"GET", RESET) == read(stream, b"GET", OPEN) == Answer(None, INCOMPLETE)


@pytest.mark.parametrize("name", response_referees.REFEREES)
@pytest.mark.parametrize(
    ("method", "line"),
    [(b"HEAD", b"HTTP/1.1 200 OK"), (b"GET", b"HTTP/1.1 304 x"), (b"GET", b"HTTP/1.1 204 x")],
)
def test_a_response_without_a_body(name: str, method: bytes, line: bytes) -> None:
    stream = response(b"Content-Length: 5", line=line)
    found = response_referees.REFEREES[name](stream, method, OPEN).response
    assert found is not None
    assert (found.body, found.end) in ((b"", len(stream)), (b"", None))


@pytest.mark.parametrize(
    "stream",
    [
        response(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\nhello",
        response(b"Content-Length: +5") + b"hello",
        response(b"X: y\nContent-Length: 5") + b"hello",
        response(b"Content-Length:", b" 5") + b"hello",
        response(b"Transfer-Encoding: gzip, chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_referees_differ_where_a_response_can_be_read_in_two_ways(stream: bytes) -> None:
    answers = {repr(read(stream, b"GET", FIN)) for read in response_referees.REFEREES.values()}
    assert len(answers) > 1


@examples(50)
@given(responses())
def test_referees_agree_on_valid_responses(message: Message) -> None:
    for name, read in response_referees.REFEREES.items():
        answer = read(message.head + message.body, message.method, FIN)
        if "where there is none" in answer.problem:
            continue  # http.client and a 304 with a coding
        assert answer.response is not None, (name, answer)
        assert (answer.response.status, answer.response.body) == (message.status, message.payload)
