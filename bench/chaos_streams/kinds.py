"""The kinds of clients: each asks one question and reads the answer to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from bench.chaos_sessions.reading import LOST, Event, read_events
from bench.chaos_streams.heard import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from bench.chaos_streams.crowd import Crowd
    from bench.chaos_streams.heard import Heard

SESSIONS = "/api/agent/sessions"
WORKER = "X-Hermes-Worker"
# Seconds in which a client that connects again must have got on; of a silent WebSocket.
_PATIENCE, _SILENCE = 40.0, 20.0


class Kind(NamedTuple):
    #: Fills what it is given; `end` is set when it returns.
    ask: Callable[[Crowd, Heard], Awaitable[None]]
    #: The client itself connects again when its connection is lost, so that is no abort.
    reconnects: bool = False


async def _ask_session(crowd: Crowd, heard: Heard) -> None:
    """A turn of a session as server-sent events, over one response."""
    path = f"{SESSIONS}/{heard.session_id}/messages"
    headers = {"Accept": "text/event-stream", "Idempotency-Key": heard.uid}
    async with _opened(crowd, heard, path, {"content": heard.content}, headers) as response:
        async for event in read_events(response):
            heard.add(event)
            if heard.end and heard.end != DONE:
                return


async def _ask_chat(crowd: Crowd, heard: Heard) -> None:
    """OpenAI's chat completions, in a kept session."""
    body = {
        "model": "hermes-agent",
        "stream": True,
        "messages": [{"role": "user", "content": heard.content}],
    }
    headers = {"X-Hermes-Session-Id": heard.session_id, "Idempotency-Key": heard.uid}
    async with _opened(crowd, heard, "/v1/chat/completions", body, headers) as response:
        async for event_id, data in _chunks_of(response):
            if data == "[DONE]":
                heard.end = DONE
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                heard.end = f"error {data}"
                return
            for choice in chunk["choices"]:
                heard.add_text(choice["delta"].get("content") or "", event_id)


async def _ask_websocket(crowd: Crowd, heard: Heard) -> None:
    """A WebSocket, whose client connects again behind the last event that it has."""
    give_up_at = time.monotonic() + _PATIENCE
    events = 0
    while not heard.end:
        with contextlib.suppress(*LOST):
            await _converse(crowd, heard)
        if heard.events > events:
            events, give_up_at = heard.events, time.monotonic() + _PATIENCE
        if not heard.end:
            if time.monotonic() > give_up_at:
                heard.end = f"nothing for {_PATIENCE:g} s, over all connections"
                return
            crowd.figures["websocket: connected again"] += 1
            await asyncio.sleep(crowd.rng.uniform(0.05, 0.2))


async def _converse(crowd: Crowd, heard: Heard) -> None:
    """One connection. The message is sent again under its key: each event comes once even so."""
    url = crowd.url(f"{SESSIONS}/{heard.session_id}/ws")
    if heard.last_id:
        url += f"?last_event_id={heard.last_id}"
    async with crowd.http.ws_connect(url) as socket:
        if not heard.events:
            heard.begin("websocket")
        await socket.send_json({"content": heard.content, "idempotency_key": heard.uid})
        while True:
            frame = await socket.receive(timeout=_SILENCE)
            if frame.type is not aiohttp.WSMsgType.TEXT:
                return
            event = json.loads(frame.data)
            if event["event"] == "error" and event["id"] is None:
                # Of this connection or this try, not of the turn.
                crowd.figures[f"websocket: error {event['data']['code']}"] += 1
                await asyncio.sleep(0.1)
                return
            heard.add(Event(event["id"] or "", event["event"], json.dumps(event["data"])))
            if heard.end:
                return


KINDS: Mapping[str, Kind] = {
    "sessions": Kind(_ask_session),
    "chat": Kind(_ask_chat),
    "websocket": Kind(_ask_websocket, reconnects=True),
}


@contextlib.asynccontextmanager
async def _opened(
    crowd: Crowd, heard: Heard, path: str, body: Any, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that has begun. Inside, the loss of it is its end, and so is an end without DONE."""
    response = await crowd.post_until_accepted(path, body, headers)
    heard.begin(response.headers.get(WORKER, ""))
    try:
        yield response
        heard.end = heard.end or "the response ended without the turn's end"
    except LOST as error:
        # Behind `done` only the last chunk can be missing: that is a cut as well.
        heard.end = f"cut: {error!r}"
    finally:
        response.close()


async def _chunks_of(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """(id, data) of each event; an id that counts the chunks of one event loses that count."""
    event_id = ""
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if name == "id":
            event_id = value.partition(".")[0]
        elif name == "data":
            yield event_id, value
