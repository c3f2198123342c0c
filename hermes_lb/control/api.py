"""/api/v1: queries and commands. Described by `control.openapi`."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from hermes_lb.backends.server import ADMINS
from hermes_lb.config import ConfigError
from hermes_lb.control import views
from hermes_lb.control.errors import ApiError, number_of
from hermes_lb.control.feed import Feed
from hermes_lb.control.history import FIELDS, SHOWN_STATES, SPANS
from hermes_lb.control.openapi import document
from hermes_lb.control.openapi_page import render
from hermes_lb.control.operator import (
    MAX_WEIGHT,
    NotPossible,
    UnknownServer,
    find_server,
)
from hermes_lb.control.quiet import CLIENT_ERRORS
from hermes_lb.control.scaling import ScalingApi
from hermes_lb.control.turns_api import TurnsApi
from hermes_lb.errors import reason
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Pool, Server
    from hermes_lb.control.history import History, Key, Span
    from hermes_lb.control.operator import Operator

logger = logging.getLogger("hermes_lb.admin")

# Seconds between two samples, and between two events of a live stream.
_EVERY = 1.0
# Concurrent live streams; each dashboard has one.
_MOST_LISTENERS = 64
# Seconds that a stalled one may block, and bytes that the kernel buffers for it (by default up to
# 4 MB, which would hide a stall for minutes). Its place is needed for others.
_LONGEST_WRITE = 30.0
_SEND_BUFFER = 65_536
_MOST_ROWS = 1000


class Api:
    """The handlers. `start` begins sampling; `wall` is the Unix time."""

    def __init__(
        self, operator: Operator, history: History, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._operator = operator
        self._history = history
        self._wall = wall
        self._feed = Feed()
        self._scaling = ScalingApi(operator)
        self._tasks = Tasks()

    def routes(self) -> list[web.RouteDef]:
        server = "/api/v1/servers/{backend}/{server}"
        return [
            web.get("/api/v1/", self._page),
            web.get("/api/v1/openapi.json", self._openapi),
            web.get("/api/v1/status", self._status),
            web.get("/api/v1/backends", self._backends),
            web.get("/api/v1/servers", self._servers),
            web.get(server, self._server),
            web.put(f"{server}/state", self._set_state),
            web.put(f"{server}/weight", self._set_weight),
            web.delete(f"{server}/sessions", self._end_sessions),
            web.get("/api/v1/sessions", self._sessions),
            web.get("/api/v1/recent", self._recent),
            web.get("/api/v1/changes", self._changes),
            web.get("/api/v1/history", self._history_of),
            web.get("/api/v1/events", self._events, allow_head=False),
            web.post("/api/v1/reload", self._reload),
            web.post("/api/v1/upgrade", self._upgrade),
            *self._scaling.routes(),
            *TurnsApi(self._operator).routes(),
        ]

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
                self._scaling.scaling.sample(self._operator.now())
                for _ in self._history.sample(self._operator.now(), self._wall()):
                    await asyncio.sleep(0)  # 100 servers take milliseconds: yield to other work
                if self._feed.listeners:
                    self._feed.publish(self._moment())
            except Exception:
                logger.exception("could not sample the counters of this second")
            await asyncio.sleep(_EVERY)

    def _moment(self) -> bytes:
        moment = views.describe_moment(self._operator, self._history, self._wall())
        return json.dumps(moment, separators=(",", ":")).encode()

    # Queries.

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=render(document()), content_type="text/html")

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(document())

    async def _status(self, request: web.Request) -> web.Response:
        self._operator.observed.refresh()
        return web.json_response(views.describe_status(self._operator))

    async def _backends(self, request: web.Request) -> web.Response:
        observed = self._operator.observed
        observed.refresh()
        return web.json_response(views.describe_backends(observed, self._operator.now()))

    async def _servers(self, request: web.Request) -> web.Response:
        observed = self._operator.observed
        observed.refresh()
        return web.json_response(
            views.describe_servers(observed, self._operator.now(), self._history)
        )

    async def _server(self, request: web.Request) -> web.Response:
        self._operator.observed.refresh()
        return self._described(*self._find(request))

    def _find(self, request: web.Request) -> tuple[Pool, Server]:
        pools, (backend, server) = self._operator.observed.pools, _named(request)
        found = find_server(pools, backend, server)
        return pools[backend], found

    def _described(self, pool: Pool, server: Server, **more: bool) -> web.Response:
        now = self._operator.now()
        return web.json_response(views.describe_server(pool, server, now, self._history) | more)

    async def _sessions(self, request: web.Request) -> web.Response:
        backend, server = request.query.get("backend"), request.query.get("server")
        limit = number_of(request, "limit", 100, most=_MOST_ROWS)
        found = [
            session
            for session in await self._operator.sessions()
            if backend in (None, session["backend"]) and server in (None, session["server"])
        ]
        return web.json_response({"total": len(found), "sessions": found[:limit]})

    async def _recent(self, request: web.Request) -> web.Response:
        aborts = self._operator.recent.since(number_of(request, "since", 0))
        return web.json_response([views.describe_abort(abort) for abort in aborts])

    async def _changes(self, request: web.Request) -> web.Response:
        since = number_of(request, "since", 0)
        return web.json_response(
            [change._asdict() for change in self._history.changes if change.number > since]
        )

    async def _history_of(self, request: web.Request) -> web.Response:
        query, pools = request.query, self._operator.observed.pools
        span = query.get("span", "5m")
        if span not in SPANS:
            raise ApiError(400, f"span is one of {', '.join(SPANS)}")
        fields = query.get("fields", ",".join(FIELDS)).split(",")
        if unknown := [field for field in fields if field not in FIELDS]:
            raise ApiError(400, f"no field {unknown[0]!r}; there are {', '.join(FIELDS)}")
        backend = query.get("backend")
        if backend is not None and backend not in pools:
            raise UnknownServer(f"there is no backend {backend!r}; there are {', '.join(pools)}")
        samples = self._history.spans[span]
        head = {"step": samples.step, "states": SHOWN_STATES, "times": samples.times()}
        backends = await _columns(samples, [(name, None) for name in pools], fields)
        found = pools[backend].servers if backend is not None else ()
        servers = await _columns(samples, [(backend or "", s.name) for s in found], fields)
        return web.Response(
            text=f'{json.dumps(head)[:-1]}, "backends": {backends}, "servers": {servers}}}',
            content_type="application/json",
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, one a second, beginning at once."""
        if self._feed.listeners >= _MOST_LISTENERS:
            raise ApiError(503, f"{_MOST_LISTENERS} live streams are open already")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._feed.listeners += 1
        try:
            await response.prepare(request)
            _hold_little(request)
            seen, text = self._feed.number, self._moment()
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

    # Commands.

    async def _set_state(self, request: web.Request) -> web.Response:
        state = (await _body(request, "state"))["state"]
        if state not in ADMINS:
            raise ApiError(400, f"state is one of {', '.join(ADMINS)}")
        backend, server = _named(request)
        self._operator.set_state(backend, server, state)
        logger.info("%s/%s is set to %s by an operator", backend, server, state)
        found = self._find(request)  # before `settle`, during which a reload may remove it
        # `ctl drain --wait` waits by the numbers in this response.
        settled = await self._operator.settle()
        self._operator.observed.refresh()
        self._history.look(self._wall())
        return self._described(*found, settled=settled)

    async def _set_weight(self, request: web.Request) -> web.Response:
        weight = (await _body(request, "weight"))["weight"]
        if weight is not None and not (type(weight) is int and 0 <= weight <= MAX_WEIGHT):
            raise ApiError(400, f"weight is an integer from 0 to {MAX_WEIGHT}, or null")
        backend, server = _named(request)
        self._operator.set_weight(backend, server, weight)
        said = "its configured weight" if weight is None else f"weight {weight}"
        logger.info("%s/%s is given %s by an operator", backend, server, said)
        return self._described(*self._find(request))

    async def _end_sessions(self, request: web.Request) -> web.Response:
        backend, server = _named(request)
        ended = await self._operator.end_sessions(backend, server)
        logger.info("%d requests on %s/%s were ended by an operator", ended, backend, server)
        return web.json_response({"ended": ended})

    async def _reload(self, request: web.Request) -> web.Response:
        await _body(request)
        try:
            changes = await self._operator.reload()
        except ConfigError as error:
            raise ApiError(
                422,
                "the configuration has errors; the old one goes on",
                problems=str(error).splitlines(),
            ) from None
        except (OSError, ValueError) as error:
            raise ApiError(409, f"{reason(error)}; the old configuration goes on") from None
        return web.json_response({"changes": changes})

    async def _upgrade(self, request: web.Request) -> web.Response:
        await _body(request)
        await self._operator.upgrade()
        return web.json_response({"status": "begun"}, status=202)


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


