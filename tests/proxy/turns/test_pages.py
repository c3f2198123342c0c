"""Pages of another origin (CORS), and `retry` fields: what an EventSource needs of a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.turns import (
    LAST_CHUNK,
    STREAM_HEAD,
    Gateway,
    begin_stream,
    events,
    get,
    path_of,
    post,
    request,
    turn_of,
    without_ids,
)

if TYPE_CHECKING:
    from tests.support.http_peer import Head
    from tests.support.stage import Stage

pytestmark = pytest.mark.usefixtures("both_stores")

PAGE = "https://app.example"


async def turn_of_page(
    stage: Stage, *allowed: str, origin_field: str | None = PAGE
) -> tuple[Gateway, str, Head]:
    """A finished turn of a page; `allowed`: what the backend says."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    fields = [f"Origin: {origin_field}"] if origin_field else []
    await client.send(post(b"{}", *fields, key="k"))
    at_origin, _ = await origin.accept_request()
    said = "".join(f"{line}\r\n" for line in allowed).encode()
    await at_origin.send(STREAM_HEAD[:-2] + said + b"\r\n" + events("one") + LAST_CHUNK)
    answer = await client.read_response()
    turn = turn_of(answer.head)
    await gateway.in_state(turn, "done")
    return gateway, turn, answer.head


def ask_first(turn: str, origin: str | None = PAGE, wants: str = "authorization") -> bytes:
    """As a browser does."""
    fields = [] if origin is None else [f"Origin: {origin}"]
    return request(
        "OPTIONS", path_of(turn), *fields, "Access-Control-Request-Method: GET",
        f"Access-Control-Request-Headers: {wants}", user=None,
    )  # fmt: skip


@pytest.mark.parametrize("allowed", [PAGE, "*"])
async def test_the_page_of_a_turn_may_come_back_for_it(stage: Stage, allowed: str) -> None:
    gateway, turn, head = await turn_of_page(
        stage, f"Access-Control-Allow-Origin: {allowed}", "Access-Control-Allow-Credentials: true"
    )
    exposed = head.get("Access-Control-Expose-Headers")
    assert exposed == "X-Hermes-Turn, X-Hermes-Resume, Idempotency-Replayed"
    may = await gateway.ask(ask_first(turn, wants="authorization,last-event-id"))
    assert may.status == 204
    assert may.get("Access-Control-Allow-Origin") == PAGE
    assert may.get("Access-Control-Allow-Credentials") == "true"
    assert may.get("Access-Control-Allow-Headers") == "authorization,last-event-id"
    assert may.get("Access-Control-Allow-Methods") == "GET, DELETE"
    assert may.get("Vary") == "Origin"
    # It can read all that we answer after that.
    path, last = path_of(turn), f"h1.{turn}.1"
    resumed = [get(path, last=each) for each in (None, last, "nonsense")]
    for data in (*resumed, request("DELETE", path)):
        answer = await gateway.ask(data)
        assert answer.status in (200, 204, 409)
        assert answer.get("Access-Control-Allow-Origin") == allowed
        assert "X-Hermes-Turn" in (answer.get("Access-Control-Expose-Headers") or "")


@pytest.mark.parametrize(
    ("said", "by", "asks"),
    [
        ([f"Access-Control-Allow-Origin: {PAGE}"], PAGE, "https://evil.example"),
        (["Access-Control-Allow-Origin: *"], PAGE, "https://evil.example"),
        (["Access-Control-Allow-Origin: *"], None, PAGE),
        (["Access-Control-Allow-Origin: https://other.example"], PAGE, PAGE),
        ([], PAGE, PAGE),
    ],
)
async def test_no_other_page_may(stage: Stage, said: list[str], by: str | None, asks: str) -> None:
    gateway, turn, _ = await turn_of_page(stage, *said, origin_field=by)
    unknown = turn[:-5] + "aaaaa"
    for each in (turn, unknown, "../x"):
        refused = await gateway.ask(ask_first(each, asks))
        assert refused.status == 404
        assert refused.get("Access-Control-Allow-Origin") is None
        assert turn.encode() not in refused.body
    assert (await gateway.ask(ask_first(turn, None))).status == 405


async def test_an_origin_of_the_backend_is_not_believed(stage: Stage) -> None:
    """Only what the page's own request said counts."""
    gateway, turn, _ = await turn_of_page(
        stage, "Access-Control-Allow-Origin: *", "Origin: https://evil.example"
    )
    assert (await gateway.ask(ask_first(turn, "https://evil.example"))).status == 404


@pytest.mark.parametrize("is_in_first", [True, False])
async def test_the_last_retry_comes_first_on_resume(stage: Stage, is_in_first: bool) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    block = b"retry: 100\ndata: 1\n\n"
    block += b"data: 2\n\n" if is_in_first else b"data: 2\nretry: 2500\nretry: soon\n\n"
    await at_origin.send(b"%x\r\n%b\r\n" % (len(block), block))
    assert without_ids(await first.read_chunk()) == block
    await at_origin.send(LAST_CHUNK)
    await first.read_body(head)
    await gateway.in_state(turn, "done")
    wanted = b"retry: 100\n" if is_in_first else b"retry: 2500\n"
    for data in (post(key="k", last=f"h1.{turn}.1"), get(path_of(turn), last=f"h1.{turn}.1")):
        resumed = (await gateway.ask(data)).body
        assert resumed.startswith(wanted)
        assert without_ids(resumed.removeprefix(wanted)) == block.split(b"\n\n", 1)[1]
    # From the start it is in its place.
    assert without_ids((await gateway.ask(post(key="k"))).body) == block


class _Log:
    def __init__(self) -> None:
        self.retries: list[bytes] = []

    def append(self, data: bytes, events: int) -> None:
        pass

    def skip(self) -> None:
        pass

    def retried(self, retry: bytes) -> None:
        self.retries.append(retry)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_retry_in_one_whole_chunk_is_found(size: int) -> None:
    from hermes_lb.http.numbered_events import NumberedEvents
    from hermes_lb.http.request import CHUNKED

    log = _Log()
    body = NumberedEvents(CHUNKED, b"h1.t.", log, most_in_event=1000, retries=log)
    data = b"".join(
        b"%x\r\n%b\r\n" % (len(event), event)
        for event in (b"data: 0\n\n", b"data: retry: 9\nretry: 7\n\n", b"data: x\nretryy: 8\n\n")
    )
    for start in range(0, len(data), size):
        body.feed(data[start : start + size])
    assert log.retries == [b"7"]
