"""The composition root: a worker's parts, and the web application that serves them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent_worker.api.bodies import MAX_BODY
from agent_worker.api.errors import errors_middleware
from agent_worker.api.headers import on_prepare
from agent_worker.api.operations import OperationEndpoints
from agent_worker.api.principals import Principals
from agent_worker.api.sessions import SessionEndpoints
from agent_worker.api.websocket import WebSocketEndpoint
from agent_worker.metrics import Metrics
from agent_worker.models import EngineOptions, create_engine
from agent_worker.runtime import AgentLoop, Turns
from agent_worker.sessions import SessionStore
from agent_worker.tools import default_toolbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

    from agent_worker.models import Engine
    from agent_worker.tools import Toolbox

# Above the balancer's own 75 s, so that an idle connection is closed by the balancer, never
# by us while its next request is on the way.
_KEEP_ALIVE_S = 90.0
# After the drain: only for handlers to unwind.
_SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is told at start; times are in seconds."""

    name: str = "worker"
    engine: str = "scripted"
    token_interval_s: float = 0.0
    lease_s: float = 30.0
    step_limit: int = 16
    tool_timeout_s: float = 30.0
    #: Bearer token -> principal; empty lets everybody in.
    tokens: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """One worker on one Redis client, which stays the caller's to close.

    `engine` and `toolbox` replace what `config` names. Raises ValueError for an unknown engine.
    """

    def __init__(
        self,
        config: WorkerConfig,
        redis: Redis,
        *,
        engine: Engine | None = None,
        toolbox: Toolbox | None = None,
    ) -> None:
        self.name = config.name
        self.metrics = Metrics()
        self.principals = Principals(config.tokens)
        self.store = SessionStore(
            redis,
            lease_s=config.lease_s,
            on_unavailable=lambda operation: self.metrics.store_errors.labels(operation).inc(),
        )
        loop = AgentLoop(
            engine=engine or create_engine(config.engine, EngineOptions(config.token_interval_s)),
            toolbox=toolbox or default_toolbox(),
            metrics=self.metrics,
            step_limit=config.step_limit,
            tool_timeout_s=config.tool_timeout_s,
        )
        self.turns = Turns(self.store, loop, self.metrics)
        self.sessions = SessionEndpoints(self.store, self.turns, self.principals)
        self.websocket = WebSocketEndpoint(self.store, self.turns, self.principals, self.metrics)
        self.operations = OperationEndpoints(self.name, self.store, self.turns, self.metrics)

    def __repr__(self) -> str:
        return f"Worker({self.name!r}, {self.turns!r})"


def build_app(worker: Worker) -> web.Application:
    """The worker's web application; stopping it cancels the turns that still run."""
    app = web.Application(middlewares=[errors_middleware], client_max_size=MAX_BODY)
    for endpoints in (worker.sessions, worker.websocket, worker.operations):
        app.add_routes(endpoints.routes())
    app.on_response_prepare.append(on_prepare(worker.metrics, worker.name))

    async def stop(app: web.Application) -> None:
        await worker.turns.cancel_all()
        await worker.websocket.close_all()

    app.on_shutdown.append(stop)
    return app


class _ClientMistakes(logging.Filter):
    """Drops what aiohttp logs about requests that are not HTTP: the client has its 400."""

    def filter(self, record: logging.LogRecord) -> bool:
        mistakes = (HttpProcessingError, web.RequestPayloadError)
        return not (record.exc_info and isinstance(record.exc_info[1], mistakes))


_server_log = logging.getLogger("agent_worker.http")
_server_log.addFilter(_ClientMistakes())


def build_runner(worker: Worker) -> web.AppRunner:
    """The runner to put sites on: a client that leaves cancels its handler."""
    return web.AppRunner(
        build_app(worker),
        handler_cancellation=True,
        keepalive_timeout=_KEEP_ALIVE_S,
        access_log=None,
        logger=_server_log,
        shutdown_timeout=_SHUTDOWN_S,
    )
