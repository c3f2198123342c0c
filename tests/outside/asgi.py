"""ASGI applications in uvicorn, in a thread: what they leave in their event loop ends with it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn

from tests.support.programs import listen
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp


@asynccontextmanager
async def serving_asgi(app: ASGIApp) -> AsyncIterator[int]:
    """Serve it -> the port."""
    config = uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with listen() as sock:
        port: int = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([sock],), name="asgi", daemon=True)
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()
