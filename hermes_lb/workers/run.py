"""`python -m hermes_lb --config ...`: a supervisor and its workers, with signals and limits."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from hermes_lb.config import Config, ConfigError, load_config
from hermes_lb.control.operator import OperatorError
from hermes_lb.errors import reason
from hermes_lb.observe.messages import MessageHandler, flush_messages
from hermes_lb.signals import HANDLED, hold
from hermes_lb.tasks import Tasks
from hermes_lb.workers import systemd
from hermes_lb.workers.fleet import StartFailed
from hermes_lb.workers.handover import Handover
from hermes_lb.workers.limits import raise_limit, worker_count
from hermes_lb.workers.new_file import read_only_once
from hermes_lb.workers.start_check import start_problems
from hermes_lb.workers.supervisor import Supervisor
from hermes_lb.workers.watch import changes, changes_of
from hermes_lb.workers.worker import serve_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


logger = logging.getLogger("hermes_lb")

_ENDS = (signal.SIGTERM, signal.SIGINT)
# Seconds between two updates of the service manager's status line.
_STATUS_EVERY = 1.0


def serve(config: Config, file: Path, *, loop: str = "uvloop") -> NoReturn:
    """Run a balancer until a signal ends the process.

    - SIGTERM, SIGINT: stop accepting, finish running requests for up to `drain_timeout`, exit. A
      second one exits at once, and so does one that comes before it serves.
    - SIGHUP: reload `file`. SIGUSR1: reopen log files. SIGUSR2: upgrade. (nginx's signals.)

    Raises OSError or ValueError with a one-line message if it can't start.
    """
    with _saying_on_stderr(), asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        status = runner.run(_serve(config, file, loop))
        flush_messages()
        # Everything is closed. Loop and interpreter would still wait for DNS look-ups in threads
        # whose results are unused: 10 s and more with a dead name server.
        os._exit(status)


def run_worker(loop: str) -> int:
    """Run a worker process until it ends."""
    logging.getLogger("hermes_lb.health").setLevel(logging.WARNING)  # the supervisor logs the rest
    with _saying_on_stderr(), asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        runner.run(serve_worker())
    return 0


def check(file: Path) -> int:
    """Check that this code, fully loaded, could run the configuration -> exit status.

    An upgrade runs the new code with this before it hands over.
    """
    try:
        problems = list(start_problems(load_config(file)))
    except ConfigError as error:
        problems = [error]
    for problem in problems:
        print(reason(problem), file=sys.stderr)
    if problems:
        return 1
    with asyncio.Runner(loop_factory=_loop_factory("uvloop")):
        return 0


@contextmanager
def _saying_on_stderr() -> Iterator[None]:
    """Log to stderr; flush before the process writes there by other means."""
    handler = MessageHandler("stderr")
    formatter = systemd.JournalFormatter if systemd.is_journal(2) else logging.Formatter
    handler.setFormatter(formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        yield
    finally:
        flush_messages()


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name != "uvloop":
        return None
    try:
        import uvloop
    except ModuleNotFoundError:
        logger.warning("uvloop is not installed: asyncio's own loop is about 20 % slower")
        return None
    return uvloop.new_event_loop


async def _serve(config: Config, file: Path, loop: str) -> int:
    raise_limit(config, worker_count(config))
    await _keep_signals_to_this_thread()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in HANDLED:
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # an upgrade's exec leaves all of them blocked
    slots = worker_count(config)
    handover = Handover.inherit(slots, loop) or Handover.create(slots, loop, systemd.listen_fds())
    supervisor = await _start_unless_ended(config, file, handover, signals)
    if supervisor is None:
        logger.info("ended before it served")
        return 0
    try:
        for url in supervisor.urls:
            logger.info("listening on %s", url)
        for frontend in config.frontends:
            if frontend.http2_is_off:
                logger.warning("frontend %s: %s", frontend.name, frontend.http2_is_off)
        if supervisor.admin_url:
            logger.info("admin on %s", supervisor.admin_url)
        systemd.notify(systemd.READY)
        tasks = Tasks()
        if (interval := systemd.watchdog_interval()) is not None:
            tasks.spawn(_feed_watchdog(interval), name="watchdog")
        if systemd.is_present():
            tasks.spawn(_report_status(supervisor), name="status")
        if config.process.reload_on_change and not read_only_once(file):
            watching = _reload_on_change(file, config, signals)
            tasks.spawn(watching, name="watch the configuration")
        tasks.spawn(_refresh_secrets(supervisor), name="watch secrets")
        await _mind_signals(supervisor, signals, tasks)
        systemd.notify(f"{systemd.STOPPING}\n{systemd.status(supervisor.status)}")
        finished = await _drain(supervisor, signals)
        await tasks.cancel_all()
    finally:
        await supervisor.stop()
    logger.info("ended%s", "" if finished else "; what still ran was cut")
    return 0


async def _keep_signals_to_this_thread() -> None:
    """A signal that another thread takes during the exec of an upgrade would be lost.

    A thread inherits the signal mask of its creator; signals are blocked here.
    """
    hold()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(initializer=hold))
    with suppress(OSError):  # the first look-up makes libuv start all of its threads
        await loop.getaddrinfo("localhost", None)


async def _start_unless_ended(
    config: Config, file: Path, handover: Handover, signals: asyncio.Queue[signal.Signals]
) -> Supervisor | None:
    """Start; None if a signal asked for the end during the start, and everything is closed again.

    After an upgrade workers are running and must be drained, so the signal stays queued.
    """
    if handover.inherited is not None:
        return await _start(config, file, handover)
    loop = asyncio.get_running_loop()
    starting = asyncio.timeout(None)

    def end(number: signal.Signals) -> None:
        signals.put_nowait(number)  # the start may have completed at this moment
        if not starting.expired():
            starting.reschedule(loop.time())

    try:
        async with starting:
            for number in _ENDS:
                loop.add_signal_handler(number, end, number)
            return await _start(config, file, handover)
    except TimeoutError:
        if not starting.expired():
            raise
        return None
    finally:
        for number in _ENDS:
            loop.add_signal_handler(number, signals.put_nowait, number)


async def _start(config: Config, file: Path, handover: Handover) -> Supervisor:
    """Start a supervisor.

    After an upgrade workers are running: if the new configuration fails, the old one is used.
    """
    supervisor = Supervisor(config, file, handover)
    try:
        await supervisor.start()
    except (StartFailed, OSError, ValueError) as error:
        why = reason(error)
        if handover.inherited is None:
            raise ValueError(why) from None
        logger.error("the new configuration can't be used, the old one goes on: %s", why)
        supervisor = Supervisor(Config.restored(handover.inherited), file, handover)
        await supervisor.start()
    return supervisor


async def _mind_signals(
    supervisor: Supervisor, signals: asyncio.Queue[signal.Signals], tasks: Tasks
) -> None:
    """Dispatch signals until SIGTERM or SIGINT. Nothing is awaited here: a signal that is still
    queued when an upgrade executes the new code would be lost."""
    while (number := await signals.get()) not in _ENDS:
        if number == signal.SIGUSR1:
            supervisor.reopen_logs()
        elif number == signal.SIGHUP:
            tasks.spawn(_reload(supervisor), name="reload")
        else:
            tasks.spawn(_upgrade(supervisor), name="upgrade")
    supervisor.is_draining = True  # at once, so that an upgrade in progress can't undo it


async def _reload(supervisor: Supervisor) -> None:
    systemd.notify(systemd.reloading())
    with suppress(OSError, ValueError, OperatorError):  # logged by `reload`
        await supervisor.reload()
    if not supervisor.is_draining:  # then STOPPING must stay the last state
        systemd.notify(systemd.READY)


async def _upgrade(supervisor: Supervisor) -> None:
    try:
        await supervisor.upgrade()
    except (OperatorError, OSError, ValueError) as error:
        logger.error("no upgrade: %s", error)


async def _reload_on_change(
    file: Path, config: Config, signals: asyncio.Queue[signal.Signals]
) -> None:
    """Queue a SIGHUP for each change of the file since `config` was read."""

    def is_used() -> bool:
        with suppress(ConfigError, OSError):
            return load_config(file) == config
        return False

    async for _ in changes(file, is_used=is_used):
        signals.put_nowait(signal.SIGHUP)


async def _refresh_secrets(supervisor: Supervisor) -> None:
    async for _ in changes_of(lambda: supervisor.watched_files):
        with suppress(OSError, ValueError, OperatorError):  # logged by it
            await supervisor.refresh_secrets()


async def _drain(supervisor: Supervisor, signals: asyncio.Queue[signal.Signals]) -> bool:
    timeout = supervisor.config.process.drain_timeout
    logger.info("draining for up to %g s; a second signal ends at once", timeout)
    tasks = Tasks()
    draining = tasks.spawn(supervisor.drain(timeout), name="drain")
    second = tasks.spawn(signals.get(), name="second signal")
    await asyncio.wait((draining, second), return_when=asyncio.FIRST_COMPLETED)
    finished = draining.done() and draining.result()
    await tasks.cancel_all()
    return finished


async def _report_status(supervisor: Supervisor) -> None:
    reported = ""
    while True:
        if (status := supervisor.status) != reported:
            systemd.notify(systemd.status(status))
            reported = status
        await asyncio.sleep(_STATUS_EVERY)


async def _feed_watchdog(interval: float) -> None:
    while True:
        systemd.notify(systemd.WATCHDOG)
        await asyncio.sleep(interval)
