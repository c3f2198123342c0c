"""What the access log says of an exchange, beside what a real HAProxy says of the same."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.observe.real_haproxy import HAProxys, Ours, needs_haproxy
from tests.support.http_peer import Ended, request
from tests.support.origin import answers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.http_peer import AtOrigin, Message
    from tests.support.log_line import LogLine
    from tests.support.stage import Stage

    Fronts = Ours | HAProxys
    Scenario = Callable[[Stage, Fronts], Awaitable[object]]

pytestmark = needs_haproxy

AGENT1 = "Cookie: SERVERID=agent1"


def summary(line: LogLine) -> tuple[object, ...]:
    return line.server, line.status, line.termination, line.cookies, line.retries, line.reached


async def one(
    stage: Stage, fronts: Fronts, *ports: int, cookie: str = "", **options: Any
) -> object:
    """One GET to its end."""
    async with fronts.before(*ports, **options) as front:
        client = await front.client()
        await client.get("/", *([cookie] if cookie else []))
        with suppress(Ended):
            await client.read_response()
        [line] = await front.logged()
        return summary(line)


async def served(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, (await stage.serving()).port)


async def served_by_the_cookies_server(stage: Stage, fronts: Fronts) -> object:
    second = (await stage.serving()).port
    return await one(stage, fronts, (await stage.serving()).port, second, cookie=AGENT1)


async def an_unknown_cookie(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, (await stage.serving()).port, cookie="Cookie: SERVERID=x")


async def refused(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, stage.nobody())


async def refused_by_the_cookies_server(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, stage.nobody(), stage.nobody(), cookie=AGENT1)


async def served_by_another_server(stage: Stage, fronts: Fronts) -> object:
    second = (await stage.serving()).port
    return await one(stage, fronts, stage.nobody(), second, cookie=AGENT1, retries=1)


async def refused_by_another_server_too(stage: Stage, fronts: Fronts) -> object:
    ports = stage.nobody(), stage.nobody()
    return await one(stage, fronts, *ports, cookie=AGENT1, retries=1)


async def not_connected_in_time(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, stage.black_hole(), cookie=AGENT1, connect=0.1)


async def no_answer_in_time(stage: Stage, fronts: Fronts) -> object:
    return await one(stage, fronts, (await stage.origin()).port, server=0.3)


async def garbage(stage: Stage, fronts: Fronts) -> object:
    origin = await stage.serving(lambda connection, _: connection.send(b"garbage\r\n\r\n"))
    return await one(stage, fronts, origin.port)


async def closed_in_the_head(stage: Stage, fronts: Fronts) -> object:
    async def handle(connection: AtOrigin, _: Message) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        raise Ended(b"", by_reset=False)

    return await one(stage, fronts, (await stage.serving(handle)).port)


async def silence_in_the_body(stage: Stage, fronts: Fronts) -> object:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
    origin = await stage.serving(lambda connection, _: connection.send(begun))
    return await one(stage, fronts, origin.port, server=0.3)


async def the_queue_was_too_long(stage: Stage, fronts: Fronts) -> object:
    origin = await stage.origin()
    async with fronts.before(origin.port, most=1) as front:
        first, second = await front.client(), await front.client()
        await first.get()
        at_origin, _ = await origin.accept_request()
        assert (await second.ask()).status == 503
        [line] = await front.logged()
        await at_origin.respond()
        await first.read_response()
        return summary(line), line.connections


async def the_client_left_the_answer(stage: Stage, fronts: Fronts) -> object:
    origin = await stage.origin()
    async with fronts.before(origin.port) as front:
        client = await front.client()
        await client.get()
        at_origin, _ = await origin.accept_request()
        await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        await client.read_until(b"\r\n\r\nx")
        client.close()
        [line] = await front.logged()
        return summary(line)


async def the_clients_head_took_too_long(stage: Stage, fronts: Fronts) -> object:
    async with fronts.before((await stage.serving()).port, request_head=0.3) as front:
        client = await front.client()
        assert (await client.answer_to(b"GET / HTTP/1.1\r\n")).status == 408
        [line] = await front.logged()
        return summary(line)


async def two_lengths(stage: Stage, fronts: Fronts) -> object:
    async with fronts.before((await stage.serving()).port) as front:
        client = await front.client()
        await client.send(request("POST", "/", "Content-Length: 1", "Content-Length: 2"))
        assert (await client.read_response()).status == 400
        [line] = await front.logged()
        return summary(line)


async def the_server_set_the_cookie_itself(stage: Stage, fronts: Fronts) -> object:
    origin = await stage.serving(answers(b"ok", "Set-Cookie: SERVERID=own"))
    return await one(stage, fronts, origin.port, cookie=AGENT1)


UNSAID = pytest.mark.http1_only("HTTP/2 can't say it")


@pytest.mark.parametrize(
    "scenario",
    [
        served,
        served_by_the_cookies_server,
        an_unknown_cookie,
        refused,
        refused_by_the_cookies_server,
        served_by_another_server,
        refused_by_another_server_too,
        not_connected_in_time,
        no_answer_in_time,
        garbage,
        closed_in_the_head,
        silence_in_the_body,
        the_queue_was_too_long,
        the_client_left_the_answer,
        pytest.param(the_clients_head_took_too_long, marks=UNSAID),
        pytest.param(two_lengths, marks=UNSAID),
        the_server_set_the_cookie_itself,
    ],
)
async def test_the_log_says_what_haproxys_says(
    stage: Stage, tmp_path: Path, scenario: Scenario
) -> None:
    theirs = await scenario(stage, HAProxys(stage, tmp_path))
    assert await scenario(stage, Ours(stage)) == theirs
