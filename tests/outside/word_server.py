"""An ordinary Starlette application: it streams words, and knows nothing of turns.

POST, GET /words   an event stream of `WORDS`, each when the test lets it
POST      /sum     the sum of a list, as JSON, when the test lets it
GET       /page    `turn_page.html`
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

WORDS = ("in", "mid", "sentence")


class Executed(NamedTuple):
    headers: Mapping[str, str]
    body: bytes


class WordServer:
    """`executed`: each request, in order. `left`: how many streams were not read to their end."""

    def __init__(self) -> None:
        self.executed: list[Executed] = []
        self.left = 0
        self._may_say = threading.Semaphore(0)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/words", self._words, methods=["GET", "POST"]),
                Route("/sum", self._sum, methods=["POST"]),
                Route("/page", self._page),
            ]
        )

    def say(self, words: int = 1) -> None:
        """Let it send this number of further words."""
        self._may_say.release(words)

    async def _page(self, request: Request) -> Response:
        return FileResponse(Path(__file__).with_name("turn_page.html"))

    async def _words(self, request: Request) -> Response:
        await self._note(request)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _sum(self, request: Request) -> Response:
        body = await self._note(request)
        await self._wait()
        return JSONResponse({"sum": sum(json.loads(body)), "of": len(self.executed)})

    async def _note(self, request: Request) -> bytes:
        body = await request.body()
        self.executed.append(Executed(dict(request.headers), body))
        return body

    async def _stream(self) -> AsyncIterator[str]:
        is_whole = False
        try:
            for word in WORDS:
                await self._wait()
                yield f"data: {word}\n\n"
            is_whole = True
        finally:
            self.left += not is_whole

    async def _wait(self) -> None:
        # Polled: a thread that waits would outlive a stream that is left.
        await until(lambda: self._may_say.acquire(blocking=False))
