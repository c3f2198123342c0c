"""The worker processes: started, told, asked, replaced."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

from hermes_lb.tasks import Tasks
from hermes_lb.workers.channel import ChannelClosed
from hermes_lb.workers.child import Child
from hermes_lb.workers.company import Company, ask_each
from hermes_lb.workers.crash_loops import CrashLoops
from hermes_lb.workers.signs_of_life import SignsOfLife
from hermes_lb.workers.vacant import VacantSeats

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from hermes_lb.observe.observed import Upkeep
    from hermes_lb.workers.block import Block
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.gathered import Gathered
    from hermes_lb.workers.listening import Key, Listening
    from hermes_lb.workers.rows import Rows

    # What a worker has to know, all but its number and its sockets; and where it listens.
    About = Callable[[], tuple[Message, list[Key]]]

logger = logging.getLogger("hermes_lb")

# Seconds that a worker may take to start, on a machine that is busy.
_START_TAKES = 60.0
# Seconds for another configuration, for an answer, and for the end, when it is asked for.
_RECONFIGURE_TAKES = 30.0
_ANSWER_TAKES = 5.0
_END_TAKES = 5.0
# Seconds that those who wait at a seat can wait for a second start.
_PATIENCE = 5.0
# Seconds in which it is known whether all were told to end, or one.
_ALL_ARE_TOLD = 0.5


class StartFailed(Exception):
    """A worker could not start; `str(error)` says why."""


class Fleet:
    """A worker in each seat, and perhaps old ones that are finishing.

    `on_message(child, message)` is called for what they say by themselves.
    """

    def __init__(
        self,
        loop: str,
        listening: Listening,
        block: Block,
        bells: list[int],
        rows: Rows,
        gathered: Gathered,
        *,
        about: About,
        upkeep: Upkeep,
    ) -> None:
        self.children: list[Child] = []
        self.on_message: Callable[[Child, Message], None] = lambda child, message: None
        self._loop = loop
        self._listening = listening
        self._block = block
        self._bells = bells
        self._rows = rows
        self._gathered = gathered
        self._about = about
        self._upkeep = upkeep
        self._crash_loops = CrashLoops(listening.seats)
        self._refilling: set[int] = set()  # seats that somebody sees to
        self._failed: set[int] = set()  # of these, those in which no worker could be started
        self._vacant = VacantSeats(listening)
        self._company = Company(self.children, listening.seats)
        self._signs = SignsOfLife(block)
        self._tasks = Tasks()
        self._is_ending = False

    def __repr__(self) -> str:
        return f"<Fleet {self.children!r}>"

    async def start_all(self) -> list[str]:
        """The first worker of each seat -> the URLs that they listen at. Raises StartFailed."""
        seats = range(self._listening.seats)
        urls = await asyncio.gather(*(self.start(seat, is_first=True) for seat in seats))
        return urls[0]

    async def start(self, seat: int, *, is_first: bool = False) -> list[str]:
        """A worker in that seat -> the URLs that it listens at, once it does. Raises StartFailed.

        The first has to have everything, so that who starts the service hears what is wrong; a
        later one serves without an access log rather than not at all.
        """
        try:
            with self._company.one_more():
                urls = await self._start(seat, is_first)
        except OSError as error:  # no memory, no descriptors, no interpreter
            reason = error.strerror or error
            raise StartFailed(f"a worker process can't be executed: {reason}") from None
        self._failed.discard(seat)
        self.seats_changed()
        return urls

    async def _start(self, seat: int, is_first: bool) -> list[str]:
        if self._is_ending:
            raise StartFailed("all of it is about to end")
        await self._company.know()
        if self._is_ending:
            raise StartFailed("all of it is about to end")
        number = next(n for n in count() if all(child.number != n for child in self.children))
        if number >= len(self._block.parts):
            raise StartFailed("too many old processes are still finishing; try again later")
        child = Child.start(
            self._loop, number=number, seat=seat, heard=self._hear, ended=self._ended
        )
        self.children.append(child)
        self._gathered.joined(number, child.pid)
        child.is_alone = self._company.is_all(child)
        about, sockets = self._about_it(child)
        descriptors = [self._block.fd, *self._bells, *sockets]
        message = {
            "do": "start", "number": number, "bells": len(self._bells),
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
        self._vacant.take_back(seat)
        child.serves = True
        urls: list[str] = answer["urls"]
        return urls

    def _about_it(self, child: Child) -> tuple[Message, list[int]]:
        """What it has to know now, and the sockets that it does not have yet (descriptors)."""
        about, keys = self._about()
        groups = {key: self._listening.groups[key] for key in keys}
        new = [key for key in keys if child.listens.get(key) is not groups[key]]
        child.listens = groups
        sockets = self._listening.of_seat(child.seat, new)
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
        """A worker that the program's last image has started, or was about to.

        It may have listened for a while already: then it finishes what it has.
        """
        child = Child(pid, sock, heard=self._hear, ended=self._ended, **about)
        groups = self._listening.groups
        child.listens = {key: groups[key] for key in listens if key in groups}
        self.children.append(child)
        self._gathered.joined(child.number, pid)
        if not child.serves:  # nobody knows any more what becomes of it
            child.retire(drain_timeout)

    def in_seat(self, seat: int) -> list[Child]:
        """Who serves or will serve there, apart from those that are finishing."""
        return [c for c in self.children if c.seat == seat and not c.is_retired]

    @property
    def is_serving(self) -> bool:
        """Somebody accepts clients."""
        return self.serving > 0

    @property
    def serving(self) -> int:
        """How many seats have somebody who accepts clients."""
        return len({child.seat for child in self.children if child.serves and not child.is_retired})

    @property
    def failed_seats(self) -> list[int]:
        """In which no worker could be started, and nobody serves."""
        return sorted(self._failed)

    def seats_changed(self) -> None:
        """Workers or sockets have come or gone: nobody shall wait where nobody will come."""
        vacant = [] if self._is_ending else self.failed_seats
        self._vacant.update(vacant, others_serve=self.is_serving)

    # What they are told and asked.

    def tell(self, message: Message, *, but: Child | None = None) -> None:
        for child in self.children:
            if child is not but:
                child.channel.send(message)

    async def ask_all(self, message: Message) -> list[Message]:
        """The answers of those that have one."""
        answers = await ask_each(self.children, message, _ANSWER_TAKES)
        return [answer for answer in answers if isinstance(answer, dict)]

    async def all_answer(self, message: Message, timeout: float) -> bool:
        """False: one has not within `timeout` seconds, and has not ended either."""
        answers = await ask_each(self.children, message, timeout)
        return not any(isinstance(answer, TimeoutError) for answer in answers)

    async def reconfigure(self, drain_timeout: float) -> list[str]:
        """All go on by what `about` says now.

        One that can't follow is replaced: its streams go on till they end. Returns what went wrong.
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
        await self.replace(child.seat, drain_timeout)
        return problem

    async def replace(self, seat: int, drain_timeout: float) -> bool:
        """A new worker first; then the old one finishes and ends. False: there is no new one."""
        old = self.in_seat(seat)
        try:
            await self.start(seat)
        except StartFailed as error:
            if not self._is_ending:
                logger.error("a worker process can't start: %s", error)
            self.refill()  # the old one may have ended meanwhile
            return False
        for child in old:
            child.retire(drain_timeout)
        self.refill()  # somebody may have told the new one to end, when the old one still served
        return True

    def refill(self) -> None:
        """See to all seats that are empty."""
        for seat in range(self._listening.seats):
            if not self.in_seat(seat):
                self._see_to(seat)

    def retire_beyond_seats(self, timeout: float) -> None:
        """There were more seats before."""
        for child in self.children:
            if child.seat >= self._listening.seats and not child.is_retired:
                child.retire(timeout)

    def _hear(self, child: Child, message: Message) -> None:
        if message["do"] == "leaving":
            self._leaving(child)
        else:
            self.on_message(child, message)

    def _leaving(self, child: Child) -> None:
        """Somebody has asked it to end: it finishes, and another one serves in its seat."""
        if child.is_retired or self._is_ending:
            return
        child.is_retired = True
        self.seats_changed()
        self._tasks.spawn(self._replace_leaving(child), name="replace a worker")

    async def _replace_leaving(self, child: Child) -> None:
        """Unless everybody was told: a service manager may signal the whole group."""
        await asyncio.sleep(_ALL_ARE_TOLD)
        if not self._is_ending:
            logger.warning("worker process %d was told to end; another one starts", child.pid)
            self._see_to(child.seat)

    def kill_stuck(self) -> None:
        """To be called each half second: another one starts then."""
        for child in self._signs.stuck(self.children):
            logger.error("worker process %d is stuck: it is killed", child.pid)
            child.kill()

    # Their end.

    def _ended(self, child: Child) -> None:
        self.children.remove(child)
        self._gathered.left(child.number, self._rows.rows)
        self._listening.remove_files()  # it may have been the last that listened on one
        self._company.tell_who_is_alone()
        if not child.serves:
            return  # who has started it sees to that
        self.seats_changed()
        if child.is_retired or self._is_ending or child.seat >= self._listening.seats:
            if child.exit_status != 0:
                logger.error(
                    "worker process %d has ended %s: what it was finishing is cut",
                    child.pid, child.end_in_words,
                )  # fmt: skip
            return
        self._upkeep.process_restarts += 1
        lived = asyncio.get_running_loop().time() - child.started_at
        self._crash_loops.crashed(child.seat, lived)
        logger.error(
            "worker process %d has ended %s; another one starts%s",
            child.pid, child.end_in_words, self._crash_loops.pause_in_words(child.seat),
        )  # fmt: skip
        self._see_to(child.seat)

    def _see_to(self, seat: int) -> None:
        if seat not in self._refilling and seat < self._listening.seats:
            self._refilling.add(seat)
            self._tasks.spawn(self._refill(seat), name="replace a worker")

    async def _refill(self, seat: int) -> None:
        """Until somebody serves there again."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while not self._is_ending:
            await asyncio.sleep(self._crash_loops.pause(seat))
            if self.in_seat(seat):
                break
            began = clock()
            try:
                await self.start(seat)
            except StartFailed as error:
                if self._is_ending:
                    break
                failures += 1
                self._crash_loops.failed(seat)
                self._upkeep.process_restarts += 1
                # Who waits in its backlog is reset then. Perhaps just this one was killed; but none
                # shall wait for a second one that hangs.
                is_hopeless = failures > 1 or clock() - began > _PATIENCE
                if is_hopeless and not self.in_seat(seat):
                    self._failed.add(seat)
                    self.seats_changed()
                logger.error(
                    "a worker process can't start: %s; another one starts%s",
                    error, self._crash_loops.pause_in_words(seat),
                )  # fmt: skip
        self._refilling.discard(seat)

    def start_no_more(self) -> None:
        """The end has begun."""
        self._is_ending = True
        self.seats_changed()

    async def drain(self, timeout: float) -> bool:
        """All accept no more and finish -> whether they have ended in time."""
        self.start_no_more()
        children = list(self.children)
        for child in children:
            child.retire(timeout)
        return await self._all_ended(children, timeout + _END_TAKES)

    async def stop(self) -> None:
        """All end at once. Idempotent."""
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
