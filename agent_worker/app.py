"""The composition root: the parts of a worker, and its web application."""

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
    EphemeralTurns,
    LargeTexts,
    Notifier,
    Orphans,
    Tail,
    ToolCalls,
    Turns,
    TurnTakeover,
)
from agent_worker.runtime.ephemeral import ClientsConversation
from agent_worker.runtime.holders import Holders
from agent_worker.runtime.janitor import clean_periodically
from agent_worker.runtime.journal import Journals, chat_store
from agent_worker.sessions import StoreOptions
from agent_worker.storage.base import Storages
from agent_worker.tasks import cancel_and_wait, spawn_reporting
from agent_worker.tools import default_toolbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from agent_worker.models import Engine
    from agent_worker.sessions import SessionBackend
    from agent_worker.tools import Toolbox

# Seconds. More than the balancer's 75 s, so that the balancer closes idle connections: the worker
# could close one while its next request is in transit.
_KEEP_ALIVE_S = 90.0
# Seconds after the drain, for handlers to return.
_SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration of a worker. Times are in seconds."""

    name: str = "worker"
    engine: str = "scripted"
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    lease_s: float = 30.0
    step_limit: int = 16
    tool_timeout_s: float = 30.0
    #: Concurrent tool calls of one step.
    tools_at_once: int = 8
    #: The model's context window in tokens; older turns are summarised.
    context_tokens: int = 100_000
    #: The file to which the tool `send_mail` writes; None: the tool is not offered.
    mail_file: Path | None = None
    #: Bearer token -> principal; empty: every token is accepted.
    tokens: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """One worker. The caller closes `backend` and the storages.

    `engine` and `toolbox` replace those of `config`; `cleaning` runs twice a day. Raises ValueError
    for an unknown engine.
    """

    def __init__(
        self,
        config: WorkerConfig,
        backend: SessionBackend,
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
        self.store = backend.session_store(
            StoreOptions(
                lease_s=config.lease_s,
                on_unavailable=lambda operation: self.metrics.store_errors.labels(operation).inc(),
            )
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
                max_concurrent=config.tools_at_once,
                once_ledger=storages.once_ledger,
            ),
            metrics=self.metrics,
            step_limit=config.step_limit,
        )
        self.notifier = Notifier(backend)
        self.holders = holders = Holders(backend, self.store.index, self.notifier)
        self.turns = Turns(
            self.store,
            loop,
            self.notifier,
            holders,
            self.metrics,
            window=config.context_tokens,
            has_archive=storages.archive is not None,
        )
        self.archiver = (
            Archiver(self.store, storages.archive, large, self.metrics)
            if storages.archive is not None
            else None
        )
        self.orphans = Orphans(self.store, self.turns)
        tail = Tail(self.store, self.notifier, self.orphans, holders)
        self.sessions = SessionEndpoints(self.store, self.turns, self.principals, storages.blobs)
        takeover = TurnTakeover(self.store, self.turns, self.notifier)
        self.events = EventEndpoint(
            self.store, self.turns, tail, takeover, self.principals, self.metrics
        )
        self.websocket = WebSocketEndpoint(
            self.store, self.turns, tail, self.principals, self.metrics
        )
        chats = chat_store(backend, self.store)
        journals = Journals(chats, self.turns.name)
        ephemeral = EphemeralTurns(loop, self.turns, journals, window=config.context_tokens)
        #: Turns of chats without a session that were taken over.
        self.chat_turns = Turns(
            chats,
            loop,
            self.notifier,
            holders,
            self.metrics,
            window=config.context_tokens,
            converse=ClientsConversation,
            parent=self.turns,
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
            takeover,
            TurnTakeover(chats, self.chat_turns, self.notifier),
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
        """The number of open turns, with or without a session."""
        return len(self.turns)

    async def start(self) -> None:
        """Start the background tasks. Does not need Redis yet."""
        self._background = [
            spawn_reporting(self.turns.start(), name="worker channel"),
            spawn_reporting(self.holders.run(self.turns.name), name="heartbeats"),
            spawn_reporting(self.orphans.run(), name="orphans"),
        ]
        if self._cleaning:
            cleaner = clean_periodically(self._cleaning)
            self._background.append(spawn_reporting(cleaner, name="janitor"))
        if self.archiver is not None:
            self._background.append(spawn_reporting(self.archiver.run(), name="archiver"))

    def hand_over(self) -> None:
        """Refuse new sessions, and hand over the turns that other workers can continue."""
        self.operations.is_draining = True
        self.turns.hand_over()
        self.chat_turns.hand_over()
        self.notifier.wake_all()

    async def drain(self) -> None:
        """Take no new work. Turns that other workers cannot continue are finished here."""
        self.hand_over()
        self.events.drain()
        await self.websocket.drain()

    async def stop(self) -> None:
        """End everything that still runs; each turn frees its lease."""
        self.events.drain()
        self.hand_over()
        await self.turns.cancel_all()
        await self.websocket.close_all()
        await cancel_and_wait(*self._background)
        await self.notifier.close()
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
    app.on_startup.append(lambda _: worker.start())
    app.on_shutdown.append(lambda _: worker.stop())
    return app


class _ClientErrors(logging.Filter):
    """Drops aiohttp's log of requests that are not HTTP (they got a 400) and of lost clients."""

    def filter(self, record: logging.LogRecord) -> bool:
        errors = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
        return not (record.exc_info and isinstance(record.exc_info[1], errors))


_server_log = logging.getLogger("agent_worker.http")
_server_log.addFilter(_ClientErrors())


def build_runner(worker: Worker) -> web.AppRunner:
    """The application's runner. A client that leaves cancels its handler."""
    return web.AppRunner(
        build_app(worker),
        handler_cancellation=True,
        keepalive_timeout=_KEEP_ALIVE_S,
        access_log=None,
        logger=_server_log,
        shutdown_timeout=_SHUTDOWN_S,
    )
