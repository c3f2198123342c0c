"""The arena tells what happened, byte for byte, and gives up on what will never happen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from hermes_lb.proxy.http1.upstream import UpstreamConnection
from tests.differential.arena import Arena
from tests.differential.peers import MARKER_RESPONSE, Answers
from tests.differential.response_referees import FIN, OPEN, RESET
from tests.support.cuts import byte_by_byte
from tests.support.heads import NEXT, request, response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POST = request(b"Content-Length: 5", line=b"POST / HTTP/1.1") + b"hello"
DATE = b"Date: Tue, 01 Dec 2026 08:00:00 GMT"
PLAIN = response(DATE, b"Content-Length: 5") + b"hello"


@pytest.mark.parametrize("cut", [lambda data: [data], byte_by_byte])
def test_requests_and_their_answers(arena: Arena, cut: Callable[[bytes], Sequence[bytes]]) -> None:
    outcome = arena.requests(cut(POST + NEXT))
    assert outcome.trouble == []
    assert [stream.count(b" HTTP/1.1\r\n") for stream in outcome.streams] == [3]
    assert b"\r\n\r\nhello" in outcome.streams[0]
    assert (outcome.order, outcome.methods) == ([0, 0, 0], [b"POST", b"GET", b"GET"])
    assert outcome.witness.endswith(b"answer 2")
    undated = re.sub(rb"Date: [^\r]*\r\n", b"", outcome.answers)
    assert undated.endswith(b"answer 0HTTP/1.1 200 X\r\nContent-Length: 8\r\n\r\nanswer 1")
    assert not outcome.is_closed


def test_a_part_of_a_request_that_has_reached_the_origin(arena: Arena) -> None:
    outcome = arena.requests([POST[:-2]])
    assert (outcome.order, outcome.answers) == ([0, 1], b"")
    assert outcome.streams[0].endswith(b"\r\n\r\nhel")
    assert outcome.witness.endswith(b"answer 0")


def test_a_refusal(arena: Arena) -> None:
    outcome = arena.requests([b"GET / HTTP/1.1\r\n\r\n"])
    assert outcome.answers.startswith(b"HTTP/1.1 400 ")
    assert (outcome.order, outcome.is_closed) == ([0], True)  # the other client's


def test_an_origin_that_answers_before_the_body(arena: Arena) -> None:
    outcome = arena.requests([POST[:-2]], early=413)
    assert outcome.answers.startswith(b"HTTP/1.1 413 ")
    assert (outcome.order, outcome.methods) == ([0, 1], [b"POST", b"GET"])
    assert outcome.is_closed


EXPECTING = request(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.1")


@pytest.mark.pure_only("a method is patched")
@pytest.mark.parametrize(
    ("origin", "pieces", "status"),
    [
        ({"early": 200}, [POST[:-2], POST[-2:]], b"200"),
        ({"refuses": 417}, [EXPECTING + b"hello"], b"417"),
    ],
)
def test_an_origin_that_must_not_be_used_again(
    origin: dict[str, int], pieces: list[bytes], status: bytes
) -> None:
    """It says so where the balancer does it all the same."""
    give_back = UpstreamConnection.give_back

    def careless(connection: UpstreamConnection, now: float, is_clean: bool) -> None:
        connection.is_early = False
        give_back(connection, now, is_clean)

    with Arena() as arena, patch.object(UpstreamConnection, "give_back", careless):
        outcome = arena.requests(pieces, **origin)
    assert outcome.answers.startswith(b"HTTP/1.1 " + status)
    assert len(outcome.streams) == 1
    assert len(outcome.reused) == 1


def test_one_case_leaves_nothing_to_the_next(arena: Arena) -> None:
    arena.requests([POST + POST[:-2]])
    arena.response(request(), [PLAIN[:-1]])
    arena.requests([b"\0"])
    outcome = arena.requests([NEXT])
    assert (len(outcome.streams), outcome.order, outcome.trouble) == (1, [0, 0], [])
    assert outcome.answers.endswith(b"answer 0")


@pytest.mark.parametrize("cut", [lambda data: [data], byte_by_byte])
def test_a_response_and_what_is_asked_behind_it(
    arena: Arena, cut: Callable[[bytes], Sequence[bytes]]
) -> None:
    outcome = arena.response(request(), cut(PLAIN), RESET)
    assert (outcome.is_kept, outcome.closed, outcome.ending) == (True, OPEN, OPEN)
    assert outcome.received == PLAIN + MARKER_RESPONSE
    assert outcome.trouble == []


@pytest.mark.parametrize(("ending", "is_whole"), [(FIN, True), (RESET, False)])
def test_how_the_origin_ends_is_reported(arena: Arena, ending: str, is_whole: bool) -> None:
    outcome = arena.response(request(), [response() + b"hello"], ending)
    assert outcome.ending == ending
    assert outcome.is_kept == is_whole
    assert outcome.received.endswith(MARKER_RESPONSE) == is_whole


def test_a_reset_of_the_client_is_reported(arena: Arena) -> None:
    chunks = response(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n"
    outcome = arena.response(request(line=b"GET / HTTP/1.0"), [chunks], FIN)
    assert (outcome.closed, outcome.is_kept) == (RESET, False)


def test_what_never_happens_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "next", lambda *_: b"")  # an origin that is silent
    with Arena(patience=0.1) as arena:
        outcome = arena.requests([NEXT])
        assert len(outcome.trouble) == 1
        assert outcome.trouble[0].startswith("the balancer has all of it, and goes on: [<Exchange")
        assert outcome.streams[0].startswith(b"GET /next")
