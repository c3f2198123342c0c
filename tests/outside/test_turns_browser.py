"""A browser loses its connection in mid-sentence, or reloads, and goes on at another balancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.asgi import serving_asgi
from tests.outside.test_browser import tab
from tests.outside.test_turns import new_key
from tests.outside.turn_fleet import Relay, relaying, two_balancers
from tests.outside.word_server import WORDS, WordServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.stage import Stage

__all__ = ["tab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ALL = "".join(f"{word} " for word in WORDS)


@pytest.fixture
def server() -> WordServer:
    return WordServer()


@pytest.fixture
async def relay(
    stage: Stage, tmp_path: Path, store_url: str, server: WordServer
) -> AsyncIterator[Relay]:
    """One origin for the browser, before two balancers; its connections go to them in turn."""
    async with serving_asgi(server.app()) as port:
        fleet = await two_balancers(
            stage, tmp_path, store_url, port,
            path_prefix="/", principal="cookie:user", key="query:key",
        )  # fmt: skip
        async with relaying(*fleet) as relay:
            yield relay


@pytest.fixture
async def page(tab: Any, relay: Relay) -> Any:
    """Of a user who is known by a cookie."""
    await tab.context.add_cookies([{"name": "user", "value": "ada", "url": relay.url}])
    await tab.goto(f"{relay.url}/page")
    return tab


async def shows(page: Any, text: str) -> None:
    await page.wait_for_function(f"document.getElementById('text').textContent === '{text}'")


async def is_in(page: Any, state: str) -> None:
    await page.wait_for_function(f"document.getElementById('state').textContent === '{state}'")


async def test_an_event_source_goes_on_at_another_balancer(
    page: Any, relay: Relay, server: WordServer
) -> None:
    await page.evaluate(f"listen('{new_key()}')")
    server.say()
    await shows(page, f"{WORDS[0]} ")
    relay.cut()
    await is_in(page, "coming back")
    server.say()
    await shows(page, f"{WORDS[0]} {WORDS[1]} ")
    # Before an event, too.
    relay.cut()
    server.say()
    await shows(page, ALL)
    await is_in(page, "closed")  # by 204: it does not ask for ever
    assert (len(server.executed), server.left) == (1, 0)


async def test_an_event_source_that_is_cut_before_its_first_event_executes_nothing_again(
    page: Any, relay: Relay, server: WordServer
) -> None:
    await page.evaluate(f"listen('{new_key()}')")
    await is_in(page, "open")
    await eventually(lambda: server.executed)
    relay.cut()
    await is_in(page, "coming back")
    server.say(3)
    await shows(page, ALL)
    assert (len(server.executed), server.left) == (1, 0)


async def test_a_page_that_is_reloaded_goes_on_in_mid_sentence(
    page: Any, server: WordServer
) -> None:
    await page.evaluate("void ask()")
    server.say()
    await shows(page, f"{WORDS[0]} ")
    await page.reload()
    await shows(page, f"{WORDS[0]} ")
    await page.evaluate("void resume()")
    server.say(2)
    await shows(page, ALL)
    await is_in(page, "done")
    assert (len(server.executed), server.left) == (1, 0)
