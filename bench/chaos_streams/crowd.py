"""The clients: each asks, reads to the end, and asks again in a new session, until it is over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from bench.chaos_sessions.reading import LOST
from bench.chaos_streams.heard import DONE, Heard
from bench.chaos_streams.kinds import KINDS, SESSIONS
from bench.chaos_streams.question import question

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Mapping, Sequence

# Seconds that a request is sent again for, and a turn whose stream was cut is asked for.
_PATIENCE = 60.0
# Longer than the balancer looks for another worker: it cuts first.
_SILENCE = 45.0
_PAUSE = (0.05, 0.3)


class NeverAccepted(Exception):
    """A request was refused for too long; the text says how, the last time."""


class Crowd:
    """A context manager: all clients of one phase."""

    def __init__(
        self,
        base: str,
        rng: random.Random,
        uids: itertools.count[int],
        figures: Counter[str],
    ) -> None:
        self.rng = rng
        self.turns: list[Heard] = []
        self.figures = figures
        self.is_over = False
        self._base = base
        self._uids = uids
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE)
        # A connection of its own for each request: what is judged is the stream.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self.http = aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    def url(self, path: str) -> str:
        return self._base + path

    async def run(self, kinds: Sequence[str], clients: int, words: int) -> None:
        """Return when `is_over` and each has finished what it had begun."""
        async with asyncio.TaskGroup() as group:
            for _, kind in zip(range(clients), itertools.cycle(kinds), strict=False):
                group.create_task(self._client(kind, words))

    async def _client(self, kind: str, words: int) -> None:
        # Not all at once: turns end, and begin, at all times.
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        while not self.is_over:
            try:
                session_id = await self._new_session()
            except NeverAccepted:
                self.figures["sessions that were not made"] += 1
                continue
            uid = f"u-{next(self._uids)}"
            heard = Heard(kind, uid, session_id, question(uid, self.rng.randint(words // 2, words)))
            self.turns.append(heard)
            try:
                await KINDS[kind].ask(self, heard)
            except NeverAccepted as error:
                heard.end = f"never accepted: {error}"
            if heard.end != DONE:
                await self._settle(heard)

    async def _new_session(self) -> str:
        async with await self._post_until(201, SESSIONS, {}, {}) as response:
            return str((await response.json())["session_id"])

    async def post_until_accepted(
        self, path: str, body: Any, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The response of the try that was accepted. Raises NeverAccepted."""
        return await self._post_until(200, path, body, headers)

    async def _settle(self, heard: Heard) -> None:
        """Ask for the answer by the turn's key: whatever became of its stream, it must be there."""
        path = f"{SESSIONS}/{heard.session_id}/messages"
        try:
            headers = {"Idempotency-Key": heard.uid}
            async with await self._post_until(
                200, path, {"content": heard.content}, headers
            ) as response:
                heard.settled = str((await response.json())["content"])
        except (NeverAccepted, *LOST) as error:
            heard.unsettled = repr(error)

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        """As any worker has them. Raises NeverAccepted."""
        path = f"{SESSIONS}/{session_id}"
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(*LOST):
                async with self.http.get(self.url(path)) as response:
                    if response.status == 200:
                        found: list[dict[str, Any]] = (await response.json())["messages"]
                        return found
            if time.monotonic() > give_up_at:
                raise NeverAccepted(path)
            await asyncio.sleep(0.2)

    async def _post_until(
        self, status: int, path: str, body: Any, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            try:
                response = await self.http.post(self.url(path), json=body, headers=headers)
                if response.status == status:
                    return response
                what = f"{response.status} {(await response.text())[:200]}"
                self.figures[f"requests refused, and sent again: {response.status}"] += 1
                response.close()
            except LOST as error:
                what = repr(error)
                self.figures["requests cut, and sent again"] += 1
            if time.monotonic() > give_up_at:
                raise NeverAccepted(f"{path}: {what}")
            await asyncio.sleep(self.rng.uniform(*_PAUSE))