def answer_for(error: Exception) -> web.Response | None:
    """The response for a handler's exception; None for a bug."""
    if isinstance(error, web.HTTPException):
        response = error_response(error.status, error.reason)
        for name in ("Allow", "WWW-Authenticate", "Retry-After"):
            if name in error.headers:  # RFC 9110 section 15.5.6: a 405 must carry Allow
                response.headers[name] = error.headers[name]
        return response
    if isinstance(error, ApiError):
        return error_response(error.status, str(error), **error.details)
    if isinstance(error, UnknownServer):
        return error_response(404, str(error))
    if isinstance(error, NotPossible):
        return error_response(409, str(error))
    return None


def error_response(status: int, message: str, **details: Any) -> web.Response:
    """The form of all errors."""
    return web.json_response(
        {"error": {"status": status, "message": message, **details}}, status=status
    )


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["backend"], request.match_info["server"]


async def _body(request: web.Request, *keys: str) -> dict[str, Any]:
    """A JSON object with exactly these keys; an empty body counts as one without keys."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "send the body without Content-Encoding")
    try:
        body = json.loads(await request.read() or b"{}")
    except CLIENT_ERRORS:
        raise ApiError(400, "the body did not come as its head says") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(body, dict) or body.keys() != set(keys):
        wanted = "{" + ", ".join(f'"{key}": ...' for key in keys) + "}"
        raise ApiError(400, f"send {wanted}")
    return body
