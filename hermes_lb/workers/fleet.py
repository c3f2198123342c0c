"""The worker processes: start, message, replace and stop them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from hermes_lb.errors import reason
from hermes_lb.tasks import Tasks
from hermes_lb.workers.channel import ChannelClosed
from hermes_lb.workers.child import Child
from hermes_lb.workers.crash_loops import CrashLoops
from hermes_lb.workers.heartbeats import Heartbeats
from hermes_lb.workers.unserved_listeners import UnservedListeners
from hermes_lb.workers.worker_group import WorkerGroup, ask_each

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from hermes_lb.observe.observed import Upkeep
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.gathered import Gathered
    from hermes_lb.workers.inbox import Inbox
    from hermes_lb.workers.layout import Layout
    from hermes_lb.workers.listening import Key, Listening
    from hermes_lb.workers.shared_memory import SharedMemory

    # All that a worker needs but its number and its sockets; and the keys of its listeners.
    About = Callable[[], tuple[Message, list[Key]]]

logger = logging.getLogger("hermes_lb")

# Seconds for the start of a worker on a busy machine.
_START_TAKES = 60.0
# Seconds for a reconfiguration, for an answer, and for the exit after it was requested.
_RECONFIGURE_TAKES = 30.0
_ANSWER_TAKES = 5.0
_END_TAKES = 5.0
# Seconds that clients in a slot's backlog are kept waiting for a second start.
_PATIENCE = 5.0
# Seconds to see whether one worker or the whole process group got SIGTERM.
_GROUP_SIGNAL_S = 0.5


class StartFailed(Exception):
    """A worker could not start; `str(error)` says why."""


class Fleet:
    """One worker per slot, and old workers that are draining.

    `on_message(child, message)` is called for unsolicited messages of workers, `on_exit(child)`
    when one has ended.
    """

    def __init__(
        self,
        loop: str,
        listening: Listening,
        memory: SharedMemory,
        wakeups: list[int],
        layout: Layout,
        gathered: Gathered,
        *,
        about: About,
        upkeep: Upkeep,
        inboxes: Sequence[Inbox] = (),
    ) -> None:
        self.children: list[Child] = []
        self.on_message: Callable[[Child, Message], None] = lambda child, message: None
        self.on_exit: Callable[[Child], None] = lambda child: None
        self._loop = loop
        self._listening = listening
        self._memory = memory
        self._wakeups = wakeups
        self._layout = layout
        self._gathered = gathered
        self._about = about
        self._upkeep = upkeep
        self._inboxes = inboxes
        self._crash_loops = CrashLoops(listening.slots)
        self._refilling: set[int] = set()  # slots for which a task starts a worker
        self._failed: set[int] = set()  # those of them in which starts have failed
        self._unserved = UnservedListeners(listening)
        self._group = WorkerGroup(self.children, listening.slots)
        self._heartbeats = Heartbeats(memory)
        self._tasks = Tasks()
        self._is_ending = False

    def __repr__(self) -> str:
        return f"<Fleet {self.children!r}>"

    async def start_all(self) -> list[str]:
        """Start the first worker of each slot -> the URLs they listen at. Raises StartFailed."""
        slots = range(self._listening.slots)
        urls = await asyncio.gather(*(self.start(slot, is_first=True) for slot in slots))
        return urls[0]

    async def start(self, slot: int, *, is_first: bool = False) -> list[str]:
        """Start a worker in a slot -> the URLs it listens at. Raises StartFailed.

        With `is_first` an access log that can't be opened is an error, so that the start of the
        service reports it; later workers serve without rather than not at all.
        """
        try:
            with self._group.starting():
                urls = await self._start(slot, is_first)
        except OSError as error:  # no memory, no descriptors, no interpreter
            raise StartFailed(f"a worker process can't be executed: {reason(error)}") from None
        self._failed.discard(slot)
        self.slots_changed()
        return urls

    async def _start(self, slot: int, is_first: bool) -> list[str]:
        if self._is_ending:
            raise StartFailed("the balancer is shutting down")
        await self._group.end_alone()
        if self._is_ending:
            raise StartFailed("the balancer is shutting down")
        number = next(n for n in count() if all(child.number != n for child in self.children))
        if number >= len(self._memory.regions):
            raise StartFailed("too many old processes are still finishing; try again later")
        child = Child.start(
            self._loop, number=number, slot=slot, heard=self._hear, ended=self._ended
        )
        self.children.append(child)
        self._gathered.joined(number, child.pid)
        child.is_alone = self._group.is_only(child)
        about, sockets = self._about_it(child)
        descriptors = [self._memory.fd, *self._wakeups, *sockets]
        message = {
            "do": "start", "number": number, "bells": len(self._wakeups),
            "is_alone": child.is_alone, "is_first": is_first, **about,
        }  # fmt: skip
        try:
            answer = await child.channel.ask(message, descriptors, timeout=_START_TAKES)
        except ChannelClosed:
            await child.wait()
        except TimeoutError:
            answer = {"error": f"a worker process did not start in {_START_TAKES:g} s"}
            child.kill()
        except OSError:
            child.retire(0.0)
            raise
        if child.has_ended:
            raise StartFailed(f"a worker process has ended {child.end_in_words}")
        if "error" in answer:
            child.retire(0.0)
            raise StartFailed(answer["error"])
        self._unserved.restore(slot)
        child.serves = True
        if self._inboxes:
            await self._give_inboxes(child)
        urls: list[str] = answer["urls"]
        return urls

    async def _give_inboxes(self, child: Child) -> None:
        """Not with its start, which worker code without inboxes would refuse."""
        about = [child.slot, self._listening.slots]
        message = {"do": "servers", "servers": [], "inboxes": about}
        ends = [fd for inbox in self._inboxes for fd in inbox.descriptors]
        with suppress(ChannelClosed, TimeoutError):
            await child.channel.ask(message, ends, timeout=_ANSWER_TAKES)

    def _about_it(self, child: Child) -> tuple[Message, list[int]]:
        """The state it needs now, and descriptors of the sockets it does not have yet."""
        about, keys = self._about()
        groups = {key: self._listening.groups[key] for key in keys}
        new = [key for key in keys if child.listens.get(key) is not groups[key]]
        child.listens = groups
        sockets = self._listening.of_slot(child.slot, new)
        message = {**about, "sockets": [list(key) for key, _ in sockets]}
        return message, [sock.fileno() for _, sock in sockets]

    def adopt(
        self,
        pid: int,
        sock: socket.socket,
        drain_timeout: float,
        *,
        listens: Sequence[Key],
        **about: Any,
    ) -> None:
        """Add a worker that the previous generation started, or was starting.

        One whose start was not confirmed is drained: it may already have accepted clients.
        """
        child = Child(pid, sock, heard=self._hear, ended=self._ended, **about)
        groups = self._listening.groups
        child.listens = {key: groups[key] for key in listens if key in groups}
        self.children.append(child)
        self._gathered.joined(child.number, pid)
        if not child.serves:  # the task that awaited its start is gone
            child.retire(drain_timeout)

    def in_slot(self, slot: int) -> list[Child]:
        """Workers of that slot, starting or serving, that are not draining."""
        return [c for c in self.children if c.slot == slot and not c.is_retired]

    @property
    def is_serving(self) -> bool:
        """At least one worker accepts clients."""
        return self.serving > 0

    @property
    def serving(self) -> int:
        """The number of slots with a worker that accepts clients."""
        return len({child.slot for child in self.children if child.serves and not child.is_retired})

    @property
    def failed_slots(self) -> list[int]:
        """Slots without a worker in which starts have failed."""
        return sorted(self._failed)

    def slots_changed(self) -> None:
        """Workers or sockets have changed: update the listeners that nothing accepts from."""
        unserved = [] if self._is_ending else self.failed_slots
        self._unserved.update(unserved, others_serve=self.is_serving)
        for slot in unserved:
            for inbox in self._inboxes[slot :: self._listening.slots]:
                inbox.refuse_all()

    # Messages.

    def broadcast(self, message: Message, *, but: Child | None = None) -> None:
        for child in self.children:
            if child is not but:
                child.channel.send(message)

    async def ask_all(self, message: Message) -> list[Message]:
        """The answers of those that answer in time."""
        answers = await ask_each(self.children, message, _ANSWER_TAKES)
        return [answer for answer in answers if isinstance(answer, dict)]

    async def all_answer(self, message: Message, timeout: float) -> bool:
        """False if one has neither answered within `timeout` seconds nor ended."""
        answers = await ask_each(self.children, message, timeout)
        return not any(isinstance(answer, TimeoutError) for answer in answers)

    async def reconfigure(self, drain_timeout: float) -> list[str]:
        """Have all workers apply what `about` returns now -> problems, as text.

        A worker that fails is replaced; its streams run on until they end.
        """
        problems = await asyncio.gather(
            *(self._reconfigure(child, drain_timeout) for child in self.children)
        )
        return [problem for problem in problems if problem is not None]

    async def _reconfigure(self, child: Child, drain_timeout: float) -> str | None:
        if child.is_retired:
            return None
        about, descriptors = self._about_it(child)
        message = {"do": "reconfigure", **about}
        problem = None
        try:
            answer = await child.channel.ask(message, descriptors, timeout=_RECONFIGURE_TAKES)
            problem = answer.get("error")
        except ChannelClosed:
            await child.wait()
        except TimeoutError:
            child.is_silent, problem = True, "it does not answer"
        if problem is None or child.has_ended or child.is_retired:
            return None
        problem = f"worker process {child.pid} can't be reconfigured: {problem}"
        logger.error("%s", problem)
        await self.replace(child.slot, drain_timeout)
        return problem

    async def replace(self, slot: int, drain_timeout: float) -> bool:
        """Start a new worker, then drain the old one. False if the new one can't start."""
        old = self.in_slot(slot)
        try:
            await self.start(slot)
        except StartFailed as error:
            if not self._is_ending:
                logger.error("a worker process can't start: %s", error)
            self.refill()  # the old one may have ended during the start
            return False
        for child in old:
            child.retire(drain_timeout)
        self.refill()  # the new one may have got a SIGTERM while the old one still served
        return True

    def refill(self) -> None:
        """Start workers in all empty slots."""
        for slot in range(self._listening.slots):
            if not self.in_slot(slot):
                self._see_to(slot)

    def retire_beyond_slots(self, timeout: float) -> None:
        """Drain workers of slots that an upgrade has removed."""
        for child in self.children:
            if child.slot >= self._listening.slots and not child.is_retired:
                child.retire(timeout)

    def _hear(self, child: Child, message: Message) -> None:
        if message["do"] == "leaving":
            self._leaving(child)
        else:
            self.on_message(child, message)

    def _leaving(self, child: Child) -> None:
        """It got a SIGTERM from outside: it drains, and a replacement serves in its slot."""
        if child.is_retired or self._is_ending:
            return
        child.is_retired = True
        self.slots_changed()
        self._tasks.spawn(self._replace_leaving(child), name="replace a worker")

    async def _replace_leaving(self, child: Child) -> None:
        """No replacement if the whole group was signalled, as service managers may do."""
        await asyncio.sleep(_GROUP_SIGNAL_S)
        if not self._is_ending:
            logger.warning("worker process %d received SIGTERM; another one starts", child.pid)
            self._see_to(child.slot)

    def kill_stuck(self) -> None:
        """Call every half second. A killed worker is replaced when its exit is seen."""
        for child in self._heartbeats.stuck(self.children):
            logger.error("worker process %d is stuck: it is killed", child.pid)
            child.kill()

    # Exit.

    def _ended(self, child: Child) -> None:
        self.children.remove(child)
        self._gathered.left(child.number, self._layout.rows)
        self._listening.remove_files()  # it may have been the last to listen on a closed one
        self._group.announce_alone()
        self.on_exit(child)
        if not child.serves:
            return  # `start` handles it
        self.slots_changed()
        if child.is_retired or self._is_ending or child.slot >= self._listening.slots:
            if child.exit_status != 0:
                logger.error(
                    "worker process %d has ended %s: what it was finishing is cut",
                    child.pid, child.end_in_words,
                )  # fmt: skip
            return
        self._upkeep.process_restarts += 1
        lived = asyncio.get_running_loop().time() - child.started_at
        self._crash_loops.crashed(child.slot, lived)
        logger.error(
            "worker process %d has ended %s; another one starts%s",
            child.pid, child.end_in_words, self._crash_loops.pause_in_words(child.slot),
        )  # fmt: skip
        self._see_to(child.slot)

    def _see_to(self, slot: int) -> None:
        if slot not in self._refilling and slot < self._listening.slots:
            self._refilling.add(slot)
            self._tasks.spawn(self._refill(slot), name="replace a worker")

    async def _refill(self, slot: int) -> None:
        """Retry until a worker serves in the slot."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while not self._is_ending:
            await asyncio.sleep(self._crash_loops.pause(slot))
            if self.in_slot(slot):
                break
            began = clock()
            try:
                await self.start(slot)
            except StartFailed as error:
                if self._is_ending:
                    break
                failures += 1
                self._crash_loops.failed(slot)
                self._upkeep.process_restarts += 1
                # Reset the clients in its backlog, but not for a first quick failure, which may be
                # a single kill; a start that hangs must not keep them waiting for a second one.
                is_hopeless = failures > 1 or clock() - began > _PATIENCE
                if is_hopeless and not self.in_slot(slot):
                    self._failed.add(slot)
                    self.slots_changed()
                logger.error(
                    "a worker process can't start: %s; another one starts%s",
                    error, self._crash_loops.pause_in_words(slot),
                )  # fmt: skip
        self._refilling.discard(slot)

    def start_no_more(self) -> None:
        """Shutdown has begun."""
        self._is_ending = True
        self.slots_changed()

    async def drain(self, timeout: float) -> bool:
        """Have all workers stop accepting and finish -> True if they ended in time."""
        self.start_no_more()
        children = list(self.children)
        for child in children:
            child.retire(timeout)
        return await self._all_ended(children, timeout + _END_TAKES)

    async def stop(self) -> None:
        """End all workers at once. Idempotent."""
        self.start_no_more()
        await self._tasks.cancel_all()
        children = list(self.children)
        for child in children:
            child.retire(0.0)
        if not await self._all_ended(children, _END_TAKES):
            for child in children:
                child.kill()
            await self._all_ended(children, _END_TAKES)

    async def _all_ended(self, children: list[Child], timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(child.wait() for child in children))
        except TimeoutError:
            return False
        return True
