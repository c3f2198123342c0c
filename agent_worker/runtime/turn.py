"""One turn: runs the agent loop under the lease, commits its steps, streams its events.

A turn that ends early (its client left, the worker stops, another message interrupts it) keeps its
committed steps. The unfinished step leaves nothing but its events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from agent_worker.errors import (
    AgentError,
    EngineFailed,
    HandedOver,
    LeaseLost,
    StoreUnavailable,
    TurnInterrupted,
)
from agent_worker.runtime.event_writer import EventWriter
from agent_worker.runtime.events import DONE, ERROR, HANDOVER, MESSAGE_DELTA, REWIND
from agent_worker.runtime.held_lease import HeldLease
from agent_worker.runtime.loop import BegunStep
from agent_worker.sessions import Answer, new_nonce, turn_text
from agent_worker.tasks import cancel_and_wait, spawn, uncancelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent_worker.runtime.conversation import Conversation
    from agent_worker.runtime.events import Emit
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.sessions import Event, Grant, Message, Part, ToolStart, TurnStore
    from agent_worker.tools import Effect

log = logging.getLogger(__name__)

# Seconds for the last event of a failed turn: to get into the log, and then to the client.
_LAST_EVENT_S = 2.0
# Seconds for which a handed over turn is reserved: more than a balancer needs to find a worker.
_HANDED_S = 5.0


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
        #: The fence of its first begin; the same on every worker that continues it.
        self.name = grant.turn_event.partition("-")[0]
        self.finished = False
        #: For metrics: completed, step_limit, interrupted, or the code of the error that ended it.
        self.outcome = "interrupted"
        #: Messages of the session that are queued for the next turn.
        self.waiting = 0
        self._grant = grant
        self._lease = grant.lease
        self.lease_value = grant.lease.value
        self._held = HeldLease(store, grant.lease, lease_until)
        self._store = store
        self._loop = loop
        self._conversation = conversation
        self._version, self._step = grant.version, grant.step
        self._answer: Answer | None = None
        self._writer: EventWriter
        self._is_stopped = asyncio.Event()
        self._accepts_handover = accepts_handover
        #: See `loop.LoopPort`.
        self.can_rewind = accepts_rewind
        # The last event before the running step: a rewind voids those after it.
        self._step_event = grant.step_event
        # The turn is to be handed over; the running step can be handed over at any moment.
        self._is_leaving = asyncio.Event()
        self._can_leave = asyncio.Event()

    def __repr__(self) -> str:
        return f"Turn(session {self._lease.session_id}, fence {self._lease.fence})"

    def stop(self) -> None:
        """Interrupt the turn for another message of the session."""
        self._is_stopped.set()

    def hand_over(self) -> None:
        """End the turn as soon as another worker can continue it, if its client accepts that.

        That is at once while a model that can continue a given text speaks, and otherwise after the
        next commit.
        """
        if self._accepts_handover:
            self._is_leaving.set()

    def keep_here(self) -> None:
        """No other worker can continue the turn any more."""
        self._accepts_handover = False
        self._is_leaving.clear()

    async def run(self, emit: Emit) -> Answer:
        """Run the turn to its end; its events go to `emit`, and the last is `done` or `error`.

        Raises EngineFailed, LeaseLost, TurnInterrupted, SessionNotFound (deleted meanwhile),
        HandedOver, StoreUnavailable, AgentError (a bug, logged); ConnectionError from `emit`, or
        when the client has not taken the last event within 2 s, and may not have it.
        """
        self._writer = EventWriter(self._lease.fence, self._append, emit)
        work = spawn(self._work(), name="turn")
        others = [
            spawn(self._held.keep(self.stop), name="lease renewal"),
            spawn(self._writer.run(), name="turn events"),
            spawn(self._raise_when_stopped(), name="turn stop"),
            spawn(self._raise_when_left(), name="turn handover"),
        ]
        try:
            await asyncio.wait({work, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                # It finishes a `once` call that runs. Meanwhile the lease is renewed.
                await cancel_and_wait(work)
            finally:
                await cancel_and_wait(*others)
        if self._answer is not None:
            # The answer is in the store: only the client's connection can have failed since.
            _raise_lost_client(work, *others)
            await self._writer.deliver_rest()
            return self._answer
        try:
            raise _why_it_ended(work, *others)
        except AgentError as error:
            self.outcome = error.code
            await self._end_by(error)
            raise

    # LoopPort.

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        await self._writer.emit(name, data)

    async def commit(self, part: Part) -> None:
        commit_id = new_nonce()
        async with self._writer.writing() as events, self._held.lock:
            answer = None
            if part.ends_turn:
                answer = Answer(
                    self._conversation.session_id,
                    self._step + part.is_step,
                    turn_text(self._conversation.of_turn),
                    part.is_final,
                    part.messages[0].get("tool_calls", ()) if part.is_step else (),
                )
                self._writer.append_last(events, DONE, answer.as_json())

            async def commit() -> None:
                # Set in here, so that a turn that is cancelled meanwhile knows of the commit.
                self._version, self._step, self.waiting = await self._store.commit(
                    self._lease,
                    part,
                    expected_version=self._version,
                    commit_id=commit_id,
                    events=events,
                )
                if answer is not None:
                    self.finished = self._held.is_freed = True
                    self._answer = answer
                    is_whole = part.is_final or answer.calls
                    self.outcome = "completed" if is_whole else "step_limit"

            await self._held.persist(commit, name="commit")
            self._step_event = self._writer.last_id or self._grant.last_event
        if self._is_leaving.is_set() and not part.ends_turn:
            raise HandedOver

    async def rewind(self) -> None:
        await self._writer.emit(REWIND, {"id": self._step_event})

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
        return await self._held.persist(
            lambda: self._store.tools.begin(
                self._lease, call_key, effect.value, arguments_hash, attempt
            ),
            name="tool_begin",
        )

    async def tool_end(self, call_key: str, attempt: str, message: Message | None) -> None:
        tools = self._store.tools
        await self._held.persist(
            lambda: (
                tools.not_run(self._lease, call_key, attempt)
                if message is None
                else tools.end(self._lease, call_key, attempt, message)
            ),
            name="tool_end",
        )

    # Tasks.

    async def _work(self) -> None:
        grant, conversation = self._grant, self._conversation
        large = self._loop.tool_calls.large
        conversation.messages = await large.restore(conversation.messages)
        if grant.outcome == "RESUME" and (text := turn_text(conversation.of_turn)):
            await self._send_text(text, grant.step_event)
        begun = None
        if text := grant.emitted:
            begun = BegunStep(text, lambda: self._send_text(text, grant.last_event))
        await self._loop.run(self, conversation, begun)

    async def _send_text(self, text: str, event_id: str) -> None:
        """Followers of the log have it already; this client has not."""
        await self._writer.send_unlogged(MESSAGE_DELTA, {"content": text}, event_id=event_id)

    async def _append(self, events: Sequence[Event]) -> None:
        # Not under the lease's lock: the end of a tool and the log must not wait for each other.
        async def append() -> bool:
            return await self._held.renewed_by(self._store.events.append(self._lease, events))

        if await self._held.persist(append, name="log"):
            self.stop()

    async def _raise_when_stopped(self) -> None:
        await self._is_stopped.wait()
        raise TurnInterrupted

    async def _raise_when_left(self) -> None:
        # `keep_here` may have been called during the second wait.
        while not (self._is_leaving.is_set() and self._can_leave.is_set()):
            await self._is_leaving.wait()
            await self._can_leave.wait()
        raise HandedOver

    # The end.

    async def _end_by(self, error: AgentError) -> None:
        """Send the last event to the client, and log it if it ends the turn.

        Raises ConnectionError when the client has left, or does not read.
        """
        if isinstance(error, HandedOver):
            with contextlib.suppress(AgentError):
                await self._leave()
        data = error.as_json()
        try:
            # An error that another worker can recover from is not the end for the followers.
            ends_turn = not isinstance(error, HandedOver | LeaseLost | StoreUnavailable)
            if ends_turn and await self._log_error(data):
                return
            async with asyncio.timeout(_LAST_EVENT_S):
                # Events that are not in the log are dropped.
                await self._writer.deliver()
                if not ends_turn and self._accepts_handover:
                    await self._writer.send_unlogged(HANDOVER, {"turn": self.name})
                else:
                    await self._writer.send_unlogged(ERROR, data)
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from error

    async def _leave(self) -> None:
        """Log the pending events, and offer the lease to the worker that takes the turn over."""
        async with self._writer.writing(delivers=False) as events:
            if events:
                append = self._store.events.append(self._lease, events)
                await uncancelled(append, name="log")
        leave = self._store.hand_over(self._lease, kept_s=_HANDED_S)
        await uncancelled(leave, name="hand over")

    async def _log_error(self, data: dict[str, Any]) -> bool:
        """Log the turn's end and deliver it. Returns whether it is in the log.

        Raises TimeoutError when the client does not read.
        """
        clock = asyncio.get_running_loop().time
        is_logged = False
        try:
            async with asyncio.timeout(_LAST_EVENT_S) as limit, self._writer.writing() as events:
                self._writer.append_last(events, ERROR, data)
                await self._store.events.append(self._lease, events)
                is_logged = True
                # The same time again, for the client.
                limit.reschedule(clock() + _LAST_EVENT_S)
        except (AgentError, TimeoutError):
            if is_logged:
                raise
        return is_logged


def _why_it_ended(*tasks: asyncio.Task[None]) -> BaseException:
    """The error of the task that ended the turn: AgentError or ConnectionError."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    for kind in (ConnectionError, AgentError):
        for error in errors:
            if isinstance(error, kind):
                return error
    if errors:
        log.error("a turn failed", exc_info=errors[0])
        return AgentError()
    # The turn was not cancelled from outside: the engine has raised CancelledError.
    return EngineFailed()


def _raise_lost_client(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if not task.cancelled() and isinstance(error := task.exception(), ConnectionError):
            raise error
