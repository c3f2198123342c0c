"""Each fault, as the client sees it, and as the balancer's record shows it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from hermes_lb.testing import Answer, Request, Server, events, eventually, faults
from tests.support.aiohttp_client import Client, read_all
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hermes_lb.testing import WatchedBalancer
    from hermes_lb.testing.messages import Handler
    from tests.support.aiohttp_client import Balanced, Servers

    Start = Callable[..., Awaitable[tuple[WatchedBalancer, list[Server]]]]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as running:
        yield running


@pytest.fixture
def start(balanced_servers: Servers, load_balancer: Balanced) -> Start:
    """`start(count, handler=..., **backend)` -> a balancer, and the servers behind it."""

    async def make(count: int, **options: Any) -> tuple[WatchedBalancer, list[Server]]:
        of_servers = {name: options.pop(name) for name in {"handler", "app"} & options.keys()}
        behind = await balanced_servers(count, **of_servers)
        return await load_balancer(*behind, **options), behind

    return make


def waiting(may_end: asyncio.Event) -> Handler:
    """A stream, "ab", that begins when it may end."""

    async def answer(request: Request) -> Answer:
        async def tokens() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        await may_end.wait()
        return Answer(body=tokens())

    return answer


def waiting_app(may_end: asyncio.Event) -> web.Application:
    """The same."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await may_end.wait()
        await response.prepare(request)
        for token in (b"a", b"b"):
            await response.write(token)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    return app


def is_listening(server: Server) -> bool:
    host, port = server.address.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


async def test_servers_answer_with_their_names(start: Start, client: Client) -> None:
    lb, _ = await start(2, balance="round_robin")
    assert [await client.get(lb.url) for _ in range(3)] == [
        (200, "one"),
        (200, "two"),
        (200, "one"),
    ]
    assert await lb.served(3) == ["one", "two", "one"]
    record = await lb.record(2)
    assert (record.termination, record.status, record.retries) == ("--", 200, 0)
    assert (record.backend, record.request) == ("servers", "GET / HTTP/1.1")


async def test_a_refused_connection_is_tried_at_another_server(
    start: Start, client: Client
) -> None:
    lb, [one, _] = await start(2, retries=1)
    one.fault = faults.Refuse()
    assert await client.get(lb.url) == (200, "two")
    record = await lb.record()
    assert (record.server, record.retries, record.was_moved) == ("two", 1, True)
    assert one.requests == []


async def test_refusal_ends_idle_connections_and_its_end_lets_new_ones_in(
    start: Start, client: Client
) -> None:
    lb, [one] = await start(1, retries=0)
    assert await client.get(lb.url) == (200, "one")
    address = one.address
    one.fault = faults.Refuse()
    assert repr(one) == f"<Server one {address} refuses, 1 requests>"
    assert (await client.get(lb.url))[0] == 503
    assert (await lb.record(1)).termination == "SC"
    one.fault = None
    assert one.address == address
    assert await client.get(lb.url) == (200, "one")


@pytest.mark.parametrize("is_application", [False, True])
async def test_refusal_lets_what_runs_end_and_serves_nothing_behind_it(
    start: Start, client: Client, is_application: bool
) -> None:
    may_end = asyncio.Event()
    made = {"app": waiting_app(may_end)} if is_application else {"handler": waiting(may_end)}
    lb, [one] = await start(1, **made, retries=0)
    running = client.start_get(lb.url)
    await one.asked()
    one.fault = faults.Refuse()
    may_end.set()
    assert await running == (200, "ab")
    assert [(await client.get(lb.url))[0] for _ in range(3)] == [503] * 3
    assert [record.termination for record in lb.records] == ["--", "SC", "SC", "SC"]
    one.fault = None
    assert await client.get(lb.url) == (200, "ab")
    assert (len(one.requests), one.accepted) == (2, 2)


