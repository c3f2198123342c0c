"""The live stream's events: what differs, in parts, in order."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from hermes_lb.control import feed
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

MOMENT: Any = {"time": 1.0, "servers": [], "gone": [], "is_whole": True}


def servers(**states: str) -> list[Any]:
    return [{"backend": "b", "name": name, "state": state} for name, state in states.items()]


def read(event: tuple[int, bytes] | None) -> tuple[int, list[str], list[str], bool]:
    """Its number, the servers in it with their states, those that are gone, and whether it is
    whole."""
    assert event is not None
    number, text = event
    moment = json.loads(text)
    assert moment.keys() == MOMENT.keys()
    shown = [f"{one['name']} {one['state']}" for one in moment["servers"]]
    return number, shown, moment["gone"], moment["is_whole"]


async def test_an_event_has_what_differs_from_the_one_before() -> None:
    live = feed.Feed()
    await live.publish(MOMENT, servers(a="up", c="up", d="up"))
    assert read(live.whole()) == (1, ["a up", "c up", "d up"], [], True)
    await live.publish(MOMENT, servers(a="up", c="down", e="up"))
    assert read(await live.next(1)) == (2, ["c down", "e up"], ["b/d"], False)
    await live.publish(MOMENT, servers(a="up", c="down", e="up"))
    assert read(await live.next(2)) == (3, [], [], False)
    # One that has missed an event gets all.
    assert read(await live.next(1)) == (3, ["a up", "c down", "e up"], [], True)


async def test_others_run_between_the_servers() -> None:
    live, turns = feed.Feed(), 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = Tasks().spawn(another(), name="another")
    await live.publish(MOMENT, servers(**{f"s{n}": "up" for n in range(400)}))
    running.cancel()
    assert turns >= 400 // feed._AT_ONCE


async def test_two_publications_at_once_follow_one_another() -> None:
    """A page is opened while the event of this second is made."""
    live = feed.Feed()
    await live.publish(MOMENT, servers(**{f"s{n}": "up" for n in range(100)}))
    state = "up"

    def read_now() -> Iterator[Any]:
        for n in range(100):
            yield {"backend": "b", "name": f"s{n}", "state": state}

    first = Tasks().spawn(live.publish(MOMENT, read_now()), name="first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    state = "down"
    await asyncio.gather(first, live.publish(MOMENT, read_now()))
    number, shown, gone, is_whole = read(await live.next(2))
    assert (number, gone, is_whole) == (3, [], False)
    # The second publication has the changes since the first one began.
    assert 0 < len(shown) < 100
    assert {one.split()[1] for one in shown} == {"down"}
    assert [one.split()[1] for one in read(live.whole())[1]] == ["down"] * 100


async def test_the_end_reaches_a_listener_that_waits() -> None:
    live = feed.Feed()
    await live.publish(MOMENT, servers(a="up"))
    waiting = Tasks().spawn(live.next(1), name="waiting")
    await asyncio.sleep(0)
    live.close()
    assert await waiting is None
