"""A client as a browser is one: it loses its connection, and comes back behind the last event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from hermes_lb.demo.client import server_sent_events
from hermes_lb.demo.failures import DemoFailed

if TYPE_CHECKING:
    from hermes_lb.demo.client import Listener
    from hermes_lb.demo.system import StoryPlaces

_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_RESUME = "X-Hermes-Resume"


@dataclass(slots=True)
class Read:
    """`words`: all that came, over both connections; `lost_after`: the number by the first one."""

    words: list[str] = field(default_factory=list)
    lost_after: int = 0
    #: The backend's own account: its words, and how often it was asked.
    story: list[str] = field(default_factory=list)
    asked: int = 0


async def read_story(places: StoryPlaces, listener: Listener, *, lose_after: int) -> Read:
    """From one balancer until the connection is lost, the rest from the other.

    Raises DemoFailed.
    """
    read, path, last_id = Read(), "", ""
    one, two = places.balancers
    headers = {"Authorization": "Bearer ada"}
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as http:
            listener.sent("POST", "/story", f"at {one}")
            async with http.post(f"{one}/story", data=b"{}") as response:
                path = response.headers.get(_RESUME, "")
                if response.status != 200 or not path:
                    raise DemoFailed(f"POST /story: {response.status}, {_RESUME} {path!r}")
                async for _, data, event_id in server_sent_events(response.content):
                    _take(data, read, listener)
                    last_id = event_id
                    if len(read.words) == lose_after:
                        response.close()
                        break
            listener.ended()
            read.lost_after = len(read.words)
            listener.sent("GET", path, f"at {two}", f"Last-Event-ID: {_short(last_id)}")
            async with http.get(two + path, headers={"Last-Event-ID": last_id}) as response:
                if response.status != 200:
                    raise DemoFailed(f"GET {path}: {response.status}")
                async for _, data, _ in server_sent_events(response.content):
                    _take(data, read, listener)
            listener.ended()
            async with http.get(f"{places.backend}/count") as response:
                account = await response.json()
                read.story, read.asked = account["story"], account["asked"]
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise DemoFailed(f"the story: {str(error) or type(error).__name__}") from error
    return read


def _take(data: dict[str, str], read: Read, listener: Listener) -> None:
    read.words.append(data["word"])
    listener.token(f"{data['word']} ")


def _short(event_id: str) -> str:
    """Without the middle of the turn's id."""
    kind, _, rest = event_id.partition(".")
    turn, _, number = rest.rpartition(".")
    return f"{kind}.{turn[:6]}...{number}"
