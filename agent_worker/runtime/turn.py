"""One turn: run the agent loop under the lease, keep what it finishes, tell the client.

A turn that ends early (its client left, the worker stops, another message asked for it) keeps what
it has committed; the unfinished part leaves nothing behind but its events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agent_worker.errors import (
    AgentError,
    EngineFailed,
    HandedOver,
    LeaseLost,
    StoreUnavailable,
    TurnInterrupted,
)
from agent_worker.runtime.events import DONE, ERROR, HANDOVER, MESSAGE_DELTA, REWIND, error_data
from agent_worker.runtime.outlet import Outlet
from agent_worker.sessions import Answer, Event, new_nonce, turn_text
from agent_worker.sessions.event_log import event_order
from agent_worker.sessions.operations import dump
from agent_worker.tasks import cancel_and_wait, spawn, uncancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from agent_worker.runtime.conversation import Conversation
    from agent_worker.runtime.events import Emit
    from agent_worker.runtime.loop import AgentLoop, Part
    from agent_worker.sessions import Grant, Lease, Message, Replay, Summary, ToolStart
    from agent_worker.tools import Effect

T = TypeVar("T")

log = logging.getLogger(__name__)

# While Redis is away, writes are tried again this often, as long as the lease can still be held.
_STORE_RETRY_S = 0.25
# For the last event of a turn that failed to get into the log, and to the client.
_TELL_S = 2.0
# A turn that says nothing is known to live by this; `succession` takes those that do not.
_RENEWAL_S = 1.0
# Of a turn that was handed over: beyond what a balancer needs to find another worker.
_HANDED_S = 5.0


class EventSink(Protocol):
    async def append(self, lease: Lease, events: Sequence[Event]) -> bool: ...


class ToolRecords(Protocol):
    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart: ...

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None: ...

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None: ...


class TurnStore(Protocol):
    """What a turn needs of a `SessionStore`, whose methods these are."""

    @property
    def lease_s(self) -> float: ...

    @property
    def events(self) -> EventSink: ...

    @property
    def tools(self) -> ToolRecords: ...

    async def commit(
        self,
        lease: Lease,
        *,
        expected_version: int,
        commit_id: str,
        messages: Sequence[Message],
        is_step: bool,
        ends_turn: bool,
        is_final: bool,
        notes: dict[str, str] | None,
        summary: Summary | None,
        events: Sequence[Event],
        settled: Sequence[str],
    ) -> tuple[int, int, int]: ...

    async def renew(self, lease: Lease) -> bool: ...

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None: ...


class ReplayedTurn:
    """The finished turn of a repeated Idempotency-Key: told again, not run again."""

    is_replay = True

    def __init__(self, replay: Replay, messages: Sequence[Message]) -> None:
        self._answer = replace(replay.answer, content=turn_text(messages))
        self._done_event = replay.done_event
        self.name = replay.turn_event.partition("-")[0]

    def is_behind(self, event_id: str) -> bool:
        """Whether this event is the turn's, and not its last one."""
        return bool(self.name) and (
            (int(self.name), 0) < event_order(event_id) < event_order(self._done_event)
        )

    async def run(self, emit: Emit) -> Answer:
        """Its text in one event, which takes the place of the last one before `done`."""
        answer = self._answer
        fence, _, seq = self._done_event.partition("-")
        if answer.content:
            data = dump({"content": answer.content})
            await emit(Event(f"{fence}-{max(int(seq) - 1, 0)}", MESSAGE_DELTA, data))
        await emit(Event(self._done_event, DONE, dump(answer.as_json())))
        return answer


class _BegunStep:
    """See `loop.BegunStep`. Who follows the log has its text already."""

    def __init__(self, grant: Grant, outlet: Outlet) -> None:
        self.text = grant.emitted
        self._grant = grant
        self._outlet = outlet

    async def go_on(self) -> None:
        last = self._grant.last_event
        await self._outlet.tell(MESSAGE_DELTA, {"content": self.text}, event_id=last)