async def test_who_waits_for_the_connection_of_a_server_that_refuses_is_not_served(
    start: Start, client: Client
) -> None:
    may_end = asyncio.Event()
    lb, [one] = await start(1, handler=waiting(may_end), retries=0, server={"max_connections": 1})
    running = client.start_get(lb.url)
    await one.asked()
    queued = client.start_get(lb.url)
    await eventually(lambda: len(lb.pools["servers"].waiting) == 1)
    one.fault = faults.Refuse()
    may_end.set()
    assert await running == (200, "ab")
    assert (await queued)[0] == 503
    assert len(one.requests) == 1


async def test_a_connection_that_was_refused_while_it_was_busy_ends_however_short_that_was(
    balanced_servers: Servers, client: Client
) -> None:
    """As with a restarted server: no connection survives."""
    may_end = asyncio.Event()
    [one] = await balanced_servers(1, handler=waiting(may_end))
    running = client.start_get(one.url)
    await one.asked()
    one.fault = faults.Refuse()
    one.fault = None
    may_end.set()
    assert await running == (200, "ab")
    assert await client.get(one.url) == (200, "ab")
    assert one.accepted == 2


async def test_a_request_that_came_with_the_refusal_is_not_served(
    balanced_servers: Servers,
) -> None:
    """Behind another one, and alone: in either case it is there already, and not read yet."""
    may_end = asyncio.Event()
    [one] = await balanced_servers(1, handler=waiting(may_end))
    host, port = one.address.split(":")
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    busy, idle = [await asyncio.open_connection(host, port) for _ in range(2)]
    busy[1].write(request * 2)
    await one.asked()
    idle[1].write(request)
    one.fault = faults.Refuse()
    may_end.set()
    assert (await read_all(busy[0])).count(b"HTTP/1.1 200") == 1
    assert await read_all(idle[0]) == b""
    assert len(one.requests) == 1
    for _, writer in (busy, idle):
        writer.close()


async def test_a_reset_in_the_head_is_a_bad_gateway(start: Start, client: Client) -> None:
    lb, [one] = await start(1, retries=0)
    one.fault = faults.ResetAfter(10)
    assert (await client.get(lb.url))[0] == 502
    record = await lb.record()
    assert (record.server, record.status, record.termination) == ("one", 502, "SH")


async def test_a_reset_in_the_body_cuts_the_client(start: Start, client: Client) -> None:
    async def long(request: Request) -> Answer:
        return Answer(body=b"x" * 1000)

    lb, [one] = await start(1, handler=long)
    one.fault = faults.ResetAfter(500)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get(lb.url)
    record = await lb.record()
    assert (record.status, record.termination) == (200, "SD")


@pytest.mark.parametrize("size", [0, 10])
async def test_an_end_before_or_in_the_head_is_a_bad_gateway(
    start: Start, client: Client, size: int
) -> None:
    lb, [one] = await start(1, retries=0)
    one.fault = faults.CloseAfter(size)
    assert (await client.get(lb.url))[0] == 502
    assert (await lb.record()).termination == "SH"


async def test_a_stalled_request_is_in_flight_until_it_is_let_go(
    start: Start, client: Client
) -> None:
    lb, [one, two] = await start(2)
    one.fault = faults.Stall()
    stalled = client.start_get(lb.url)
    await one.asked()
    assert lb.in_flight == {"one": 1, "two": 0}
    assert (one.in_flight, two.in_flight) == (1, 0)
    assert await client.get(lb.url) == (200, "two")
    one.fault = None
    assert await stalled == (200, "one")
    assert await lb.served(2) == ["two", "one"]
    assert lb.in_flight == {"one": 0, "two": 0}


async def test_a_stalled_server_runs_into_the_timeout(start: Start, client: Client) -> None:
    lb, [one] = await start(1, timeouts={"server": "50ms"}, retries=0)
    one.fault = faults.Stall()
    assert (await client.get(lb.url))[0] == 504
    assert (await lb.record()).termination == "sH"


