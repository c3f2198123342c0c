"""The command line: `python -m agent_worker` and `python -m agent_worker redis`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from agent_worker import options
from agent_worker.app import Worker, WorkerConfig
from agent_worker.models import EngineOptions
from agent_worker.pod_deletion_cost import PodDeletionCost
from agent_worker.redis_server import RedisServer, RedisServerError
from agent_worker.secret_files import TOKENS, TOKENS_FILE, follow_file, read_secret_files
from agent_worker.serve import StartError, bind, serve, wait_for_store
from agent_worker.sessions import connect, shown_url
from agent_worker.storage.opening import StorageOptions, open_storages
from agent_worker.storage.setup import StorageSetupError
from agent_worker.tasks import spawn_reporting

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from agent_worker.sessions import RedisBackend
    from agent_worker.storage.opening import Opened

_POLL_S = 0.2

_DAY_S = 86_400.0
# Longer than the longest life of a session, 30 days: data of a live session is never removed.
_KEEP_BLOBS_S = 31 * _DAY_S
_KEEP_CALLS_S = 60 * _DAY_S
_KEEP_ARCHIVE_S = 365 * _DAY_S

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script `agent-worker`."""
    try:
        read_secret_files(os.environ)
    except ValueError as error:
        sys.exit(f"agent_worker: {error}")
    cli(prog_name="agent_worker")


@cli.callback(invoke_without_command=True)
def worker(
    context: typer.Context,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    redis_url: options.RedisUrl = None,
    name: options.Name = None,
    engine: options.EngineName = "scripted",
    token_interval: options.TokenInterval = "0",
    fault_rate: options.FaultRate = 0.0,
    seed: options.Seed = 0,
    base_url: options.BaseUrl = "",
    api_key: options.ApiKey = "",
    model: options.Model = "",
    continuation: options.Continuation = "none",
    first_token_timeout: options.FirstToken = "2m",
    idle_timeout: options.IdleTime = "1m",
    tries: options.Tries = 3,
    blobs: options.Blobs = None,
    database_url: options.DatabaseUrl = None,
    qdrant_url: options.QdrantUrl = None,
    qdrant_key: options.QdrantKey = "",
    strict_ledger: options.StrictLedger = False,
    embedding_url: options.EmbeddingUrl = "",
    embedding_model: options.EmbeddingModel = "",
    embedding_dimension: options.EmbeddingDimension = 1536,
    embedding_key: options.EmbeddingKey = "",
    mail_file: options.MailFile = None,
    lease: options.LeaseTime = "30s",
    token: options.Tokens = None,
    step_limit: options.StepLimit = 16,
    tool_timeout: options.ToolTimeout = "30s",
    tools_at_once: options.ToolsAtOnce = 8,
    context_tokens: options.ContextTokens = 100_000,
    drain_timeout: options.DrainTimeout = "30s",
    pod_deletion_cost: options.DeletionCost = False,
    verbose: options.Verbose = False,
) -> None:
    """Run one agent worker: HTTP, server-sent events and WebSocket, sessions in Redis.

    Any worker on the same Redis can serve any turn of any session.
    """
    if context.invoked_subcommand is not None:
        return
    _set_up_logging(verbose)
    duration = options.duration
    drain_timeout_s = duration("--drain-timeout", drain_timeout)
    config = WorkerConfig(
        engine=engine,
        engine_options=EngineOptions(
            token_interval_s=duration("--token-interval", token_interval),
            fault_rate=fault_rate,
            seed=seed,
            base_url=base_url,
            api_key=api_key,
            model=model,
            continuation=continuation,
            first_token_timeout_s=duration(
                "--first-token-timeout", first_token_timeout, at_least_s=0.001
            ),
            idle_timeout_s=duration("--idle-timeout", idle_timeout, at_least_s=0.001),
            tries=tries,
        ),
        lease_s=duration("--lease", lease, at_least_s=options.LEAST_LEASE_S),
        step_limit=step_limit,
        tool_timeout_s=duration("--tool-timeout", tool_timeout, at_least_s=0.001),
        tools_at_once=tools_at_once,
        context_tokens=context_tokens,
        mail_file=mail_file,
        tokens=options.tokens_of(token or []),
    )
    kept = StorageOptions(
        blobs=blobs,
        database_url=database_url,
        qdrant_url=qdrant_url,
        qdrant_api_key=qdrant_key,
        strict_ledger=strict_ledger,
        embedding_url=embedding_url,
        embedding_model=embedding_model,
        embedding_dimension=embedding_dimension,
        embedding_api_key=embedding_key,
    )
    with _failing_cleanly(), bind(host, port) as sock, _store_url(redis_url) as store:
        config = replace(config, name=name or f"worker-{sock.getsockname()[1]}")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            running = _run(config, sock, store, kept, drain_timeout_s, pod_deletion_cost)
            drained = runner.run(running)
    raise typer.Exit(0 if drained else 1)


