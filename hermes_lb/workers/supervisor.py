"""The supervisor: it keeps the sockets, runs checks and control plane, and minds the workers.

Here is the order in which all of it starts, reloads, is upgraded and ends. What the processes know
alike of servers and sessions is in `shared_state`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hermes_lb.config import ConfigError, load_config
from hermes_lb.control.operator import NotPossible, find_server
from hermes_lb.control.state_file import RuntimeStates
from hermes_lb.discovery import Resolver
from hermes_lb.listen import check_files
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.observed import Observed, Upkeep
from hermes_lb.tasks import Tasks
from hermes_lb.workers.admin_listener import AdminListener
from hermes_lb.workers.decisions import Decisions, applied
from hermes_lb.workers.fleet import Fleet
from hermes_lb.workers.handover import (
    Estate,
    check_new_code,
    execute_anew,
    signals_blocked,
    until_between_messages,
    until_sure,
)
from hermes_lb.workers.kept_files import KeptFiles
from hermes_lb.workers.limits import within_limits
from hermes_lb.workers.new_file import accepted, read_only_once
from hermes_lb.workers.shared_state import SharedState
from hermes_lb.workers.status import in_words

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.backends.server import Admin
    from hermes_lb.config import Config
    from hermes_lb.config import Server as ServerConfig
    from hermes_lb.control.operator import Session
    from hermes_lb.health.checker import HealthChecker
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.listening import Key

logger = logging.getLogger("hermes_lb")

# Seconds. Pools are told the time: slow starts go on, ejections end.
_TICK = 0.5
# Seconds in which a signal that has come reaches those who act on it.
_SETTLES = 0.05


class Supervisor:
    """`await start()`, then it minds itself; `await drain(seconds)`, `await stop()` at the end.

    `file` is read anew by `reload`. `estate` is what outlives this image of the program: sockets,
    shared memory, and perhaps workers that are running already. It is a `control.Operator`.
    """

    def __init__(self, config: Config, file: Path, estate: Estate) -> None:
        self.config = config
        self.urls: list[str] = []
        self.is_draining = False
        self._reload_refused = ""  # why, if the last one was
        self._file = file
        self._estate = estate
        self._tasks = Tasks()
        self._running = AsyncExitStack()
        self._reloading = asyncio.Lock()
        self._is_upgrading = False  # this image is about to be replaced
        self._renewing: asyncio.Task[None] | None = None  # the last image's workers are
        rows, gathered, upkeep = estate.rows, estate.gathered, Upkeep()
        self._fleet = Fleet(
            estate.loop, estate.listening, estate.block, estate.bells, rows, gathered,
            about=self._about, upkeep=upkeep,
        )  # fmt: skip
        self._kept_files = KeptFiles()
        self._shared = shared = SharedState(self._fleet, rows, gathered)
        self._fleet.on_message = shared.hear
        self.recent = shared.recent
        self._loop_lag = LoopLag()
        self.observed = Observed(
            shared.pools, shared.frontends, gathered.processes, upkeep, shared.refresh,
            self._loop_lag,
        )  # fmt: skip
        self._resolver = Resolver(
            config.backends, self._addresses_changed, rng=random.Random(), failed=upkeep.dns_failed
        )
        state_file = config.process.state_file
        self._states = RuntimeStates(state_file, shared.pools) if state_file else None
        if self._states is not None:
            shared.on_decision = self._states.changed
        self._checks: HealthChecker | None = None
        admin = config.admin
        self._admin = AdminListener(admin, self, estate.admin) if admin.enabled else None
        history = self._admin.history if self._admin is not None else None
        self._decisions = Decisions(shared, self._kept_files, self._resolver, upkeep, history)

    def __repr__(self) -> str:
        return f"<Supervisor of {self._fleet!r}>"

    # Its life.

    async def start(self) -> None:
        """Until all workers listen. Raises OSError, ValueError or StartFailed.

        Nothing is left then, but an inherited estate: the workers in it go on as they were.
        """
        try:
            await self._start()
        except BaseException:
            if self._estate.inherited is None:
                await self.stop()
            raise

    async def _start(self) -> None:
        async with AsyncExitStack() as starting:
            starting.push_async_callback(self._tasks.cancel_all)
            # In a thread: while it looks names up, the loop hears signals.
            await asyncio.to_thread(self._estate.listening.open, self.config)
            for passed in self._estate.listening.untaken:
                logger.warning("systemd has opened %s, where no frontend listens", passed)
            await self._take_files()
            self._resolver.restore((self._estate.inherited or {}).get("addresses", ()))
            starting.push_async_callback(self._resolver.stop)
            await self._resolver.start()
            await self._take_decisions(starting)
            assert self._checks is not None
            starting.push_async_callback(self._checks.stop)
            await self._checks.start()
            is_first = self._estate.inherited is None
            if self._admin is None:
                self._estate.admin.close()
            else:
                starting.push_async_callback(self._admin.close)
                await (self._admin.open() if is_first else self._admin.open_when_possible())
            if is_first:
                self.urls = await self._fleet.start_all()
            else:
                self._estate.adopt_children(self._fleet, self.config.process.drain_timeout)
                self._fleet.tell(self._shared.all_decisions(is_replaced=False))
                self._renewing = self._tasks.spawn(self._renew(), name="upgrade")
            self._loop_lag.start()
            starting.callback(self._loop_lag.stop)
            self._tasks.spawn(self._tick(), name="tick")
            looking = self._kept_files.keep_looking(lambda: self.config)
            self._tasks.spawn(looking, name="look at certificates")
            self._running = starting.pop_all()

    async def _take_files(self) -> None:
        """They have to be good at first; later the last image's serve as long as they are not."""
        inherited = self._estate.inherited
        if inherited is None:
            self._kept_files.take(self.config, check_files(self.config))
        else:
            self._kept_files.restore(inherited.get("tls_files", ()))
            await self._kept_files.look(self.config)

    async def _take_decisions(self, starting: AsyncExitStack) -> None:
        """Go on by what the last image has decided; then what has changed in the configuration
        since then is applied, as by a reload."""
        async with self._reloading:
            before = applied(self._estate.inherited) or self._resolved
            self._shared.reconfigure(before)
            if self._states is not None:
                await self._states.start()
                starting.push_async_callback(self._states.stop)
            known = self._decisions.restore(self._estate.inherited)
            self._checks = self._shared.checker(known)
            await self._apply()

    async def drain(self, timeout: float) -> bool:
        """All workers accept no more and finish -> whether they have, within `timeout` seconds."""
        self.is_draining = True
        async with self._reloading:  # what has begun comes first
            self._fleet.start_no_more()
            self._estate.listening.close_all()
        finished = await self._fleet.drain(timeout)
        self._estate.listening.remove_files()
        return finished

    async def stop(self) -> None:
        """End at once whatever still runs. Idempotent."""
        self.is_draining = True
        await self._fleet.stop()
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()
        self._estate.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK)
            for do in (self._fleet.kill_stuck, partial(self._shared.tick, loop.time())):
                try:
                    do()
                except Exception:  # a bug in it must not end what time has to bring
                    logger.exception("the tick went wrong")

    # What the workers are told.

    def _about(self) -> tuple[Message, list[Key]]:
        """All that a worker has to know, by the configuration that holds; and where it listens."""
        listening, config = self._estate.listening, self._shared.config
        about = {
            "config": within_limits(config, listening.seats).model_dump(mode="json"),
            "key": self._estate.key,
            "tickets": self._estate.tickets.state,
            "rows": self._estate.rows.rows,
            "servers": self._shared.snapshots(),
            "tls_files": self._kept_files.of(config),
        }
        return about, listening.used(config)

    @property
    def _resolved(self) -> Config:
        """The configuration, with a server for each address of a name that is looked up."""
        return self.config.model_copy(update={"backends": self._resolver.backends})

    def reopen_logs(self) -> None:
        """Log files anew, by their names."""
        self._fleet.tell({"do": "reopen"})

    # What its operator sees and does.

    @property
    def admin_url(self) -> str | None:
        """Of the admin listener; None if it is off, or can't be opened."""
        return self._admin.url if self._admin is not None else None

    @property
    def missing_processes(self) -> Literal["none", "some", "all"]:
        """Of the workers: their seats are empty, and none can be started there."""
        if not self._fleet.failed_seats:
            return "none"
        return "some" if self._fleet.is_serving else "all"

    @property
    def status(self) -> str:
        """In a line, for a service manager."""
        if self.is_draining:
            return "draining"
        is_renewing = self._renewing is not None and not self._renewing.done()
        return in_words(
            self._shared.pools.values(),
            serving=self._fleet.serving,
            seats=self._estate.listening.seats,
            is_upgrading=self._is_upgrading or is_renewing,
            refused=self._reload_refused,
        )

    def now(self) -> float:
        """The data path's clock: monotonic seconds."""
        return asyncio.get_running_loop().time()

    def set_state(self, backend: str, server: str, state: Admin) -> None:
        """`ready | drain | maint`, by HAProxy's meaning. Raises UnknownServer."""
        find_server(self._shared.pools, backend, server).set_admin(state)

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        """0 to 65535, None: the configured one. Raises UnknownServer."""
        find_server(self._shared.pools, backend, server).set_weight(weight)

    async def settle(self) -> bool:
        """Until all workers have applied what was set, and have published their numbers since."""
        return await self._shared.settle()

    async def end_sessions(self, backend: str, server: str) -> int:
        """Cut what runs on a server, known or removed -> how many. Raises UnknownServer."""
        answers = await self._fleet.ask_all({"do": "end", "backend": backend, "server": server})
        ended: int = sum(answer.get("ended", 0) for answer in answers)
        if not ended:
            find_server(self._shared.pools, backend, server)
        return ended

    async def sessions(self) -> list[Session]:
        """The requests that run now, the longest first."""
        answers = await self._fleet.ask_all({"do": "sessions"})
        rows: list[Any] = [row for answer in answers for row in answer.get("sessions", ())]
        return sorted(rows, key=lambda row: -row["seconds"])

    async def reload(self) -> list[str]:
        """Read the file anew, and have all workers go on by it -> the changes, in words.

        Raises ConfigError with every problem, or OSError; all stays as it was then.
        """
        upkeep, listening = self.observed.upkeep, self._estate.listening
        async with self._reloading:
            self._refuse_when_ending()
            try:
                rows = self._estate.rows
                new, files, changes = await accepted(self._file, self.config, rows)
                listening.open(new)
            except (ValueError, OSError) as error:
                upkeep.failed_to_reload()
                why = getattr(error, "strerror", None) or error
                logger.error("the configuration is not reloaded, the old one goes on:\n%s", why)
                self._reload_refused = str(why)
                raise
            self.config = new
            self._reload_refused = ""
            changes += self._kept_files.take(new, files)
            await self._resolver.reconfigure(new.backends)
            problems = await self._apply()
            listening.close(listening.unused(new))
            self._fleet.seats_changed()
            upkeep.reloaded()
        logger.info("reloaded%s", "".join(f"\n  {change}" for change in changes) or ": no change")
        return changes + problems

    def _refuse_when_ending(self) -> None:
        if self.is_draining:
            raise NotPossible("it is draining, and will end")

    async def _apply(self) -> list[str]:
        """Have pools, checks and workers be as the configuration and the addresses are now."""
        self._shared.reconfigure(self._resolved)
        if self._states is not None:
            self._states.changed()  # first: who has come back is at once as it was
        if self._checks is not None:
            await self._checks.reconfigure(self._resolver.backends)
        return await self._fleet.reconfigure(self.config.process.drain_timeout)

    def _addresses_changed(self, backend: str, servers: list[ServerConfig]) -> None:
        self._tasks.spawn(self._set_addresses(), name="new addresses")

    async def _set_addresses(self) -> None:
        async with self._reloading:
            await self._apply()

    # The next image of the program.

    async def upgrade(self) -> None:
        """Replace all processes, this one included, by new ones, which load the code anew.

        This process keeps its number. The sockets stay open, live streams finish in the old
        workers. Raises NotPossible, with the reason, if the new code does not accept the
        configuration or can't read it, an address in it can't be had, or another upgrade has begun.
        """
        if self._is_upgrading:  # its next image would know nothing of this one
            raise NotPossible("an upgrade has begun already")
        self._is_upgrading = True
        try:
            await self._prepare_upgrade()
        except BaseException:
            self._is_upgrading = False
            raise
        self._tasks.spawn(self._hand_over(), name="hand over")

    async def _prepare_upgrade(self) -> None:
        if why := read_only_once(self._file):
            raise NotPossible(why)
        await check_new_code(self._file)
        async with self._reloading:
            self._refuse_when_ending()
            try:
                new = load_config(self._file)
            except ConfigError as error:  # it was good a moment ago
                raise NotPossible(str(error)) from None
            self._estate.prepare(new, len(self._fleet.children))

    async def _hand_over(self) -> None:
        """Signals wait from here on, and those that have come are heard, before it is too late."""
        async with self._reloading:
            if self._admin is not None:
                await self._admin.close()  # after its answer to who has asked for this
            if self._checks is not None:
                await self._checks.stop()
            if self._states is not None:
                await self._states.stop()
            self._fleet.tell(self._shared.all_decisions(is_replaced=True))
            await until_sure(self._fleet.children)
            try:
                with signals_blocked():
                    await asyncio.sleep(_SETTLES)
                    await until_between_messages(self._fleet.children)
                    if not self.is_draining:
                        self._shared.refresh()
                        left = self._decisions.state(self.config)
                        execute_anew(self._estate, self._fleet, left)
                # It is draining, and goes on with that.
                self._fleet.tell(self._shared.all_decisions(is_replaced=False))
            except NotPossible as error:
                logger.error("no upgrade: %s", error)
                await self._take_up_again()
            except Exception:
                logger.exception("no upgrade")
                await self._take_up_again()

    async def _take_up_again(self) -> None:
        """The next image can't be executed: this one goes on."""
        self._is_upgrading = False
        self._fleet.tell(self._shared.all_decisions(is_replaced=False))
        listening = self._estate.listening
        listening.close(listening.unused(self.config))
        self._fleet.seats_changed()
        if self._states is not None:
            await self._states.start()
        if self._checks is not None:
            await self._checks.start()
        if self._admin is not None:
            await self._admin.open_when_possible()

    async def _renew(self) -> None:
        """Seat by seat a new worker, and then the old one finishes."""
        for seat in range(self._estate.listening.seats):
            if not await self._fleet.replace(seat, self.config.process.drain_timeout):
                if not self.is_draining:
                    logger.error("the upgrade stops here: old processes go on")
                return
        self._fleet.retire_beyond_seats(self.config.process.drain_timeout)
        listening = self._estate.listening
        listening.close(listening.unused(self.config))
        self._fleet.seats_changed()
        logger.info("upgraded: all processes run the new code")