class Turn:
    """A turn that holds its lease. Used once: `run`."""

    is_replay = False

    def __init__(
        self,
        grant: Grant,
        store: TurnStore,
        loop: AgentLoop,
        conversation: Conversation,
        *,
        lease_until: float,
        accepts_handover: bool = False,
        accepts_rewind: bool = True,
    ) -> None:
        #: The fence of its first begin, by which it is known wherever it goes on.
        self.name = grant.turn_event.partition("-")[0]
        self.finished = False
        #: How it ended, for metrics: completed, step_limit, interrupted, or an error's code.
        self.outcome = "interrupted"
        #: How many messages of the session wait for the next turn.
        self.waiting = 0
        self._grant = grant
        self._lease = grant.lease
        self._store = store
        self._loop = loop
        self._conversation = conversation
        self._version, self._step = grant.version, grant.step
        self._answer: Answer | None = None
        self._outlet: Outlet
        self._is_stopped = asyncio.Event()
        # A renewal that arrives after the last commit would find the lease gone, and fail the
        # turn that has just succeeded.
        self._write_lock = asyncio.Lock()
        self._lease_until = lease_until
        self._accepts_handover = accepts_handover
        #: See `loop.LoopPort`.
        self.can_rewind = accepts_rewind
        # The last event before the step that runs: what is behind it can be void.
        self._step_event = grant.step_event
        # The worker shuts down, and the client goes on elsewhere; the step that runs can be left.
        self._is_leaving = asyncio.Event()
        self._can_leave = asyncio.Event()

    def __repr__(self) -> str:
        return f"Turn(session {self._lease.session_id}, fence {self._lease.fence})"

    @property
    def lease_value(self) -> str:
        return self._lease.value

    def stop(self) -> None:
        """Another message of the session wants its place."""
        self._is_stopped.set()

    def hand_over(self) -> None:
        """The worker shuts down: end as soon as the turn can go on elsewhere, if the client can.

        That is at once while a model speaks that can go on behind a given text, else behind the
        next commit.
        """
        if self._accepts_handover:
            self._is_leaving.set()

    def keep_here(self) -> None:
        """It can't go on elsewhere any more."""
        self._accepts_handover = False
        self._is_leaving.clear()

    async def run(self, emit: Emit) -> Answer:
        """Run the turn to its end; its events go to `emit`, `done` or `error` as the last.

        Raises EngineFailed, LeaseLost, TurnInterrupted, SessionNotFound (deleted meanwhile),
        HandedOver, StoreUnavailable, AgentError (a bug, logged); and ConnectionError from `emit`,
        or when the client has not taken the last event within 2 s: then it may not have it.
        """
        self._outlet = Outlet(self._lease.fence, self._append, emit)
        work = spawn(self._work(), name="turn")
        others = [
            spawn(self._keep_lease(), name="lease renewal"),
            spawn(self._outlet.run(), name="turn events"),
            spawn(self._stopped(), name="turn stop"),
            spawn(self._left(), name="turn handover"),
        ]
        try:
            await asyncio.wait({work, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(work, *others)
        if self._answer is not None:
            # It is in the store; what failed afterwards is the client's connection at most.
            _raise_lost_client(work, *others)
            await self._outlet.deliver_rest()
            return self._answer
        try:
            raise _why_it_ended(work, *others)
        except AgentError as error:
            self.outcome = error.code
            await self._tell(error)
            raise

    # The port of the loop.

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        await self._outlet.emit(name, data)

    async def commit(self, part: Part) -> None:
        commit_id = new_nonce()
        async with self._outlet.writing() as events, self._write_lock:
            answer = None
            if part.ends_turn:
                answer = Answer(
                    self._conversation.session_id,
                    self._step + part.is_step,
                    turn_text(self._conversation.of_turn),
                    part.is_final,
                    part.messages[0].get("tool_calls", ()) if part.is_step else (),
                )
                self._outlet.put_last(events, DONE, answer.as_json())

            async def commit() -> None:
                # In here, so that a turn that is cancelled meanwhile knows what it has done.
                self._version, self._step, self.waiting = await self._store.commit(
                    self._lease,
                    expected_version=self._version,
                    commit_id=commit_id,
                    messages=part.messages,
                    is_step=part.is_step,
                    ends_turn=part.ends_turn,
                    is_final=part.is_final,
                    notes=part.notes,
                    summary=part.summary,
                    events=events,
                    settled=part.settled,
                )

                if answer is not None:
                    self.finished, self._answer = True, answer
                    is_whole = part.is_final or answer.calls
                    self.outcome = "completed" if is_whole else "step_limit"

            await self._persist(commit, name="commit")
            self._step_event = self._outlet.last_id or self._grant.last_event
        if self._is_leaving.is_set() and not part.ends_turn:
            raise HandedOver

    async def rewind(self) -> None:
        await self._outlet.emit(REWIND, {"id": self._step_event})

    @contextlib.contextmanager
    def speaking(self, *, can_continue: bool) -> Iterator[None]:
        if can_continue:
            self._can_leave.set()
        try:
            yield
        finally:
            self._can_leave.clear()

    async def tool_begin(
        self, call_key: str, effect: Effect, arguments_hash: str, attempt: str
    ) -> ToolStart:
        return await self._persist(
            lambda: self._store.tools.begin(
                self._lease, call_key, effect.value, arguments_hash, attempt
            ),
            name="tool_begin",
        )

    async def tool_end(self, call_key: str, attempt: str, message: Message | None) -> None:
        tools = self._store.tools
        await self._persist(
            lambda: (
                tools.not_run(self._lease, call_key, attempt)
                if message is None
                else tools.end(self._lease, call_key, attempt, message)
            ),
            name="tool_end",
        )

    # What runs.

    async def _work(self) -> None:
        grant, conversation = self._grant, self._conversation
        large = self._loop.tool_calls.large
        conversation.messages = await large.restore(conversation.messages)
        if grant.outcome == "RESUME" and (told := turn_text(conversation.of_turn)):
            # Who follows the log has the finished steps already; this client has not.
            await self._outlet.tell(MESSAGE_DELTA, {"content": told}, event_id=grant.step_event)
        begun = _BegunStep(grant, self._outlet) if grant.emitted else None
        await self._loop.run(self, conversation, begun)

    async def _append(self, events: Sequence[Event]) -> None:
        # Not behind the write lock: a tool's end must not wait for the log, nor the log for it.
        async def append() -> bool:
            return await self._renewing(self._store.events.append(self._lease, events))

        if await self._persist(append, name="log"):
            self.stop()

    async def _keep_lease(self) -> None:
        """Renew until cancelled. Raises what says that the lease is gone."""
        clock = asyncio.get_running_loop().time
        pause = interval = min(_RENEWAL_S, self._store.lease_s / 3)

        async def renew() -> bool:
            return await self._renewing(self._store.renew(self._lease))

        while True:
            await asyncio.sleep(pause)
            pause = interval
            async with self._write_lock:
                if self.finished:
                    continue
                is_due_in = self._lease_until - self._store.lease_s + interval - clock()
                if is_due_in > 0:
                    # Events have renewed it.
                    pause = is_due_in
                elif await self._persist(renew, name="renew"):
                    self.stop()

    async def _renewing(self, write: Awaitable[T]) -> T:
        asked = asyncio.get_running_loop().time()
        answer = await write
        self._lease_until = max(self._lease_until, asked + self._store.lease_s)
        return answer

    async def _stopped(self) -> None:
        await self._is_stopped.wait()
        raise TurnInterrupted

    async def _left(self) -> None:
        await self._is_leaving.wait()
        await self._can_leave.wait()
        raise HandedOver

    async def _persist(self, write: Callable[[], Awaitable[T]], *, name: str) -> T:
        """A write of the lease's holder, tried again while Redis is away and the lease is ours."""
        while True:
            try:
                return await uncancelled(_awaited(write), name=name)
            except StoreUnavailable:
                if asyncio.get_running_loop().time() + _STORE_RETRY_S > self._lease_until:
                    raise
                await asyncio.sleep(_STORE_RETRY_S)

    async def _tell(self, error: AgentError) -> None:
        """The turn's last event: in the log if it is the turn's end, to the client in any case.

        Raises ConnectionError when the client has left, or does not read.
        """
        if isinstance(error, HandedOver):
            with contextlib.suppress(AgentError):
                await self._leave()
        data = error_data(error)
        try:
            # Those that end no turn are not logged: others go on, and whoever follows with them.
            ends_turn = not isinstance(error, HandedOver | LeaseLost | StoreUnavailable)
            if ends_turn and await self._log_error(data):
                return
            async with asyncio.timeout(_TELL_S):
                # What is not in the log never was.
                await self._outlet.deliver()
                if not ends_turn and self._accepts_handover:
                    await self._outlet.tell(HANDOVER, {"turn": self.name})
                else:
                    await self._outlet.tell(ERROR, data)
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from error

    async def _leave(self) -> None:
        """Give the lease to whoever takes the turn over, behind all that was said here."""
        async with self._outlet.writing(delivers=False) as events:
            if events:
                append = self._store.events.append(self._lease, events)
                await uncancelled(append, name="log")
        leave = self._store.hand_over(self._lease, kept_s=_HANDED_S)
        await uncancelled(leave, name="hand over")

    async def _log_error(self, data: dict[str, Any]) -> bool:
        """The turn's end, into the log and then to the client; whether it is in the log.

        Raises TimeoutError when the client does not read.
        """
        clock = asyncio.get_running_loop().time
        is_logged = False
        try:
            async with asyncio.timeout(_TELL_S) as patience, self._outlet.writing() as events:
                self._outlet.put_last(events, ERROR, data)
                await self._store.events.append(self._lease, events)
                is_logged = True
                # The client has time of its own.
                patience.reschedule(clock() + _TELL_S)
        except (AgentError, TimeoutError):
            if is_logged:
                raise
        return is_logged


async def _awaited(write: Callable[[], Awaitable[T]]) -> T:
    return await write()


def _why_it_ended(*tasks: asyncio.Task[None]) -> BaseException:
    """The error of the task that ended the turn: an AgentError, or ConnectionError."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    for kind in (ConnectionError, AgentError):
        for error in errors:
            if isinstance(error, kind):
                return error
    if errors:
        log.error("a turn failed", exc_info=errors[0])
        return AgentError()
    # Nobody cancelled the turn: the engine gave up by itself.
    return EngineFailed()


def _raise_lost_client(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if not task.cancelled() and isinstance(error := task.exception(), ConnectionError):
            raise error
