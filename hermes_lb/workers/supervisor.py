"""The supervisor: owns the sockets, runs health checks and control plane, manages the workers.

This module orders start, reload, upgrade and shutdown. State of servers and sessions that all
processes share is in `shared_state`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hermes_lb.config import ConfigError, load_config
from hermes_lb.config.dump import settings
from hermes_lb.config.runtime import RuntimeServers, checked
from hermes_lb.config.secret_files import watched_files
from hermes_lb.control.operator import (
    NotPossible,
    carried_over,
    find_server,
    store_url,
)
from hermes_lb.control.runtime_states import RuntimeStates
from hermes_lb.discovery.discoveries import Discoveries
from hermes_lb.errors import reason
from hermes_lb.listen import check_files
from hermes_lb.observe import certificates
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.observed import Observed, Upkeep
from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.embedded import default_directory
from hermes_lb.workers.admin_listener import AdminListener
from hermes_lb.workers.decisions import Decisions, applied, inherited_servers
from hermes_lb.workers.fleet import Fleet
from hermes_lb.workers.kept_files import KeptFiles
from hermes_lb.workers.limits import within_limits
from hermes_lb.workers.new_file import accepted, read_only_once
from hermes_lb.workers.shared_state import SharedState
from hermes_lb.workers.status import in_words
from hermes_lb.workers.upgrade import (
    check_new_code,
    execute_new_code,
    signals_blocked,
    wait_for_exits,
    wait_until_between_messages,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Server
    from hermes_lb.backends.server import Admin
    from hermes_lb.config import Config
    from hermes_lb.control.operator import KeptPin
    from hermes_lb.control.shapes import Resolved, Session, Setting
    from hermes_lb.discovery.watch import Delta
    from hermes_lb.health.checker import HealthChecker
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child
    from hermes_lb.workers.handover import Handover
    from hermes_lb.workers.listening import Key

logger = logging.getLogger("hermes_lb")

# Seconds between two ticks of the pools: slow starts advance, ejections end.
_TICK = 0.5
# Seconds between two measurements of its loop's lag: no stream passes it. Each wakes a process with
# cold caches, which takes 50 to 100 µs of the core that the workers need.
_LAG_EVERY = 0.1
# Seconds for a pending signal to reach its handler.
_SETTLES = 0.05


class Supervisor:
    """`await start()`; it then runs by itself; `await drain(seconds)`, `await stop()` to end it.

    `reload` reads `file`. `handover` has what survives an upgrade: sockets, shared memory, and
    workers that may be running already. Implements `control.Operator`.
    """

    def __init__(self, config: Config, file: Path, handover: Handover) -> None:
        self.config = config
        self.urls: list[str] = []
        self.is_draining = False
        self._reload_refused = ""  # the reason, if the last reload failed
        self._file = file
        self._handover = handover
        self._tasks = Tasks()
        self._running = AsyncExitStack()
        self._reloading = asyncio.Lock()
        self._is_upgrading = False  # the new code is about to be executed
        self._renewing: asyncio.Task[None] | None = None  # replaces the last generation's workers
        layout, gathered, upkeep = handover.layout, handover.gathered, Upkeep()
        self._fleet = Fleet(
            handover.loop, handover.listening, handover.memory, handover.wakeups, layout, gathered,
            about=self._about, upkeep=upkeep, inboxes=handover.inboxes,
        )  # fmt: skip
        self._kept_files = KeptFiles()
        self._shared = shared = SharedState(self._fleet, layout, gathered)
        self._fleet.on_message = shared.hear
        self._fleet.on_exit = self._worker_ended
        self.recent = shared.recent
        self._loop_lag = LoopLag(_LAG_EVERY)
        self.observed = Observed(
            shared.pools, shared.frontends, gathered.processes, upkeep, shared.refresh,
            self._loop_lag, lambda: shared.certificates() + certificates.of_admin(config.admin),
        )  # fmt: skip
        self._runtime = inherited_servers(handover.inherited, config)
        self._discoveries = Discoveries(
            config.backends, self._discovered, rng=random.Random(),
            over=lambda backend, servers: self._runtime.over(backend, servers),
        )  # fmt: skip
        upkeep.discoveries = self._discoveries.views
        state_file = config.process.state_file
        self._states = RuntimeStates(state_file, shared.pools) if state_file else None
        if self._states is not None:
            shared.on_decision = self._states.changed
        self._checks: HealthChecker | None = None
        admin = config.admin
        self._admin = AdminListener(admin, self, handover.admin) if admin.enabled else None
        history = self._admin.history if self._admin is not None else None
        self._decisions = Decisions(shared, self._kept_files, self._discoveries, upkeep, history)

    def __repr__(self) -> str:
        return f"<Supervisor of {self._fleet!r}>"

    # Lifecycle.

    async def start(self) -> None:
        """Return when all workers listen. Raises OSError, ValueError or StartFailed.

        On failure everything is closed, except after an upgrade: inherited workers keep running.
        """
        try:
            await self._start()
        except BaseException:
            if self._handover.inherited is None:
                await self.stop()
            raise

    async def _start(self) -> None:
        async with AsyncExitStack() as starting:
            starting.push_async_callback(self._tasks.cancel_all)
            self._handover.layout.check(self.config)
            await self._start_store(self.config)
            # In a thread: signals are handled during DNS look-ups.
            await asyncio.to_thread(self._handover.listening.open, self.config)
            for passed in self._handover.listening.untaken:
                logger.warning("systemd has opened %s, where no frontend listens", passed)
            await self._take_files()
            inherited = self._handover.inherited or {}
            self._discoveries.restore(inherited.get("discovered", ()))
            starting.push_async_callback(self._discoveries.stop)
            await self._discoveries.start()
            await self._take_decisions(starting)
            assert self._checks is not None
            starting.push_async_callback(self._checks.stop)
            await self._checks.start()
            is_first = self._handover.inherited is None
            if self._admin is None:
                self._handover.admin.close()
            else:
                starting.push_async_callback(self._admin.close)
                await (self._admin.open() if is_first else self._admin.open_when_possible())
            if is_first:
                self.urls = await self._fleet.start_all()
            else:
                self._handover.adopt_children(self._fleet, self.config.process.drain_timeout)
                self._fleet.broadcast(self._shared.all_decisions(is_replaced=False))
                self._renewing = self._tasks.spawn(self._renew(), name="upgrade")
            self._loop_lag.start()
            starting.callback(self._loop_lag.stop)
            self._tasks.spawn(self._tick(), name="tick")
            looking = self._kept_files.keep_looking(lambda: self.config)
            self._tasks.spawn(looking, name="look at certificates")
            self._running = starting.pop_all()

    async def _start_store(self, config: Config) -> None:
        """The embedded one, if it is needed. It stays until the end. Raises ValueError."""
        if config.needs_embedded_store:
            given = config.store.directory
            await self._handover.store.start(Path(given) if given else default_directory())

    def _worker_ended(self, child: Child) -> None:
        """Its turns are lost or released at once: other processes would wait for a whole lease."""
        if child.incarnation:
            from hermes_lb.turns.store.opening import retire_incarnation  # hiredis

            url = self.config.store.url or self._handover.store.url
            self._tasks.spawn(retire_incarnation(url, child.incarnation), name="end its turns")

    async def _take_files(self) -> None:
        """At first all must be valid; after an upgrade the last valid ones serve in their place."""
        inherited = self._handover.inherited
        if inherited is None:
            self._kept_files.take(self.config, check_files(self.config))
        else:
            self._kept_files.restore(inherited.get("tls_files", ()))
            await self._kept_files.look(self.config)

    async def _take_decisions(self, starting: AsyncExitStack) -> None:
        """Restore the last generation's decisions, then apply changes of the configuration since
        then as a reload does."""
        async with self._reloading:
            now = self._changed, self._discoveries.servers
            self._shared.reconfigure(*(applied(self._handover.inherited) or now))
            if self._states is not None:
                await self._states.start()
                starting.push_async_callback(self._states.stop)
            known = self._decisions.restore(self._handover.inherited)
            self._checks = self._shared.checker(known)
            await self._apply()
            for backend, server in (self._handover.inherited or {}).get("forced", ()):
                if (pool := self._shared.pools.get(backend)) and (found := pool.find(server)):
                    self._checks.force(found, found.is_healthy)

    async def drain(self, timeout: float) -> bool:
        """Have all workers stop accepting and finish -> True if they did within `timeout` s."""
        self.is_draining = True
        async with self._reloading:  # let a reload or upgrade that has begun complete
            self._fleet.start_no_more()
            self._handover.listening.close_all()
        finished = await self._fleet.drain(timeout)
        self._handover.listening.remove_files()
        return finished

    async def stop(self) -> None:
        """Shut down at once. Idempotent."""
        self.is_draining = True
        await self._fleet.stop()
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()
        await self._handover.store.stop()
        self._handover.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK)
            for do in (self._fleet.kill_stuck, partial(self._shared.tick, loop.time())):
                try:
                    do()
                except Exception:  # a bug in one must not stop the other, or later ticks
                    logger.exception("periodic work failed")

    # State sent to workers.

    def _about(self) -> tuple[Message, list[Key]]:
        """The state a worker needs, by the current configuration; and its listeners."""
        listening, config = self._handover.listening, self._shared.config
        if config.needs_embedded_store:
            config = config.with_store(self._handover.store.url)
        about = {
            **within_limits(config, listening.slots).state(),
            "key": self._handover.key,
            "tickets": self._handover.tickets.state,
            "rows": self._handover.layout.rows,
            "discovered": self._shared.discovered(),
            "servers": self._shared.snapshots(),
            "tls_files": self._kept_files.of(config),
        }
        return about, listening.used(config)

    @property
    def _changed(self) -> Config:
        """The configuration with the servers of operators."""
        backends = self._runtime.applied(self.config.backends)
        return self.config.model_copy(update={"backends": backends})

    def reopen_logs(self) -> None:
        """Reopen log files by name (after rotation)."""
        self._fleet.broadcast({"do": "reopen"})

    # `control.Operator`.

    @property
    def admin_url(self) -> str | None:
        """URL of the admin listener; None if it is off or not open."""
        return self._admin.url if self._admin is not None else None

    @property
    def missing_processes(self) -> Literal["none", "some", "all"]:
        """Whether worker slots are empty because no worker can be started in them."""
        if not self._fleet.failed_slots:
            return "none"
        return "some" if self._fleet.is_serving else "all"

    @property
    def status(self) -> str:
        """One line for a service manager."""
        if self.is_draining:
            return "draining"
        is_renewing = self._renewing is not None and not self._renewing.done()
        return in_words(
            self._shared.pools.values(),
            serving=self._fleet.serving,
            slots=self._handover.listening.slots,
            is_upgrading=self._is_upgrading or is_renewing,
            refused=self._reload_refused,
        )

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def set_state(self, backend: str, server: str, state: Admin) -> None:
        find_server(self._shared.pools, backend, server).set_admin(state)

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        find_server(self._shared.pools, backend, server).set_weight(weight)

    def set_health(self, backend: str, server: str, up: bool | None) -> None:
        found = find_server(self._shared.pools, backend, server)
        assert self._checks is not None, "it was not started"
        self._checks.force(found, up)

    async def change_servers(self, change: Callable[[RuntimeServers], RuntimeServers]) -> None:
        async with self._reloading:
            self._refuse_when_ending()
            runtime = change(self._runtime)
            backends = checked(self.config, runtime, self.config.backends)
            self._handover.layout.check(self.config.model_copy(update={"backends": backends}))
            self._runtime = runtime
            await self._apply(carried_over(self._shared.pools))

    async def everywhere(self, command: str, **arguments: Any) -> list[Any]:
        question = {"do": "command", "command": command, "arguments": arguments}
        answers = await self._fleet.ask_all(question)
        return [answer["result"] for answer in answers if "result" in answer]

    def pins(self) -> list[KeptPin]:
        return self._shared.pins()

    async def clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        cleared = self._shared.clear_pins(backend, server, pin)
        await self.everywhere("clear_pins", backend=backend, server=server, pin=pin)
        return cleared

    def resolvers(self) -> list[Resolved]:
        rows: list[Any] = self._discoveries.resolvers()
        return rows

    def settings(self) -> list[Setting]:
        rows: list[Any] = settings(self.config, self._runtime, self._discoveries.servers)
        return rows

    async def settle(self) -> bool:
        return await self._shared.settle()

    async def end_sessions(self, backend: str, server: str) -> int:
        answers = await self._fleet.ask_all({"do": "end", "backend": backend, "server": server})
        ended: int = sum(answer.get("ended", 0) for answer in answers)
        if not ended:
            find_server(self._shared.pools, backend, server)
        return ended

    async def sessions(self) -> list[Session]:
        answers = await self._fleet.ask_all({"do": "sessions"})
        rows: list[Any] = [row for answer in answers for row in answer.get("sessions", ())]
        return sorted(rows, key=lambda row: -row["seconds"])

    def turn_store_url(self) -> str:
        return store_url(self.config, self._handover.store)

    async def reload(self) -> list[str]:
        return await self._reload(self._file)

    async def refresh_secrets(self) -> list[str]:
        """Read the files of secrets again, and no other part of the configuration."""
        return await self._reload(None)

    @property
    def watched_files(self) -> list[Path]:
        """A change of one is for `refresh_secrets`."""
        return watched_files(self.config)

    async def _reload(self, file: Path | None) -> list[str]:
        upkeep, listening = self.observed.upkeep, self._handover.listening
        async with self._reloading:
            self._refuse_when_ending()
            try:
                layout = self._handover.layout
                new, files, changes = await accepted(file, self.config, layout)
                runtime = self._runtime.after_reload(self.config.backends, new.backends)
                backends = checked(new, runtime, new.backends)
                layout.check(new.model_copy(update={"backends": backends}))
                await self._start_store(new)
                listening.open(new)
            except (ValueError, OSError) as error:
                upkeep.failed_to_reload()
                self._reload_refused = why = reason(error)
                what = "the configuration is" if file is not None else "secrets are"
                logger.error("%s not reloaded, the old one goes on:\n%s", what, why)
                raise
            self.config, self._runtime = new, runtime
            self._reload_refused = ""
            changes += self._kept_files.take(new, files)
            await self._discoveries.reconfigure(new.backends)
            problems = await self._apply()
            listening.close(listening.unused(new))
            self._fleet.slots_changed()
            upkeep.reloaded()
        logger.info("reloaded%s", "".join(f"\n  {change}" for change in changes) or ": no change")
        return changes + problems

    def _refuse_when_ending(self) -> None:
        if self.is_draining:
            raise NotPossible("the balancer is draining")

    async def _apply(self, before_workers: Callable[[], None] = lambda: None) -> list[str]:
        """Apply the configuration and the servers to pools, checks and workers."""
        self._shared.reconfigure(self._changed, self._discoveries.servers)
        before_workers()
        if self._states is not None:
            self._states.changed()  # first, so that a returning server gets its saved state at once
        if self._checks is not None:
            await self._checks.reconfigure(self._shared.config.backends)
        return await self._fleet.reconfigure(self.config.process.drain_timeout)

    def _discovered(self, backend: str, delta: Delta) -> None:
        """A discovery has found other servers. This takes effect within this iteration of the loop:
        a reload or a start in progress has them, or gets them after its own message."""
        try:
            self._shared.discover(backend, delta, partial(self._prepare_discovered, backend))
        except ValueError as error:
            logger.error("%s: servers of the discovery are left out: %s", backend, error)

    def _prepare_discovered(
        self, backend: str, changed: list[Server], removed: list[Server]
    ) -> None:
        if self._states is not None:
            self._states.changed()  # first, so that a returning server gets its saved state at once
        if self._checks is not None:
            self._checks.discover(backend, changed, removed)

    # Upgrade.

    async def upgrade(self) -> None:
        if self._is_upgrading:  # the new generation would lose this request
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
            except ConfigError as error:  # changed since the check
                raise NotPossible(str(error)) from None
            self._handover.prepare(new, len(self._fleet.children))

    async def _hand_over(self) -> None:
        """Execute the new code. Signals are blocked around it; pending ones are handled first."""
        async with self._reloading:
            if self._admin is not None:
                await self._admin.close()  # after the response to the upgrade request itself
            if self._checks is not None:
                await self._checks.stop()
            if self._states is not None:
                await self._states.stop()
            self._fleet.broadcast(self._shared.all_decisions(is_replaced=True))
            await wait_for_exits(self._fleet.children)
            try:
                with signals_blocked():
                    await asyncio.sleep(_SETTLES)
                    await wait_until_between_messages(self._fleet.children)
                    if not self.is_draining:
                        self._shared.refresh()
                        left = self._decisions.state(self.config)
                        left["runtime"] = self._runtime.state()
                        left["forced"] = self._checks.forced if self._checks is not None else []
                        execute_new_code(self._handover, self._fleet.children, left)
                # A drain has begun meanwhile: no upgrade.
                self._fleet.broadcast(self._shared.all_decisions(is_replaced=False))
            except NotPossible as error:
                logger.error("no upgrade: %s", error)
                await self._take_up_again()
            except Exception:
                logger.exception("no upgrade")
                await self._take_up_again()

    async def _take_up_again(self) -> None:
        """The new code could not be executed: resume with this one."""
        self._is_upgrading = False
        self._fleet.broadcast(self._shared.all_decisions(is_replaced=False))
        listening = self._handover.listening
        listening.close(listening.unused(self.config))
        self._fleet.slots_changed()
        if self._states is not None:
            await self._states.start()
        if self._checks is not None:
            await self._checks.start()
        if self._admin is not None:
            await self._admin.open_when_possible()

    async def _renew(self) -> None:
        """Slot by slot, start a new worker, then drain the old one."""
        for slot in range(self._handover.listening.slots):
            if not await self._fleet.replace(slot, self.config.process.drain_timeout):
                if not self.is_draining:
                    logger.error("the upgrade stops here: old processes go on")
                return
        self._fleet.retire_beyond_slots(self.config.process.drain_timeout)
        listening = self._handover.listening
        listening.close(listening.unused(self.config))
        self._fleet.slots_changed()
        logger.info("upgraded: all processes run the new code")