async def test_a_stream_that_has_begun_stalls_too_and_goes_on(start: Start, client: Client) -> None:
    may_end, has_ended = asyncio.Event(), asyncio.Event()

    async def stream(request: Request) -> Answer:
        async def tokens() -> AsyncIterator[str]:
            yield "first"
            await may_end.wait()
            has_ended.set()
            yield "last"

        return Answer(body=tokens())

    lb, [one] = await start(1, handler=stream)
    async with client.session.get(lb.url) as response:
        assert await response.content.readexactly(5) == b"first"
        one.fault = faults.Stall()
        may_end.set()
        one.fault = faults.Stall(after=1)  # another one holds it as well
        rest = client.tasks.spawn(response.read(), name="rest")
        await has_ended.wait()
        await turns(20)
        assert lb.in_flight == {"one": 1}
        assert not rest.done()
        one.fault = None
        assert await rest == b"last"
    assert (await lb.record()).termination == "--"


async def test_a_stall_can_come_after_some_bytes(start: Start, client: Client) -> None:
    lb, [one] = await start(1, timeouts={"server": "50ms"})
    one.fault = faults.Stall(after=len(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\no"))
    async with client.session.get(lb.url) as response:
        assert await response.content.readexactly(1) == b"o"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert (await lb.record()).termination == "sD"


async def test_slow_tokens_come_one_by_one_and_whole(
    balanced_servers: Servers, load_balancer: Balanced, client: Client
) -> None:
    async def stream(request: Request) -> Answer:
        return events("a", "b")

    streaming, plain = await balanced_servers(2)
    streaming.handler = stream
    lb = await load_balancer(streaming, plain)
    streaming.fault = plain.fault = faults.SlowTokens(0.001)
    assert await client.get(lb.url) == (200, "id: 1\ndata: a\n\nid: 2\ndata: b\n\n")
    assert await client.get(lb.url) == (200, "two")
    assert await lb.served(2) == ["one", "two"]


async def test_slow_tokens_pause_before_each_piece(balanced_servers: Servers) -> None:
    """An interval that never ends: the head is there, and nothing behind it."""
    [one] = await balanced_servers(1)
    one.fault = faults.SlowTokens(3600)
    async with aiohttp.ClientSession() as session, session.get(one.url) as response:
        assert response.status == 200
        assert one.in_flight == 1


@pytest.mark.parametrize("by", [1, 500])
async def test_a_length_that_is_too_great_cuts_the_client(
    start: Start, client: Client, by: int
) -> None:
    lb, [one] = await start(1)
    one.fault = faults.WrongLength(by)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get(lb.url)
    assert (await lb.record()).termination == "SD"


async def test_a_length_that_is_too_small_loses_the_rest(start: Start, client: Client) -> None:
    lb, [one] = await start(1)
    one.fault = faults.WrongLength(by=-1)
    assert await client.get(lb.url) == (200, "on")
    one.fault = None
    assert await client.get(lb.url) == (200, "one")


async def test_a_plain_body_that_looks_like_a_last_chunk_has_the_wrong_length_too(
    start: Start, client: Client
) -> None:
    async def last_chunk(request: Request) -> Answer:
        return Answer(body="0\r\n\r\n")

    lb, [one] = await start(1, handler=last_chunk)
    one.fault = faults.WrongLength(by=-1)
    assert await client.get(lb.url) == (200, "0\r\n\r")


async def test_a_stream_of_the_wrong_length_lacks_its_last_chunk(
    start: Start, client: Client
) -> None:
    async def stream(request: Request) -> Answer:
        return events("a")

    lb, [one] = await start(1, handler=stream)
    one.fault = faults.WrongLength()
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get(lb.url)
    assert (await lb.record()).termination == "SD"


async def test_garbage_is_a_bad_gateway(start: Start, client: Client) -> None:
    lb, [one] = await start(1, retries=0)
    one.fault = faults.Garbage()
    assert (await client.get(lb.url))[0] == 502
    record = await lb.record()
    assert (record.status, record.termination) == (502, "PH")
    assert record.reason


async def test_a_rate_of_failures_is_the_same_for_one_seed(start: Start, client: Client) -> None:
    lb, [one] = await start(1, retries=0)

    async def run(seed: int) -> list[int]:
        one.fault = faults.Fail(500, rate=0.5, seed=seed)
        return [(await client.get(lb.url))[0] for _ in range(20)]

    first = await run(seed=1)
    assert set(first) == {200, 500}
    assert await run(seed=1) == first
    assert await run(seed=2) != first
    assert [record.status for record in lb.records[:20]] == first


async def test_a_server_that_flaps_refuses_and_serves_by_turns(
    start: Start, client: Client
) -> None:
    lb, [one] = await start(1, retries=0)
    one.fault = faults.Flap(up=0.02, down=0.02)
    seen: list[int] = []
    while seen[-1:] != [200] or 503 not in seen:
        seen.append((await client.get(lb.url))[0])
        assert len(seen) < 10_000
    one.fault = None
    assert await client.get(lb.url) == (200, "one")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: faults.Fail(rate=20), r"Fail\(.*rate=20.*\): rate is a share"),
        (lambda: faults.Fail(rate=-0.1), "rate is a share"),
        (lambda: faults.Fail(99), "a status is a number from 200 to 999, not 99"),
        (lambda: faults.Fail("503"), "not '503'"),  # type: ignore[arg-type]
        (lambda: faults.ResetAfter(-5), r"ResetAfter\(size=-5\): size is in bytes"),
        (lambda: faults.CloseAfter(-1), "size is in bytes"),
        (lambda: faults.Stall(after=-1), "after is in bytes"),
        (lambda: faults.SlowTokens(-1), "interval is in seconds"),
        (lambda: faults.Flap(0, 1), "up and down are seconds, above 0"),
        (lambda: faults.Flap(1, 0), "up and down are seconds, above 0"),
        (lambda: faults.WrongLength(0), "by is how many bytes"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    make: Callable[[], faults.Fault], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (faults.Refuse, r"an instance, such as Refuse\(...\); this is the class Refuse itself"),
        ("refuse", r"None or one of hermes_lb.testing.faults, such as Refuse\(\); not 'refuse'"),
        (False, "not False"),
    ],
)
async def test_what_is_no_fault_is_refused_and_changes_nothing(
    balanced_servers: Servers, client: Client, wrong: Any, said: str
) -> None:
    [one] = await balanced_servers(1)
    one.fault = before = faults.Fail(500)
    with pytest.raises(TypeError, match=said):
        one.fault = wrong
    assert one.fault is before
    assert (await client.get(one.url))[0] == 500


