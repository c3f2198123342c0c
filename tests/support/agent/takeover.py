"""A client that resumes elsewhere, like a balancer for its clients; and worker processes."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.support.agent.program import Program
from tests.support.agent.running_worker import SESSIONS
from tests.support.sse import Event, deltas, event_order, read_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.agent.running_worker import RunningWorker

SSE = {"Accept": "text/event-stream"}
ACCEPTS = {"X-Hermes-Handover": "accept"}
ENDS = {"done", "error"}


async def open_turn(worker: RunningWorker, sid: str, **headers: str) -> aiohttp.ClientResponse:
    """A turn as a stream, which the caller closes."""
    response = await worker.post(
        sid, "messages", json={"content": "go"}, headers={**SSE, **headers}
    )
    assert response.status == 200
    return response


def resume(worker: RunningWorker, path: str, after: str = "", **headers: str) -> Any:
    if after:
        headers["Last-Event-ID"] = after
    return worker.http.get(path, headers=headers)


@dataclass
class Client:
    """One turn, on one worker after another: `urls` are used in rotation."""

    http: aiohttp.ClientSession
    urls: Sequence[str]
    sid: str
    headers: dict[str, str] = field(default_factory=dict)
    #: The events that it got, except those of one connection only.
    events: list[Event] = field(default_factory=list)
    #: Resumes, by cause: "lost" or "handover".
    went_on: list[str] = field(default_factory=list)
    path: str = ""
    #: Seconds between the end of one worker's part and the first event of the next; nothing is
    #: asserted about them.
    gaps: list[float] = field(default_factory=list)
    _left_at: float | None = None

    async def say(self, content: str) -> Self:
        """The turn to its end, on any worker."""
        url = f"{self.urls[0]}{SESSIONS}/{self.sid}/messages"
        headers = {**SSE, **self.headers}
        request = self.http.post(url, json={"content": content}, headers=headers)
        for url in itertools.cycle([*self.urls[1:], self.urls[0]]):
            try:
                async with request as response:
                    assert response.status == 200, await response.text()
                    self.path = response.headers["X-Hermes-Resume"]
                    if await self._read(response):
                        break
            except aiohttp.ClientError:
                assert self.path, "the first worker is there"
                self._go_on("lost")
            request = self.resume_at(url)
        return self

    def resume_at(self, url: str) -> Any:
        """The request for the events after the last one received."""
        headers = dict(self.headers)
        if self.events:
            headers["Last-Event-ID"] = self.events[-1].id
        return self.http.get(url + self.path, headers=headers)

    async def follow(self, url: str) -> Self:
        """The turn from there to its end, on this worker."""
        async with self.resume_at(url) as response:
            assert response.status == 200, await response.text()
            assert await self._read(response)
        return self

    def _go_on(self, why: str) -> None:
        self.went_on.append(why)
        self._left_at = asyncio.get_running_loop().time()

    async def _read(self, response: aiohttp.ClientResponse) -> bool:
        """Whether that was the end."""
        async for event in read_events(response):
            if event.name == "handover":
                assert not event.id
                self._go_on("handover")
                return False
            if self._left_at is not None:
                self.gaps.append(asyncio.get_running_loop().time() - self._left_at)
                self._left_at = None
            self.events.append(event)
            if event.name in ENDS:
                return True
        raise AssertionError("the stream ended as if it were whole")

    def standing(self) -> list[Event]:
        """Without the events that a `rewind` has voided."""
        standing: list[Event] = []
        for event in self.events:
            if event.name == "rewind":
                back_to = event_order(event.data["id"])
                standing = [one for one in standing if event_order(one.id) <= back_to]
            else:
                standing.append(event)
        return standing

    def check(self) -> dict[str, Any]:
        """No token is lost or repeated. Returns the answer."""
        order = [event_order(event.id) for event in self.events]
        assert order == sorted(set(order))
        assert self.events[-1].name == "done", self.events[-1]
        answer: dict[str, Any] = self.events[-1].data
        assert deltas(self.standing()) == answer["content"]
        return answer


class Process(Program):
    """A program that prints its URL first."""

    url = ""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        line = await self.line()
        self.url = next(word for word in line.split() if word.startswith("http://"))
        return self


async def new_session(http: aiohttp.ClientSession, url: str, **headers: str) -> str:
    async with http.post(url + SESSIONS, headers=headers) as response:
        return str((await response.json())["session_id"])


async def history(http: aiohttp.ClientSession, url: str, sid: str) -> list[tuple[str, str]]:
    """Role and content of each message."""
    async with http.get(f"{url}{SESSIONS}/{sid}") as response:
        messages = (await response.json())["messages"]
    return [(message["role"], message["content"]) for message in messages]


def answer_in(messages: Sequence[tuple[str, str]]) -> str:
    return "".join(content for role, content in messages if role == "assistant")
