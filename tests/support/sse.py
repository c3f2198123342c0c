"""The events of a stream, as a client reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import aiohttp


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: Any


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream. Strict: exactly the lines that the worker promises."""
    while True:
        lines = []
        while (line := await response.content.readline()) != b"\n":
            if not line:
                assert not lines, "the stream ended inside an event"
                return
            lines.append(line.decode().rstrip("\n"))
        if lines == [": keep-alive"]:
            continue
        names, values = zip(*(line.split(": ", 1) for line in lines), strict=True)
        if names[0] != "id":  # it is not in the log
            names, values = ("id", *names), ("", *values)
        assert names == ("id", "event", "data")
        yield Event(values[0], values[1], json.loads(values[2]))


async def all_events(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in read_events(response)]


def deltas(events: Sequence[Event]) -> str:
    return "".join(event.data["content"] for event in events if event.name == "message.delta")


def event_order(event_id: str) -> tuple[int, int]:
    fence, seq = event_id.split("-")
    return int(fence), int(seq)
