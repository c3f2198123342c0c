"""A server of a page with an `EventSource` and a WebSocket, in a process that a test can kill.

Event number n is the same from every server, so any of them can go on after `Last-Event-ID`.
The server sends `BATCH` events and closes the stream; in the batch that begins with `held`, it
sends two and waits (to be killed).

    python -m tests.outside.page_server SOCKET NAME HELD
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

from tests.outside.child import serve

BATCH = 4
GOODBYE = (4001, "until next time")  # a code of an application's own


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).with_name("page.html"))


async def events(request: web.Request) -> web.StreamResponse:
    after = int(request.headers.get("Last-Event-ID", 0))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"retry: 50\n\n")  # ms until the browser comes back
    for number in range(after + 1, after + BATCH + 1):
        if after + 1 == int(sys.argv[3]) and number == after + 3:
            await asyncio.Event().wait()
        await response.write(f"id: {number}\ndata: {sys.argv[2]}\n\n".encode())
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
        elif message.data == "goodbye":
            code, reason = GOODBYE
            await websocket.close(code=code, message=reason.encode())
        else:
            await websocket.send_str(message.data)
    return websocket


if __name__ == "__main__":
    serve({"/": page, "/events": events, "/ws": echo})
