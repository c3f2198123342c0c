"""Connections of HTTP/2 while the balancer is reloaded, upgraded and ended: no stream is cut."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.http2_peer import Http2Client
from tests.support.http_peer import Client
from tests.support.waiting import eventually
from tests.workers.processes import ends_cleanly, let_go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.balancer_process import Running
    from tests.workers.processes import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HTTP2 = "http2 = true"
STREAMS = 3


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Http2Client]:
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setblocking(False)
    client = Client(sock)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        yield Http2Client(client)
    finally:
        client.close()


async def begun(client: Http2Client) -> list[int]:
    """Streams of this connection that are in the middle of a response."""
    numbers = [await client.open("/stream") for _ in range(STREAMS)]
    for number in numbers:
        assert await client.body(number, 6) == b"begun "
    return numbers


async def goes_away(client: Http2Client, count: int) -> None:
    """Wait for this number of GOAWAYs; the start of other processes may take longer than a read."""
    while len(client.goaways) < count:
        with suppress(AssertionError):
            await client.read_until(lambda: len(client.goaways) >= count)


async def end_complete(site: Site, client: Http2Client, numbers: list[int]) -> None:
    let_go(site.workers)
    for number in numbers:
        assert (await client.answer(number)).body == b"begun ended"


async def is_served_elsewhere(running: Running) -> None:
    async with connected(running.url) as other:
        assert (await other.ask()).status == 200
        assert other.goaways == []


async def test_a_reload_cuts_nothing_and_keeps_the_connection(site: Site) -> None:
    async with (
        site.serving(frontend=HTTP2) as (running, _),
        connected(running.url) as client,
    ):
        numbers = await begun(client)
        site.write(frontend=HTTP2, server="weight = 2")
        running.signal(signal.SIGHUP)
        await running.says("reloaded")
        assert (await client.ask()).status == 200  # on the same connection
        assert client.goaways == []
        await end_complete(site, client, numbers)
        await ends_cleanly(running)
    assert "Traceback" not in running.said


async def test_an_upgrade_cuts_no_stream(site: Site) -> None:
    async with (
        site.serving(frontend=HTTP2) as (running, _),
        connected(running.url) as client,
    ):
        before = running.workers
        numbers = await begun(client)
        running.signal(signal.SIGUSR2)
        await goes_away(client, 1)
        assert client.goaways[0].last_stream_id == 2**31 - 1
        late = await client.open()  # on its way when the first GOAWAY comes
        assert (await client.answer(late)).status == 200
        await goes_away(client, 2)
        assert client.goaways[1].last_stream_id == late
        assert {each.error_code for each in client.goaways} == {0}
        await running.says("upgraded")
        await is_served_elsewhere(running)
        await end_complete(site, client, numbers)
        await client.read_to_end()
        await eventually(lambda: not set(running.workers) & set(before))
        await ends_cleanly(running)
    assert "Traceback" not in running.said


async def test_a_stream_behind_the_last_one_is_refused_and_safe_to_repeat(site: Site) -> None:
    async with (
        site.serving(frontend=HTTP2) as (running, _),
        connected(running.url) as client,
    ):
        numbers = await begun(client)
        running.signal(signal.SIGUSR2)
        await goes_away(client, 2)
        assert client.goaways[1].last_stream_id == numbers[-1]
        served = sum(worker.served for worker in site.workers)
        await client.open()  # which this GOAWAY says will not be served
        await end_complete(site, client, numbers)
        await client.read_to_end()
        assert sum(worker.served for worker in site.workers) == served
        await running.says("upgraded")
        await is_served_elsewhere(running)
        await ends_cleanly(running)
    assert "Traceback" not in running.said


@pytest.mark.parametrize("is_in_time", [True, False])
async def test_a_drain_lets_streams_finish_within_its_time(site: Site, is_in_time: bool) -> None:
    patience = "60s" if is_in_time else "1500ms"
    process = f'drain_timeout = "{patience}"'
    async with (
        site.serving(frontend=HTTP2, process=process) as (running, _),
        connected(running.url) as client,
    ):
        numbers = await begun(client)
        running.signal(signal.SIGTERM)
        await goes_away(client, 2)
        assert client.goaways[1].last_stream_id == numbers[-1]
        if is_in_time:
            await end_complete(site, client, numbers)
        await client.read_to_end()
        assert (client.ended == set(numbers)) is is_in_time
        assert await running.ended() == 0
    assert "Traceback" not in running.said
