"""A real browser: an `EventSource` that loses nothing, and WebSockets that close cleanly; by HTTP/2
many of them on one connection."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.page_server import BATCH, GOODBYE
from tests.support.certificates import site
from tests.support.log_line import log_lines
from tests.support.needs import needs_package, needs_program
from tests.support.programs import server_process
from tests.support.stage import in_flight
from tests.support.tls import with_tls
from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.log_line import LogLine
    from tests.support.programs import ServerProcess
    from tests.support.stage import Stage

playwright = needs_package("playwright", "async_api")
CHROMIUM = needs_program("chromium")

# On a machine that is busy with other tests a browser takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
START_TAKES = 60.0  # seconds


@pytest.fixture
async def tab(tmp_path: Path, stage: Stage) -> AsyncIterator[Any]:
    """A page of a browser with an empty profile; what its scripts fail at fails the test."""
    async with playwright.async_api.async_playwright() as driver:
        browser = await driver.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            headless=True,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--disable-gpu",
                "--ignore-certificate-errors",
            ],
            timeout=START_TAKES * 1000,
        )
        try:
            page = browser.pages[0]
            page.set_default_timeout(3 * PATIENCE * 1000)
            page.on("pageerror", lambda error: stage.problems.append(f"the page: {error}"))
            yield page
            await page.screenshot(path=tmp_path / "page.png")
        finally:
            await browser.close()


async def is_shown(tab: Any, state: str) -> None:
    await tab.wait_for_function(f"document.getElementById('state').textContent === '{state}'")


async def told(tab: Any) -> list[dict[str, Any]]:
    """The events that the page got: each with `id`, `from` and the number of its `connection`."""
    events: list[dict[str, Any]] = await tab.evaluate("told.events")
    return events


async def test_an_event_source_comes_back_and_misses_nothing(stage: Stage, tab: Any) -> None:
    async with server_process("tests.outside.page_server", "agent1", "0") as server:
        lb = await stage.balancer(server.port)
        await tab.goto(lb.url)
        await tab.evaluate(f"listen({3 * BATCH})")
        await is_shown(tab, "done")
        events = await told(tab)
        assert [event["id"] for event in events] == list(range(1, 3 * BATCH + 1))
        # The server closed the stream after each batch, and the browser asked for what follows.
        assert Counter(event["connection"] for event in events) == {1: BATCH, 2: BATCH, 3: BATCH}
        assert await tab.evaluate("told.lost") == 2


def streams(folder: Path) -> list[LogLine]:
    return [line for line in log_lines(folder) if line.request == "GET /events HTTP/1.1"]


@pytest.mark.row(33)
async def test_an_event_source_goes_on_when_its_server_is_killed(
    stage: Stage, tab: Any, tmp_path: Path
) -> None:
    """Its cookie leads back to the server that is gone, and from there to the other one."""
    async with AsyncExitStack() as stack:
        servers: dict[str, ServerProcess] = {}
        for name in ("agent1", "agent2"):
            running = server_process("tests.outside.page_server", name, str(BATCH + 1))
            servers[name] = await stack.enter_async_context(running)
        lb = await stage.balancer(
            *(server.port for server in servers.values()),
            backend={"affinity": {"cookie": "SERVERID"}},
        )
        await tab.goto(lb.url)
        await tab.evaluate(f"listen({3 * BATCH})")

        # During the second batch its server stands still, and is killed.
        await tab.wait_for_function(f"told.events.length === {BATCH + 2}")
        first = (await told(tab))[0]["from"]
        await servers[first].kill()

        await is_shown(tab, "done")
        events = await told(tab)
        assert [event["id"] for event in events] == list(range(1, 3 * BATCH + 1))
        (other,) = servers.keys() - {first}
        assert [event["from"] for event in events] == [first] * (BATCH + 2) + [other] * (
            2 * BATCH - 2
        )
        await eventually(lambda: len(streams(tmp_path)) >= 3)
        assert [
            (line.server, line.termination, line.retries) for line in streams(tmp_path)[:3]
        ] == [
            (first, "--", "0"),
            (first, "SD", "0"),  # the cut could be seen
            (other, "--", "+3"),
        ]


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        pytest.param("null", (1000, ""), id="closed-by-the-page"),
        pytest.param("'goodbye'", GOODBYE, id="closed-by-the-server"),
    ],
)
async def test_a_websocket_echoes_and_closes_cleanly(
    stage: Stage, tab: Any, last: str, ended: tuple[int, str]
) -> None:
    async with server_process("tests.outside.page_server", "agent1", "0") as server:
        lb = await stage.balancer(server.port)
        await tab.goto(lb.url)
        messages = ["gr\u00fc\u00df dich", [0, 1, 254, 255], "", "x" * 100_000]
        talked = await tab.evaluate(f"messages => talk(messages, {last})", messages)
        assert talked["echoes"] == messages
        assert (talked["code"], talked["reason"]) == ended
        assert talked["wasClean"] is True


SOURCES = """many => {
  window.opened = 0;
  window.sources = Array.from({ length: many }, (_, n) => new EventSource(`/events?${n}`));
  for (const source of sources) source.onopen = () => { opened += 1; };
}"""


def over_tls(folder: Path, *, http2: bool) -> dict[str, Any]:
    return {**with_tls(site(folder, "localhost")), "http2": http2}


def at_localhost(lb: LoadBalancer) -> str:
    return lb.url.replace("127.0.0.1", "localhost")


async def test_a_hundred_event_sources_on_one_origin(
    stage: Stage, tab: Any, tmp_path: Path
) -> None:
    """By HTTP/2 all are open, on one connection, and the page still gets answers."""
    async with server_process("tests.outside.page_server", "agent1", "1") as server:
        lb = await stage.balancer(server.port, frontend=over_tls(tmp_path, http2=True))
        await tab.goto(at_localhost(lb))
        # The page itself needs a stream of the hundred that a connection may have.
        await tab.evaluate(SOURCES, 99)
        await tab.wait_for_function("opened === 99")
        page = await tab.evaluate("fetch('/').then(answer => answer.text())")
        assert "EventSource" in page
        await eventually(lambda: in_flight(lb) == [99])
        [frontend] = lb.observed.frontends.values()
        assert frontend.http2_streams == 99
        assert frontend.http2_requests == frontend.requests
        await tab.evaluate(SOURCES, 1)  # the hundredth
        await tab.wait_for_function("opened === 1")
        assert in_flight(lb) == [100]


async def test_by_http1_the_seventh_event_source_waits(
    stage: Stage, tab: Any, tmp_path: Path
) -> None:
    """Browsers open six connections to an origin: the reason for HTTP/2."""
    async with server_process("tests.outside.page_server", "agent1", "1") as server:
        lb = await stage.balancer(server.port, frontend=over_tls(tmp_path, http2=False))
        await tab.goto(at_localhost(lb))
        await tab.evaluate(SOURCES, 100)
        await tab.wait_for_function("opened === 6")
        # The next one gets in when another ends, and so do all that follow: one at a time.
        for open_so_far in range(7, 12):
            await tab.evaluate("sources.shift().close()")
            await tab.wait_for_function(f"opened === {open_so_far}")
            await eventually(lambda: in_flight(lb) == [6])


async def test_a_websocket_over_http2(stage: Stage, tab: Any, tmp_path: Path) -> None:
    """RFC 8441: on the connection that the page came by."""
    async with server_process("tests.outside.page_server", "agent1", "0") as server:
        lb = await stage.balancer(server.port, frontend=over_tls(tmp_path, http2=True))
        await tab.goto(at_localhost(lb))
        messages = ["gr\u00fc\u00df dich", [0, 1, 254, 255], "", "x" * 300_000]
        talked = await tab.evaluate("messages => talk(messages, 'goodbye')", messages)
        assert talked["echoes"] == messages
        assert (talked["code"], talked["reason"], talked["wasClean"]) == (*GOODBYE, True)
        [frontend] = lb.observed.frontends.values()
        assert frontend.http2_connections_total == 1
        await eventually(lambda: any("GET /ws" in line.request for line in log_lines(tmp_path)))
        [line] = [line for line in log_lines(tmp_path) if "/ws" in line.request]
        assert (line.request, line.status) == ("GET /ws HTTP/2.0", 101)  # as the server has it
