"""A stream whose server is lost goes on from another one, in the client's one response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends.counters import RESUME_OUTCOMES
from tests.support.http_peer import AtOrigin, Client, Ended, Message, request
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from hermes_lb.backends import Server
    from tests.support.origin import Origin

PATH = "/api/agent/sessions/s1/events?turn=17"
LAST = b"0\r\n\r\n"
HANDOVER = b'event: handover\ndata: {"turn":"17"}\n\n'


def event(number: int, kind: str = "message.delta") -> bytes:
    return b"id: 17-%d\nevent: %b\ndata: {}\n\n" % (number, kind.encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(*fields: str, chunked: bool = True, status: int = 200) -> bytes:
    coding = ["Transfer-Encoding: chunked"] if chunked else []
    lines = [f"HTTP/1.1 {status} OK", "Content-Type: text/event-stream", *coding, *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


RESUMABLE = stream_head(f"X-Hermes-Resume: {PATH}")


async def balancer(
    stage: Stage, *origins: Origin | int, route: dict[str, Any] | None = None, **more: Any
) -> LoadBalancer:
    rules = {"path_prefix": "/", "backend": "agents", "resume": True, **(route or {})}
    return await stage.balancer(*origins, frontend={"routes": [rules]}, **more)


def outcomes(server: Server) -> dict[str, int]:
    """What became of streams that were lost, by the server that was the last one."""
    counted = zip(RESUME_OUTCOMES, server.counters.resume_outcomes, strict=True)
    return {name: count for name, count in counted if count}


class Talk:
    """A client that has said something, and the first server's stream, one event long."""

    def __init__(self, stage: Stage, lb: LoadBalancer, origins: list[Origin]) -> None:
        self.stage, self.lb, self.origins = stage, lb, origins
        self.client: Client
        self.first: AtOrigin

    @classmethod
    async def begin(
        cls, stage: Stage, servers: int = 2, head: bytes = RESUMABLE, **options: Any
    ) -> Talk:
        origins = [await stage.origin() for _ in range(servers)]
        talk = cls(stage, await balancer(stage, *origins, **options), origins)
        talk.client = await stage.client(talk.lb)
        fields = ("Authorization: Bearer t", "Cookie: a=b", "Idempotency-Key: k")
        body = b'{"content":"hi"}'
        await talk.client.post(body, *fields, "Content-Type: application/json", "X-Own: 1")
        talk.first, asked = await origins[0].accept_request()
        assert asked.get("X-Hermes-Handover") == "accept"
        await talk.first.send(head + chunk(event(1)))
        assert (await talk.client.read_head()).status == 200
        assert await talk.client.read_chunk() == event(1)
        return talk

    async def taken_up(self, origin: int = 1) -> tuple[AtOrigin, Message]:
        """Another server gets the request for the rest."""
        at_origin, asked = await self.origins[origin].accept_request()
        assert (asked.head.method, asked.head.target) == ("GET", PATH)
        return at_origin, asked

    async def finish(self, at_origin: AtOrigin, number: int = 2) -> None:
        """The other server tells the rest, and the client has it all."""
        await at_origin.send(
            RESUMABLE + chunk(event(number)) + chunk(event(number + 1, "done")) + LAST
        )
        rest = b""
        while data := await self.client.read_chunk():
            rest += data
        assert rest.replace(b": resuming\n\n", b"") == event(number) + event(number + 1, "done")


@on_both_loops
@pytest.mark.parametrize("how", ["closed", "reset", "in a chunk", "in an event"])
async def test_a_server_that_dies_is_followed_by_another(stage: Stage, how: str) -> None:
    talk = await Talk.begin(stage)
    if how == "in a chunk":
        await talk.first.send(chunk(event(2))[:-9])
    elif how == "in an event":
        await talk.first.send(chunk(event(2)[:-9]))
    await turns()
    talk.first.abort() if how == "reset" else talk.first.close()
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == "17-1"
    await talk.finish(second)
    # The client's connection goes on as well.
    await second.serves_the_next_of(talk.client)
    lines = await stage.logged(talk.lb, 2)
    assert (lines[0].reason, lines[0].server) == ("resumes=1", "agent2")
    assert server_of(talk.lb, 2).counters.resumes == 1


