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
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agent_worker.app import Worker, WorkerConfig
from agent_worker.durations import format_duration, parse_duration
from agent_worker.models import engine_names
from agent_worker.redis_server import RedisServer, RedisServerError
from agent_worker.serve import StartError, bind, serve, wait_for_store
from agent_worker.sessions import connect, shown_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

# It is renewed at a third: shorter ones run out when a process is busy for a moment.
_LEAST_LEASE_S = 0.1
_POLL_S = 0.2

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script `agent-worker`."""
    cli(prog_name="agent_worker")


def _duration(option: str, text: str, *, at_least_s: float = 0.0) -> float:
    try:
        seconds = parse_duration(text)
        if seconds < at_least_s:
            raise ValueError(f"{text} is too short; the least is {format_duration(at_least_s)}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return seconds


def _engine(name: str) -> str:
    if name not in engine_names():
        raise typer.BadParameter(f"unknown engine; known: {', '.join(engine_names())}")
    return name


def _tokens(pairs: list[str]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for pair in pairs:
        token, equals, principal = pair.rpartition("=")
        if not equals or not token or not principal:
            # The value is a secret: it is not repeated here.
            raise typer.BadParameter("write token=principal", param_hint="--token")
        tokens[token] = principal
    return tokens


Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 finds a free one."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="HERMES_REDIS_URL",
        metavar="URL",
        help="Redis or Valkey that keeps the sessions. "
        "Without it one is embedded, and its sessions end with this worker.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name in X-Hermes-Worker.", show_default="worker-<port>"),
]
Engine = Annotated[
    str,
    typer.Option(
        callback=_engine, metavar="NAME", help=f"Model engine: {', '.join(engine_names())}."
    ),
]
TokenInterval = Annotated[
    str,
    typer.Option(
        metavar="DURATION", help="Pause between two tokens of the scripted engine, such as 20ms."
    ),
]
LeaseTime = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How long a session waits for a worker that died in the middle of a turn.",
    ),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        envvar="HERMES_TOKENS",
        metavar="TOKEN=PRINCIPAL",
        help="A bearer token to let in, and who it is; repeatable. "
        "Without any, everybody is let in and each token is a principal of its own.",
    ),
]
StepLimit = Annotated[
    int, typer.Option(min=1, max=1000, metavar="N", help="Model steps of one turn at most.")
]
ToolTimeout = Annotated[str, typer.Option(metavar="DURATION", help="For one tool call.")]
DrainTimeout = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="How long running turns may go on after SIGTERM; a second signal ends them.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")]


@cli.callback(invoke_without_command=True)
def worker(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    redis_url: RedisUrl = None,
    name: Name = None,
    engine: Engine = "scripted",
    token_interval: TokenInterval = "0",
    lease: LeaseTime = "30s",
    token: Tokens = None,
    step_limit: StepLimit = 16,
    tool_timeout: ToolTimeout = "30s",
    drain_timeout: DrainTimeout = "30s",
    verbose: Verbose = False,
) -> None:
    """Run one agent worker: HTTP, server-sent events and WebSocket, sessions in Redis.

    Any worker on the same Redis can serve any turn of any session.
    """
    if context.invoked_subcommand is not None:
        return
    _set_up_logging(verbose)
    drain_timeout_s = _duration("--drain-timeout", drain_timeout)
    config = WorkerConfig(
        engine=engine,
        token_interval_s=_duration("--token-interval", token_interval),
        lease_s=_duration("--lease", lease, at_least_s=_LEAST_LEASE_S),
        step_limit=step_limit,
        tool_timeout_s=_duration("--tool-timeout", tool_timeout, at_least_s=0.001),
        tokens=_tokens(token or []),
    )
    with _failing_cleanly(), bind(host, port) as sock, _store_url(redis_url) as store:
        config = replace(config, name=name or f"worker-{sock.getsockname()[1]}")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            drained = runner.run(_run(config, sock, store, drain_timeout_s))
    raise typer.Exit(0 if drained else 1)


@cli.command()
def redis(port: Port = 6379) -> None:
    """Run the embedded Redis in the foreground, for several workers to share.

    Nothing is written to disk: its sessions end with it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _failing_cleanly(), RedisServer.start(port) as server:
        _say(f"agent_worker redis listening on {server.url} ({server.description})")
        while not stop.wait(_POLL_S):
            if not server.is_running:
                raise RedisServerError(f"the Redis on port {server.port} ended by itself")


@dataclass(frozen=True, slots=True)
class _Store:
    url: str
    #: For the start line.
    description: str


async def _run(
    config: WorkerConfig, sock: socket.socket, store: _Store, drain_timeout_s: float
) -> bool:
    client = connect(store.url)
    try:
        worker = Worker(config, client)
        await wait_for_store(worker, shown_url(store.url))

        def listening(url: str) -> None:
            engine = f"engine {config.engine}"
            _say(f"agent_worker {config.name} listening on {url} ({store.description}, {engine})")
            if worker.principals.is_open:
                _say("no --token is given: everybody is let in; fit for development")

        def stopping(turns: int) -> None:
            waiting = f"; waiting for {turns} running turn(s)" if turns else ""
            _say(f"agent_worker {config.name} stopping{waiting}")

        return await serve(
            worker,
            sock,
            drain_timeout_s=drain_timeout_s,
            on_listening=listening,
            on_stopping=stopping,
        )
    finally:
        await client.aclose()


@contextlib.contextmanager
def _store_url(url: str | None) -> Iterator[_Store]:
    """The Redis to use: the given one, or one that is embedded and ends with this block."""
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
    """One line on stderr and exit status 1 for what a person at the terminal can mend."""
    try:
        yield
    except (StartError, RedisServerError) as error:
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
    # Flushed: whoever started us through a pipe waits for this line.
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # They stopped listening. Python would complain about the pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
