"""A client, and names for the types of the fixtures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self, TypeAlias

import aiohttp

from hermes_lb.tasks import Tasks
from hermes_lb.testing import Server, WatchedBalancer

if TYPE_CHECKING:
    import asyncio

Servers: TypeAlias = Callable[..., Awaitable[list[Server]]]
Balanced: TypeAlias = Callable[..., Awaitable[WatchedBalancer]]


class Client:
    """aiohttp's client, in short."""

    def __init__(self) -> None:
        self.tasks = Tasks()

    async def __aenter__(self) -> Self:
        self.session = await aiohttp.ClientSession().__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.tasks.cancel_all()
        await self.session.close()

    async def get(self, url: str) -> tuple[int, str]:
        """The status, and the whole text."""
        async with self.session.get(url) as response:
            return response.status, await response.text()

    def start_get(self, url: str) -> asyncio.Task[tuple[int, str]]:
        return self.tasks.spawn(self.get(url), name="get")


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Up to the end, whichever it is."""
    try:
        return await reader.read()
    except OSError:
        return b""
