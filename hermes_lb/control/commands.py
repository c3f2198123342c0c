"""/api/v1: commands. Each is logged, with what it has set."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.options import Server as ServerOptions
from hermes_lb.config import ConfigError
from hermes_lb.config.runtime import CHANGEABLE
from hermes_lb.control import shapes, views
from hermes_lb.control.endpoints import delete, get, post, put
from hermes_lb.control.errors import ApiError
from hermes_lb.control.operator import NotPossible, find_backend, find_server
from hermes_lb.control.shared_pins import SharedPins
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from hermes_lb.backends import Pool, Server
    from hermes_lb.config.runtime import RuntimeServers
    from hermes_lb.control.history import History
    from hermes_lb.control.operator import Operator

logger = logging.getLogger("hermes_lb.admin")

_SERVER = "servers/{backend}/{server}"
_OF_SOURCE = ("address", "server_name")  # of a discovered server
_LONGEST_TEXT = 64  # of a wrong value in a message


class CommandsApi:
    """The handlers. `wall` is the Unix time."""

    def __init__(
        self, operator: Operator, history: History, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._operator = operator
        self._history = history
        self._wall = wall

    # One server.

    @put(
        f"{_SERVER}/state", "Set a server to ready, drain or maint",
        answers=shapes.ServerSet, body=shapes.SetState, errors=(404,),
    )  # fmt: skip
    async def set_state(self, request: web.Request, body: shapes.SetState) -> shapes.ServerSet:
        backend, server = _named(request)
        self._operator.set_state(backend, server, body.state)
        logger.info("%s/%s is set to %s by an operator", backend, server, body.state)
        return await self._settled(*self._find(request))

    @put(
        f"{_SERVER}/weight", "Change a server's weight",
        answers=shapes.Server, body=shapes.SetWeight, errors=(404,),
    )  # fmt: skip
    async def set_weight(self, request: web.Request, body: shapes.SetWeight) -> shapes.Server:
        backend, server = _named(request)
        self._operator.set_weight(backend, server, body.weight)
        said = "its configured weight" if body.weight is None else f"weight {body.weight}"
        logger.info("%s/%s is given %s by an operator", backend, server, said)
        return self._described(*self._find(request))

    @put(
        f"{_SERVER}/health", "Set a server up or down whatever its checks say, or end that",
        answers=shapes.ServerSet, body=shapes.SetHealth, errors=(404, 409),
    )  # fmt: skip
    async def set_health(self, request: web.Request, body: shapes.SetHealth) -> shapes.ServerSet:
        backend, server = _named(request)
        found = self._find(request)
        if found[1].admin == "maint":
            raise NotPossible(f"{backend}/{server} is in maintenance: make it ready first")
        self._operator.set_health(
            backend, server, None if body.health == "auto" else body.health == "up"
        )
        logger.info("%s/%s: its health is set to %s by an operator", backend, server, body.health)
        return await self._settled(*found)

    @delete(
        f"{_SERVER}/sessions",
        "Cut the requests on a server, also on one that a reload has removed",
        answers=shapes.Ended, errors=(404,),
    )  # fmt: skip
    async def end_sessions(self, request: web.Request) -> shapes.Ended:
        backend, server = _named(request)
        ended = await self._operator.end_sessions(backend, server)
        logger.info("%d requests on %s/%s were ended by an operator", ended, backend, server)
        return {"ended": ended}

    # The set of servers.

    @post(
        "servers/{backend}", "Add a server, until the balancer ends",
        answers=shapes.ServerSet, body=shapes.AddServer, errors=(404, 409), status=201,
    )  # fmt: skip
    async def add_server(self, request: web.Request, body: shapes.AddServer) -> shapes.ServerSet:
        backend = request.match_info["backend"]
        given = {"down": body.state == "maint", **body.options}
        try:
            configured = ServerOptions.model_validate(
                {**given, "name": body.name, "address": body.address, "resolve": None}
            )
        except ValueError as error:
            raise ApiError(400, _said(error)) from None

        def add(runtime: RuntimeServers) -> RuntimeServers:
            pool = self._pool(backend)
            if pool.find(body.name) is not None:
                raise NotPossible(f"backend {backend} has a server {body.name} already")
            return runtime.with_added(backend, configured)

        await self._change(add)
        logger.info("%s/%s at %s is added by an operator", backend, body.name, body.address)
        if body.state == "drain":
            self._operator.set_state(backend, body.name, "drain")
        pool = self._pool(backend)
        return await self._settled(pool, find_server({backend: pool}, backend, body.name))

    @delete(
        _SERVER, "Remove a server, until the balancer ends; what runs on it goes on",
        answers=shapes.Changes, errors=(404, 409),
    )  # fmt: skip
    async def remove_server(self, request: web.Request) -> shapes.Changes:
        backend, server = _named(request)

        def remove(runtime: RuntimeServers) -> RuntimeServers:
            _, found = self._find(request)
            if found.config.is_discovered:
                raise NotPossible(
                    f"{server} is of the discovery ({found.config.source}), which decides on it: "
                    "set it to maint"
                )
            if len(self._pool(backend).servers) == 1:
                raise NotPossible(f"{server} is the last server of {backend}: add another first")
            return runtime.with_removed(backend, server)

        await self._change(remove)
        logger.info("%s/%s is removed by an operator", backend, server)
        return {"changes": [f"backends.{backend}.servers.{server}: removed"]}

    @put(
        f"{_SERVER}/options", "Change a server's address or limits, until the balancer ends",
        answers=shapes.ServerSet, body=shapes.SetServer, errors=(404, 409),
    )  # fmt: skip
    async def set_options(self, request: web.Request, body: shapes.SetServer) -> shapes.ServerSet:
        backend, server = _named(request)
        options = body.options
        if fixed := [key for key in options if key not in CHANGEABLE]:
            shown = fixed[0][:_LONGEST_TEXT]
            raise ApiError(400, f"{shown!r} can't be changed; {', '.join(CHANGEABLE)} can")

        def change(runtime: RuntimeServers) -> RuntimeServers:
            _, found = self._find(request)
            if found.config.is_discovered and (fixed := [k for k in _OF_SOURCE if k in options]):
                source = found.config.source
                raise NotPossible(f"the discovery ({source}) decides on {server}'s {fixed[0]}")
            configured: Any = found.config
            return runtime.with_changed(backend, configured, options)

        await self._change(change)
        said = ", ".join(f"{key} {value}" for key, value in options.items())
        logger.info("%s/%s is changed by an operator: %s", backend, server, said)
        return await self._settled(*self._find(request))

    async def _change(self, change: Callable[[RuntimeServers], RuntimeServers]) -> None:
        try:
            await self._operator.change_servers(change)
        except ConfigError as error:
            raise ApiError(
                400, "; ".join(f"{p.key}: {p.message}" for p in error.problems)
            ) from None
        except ValueError as error:
            raise ApiError(400, _said(error)) from None

    # Requests, pins, counters.

    @delete(
        "sessions/{id}", "Cut one request", answers=shapes.Ended, errors=(404,),
    )  # fmt: skip
    async def kill_session(self, request: web.Request) -> shapes.Ended:
        session = request.match_info["id"]
        ended = sum(await self._operator.everywhere("kill", session=session))
        if not ended:
            raise ApiError(404, "there is no such session, or it has ended")
        logger.info("session %s was ended by an operator", session)
        return {"ended": ended}

    @get(
        "pins", "Sessions of the session tables (stick, learn), and their servers",
        answers=shapes.Pins, query=shapes.WhichPins,
    )  # fmt: skip
    async def pins(self, request: web.Request, which: shapes.WhichPins) -> shapes.Pins:
        shared = SharedPins(self._operator.config)
        found = [
            pin
            for pin in self._operator.pins()
            if which.backend in (None, pin.backend)
            and which.server in (None, pin.server)
            and which.id in (None, pin.id)
        ]
        unread: list[shapes.UnreadPins] = []
        for backend, (pins, because) in (await shared.find(which)).items():
            found += pins
            if because:
                unread.append({"backend": backend, "because": because})
        return {
            "total": len(found),
            "elsewhere": shared.backends,
            "unread": unread,
            "pins": [
                {"id": pin.id, "backend": pin.backend, "server": pin.server}
                for pin in found[: which.limit]
            ],
        }

    @delete(
        "pins", "Forget sessions of the session tables: the next request is balanced again",
        answers=shapes.Cleared, query=shapes.WhichPins, errors=(503,),
    )  # fmt: skip
    async def clear_pins(self, request: web.Request, which: shapes.WhichPins) -> shapes.Cleared:
        operator = self._operator
        # The stores first: a process that has forgotten a pin asks its store.
        stored = await SharedPins(operator.config).clear(which)
        cleared = sum(one.number for one in stored.values())
        failed = {backend: one for backend, one in stored.items() if one.because}
        # Where a store has failed, what a process knows is as good as what is left there.
        chosen = [which.backend] if not failed else [
            name for name in operator.config.backends
            if name not in failed and which.backend in (None, name)
        ]  # fmt: skip
        for backend in chosen:
            cleared += await operator.clear_pins(backend, which.server, which.id)
        logger.info("%d pins were cleared by an operator", cleared)
        if failed:
            raise ApiError(
                503,
                f"not all pins are cleared, but {cleared}; what is left stays in use",
                problems=[
                    f"{backend}: {number} of those in its store, then: {because}"
                    for backend, (number, because) in failed.items()
                ],
            )
        return {"cleared": cleared}

    @delete(
        "counters", "Clear counters, maxima and downtimes, but not the metrics",
        answers=shapes.Cleared,
    )  # fmt: skip
    async def clear_counters(self, request: web.Request) -> shapes.Cleared:
        observed = self._operator.observed
        observed.refresh()
        counters = views.counters_of(observed)
        self._history.tallies.clear(counters, self._wall())
        logger.info("the counters were cleared by an operator")
        return {"cleared": len(counters)}

    # The configuration and the processes.

    @get("resolvers", "Host names of servers and their addresses", answers=list[shapes.Resolved])
    async def resolvers(self, request: web.Request) -> list[shapes.Resolved]:
        return self._operator.resolvers()

    @get(
        "config", "The running configuration: each value with its origin",
        answers=list[shapes.Setting], query=shapes.WhichSettings,
    )  # fmt: skip
    async def config(
        self, request: web.Request, which: shapes.WhichSettings
    ) -> list[shapes.Setting]:
        return [row for row in self._operator.settings() if row["key"].startswith(which.under)]

    @post(
        "reload", "Reload the configuration file",
        answers=shapes.Changes, body=shapes.Nothing, errors=(409, 422),
    )  # fmt: skip
    async def reload(self, request: web.Request, body: shapes.Nothing) -> shapes.Changes:
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
        return {"changes": changes}

    @post(
        "upgrade", "Replace the processes one by one by ones that run the code now on disk",
        answers=shapes.Begun, body=shapes.Nothing, errors=(409,), status=202,
    )  # fmt: skip
    async def upgrade(self, request: web.Request, body: shapes.Nothing) -> shapes.Begun:
        await self._operator.upgrade()
        return {"status": "begun"}

    # Answers.

    def _pool(self, backend: str) -> Pool:
        return find_backend(self._operator.observed.pools, backend)

    def _find(self, request: web.Request) -> tuple[Pool, Server]:
        pools, (backend, server) = self._operator.observed.pools, _named(request)
        found = find_server(pools, backend, server)
        return pools[backend], found

    async def _settled(self, pool: Pool, server: Server) -> shapes.ServerSet:
        """The answer when all processes have applied a change, even if a reload has removed the
        server meanwhile. `ctl drain --wait` waits by the numbers in it."""
        settled = await self._operator.settle()
        self._operator.observed.refresh()
        self._history.look(self._wall())
        return {**self._described(pool, server), "settled": settled}

    def _described(self, pool: Pool, server: Server) -> shapes.Server:
        return views.describe_server(pool, server, self._operator.now(), self._history)


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["backend"], request.match_info["server"]


def _said(error: ValueError) -> str:
    """pydantic's first problem in a line."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return reason(error)
    [first, *_] = error.errors(include_url=False, include_input=False)
    place = ".".join(str(part) for part in first["loc"])[:_LONGEST_TEXT]
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