async def test_a_fault_may_be_set_from_another_thread(start: Start, client: Client) -> None:
    """Where a synchronous test runs, for one. It holds as soon as it is set."""
    lb, [one, two] = await start(2, balance="round_robin")
    await asyncio.to_thread(setattr, one, "fault", faults.Refuse())
    assert await client.get(lb.url) == (200, "two")
    await asyncio.to_thread(setattr, two, "fault", faults.Stall())
    waiting = client.start_get(lb.url)
    await two.asked(2)
    await asyncio.to_thread(setattr, two, "fault", None)
    assert await waiting == (200, "two")


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_fault_may_be_set_while_the_loop_stands_still(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        one = Server("one")
        one.fault = faults.Refuse()  # before it runs, too
        runner.run(one.__aenter__())
        assert not is_listening(one)
        one.fault = faults.Flap(60, 60)
        assert is_listening(one)
        one.fault = faults.Refuse()
        assert not is_listening(one)
        runner.run(one.__aexit__(None, None, None))
        one.fault = None
        assert "refuses" in repr(one)


async def test_a_fault_of_your_own(start: Start, client: Client) -> None:
    class Teapot(faults.Fault):
        def replaces(self, request: Request, server: object) -> Answer:
            return Answer(418, {}, request.target)

    lb, [one] = await start(1)
    one.fault = Teapot()
    assert await client.get(f"{lb.url}/pot") == (418, "/pot")


async def test_the_client_that_leaves_is_noted(start: Start) -> None:
    lb, [one] = await start(1)
    one.fault = faults.Stall()
    reader, writer = await asyncio.open_connection(*lb.url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await one.asked()
    writer.close()
    assert (await lb.record()).termination == "CH"
    assert await read_all(reader) == b""