async def test_what_belongs_to_the_client_goes_along_and_nothing_of_the_body(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, asked = await talk.taken_up()
    assert asked.get("Authorization") == "Bearer t"
    assert asked.get("Cookie") == "a=b"
    assert asked.get("X-Own") == "1"
    assert asked.get("Accept") == "text/event-stream"
    assert asked.get("X-Hermes-Handover") == "accept"
    assert asked.get("Host") == "balancer.test"
    assert asked.get("X-Forwarded-For") == "127.0.0.1"
    for name in ("Content-Type", "Content-Length", "Idempotency-Key"):
        assert asked.get(name) is None
    assert asked.body == b""
    await talk.finish(second)


async def test_a_server_that_dies_before_its_first_event_is_followed_from_the_beginning(
    stage: Stage,
) -> None:
    origins = [await stage.origin() for _ in range(2)]
    talk = Talk(stage, await balancer(stage, *origins), origins)
    talk.client = await stage.client(talk.lb)
    await talk.client.post(b"hi")
    first, _ = await origins[0].accept_request()
    await first.send(RESUMABLE)
    assert (await talk.client.read_head()).status == 200
    first.close()
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") is None
    await talk.finish(second, 1)


async def test_one_stream_survives_many_deaths(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    at_origin = talk.first
    for number in range(2, 12):
        at_origin.close()
        at_origin, asked = await talk.taken_up(1 - number % 2)
        assert asked.get("Last-Event-ID") == f"17-{number - 1}"
        await at_origin.send(RESUMABLE + chunk(event(number)))
        assert await talk.client.read_chunk() == event(number)
    await at_origin.send(LAST)
    assert await talk.client.read_chunk() == b""
    assert (await stage.log_line(talk.lb)).reason == "resumes=10"


async def test_a_handover_is_followed_at_once_and_not_reported(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    await talk.first.send(chunk(event(2)) + chunk(HANDOVER) + LAST)
    second, asked = await talk.taken_up()
    assert asked.get("Last-Event-ID") == "17-2"
    assert await talk.client.read_chunk() == event(2)
    await talk.finish(second, 3)


async def test_a_server_that_falls_silent_is_left(stage: Stage) -> None:
    talk = await Talk.begin(stage, timeouts={"server": "100ms"})
    second, _ = await talk.taken_up()
    with pytest.raises(Ended):
        await talk.first.read_exactly(1)
    await talk.finish(second)


async def test_behind_done_a_lost_server_is_no_loss(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    await talk.first.send(chunk(event(2, "done")))
    assert await talk.client.read_chunk() == event(2, "done")
    talk.first.abort()
    assert await talk.client.read_chunk() == b""
    assert (await stage.log_line(talk.lb)).termination.startswith("--")


async def test_the_next_server_is_asked_when_one_refuses(stage: Stage) -> None:
    talk = await Talk.begin(stage, 3)
    talk.first.close()
    second, _ = await talk.taken_up(1)
    await second.respond(b"", status=503)
    third, asked = await talk.taken_up(2)
    assert asked.get("Last-Event-ID") == "17-1"
    await talk.finish(third)


async def test_one_server_alone_is_asked_again_when_it_is_back(stage: Stage) -> None:
    talk = await Talk.begin(stage, 1)
    talk.first.close()
    again, _ = await talk.taken_up(0)
    await again.respond(b"", status=503)
    again, _ = await talk.taken_up(0)
    await talk.finish(again)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_session_that_is_gone_ends_the_stream_visibly(stage: Stage, status: int) -> None:
    talk = await Talk.begin(stage, 3)
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.respond(b"", status=status)
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    assert await talk.origins[2].has_no_new_connection()
    line = await stage.log_line(talk.lb)
    assert line.termination.startswith("SD")
    assert f"agent2 answered {status}" in line.reason


@pytest.mark.parametrize("what", ["answers with an error", "answers with no stream"])
async def test_after_the_last_attempt_the_stream_is_cut_visibly(stage: Stage, what: str) -> None:
    talk = await Talk.begin(stage, 2, route={"resume_attempts": 2})

    async def answer(connection: AtOrigin, message: Message) -> None:
        await connection.respond(b"{}", status=500 if "error" in what else 200)

    for origin in talk.origins:
        origin.serve(answer)
    talk.first.close()
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    assert sum(len(origin.requests) for origin in talk.origins) == 2
    assert (await stage.log_line(talk.lb)).termination.startswith("SD")


async def test_there_is_a_time_for_all_attempts_together(stage: Stage) -> None:
    talk = await Talk.begin(
        stage, 2, route={"resume_attempts": 100, "resume_timeout": "300ms"}, timeouts={"server": 1}
    )
    talk.first.close()
    await talk.taken_up()  # which says nothing
    assert (await talk.client.read_until_cut()).replace(chunk(b": resuming\n\n"), b"") == b""


async def test_while_it_searches_comments_keep_the_client(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.resume._FIRST_COMMENT", 0.01)
    monkeypatch.setattr("hermes_lb.proxy.resume._NEXT_COMMENTS", 0.01)
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    for _ in range(3):
        assert await talk.client.read_chunk() == b": resuming\n\n"
    await talk.finish(second)


async def test_a_client_that_leaves_while_it_searches_ends_the_search(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    talk.client.close()
    with pytest.raises(Ended):
        await second.read_exactly(1)
    assert (await stage.log_line(talk.lb)).termination.startswith("C")
    assert in_flight(talk.lb) == [0, 0]


async def test_a_full_server_is_waited_for(stage: Stage) -> None:
    talk = await Talk.begin(stage, 2, each=[{}, {"max_connections": 1}])
    other = await stage.client(talk.lb)
    await other.get("/other")
    at_second, _ = await talk.origins[1].accept_request()
    talk.origins[0].stop_listening()
    talk.first.close()
    await eventually(lambda: len(talk.lb.pools["agents"].waiting) == 1)
    await at_second.respond(b"ok")
    asked = await at_second.read_request()
    assert asked.head.target == PATH
    await talk.finish(at_second)


@pytest.mark.parametrize(
    ("head", "route"),
    [
        (stream_head(), {}),
        (RESUMABLE, {"resume": False}),
        (stream_head("X-Hermes-Resume: http://elsewhere/"), {}),
        (stream_head("X-Hermes-Resume: /a b"), {}),
        (stream_head(f"X-Hermes-Resume: {PATH}", "X-Hermes-Resume: /b"), {}),
    ],
    ids=["nothing said", "not wanted", "not a path", "malformed", "two of them"],
)
async def test_other_streams_are_cut_as_ever(
    stage: Stage, head: bytes, route: dict[str, Any]
) -> None:
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, *origins, route=route)
    client = await stage.client(lb)
    await client.post(b"hi")
    first, _ = await origins[0].accept_request()
    await first.send(head + chunk(event(1)))
    await client.read_head()
    assert await client.read_chunk() == event(1)
    first.close()
    with pytest.raises(Ended):
        await client.read_chunk()
    assert await origins[1].has_no_new_connection()


@pytest.mark.http1_only("HTTP/1.0")
async def test_an_http10_client_gets_its_stream_as_ever(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await balancer(stage, origin)
    client = await stage.client(lb)
    await client.get("/", version="1.0")
    first, _ = await origin.accept_request()
    await first.send(RESUMABLE + chunk(event(1)) + LAST)
    head = await client.read_head()
    assert await client.read_body(head) == event(1)


async def test_a_slow_reader_holds_back_the_server_that_took_over(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    talk.first.close()
    second, _ = await talk.taken_up()
    await second.send(RESUMABLE)
    big = b"id: 17-2\ndata: " + b"x" * 20_000 + b"\n\n"
    sent = await second.send_until_stuck(chunk(big), most=64_000_000)
    whole = sent // len(chunk(big))
    got = b""
    while len(got) < whole * len(big):
        got += await talk.client.read_chunk()
    assert got == big * (len(got) // len(big))


@pytest.mark.http1_only("bytes are compared")
async def test_an_event_that_is_too_large_ends_resuming_and_not_the_stream(stage: Stage) -> None:
    talk = await Talk.begin(stage)
    huge = b"data: " + b"x" * 70_000
    await talk.first.send(chunk(huge))
    assert await talk.client.read_chunk() == huge
    await talk.first.send(chunk(b"\n\n"))
    assert await talk.client.read_chunk() == b"\n\n"
    talk.first.close()
    with pytest.raises(Ended):
        await talk.client.read_chunk()
    assert await talk.origins[1].has_no_new_connection()


# Silence.


async def test_comments_break_the_silence_between_events_only(stage: Stage) -> None:
    talk = await Talk.begin(stage, route={"sse_keep_alive": "20ms"})
    assert await talk.client.read_chunk() == b": keep-alive\n\n"
    await talk.first.send(chunk(event(2)[:-5]))
    assert await talk.client.read_chunk() == b": keep-alive\n\n"
    await talk.first.send(chunk(event(2)[-5:]))
    while (data := await talk.client.read_chunk()) == b": keep-alive\n\n":
        pass
    assert data == event(2)


async def test_comments_do_not_keep_a_silent_server(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await balancer(
        stage,
        origin,
        route={"resume": False, "sse_keep_alive": "20ms"},
        timeouts={"server": "200ms"},
    )
    client = await stage.client(lb)
    await client.post(b"hi")
    first, _ = await origin.accept_request()
    await first.send(stream_head() + chunk(event(1)))
    await client.read_head()
    assert not (await client.read_until_cut()).endswith(LAST)
    assert (await stage.log_line(lb)).termination.startswith("sD")


# The client leaves.


async def leave(stage: Stage, route: dict[str, Any], **more: Any) -> tuple[LoadBalancer, AtOrigin]:
    """A client that leaves its stream behind the first event."""
    origin = await stage.origin()
    lb = await balancer(stage, origin, route={"resume": False, **route}, **more)
    client = await stage.client(lb)
    await client.post(b"hi")
    at_origin, _ = await origin.accept_request()
    await at_origin.send(RESUMABLE + chunk(event(1)))
    await client.read_head()
    await client.read_chunk()
    client.close()
    assert (await stage.log_line(lb)).termination.startswith("CD")
    return lb, at_origin


async def test_by_default_the_server_sees_its_client_leave(stage: Stage) -> None:
    lb, at_origin = await leave(stage, {})
    with pytest.raises(Ended):
        await at_origin.read_exactly(1)
    assert in_flight(lb) == [0]


@on_both_loops
@pytest.mark.parametrize("mode", ["detach", "drain"])
async def test_a_detached_turn_goes_on_to_its_end(stage: Stage, mode: str) -> None:
    lb, at_origin = await leave(stage, {"on_disconnect": mode})
    assert in_flight(lb) == [1]
    for number in range(2, 50):
        await at_origin.send(chunk(event(number)))
    await at_origin.send(LAST)
    await eventually(lambda: in_flight(lb) == [0])
    # Its connection serves the next request.
    client = await stage.client(lb)
    stage.unlogged = 0
    await at_origin.serves_the_next_of(client)


async def test_a_draining_turn_has_its_time(stage: Stage) -> None:
    lb, at_origin = await leave(stage, {"on_disconnect": "drain", "disconnect_timeout": "50ms"})
    await at_origin.send_until_refused(chunk(event(2)))
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_detached_turn_that_is_silent_is_left(stage: Stage) -> None:
    lb, at_origin = await leave(stage, {"on_disconnect": "detach"}, timeouts={"server": "50ms"})
    with pytest.raises(Ended):
        await at_origin.read_exactly(1)
    assert in_flight(lb) == [0]


async def test_a_client_that_leaves_before_the_answer_leaves_its_turn_behind(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await balancer(stage, origin, route={"on_disconnect": "detach"})
    client = await stage.client(lb)
    await client.post(b"hi")
    at_origin, _ = await origin.accept_request()
    client.close()
    assert (await stage.log_line(lb)).termination.startswith("CH")
    assert in_flight(lb) == [1]
    await at_origin.respond(b"done")
    await eventually(lambda: in_flight(lb) == [0])


async def test_half_a_request_is_never_detached(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await balancer(stage, origin, route={"on_disconnect": "detach"})
    client = await stage.client(lb)
    await client.send(request("POST", "/", "Content-Length: 10") + b"half")
    at_origin = await origin.accept()
    await at_origin.read_head()
    client.close()
    with pytest.raises(Ended):
        await at_origin.read_exactly(100)
    await eventually(lambda: in_flight(lb) == [0])


async def test_ids_that_the_client_shall_not_see_are_known_to_the_next_server(stage: Stage) -> None:
    origins = [await stage.origin() for _ in range(2)]
    lb = await balancer(stage, *origins, route={"resume_ids": "strip"})
    client = await stage.client(lb)
    await client.post(b"{}", "Content-Type: application/json")
    first, _ = await origins[0].accept_request()
    done = b"id: 17-3\ndata: [DONE]\n\n"
    await first.send(RESUMABLE + chunk(b"id: 17-1\ndata: a\n\n") + chunk(b"id: 17-2\nda"))
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: a\n\n"
    first.close()
    second, asked = await origins[1].accept_request()
    assert asked.get("Last-Event-ID") == "17-1"
    await second.send(RESUMABLE + chunk(b"id: 17-2\ndata: b\n\n" + done))
    assert await client.read_chunk() == b"data: b\n\ndata: [DONE]\n\n"
    # Only the last chunk is missing: the next server has nothing to add.
    second.close()
    third, asked = await origins[0].accept_request()
    assert asked.get("Last-Event-ID") == "17-3"
    await third.send(RESUMABLE + LAST)
    assert await client.read_chunk() == b""


COMMENT = b": hello"


@pytest.mark.http1_only("it looks into the connection")
async def test_no_comment_within_an_event_that_is_passed_on_in_parts(stage: Stage) -> None:
    talk = await Talk.begin(stage, route={"sse_keep_alive": "1h"})
    (connection,) = talk.lb._context.live.clients
    assert connection.exchange is not None
    stream = connection.exchange.stream
    assert stream is not None
    stream._say(COMMENT)
    assert await talk.client.read_chunk() == COMMENT + b"\n\n"
    huge = b"data: " + b"x" * 70_000
    await talk.first.send(chunk(huge))
    assert await talk.client.read_chunk() == huge
    stream._say(COMMENT)
    assert await talk.client.gets_nothing()