@cli.command()
def redis(port: options.Port = 6379) -> None:
    """Run the embedded Redis in the foreground, for several workers to share.

    Nothing is written to disk: the sessions end with it.
    """
    stop = _stop_signal()
    with _failing_cleanly(), RedisServer.start(port) as server:
        _say(f"agent_worker redis listening on {server.url} ({server.description})")
        _wait(stop, lambda: server.is_running, f"the Redis on port {server.port}")


@cli.command()
def postgres(folder: options.Folder = None) -> None:
    """Run the embedded PostgreSQL with pgvector in the foreground, for several workers to share.

    Without a folder the data ends with it.
    """
    from agent_worker.storage.postgres_server import PostgresServer

    stop = _stop_signal()
    with _failing_cleanly(), PostgresServer.start(folder) as server:
        _say(f"agent_worker postgres listening on {server.url} ({server.description})")
        _wait(stop, lambda: server.is_running, "the PostgreSQL")


def _stop_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _wait(stop: threading.Event, is_running: Callable[[], bool], what: str) -> None:
    """Until `stop` is set. Raises StartError when the server ends by itself."""
    while not stop.wait(_POLL_S):
        if not is_running():
            raise StartError(f"{what} ended by itself")


@dataclass(frozen=True, slots=True)
class _Store:
    url: str
    #: For the start line.
    description: str


async def _run(
    config: WorkerConfig,
    sock: socket.socket,
    store: _Store,
    kept: StorageOptions,
    drain_timeout_s: float,
    pod_deletion_cost: bool,
) -> bool:
    client = connect(store.url)
    try:
        async with open_storages(kept) as opened, contextlib.AsyncExitStack() as stack:
            worker = _worker(config, client, opened)
            if pod_deletion_cost:
                await stack.enter_async_context(_deletion_cost(worker).kept())
            await wait_for_store(worker, shown_url(store.url))
            _follow_tokens(worker)
            return await serve(
                worker,
                sock,
                drain_timeout_s=drain_timeout_s,
                on_listening=lambda url: _print_start(worker, config, url, store, opened),
                on_stopping=lambda turns: _say(
                    f"agent_worker {config.name} stopping"
                    + (f"; waiting for {turns} running turn(s)" if turns else "")
                ),
            )
    finally:
        await client.aclose()


def _deletion_cost(worker: Worker) -> PodDeletionCost:
    try:
        return PodDeletionCost.of_this_pod(worker.load)
    except ValueError as error:
        raise StartError(str(error)) from error


def _follow_tokens(worker: Worker) -> None:
    """Accept other tokens as soon as their file has them."""
    path = os.environ.get(TOKENS_FILE)

    def use(content: str) -> None:
        try:
            worker.principals.accept(options.tokens_of(content.split()))
        except typer.BadParameter as error:
            raise ValueError(error.message) from None

    if path:
        spawn_reporting(follow_file(path, os.environ[TOKENS], use), name="follow the tokens")


def _worker(config: WorkerConfig, client: RedisBackend, opened: Opened) -> Worker:
    cleaning: list[Callable[[], Awaitable[object]]] = []
    if (blobs := opened.blobs) is not None:
        cleaning.append(lambda: blobs.delete_older_than(_KEEP_BLOBS_S))
    if (postgres := opened.postgres) is not None:
        cleaning.append(lambda: postgres.purge(archive_s=_KEEP_ARCHIVE_S, calls_s=_KEEP_CALLS_S))
    try:
        return Worker(config, client, storages=opened.storages, cleaning=cleaning)
    except ValueError as error:
        # The engine's options do not fit.
        raise StartError(str(error)) from error


def _print_start(
    worker: Worker, config: WorkerConfig, url: str, store: _Store, opened: Opened
) -> None:
    engine = f"engine {config.engine}"
    _say(f"agent_worker {config.name} listening on {url} ({store.description}, {engine})")
    if worker.principals.is_open:
        _say("no --token is given: every client is accepted; for development only")
    for line in opened.report:
        _say(line)


@contextlib.contextmanager
def _store_url(url: str | None) -> Iterator[_Store]:
    """The Redis to use: the given one, or an embedded one that ends with the block."""
    if url is not None:
        try:
            connect(url)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--redis-url") from None
        yield _Store(url, f"redis {shown_url(url)}")
        return
    with RedisServer.start() as server:
        about = f"embedded {server.description}"
        yield _Store(server.url, f"redis {server.url}, {about}: its sessions end with this worker")


@contextlib.contextmanager
def _failing_cleanly() -> Iterator[None]:
    """One line on stderr and exit status 1 for errors that the user can correct."""
    try:
        yield
    except (StartError, RedisServerError, StorageSetupError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            "agent_worker:", str(error), markup=False
        )
        raise typer.Exit(1) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=logging.INFO if verbose else logging.WARNING,
    )


def _say(line: str) -> None:
    # Flushed: a parent process may wait for this line on a pipe.
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The reader has closed the pipe. Python would report it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
