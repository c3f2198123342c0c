"""A WebSocket server that echoes, made as the worker makes its own: aiohttp, compression included.

Only the worker's limit of a message's size is lifted, because some cases send 16 MiB.
"""

from __future__ import annotations

from aiohttp import WSMsgType, web

from tests.outside.child import serve


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(max_msg_size=0)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


if __name__ == "__main__":
    serve({"/": echo})
