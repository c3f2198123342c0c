"""For operators and balancers: health, readiness, draining, metrics."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from agent_worker.errors import Forbidden, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Turns
    from agent_worker.sessions import SessionStore

_FORWARDED = ("Forwarded", "X-Forwarded-For", "Via", "X-Real-IP")


@dataclass(eq=False)
class OperationEndpoints:
    """`on_drain` is called by `POST /drain`."""

    name: str
    store: SessionStore
    turns: Turns
    metrics: Metrics
    on_drain: Callable[[], None]
    is_draining: bool = field(default=False, init=False)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.health),
            web.get("/ready", self.ready),
            web.get("/metrics", self.render_metrics),
            web.post("/drain", self.drain),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """200 while the process is healthy. The state of Redis is ignored: its loss affects every
        worker, and a balancer must not remove all of them.

        503 while draining, with a header that tells `hermes_lb` a drain from a failure: it sends no
        new sessions, but still those that it has. To any other balancer the worker is down.
        """
        state = {"status": "ok", "worker": self.name, "load": len(self.turns)}
        if self.is_draining:
            state["status"] = "draining"
            return web.json_response(state, status=503, headers={"X-Hermes-Draining": "1"})
        return web.json_response(state)

    async def ready(self, request: web.Request) -> web.Response:
        """200 if the worker accepts new work; 503 while draining, or while Redis refuses writes.

        `cause` is the reason of Redis (`sessions.readiness.Problem`).
        """
        state = {"worker": self.name, "active_turns": len(self.turns)}
        if self.is_draining:
            return web.json_response({"status": "draining", **state}, status=503)
        if (problem := await self.store.readiness.problem()) is not None:
            body = {"status": "degraded", "reason": "store", "cause": problem, **state}
            return web.json_response(body, status=503, headers=StoreUnavailable.headers)
        return web.json_response({"status": "ready", **state})

    async def render_metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def drain(self, request: web.Request) -> web.Response:
        """Drain: `/health` and `/ready` become 503; requests are still served.

        Turns that other workers can continue are handed over.

        Accepted from the machine itself only: clients of a balancer that forwards everything must
        not be able to drain workers.
        """
        if not _is_local(request):
            raise Forbidden("Draining is only permitted from the machine itself.")
        self.on_drain()
        body = {"status": "draining", "worker": self.name, "active_turns": len(self.turns)}
        return web.json_response(body, status=202)


def _is_local(request: web.Request) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
