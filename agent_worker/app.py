"""The composition root: a worker's parts, and the web application that serves them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent_worker.api.bodies import MAX_BODY
from agent_worker.api.chat import ChatEndpoints
from agent_worker.api.chat_errors import chat_errors_middleware
from agent_worker.api.chat_resume import ChatResumeEndpoint
from agent_worker.api.connections import Connections
from agent_worker.api.ephemeral import EphemeralEndpoint
from agent_worker.api.errors import errors_middleware
from agent_worker.api.events import EventEndpoint
from agent_worker.api.headers import on_prepare
from agent_worker.api.operations import OperationEndpoints
from agent_worker.api.principals import Principals
from agent_worker.api.sessions import SessionEndpoints
from agent_worker.api.websocket import WebSocketEndpoint
from agent_worker.metrics import Metrics
from agent_worker.models import EngineOptions, create_engine
from agent_worker.runtime import (
    AgentLoop,
    Archiver,
    Bells,
    EphemeralTurns,
    LargeTexts,
    Orphans,
    Succession,
    Tail,
    ToolCalls,
    Turns,
)
from agent_worker.runtime.ephemeral import ClientsConversation
from agent_worker.runtime.holders import Holders
from agent_worker.runtime.janitor import clean_now_and_then
from agent_worker.runtime.journal import Journals, chat_store
from agent_worker.sessions import SessionStore
from agent_worker.storage.base import Storages
from agent_worker.tasks import cancel_and_wait, spawn_reporting
from agent_worker.tools import default_toolbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from agent_worker.models import Engine
    from agent_worker.sessions import Client
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
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    lease_s: float = 30.0
    step_limit: int = 16
    tool_timeout_s: float = 30.0
    #: Tool calls of one step that run at the same time.
    tools_at_once: int = 8
    #: What a model gets at most, in tokens; older turns are summed up.
    context_tokens: int = 100_000
    #: Where the tool `send_mail` puts its mails; None: there is no such tool.
    mail_file: Path | None = None
    #: Bearer token -> principal; empty lets everybody in.
    tokens: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """One worker on one Redis client, which stays the caller's to close, as the storages do.

    `engine` and `toolbox` replace what `config` names; `cleaning` is done twice a day. Raises
    ValueError for an unknown engine.
    """

    def __init__(
        self,
        config: WorkerConfig,
        client: Client,
        *,
        engine: Engine | None = None,
        toolbox: Toolbox | None = None,
        storages: Storages | None = None,
        cleaning: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        storages = storages or Storages()
        self.name = config.name
        self.metrics = Metrics()
        self.principals = Principals(config.tokens)
        self.connections = Connections()
        self.store = SessionStore(
            client,
            lease_s=config.lease_s,
            on_unavailable=lambda operation: self.metrics.store_errors.labels(operation).inc(),
        )
        self.engine = engine or create_engine(config.engine, config.engine_options)
        large = LargeTexts(storages.blobs)
        loop = AgentLoop(
            engine=self.engine,
            tool_calls=ToolCalls(
                toolbox=toolbox or default_toolbox(storages, mail_file=config.mail_file),
                metrics=self.metrics,
                large=large,
                timeout_s=config.tool_timeout_s,
                most_at_once=config.tools_at_once,
                once_ledger=storages.once_ledger,
            ),
            metrics=self.metrics,
            step_limit=config.step_limit,
        )
        self.bells = Bells(client)
        has_archive = storages.archive is not None
        holders = Holders(client, self.store.index)
        self.turns = Turns(
            self.store,
            loop,
            self.bells,
            holders,
            self.metrics,
            window=config.context_tokens,
            has_archive=has_archive,
        )
        self.archiver = (
            Archiver(self.store, storages.archive, large, self.metrics)
            if storages.archive is not None
            else None
        )
        self.orphans = Orphans(self.store, self.turns)
        tail = Tail(self.store, self.bells, self.orphans, holders)
        self.sessions = SessionEndpoints(self.store, self.turns, self.principals, storages.blobs)
        succession = Succession(self.store, self.turns, self.bells)
        self.events = EventEndpoint(
            self.store, self.turns, tail, succession, self.principals, self.metrics
        )
        self.websocket = WebSocketEndpoint(
            self.store, self.turns, tail, self.principals, self.metrics
        )
        chats = chat_store(client, self.store)
        journals = Journals(chats, self.turns.name)
        ephemeral = EphemeralTurns(loop, self.turns, journals, window=config.context_tokens)
        #: Turns of chats without a session that go on here.
        self.chat_turns = Turns(
            chats,
            loop,
            self.bells,
            holders,
            self.metrics,
            window=config.context_tokens,
            converse=ClientsConversation,
            counted_by=self.turns,
        )
        self.ephemeral = EphemeralEndpoint(ephemeral, self.principals)
        self.chat = ChatEndpoints(
            self.store,
            self.turns,
            ephemeral,
            self.principals,
            models=[config.engine, config.engine_options.model],
        )
        self.chat_resume = ChatResumeEndpoint(
            succession,
            Succession(chats, self.chat_turns, self.bells),
            journals,
            ephemeral,
            self.turns,
            self.principals,
            self.metrics,
        )
        self.operations = OperationEndpoints(
            self.name, self.store, self.turns, self.metrics, self.hand_over
        )
        self._cleaning = cleaning
        self._background: list[asyncio.Task[object]] = []

    def __repr__(self) -> str:
        return f"Worker({self.name!r}, {self.turns!r})"

    def load(self) -> int:
        """Turns that are open, of sessions or not."""
        return len(self.turns)

    async def start(self) -> None:
        """What runs beside the requests. Needs no Redis yet."""
        self._background = [
            spawn_reporting(self.turns.start(), name="worker channel"),
            spawn_reporting(self.orphans.run(), name="orphans"),
        ]
        if self._cleaning:
            cleaner = clean_now_and_then(self._cleaning)
            self._background.append(spawn_reporting(cleaner, name="janitor"))
        if self.archiver is not None:
            self._background.append(spawn_reporting(self.archiver.run(), name="archiver"))

    def hand_over(self) -> None:
        """Ask for no new work; what can go on elsewhere shall."""
        self.operations.is_draining = True
        self.turns.hand_over()
        self.chat_turns.hand_over()
        self.bells.ring_all()

    async def drain(self) -> None:
        """Take no new work; what is open, and cannot go on elsewhere, goes on here."""
        self.hand_over()
        self.events.drain()
        await self.websocket.drain()

    async def stop(self) -> None:
        """End whatever still runs; each turn gives its lease back."""
        self.events.drain()
        self.hand_over()
        await self.turns.cancel_all()
        await self.websocket.close_all()
        await cancel_and_wait(*self._background)
        await self.bells.close()
        await self.engine.close()


def build_app(worker: Worker) -> web.Application:
    """The worker's web application; stopping it cancels the turns that still run."""
    middlewares = [worker.connections.middleware, errors_middleware, chat_errors_middleware]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
    for endpoints in (
        worker.sessions,
        worker.events,
        worker.websocket,
        worker.ephemeral,
        worker.chat,
        worker.chat_resume,
        worker.operations,
    ):
        app.add_routes(endpoints.routes())
    app.on_response_prepare.append(worker.connections.on_prepare)
    app.on_response_prepare.append(on_prepare(worker.metrics, worker.name, worker.load))

    async def start(app: web.Application) -> None:
        await worker.start()

    async def stop(app: web.Application) -> None:
        await worker.stop()

    app.on_startup.append(start)
    app.on_shutdown.append(stop)
    return app


class _ClientMistakes(logging.Filter):
    """Drops what aiohttp logs of requests that are not HTTP (the client has its 400), and of
    clients that left while they were answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        mistakes = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
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
