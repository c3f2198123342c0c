"""`python -m hermes_lb.demo.storyteller`: a backend that streams, and knows nothing of turns.

POST /story   40 words as server-sent events, one every 40 ms; a lost connection ends it
GET  /count    how often it was asked for the story, and its words
"""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

_STORY = """\
A backend that knows nothing of turns tells a story one word after another and the reader loses the
connection in mid sentence but the story goes on and at another balancer the reader finds every word
that was missed
"""
_INTERVAL = 0.04  # s


def application() -> web.Application:
    asked = 0

    async def tell(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in _STORY.split():
            await response.write(f"data: {json.dumps({'word': word})}\n\n".encode())
            await asyncio.sleep(_INTERVAL)
        return response

    async def count(request: web.Request) -> web.Response:
        return web.json_response({"asked": asked, "story": _STORY.split()})

    app = web.Application()
    app.router.add_post("/story", tell)
    app.router.add_get("/count", count)
    return app


async def main() -> None:
    runner = web.AppRunner(application(), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    print(f"listening on http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
