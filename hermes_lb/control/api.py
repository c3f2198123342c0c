"""/api/v1: queries, and the live stream. Commands: `control.commands`."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from typing import TYPE_CHECKING, cast

from aiohttp import web

from hermes_lb.control import shapes, views
from hermes_lb.control.endpoints import get
from hermes_lb.control.errors import ApiError
from hermes_lb.control.feed import Feed
from hermes_lb.control.history import SHOWN_STATES
from hermes_lb.control.operator import UnknownServer, find_server
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.control.history import History, Key, Span
    from hermes_lb.control.operator import Operator
    from hermes_lb.control.scaling import Scaling

logger = logging.getLogger("hermes_lb.admin")

# Seconds between two samples, and between two events of a live stream.
_EVERY = 1.0
# Concurrent live streams; each dashboard has one.
_MOST_LISTENERS = 64
# Seconds that a stalled one may block, and bytes that the kernel buffers for it (by default up to
# 4 MB, which would hide a stall for minutes). Its place is needed for others.
_LONGEST_WRITE = 30.0
_SEND_BUFFER = 65_536


class Api:
    """The handlers. `start` begins sampling, also of `scaling`; `wall` is the Unix time."""

    def __init__(
        self,
        operator: Operator,
        history: History,
        scaling: Scaling,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._operator = operator
        self._scaling = scaling
        self._history = history
        self._wall = wall
        self._feed = Feed()
        self._tasks = Tasks()

    # Lifecycle.

    def start(self) -> None:
        self._tasks.spawn(self._sample(), name="history")

    async def stop(self) -> None:
        """Live streams end at once."""
        self._feed.close()
        await self._tasks.cancel_all()

    async def _sample(self) -> None:
        while True:
            try:
                self._operator.observed.refresh()
                self._scaling.sample(self._operator.now())
                for _ in self._history.sample(self._operator.now(), self._wall()):
                    await asyncio.sleep(0)  # 100 servers take milliseconds: yield to other work
                if self._feed.listeners:
                    await self._publish()
            except Exception:
                logger.exception("could not sample the counters of this second")
            await asyncio.sleep(_EVERY)

    async def _publish(self) -> None:
        moment = views.describe_moment(self._operator, self._history, self._wall())
        await self._feed.publish(moment, views.sampled_servers(self._operator, self._history))

    # Queries.

    @get("status", "The balancer as a whole", answers=shapes.Status)
    async def status(self, request: web.Request) -> shapes.Status:
        self._operator.observed.refresh()
        return views.describe_status(self._operator, self._history)

    @get("backends", "The backends", answers=list[shapes.Backend])
    async def backends(self, request: web.Request) -> list[shapes.Backend]:
        observed = self._operator.observed
        observed.refresh()
        return views.describe_backends(observed, self._operator.now(), self._history)

    @get("servers", "All servers", answers=list[shapes.Server])
    async def servers(self, request: web.Request) -> list[shapes.Server]:
        observed = self._operator.observed
        observed.refresh()
        return views.describe_servers(observed, self._operator.now(), self._history)

    @get("servers/{backend}/{server}", "One server", answers=shapes.Server, errors=(404,))
    async def server(self, request: web.Request) -> shapes.Server:
        operator = self._operator
        operator.observed.refresh()
        pools, backend = operator.observed.pools, request.match_info["backend"]
        found = find_server(pools, backend, request.match_info["server"])
        return views.describe_server(pools[backend], found, operator.now(), self._history)

    @get(
        "sessions", "Requests in flight, longest first",
        answers=shapes.Sessions, query=shapes.WhichSessions,
    )  # fmt: skip
    async def sessions(self, request: web.Request, which: shapes.WhichSessions) -> shapes.Sessions:
        found = [
            session
            for session in await self._operator.sessions()
            if which.backend in (None, session["backend"])
            and which.server in (None, session["server"])
        ]
        return {"total": len(found), "sessions": found[: which.limit]}

    @get(
        "recent", "The last requests that ended abnormally",
        answers=list[shapes.Abort], query=shapes.Since,
    )  # fmt: skip
    async def recent(self, request: web.Request, since: shapes.Since) -> list[shapes.Abort]:
        return [views.describe_abort(one) for one in self._operator.recent.since(since.since)]

    @get(
        "changes", "The last changes of servers' states, with reasons",
        answers=list[shapes.Change], query=shapes.Since,
    )  # fmt: skip
    async def changes(self, request: web.Request, since: shapes.Since) -> list[shapes.Change]:
        return [
            cast("shapes.Change", change._asdict())
            for change in self._history.changes
            if change.number > since.since
        ]

    @get(
        "errors", "Why requests were refused and servers failed, the most frequent first",
        answers=list[shapes.Refusal],
    )  # fmt: skip
    async def errors(self, request: web.Request) -> list[shapes.Refusal]:
        self._operator.observed.refresh()
        return views.describe_refusals(self._operator.observed)

    @get(
        "history", "Rates, queues and percentiles of the last minutes, for charts",
        answers=shapes.History, query=shapes.WhichHistory, errors=(404,),
    )  # fmt: skip
    async def history(self, request: web.Request, which: shapes.WhichHistory) -> web.Response:
        pools, backend = self._operator.observed.pools, which.backend
        if backend is not None and backend not in pools:
            raise UnknownServer(f"there is no backend {backend!r}; there are {', '.join(pools)}")
        samples = self._history.spans[which.span]
        head = {"step": samples.step, "states": SHOWN_STATES, "times": samples.times()}
        backends = await _columns(samples, [(name, None) for name in pools], which.fields)
        found = pools[backend].servers if backend is not None else ()
        servers = await _columns(samples, [(backend or "", s.name) for s in found], which.fields)
        return web.Response(
            text=f'{json.dumps(head)[:-1]}, "backends": {backends}, "servers": {servers}}}',
            content_type="application/json",
        )

    @get(
        "events", "Live: server-sent events, one a second, each a Moment as JSON",
        answers=shapes.Moment, errors=(503,), media="text/event-stream",
    )  # fmt: skip
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, one a second, beginning at once."""
        if self._feed.listeners >= _MOST_LISTENERS:
            raise ApiError(503, f"{_MOST_LISTENERS} live streams are open already")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._feed.listeners += 1
        try:
            await response.prepare(request)
            _hold_little(request)
            await self._publish()
            seen, text = self._feed.whole()
            while True:
                async with asyncio.timeout(_LONGEST_WRITE):
                    await response.write(b"data: " + text + b"\n\n")
                news = await self._feed.next(seen)
                if news is None:
                    break
                seen, text = news
        except ConnectionError:
            pass  # the page was closed
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # an orderly close would wait for it as well
        finally:
            self._feed.listeners -= 1
        return response


def _hold_little(request: web.Request) -> None:
    sock = request.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


async def _columns(span: Span, keys: list[Key], fields: list[str]) -> str:
    """Columns as a JSON object by name. Yields to other work between two of them."""
    found = []
    for key in keys:
        found.append(f"{json.dumps(key[1] or key[0])}: {json.dumps(span.read(key, fields))}")
        await asyncio.sleep(0)
    return "{" + ", ".join(found) + "}"
