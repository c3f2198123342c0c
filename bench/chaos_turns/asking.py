"""One connection of a client: it asks, reads until it leaves, and says how that ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from bench.chaos_sessions.reading import LOST
from bench.chaos_turns.heard import Segment
from bench.chaos_turns.script import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.chaos_turns.heard import Heard, Turn

STREAM = "text/event-stream"
#: How a connection ended.
CLEAN, CUT, LEFT = "clean", "cut", "left"
DEGRADED = "X-Hermes-Degraded"


class Answer(NamedTuple):
    """`status` 0: there was none."""

    status: int
    how: str
    text: str
    retry_after: float = 0.0
    is_replay: bool = False


class Ask(NamedTuple):
    """A request. `after`: how many events are not sent again; `leaves_after`: the number after
    which the client hangs up; `waits`: seconds, for each piece."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    after: int
    leaves_after: int | None
    waits: float


async def ask(http: aiohttp.ClientSession, turn: Turn, heard: Heard, asked: Ask) -> Answer:
    """Never raises for what a connection may do."""
    heard.connections += 1
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=asked.waits)
    params = turn.target if asked.url.endswith(turn.path) else {}
    try:
        async with http.request(
            asked.method,
            asked.url,
            params=params,
            headers=asked.headers,
            data=asked.body,
            timeout=timeout,
        ) as response:
            heard.is_degraded = DEGRADED in response.headers
            turn.resume_path = response.headers.get("X-Hermes-Resume", turn.resume_path)
            if response.status == 200 and response.content_type == STREAM:
                how = await _read_stream(response, heard, asked)
                return Answer(200, how, "", is_replay=_is_replay(response))
            if asked.leaves_after is not None and asked.leaves_after < 0:
                return Answer(response.status, LEFT, "")
            body = await response.read()
            if response.content_type == "application/json" and response.status in (200, 500):
                heard.bodies.append(body)
            return Answer(
                response.status,
                CLEAN,
                body.decode(errors="replace")[:500],
                float(response.headers.get("Retry-After", 0)),
                _is_replay(response),
            )
    except LOST as error:
        return Answer(0, CUT, repr(error)[:100])


def _is_replay(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


async def _read_stream(response: aiohttp.ClientResponse, heard: Heard, asked: Ask) -> str:
    reading = Reading(heard.last_id if asked.after else "")
    how = CLEAN
    try:
        async for data in response.content.iter_any():
            reading.feed(data)
            if asked.leaves_after is not None and len(reading.events) >= asked.leaves_after:
                how = LEFT
                response.close()
                break
    except LOST:
        how = CUT
    except asyncio.CancelledError:
        how = LEFT
        raise
    finally:
        heard.segments.append(Segment(asked.after, reading.events, how == CLEAN))
        # Without an id for the last event nothing can be asked for behind it.
        heard.last_id = "" if reading.has_gaps else reading.last_id
        heard.position = asked.after + len(reading.events)
    return how
