"""The agent loop: the model writes text or calls tools, until it is done or at the step limit.

It knows neither HTTP nor Redis: its events and finished parts go to a `LoopPort`. A step has two
parts: what the model said and asked for, and the results of its tools. The first is committed
before any tool runs, so that a worker that takes over runs the calls that were asked for, not those
that the model would ask for a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent_worker.backoff import jittered
from agent_worker.errors import AgentError, CannotContinue, EngineCut, EngineFailed
from agent_worker.models import StepRequest, TextDelta, ToolCall
from agent_worker.runtime.events import MESSAGE_DELTA
from agent_worker.runtime.tool_calls import Ledger
from agent_worker.sessions import Part

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from contextlib import AbstractContextManager

    from agent_worker.metrics import Metrics
    from agent_worker.models import Engine
    from agent_worker.runtime.conversation import Conversation
    from agent_worker.runtime.tool_calls import ToolCalls
    from agent_worker.sessions import Message, Summary

log = logging.getLogger(__name__)

# Seconds before an interrupted answer is requested again: the first pause, and the longest.
_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 4.0


class LoopPort(Ledger, Protocol):
    """Takes the output of a running turn."""

    @property
    def can_rewind(self) -> bool:
        """Whether the client can drop what it has of a step."""

    async def commit(self, part: Part) -> None: ...

    async def rewind(self) -> None:
        """The step starts again: everything that was emitted of it is void."""

    def speaking(self, *, can_continue: bool) -> AbstractContextManager[None]:
        """Inside the block the model speaks; `can_continue`: another worker could take over now."""


@dataclass(frozen=True, slots=True)
class BegunStep:
    """The beginning of the first step, which another worker emitted before it lost the turn."""

    text: str
    #: The model continues `text`: sends it to this client, which does not have it yet.
    resume: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AgentLoop:
    engine: Engine
    tool_calls: ToolCalls
    metrics: Metrics
    step_limit: int = 16
    #: Retries of one step after its answer was interrupted.
    engine_retries: int = 4
    #: The tools are the client's: a call ends the turn, since only the client can run it.
    calls_end_turn: bool = False

    async def run(
        self, port: LoopPort, conversation: Conversation, begun: BegunStep | None = None
    ) -> None:
        """Run steps until one ends the turn; their messages are added to `conversation`.

        Raises EngineFailed, StorageUnavailable, and what `port` raises.
        """
        while True:
            if "tool_calls" in conversation.messages[-1]:
                # Of this step; its first part may be committed by another worker.
                await self._run_tools(port, conversation)
                if self._is_last(conversation):
                    return
            if self._is_last(conversation):
                # A worker with a higher limit began the turn.
                await port.commit(Part([], is_step=False, ends_turn=True, is_final=False))
                return
            summary = await self._fit(conversation)
            text, calls = await self._model_step(port, conversation, begun)
            begun = None
            message = _assistant_message(text, calls)
            kept = await self.tool_calls.large.keep(conversation.session_id, message)
            conversation.messages.append(message)
            ends_turn = not calls or self.calls_end_turn
            part = Part(
                [kept], is_step=True, ends_turn=ends_turn, is_final=not calls, summary=summary
            )
            await port.commit(part)
            self.metrics.steps.inc()
            if ends_turn:
                return

    def _is_last(self, conversation: Conversation) -> bool:
        return _steps(conversation) >= self.step_limit

    async def _fit(self, conversation: Conversation) -> Summary | None:
        """Summarise the messages that no longer fit the model's window."""
        outgrown = conversation.outgrown()
        if not outgrown:
            return None
        try:
            text = await self.engine.summarise(outgrown)
        except EngineFailed:
            # The step itself may still succeed: sizes are estimates.
            log.warning("session %s: its summary failed", conversation.session_id)
            return None
        self.metrics.summaries.inc()
        return conversation.sum_up(text)

    async def _model_step(
        self, port: LoopPort, conversation: Conversation, begun: BegunStep | None
    ) -> tuple[str, list[ToolCall]]:
        """The text and the calls of one step.

        An interrupted answer is continued, or rewound if the engine cannot continue it. None of its
        calls has run by then: they count only with the end of the answer.
        """
        step = _Step(begun)
        retries = 0
        with port.speaking(can_continue=self.engine.can_continue):
            while True:
                try:
                    calls = await self._answer(port, conversation, step)
                    return step.text, calls
                except CannotContinue:
                    if not step.can_rewind(port):
                        raise
                    await port.rewind()
                    step.rewind()
                except EngineCut:
                    # Before the first piece the engine itself retries (`tries`).
                    can_retry = self.engine.can_continue or step.can_rewind(port)
                    if not step.text or not can_retry or retries == self.engine_retries:
                        raise
                    retries += 1
                    how = "continue" if self.engine.can_continue else "rewind"
                    self.metrics.engine_retries.labels(how).inc()
                    log.warning(
                        "session %s: the engine's answer was interrupted; %s, retry %d of %d",
                        conversation.session_id,
                        how,
                        retries,
                        self.engine_retries,
                    )
                    await asyncio.sleep(jittered(retries, _BACKOFF_S, _MAX_BACKOFF_S))

    async def _answer(
        self, port: LoopPort, conversation: Conversation, step: _Step
    ) -> list[ToolCall]:
        """One answer of the engine, appended to the text of `step`; returns its calls.

        Raises CannotContinue before anything is emitted, EngineCut, EngineFailed.
        """
        prefix, parts = step.text, step.parts
        if prefix and not self.engine.can_continue:
            raise CannotContinue
        calls = []
        request = StepRequest(
            messages=conversation.for_model(),
            tools=self.tool_calls.toolbox.specs,
            prefix=prefix,
            session_id=conversation.session_id,
        )
        async with contextlib.aclosing(self.engine.step(request)) as stream:
            item = await _next_item(stream)
            await step.resume()
            while item is not None:
                if isinstance(item, TextDelta):
                    parts.append(item.text)
                    self.metrics.tokens.inc()
                    await port.emit(MESSAGE_DELTA, {"content": item.text})
                else:
                    calls.append(item)
                item = await _next_item(stream)
        return calls

    async def _run_tools(self, port: LoopPort, conversation: Conversation) -> None:
        """Run the calls of the last message; at the step limit that ends the turn."""
        calls = conversation.messages[-1]["tool_calls"]
        before = dict(conversation.notes)
        results, settled = await self.tool_calls.run(
            port, conversation, conversation.length - 1, calls
        )
        conversation.messages.extend(results)
        notes = conversation.notes if conversation.notes != before else None
        part = Part(
            results,
            is_step=False,
            ends_turn=self._is_last(conversation),
            is_final=False,
            notes=notes,
            settled=settled,
        )
        await port.commit(part)


class _Step:
    """The text of the running step: that of another worker (`begun`), and what was added here."""

    def __init__(self, begun: BegunStep | None) -> None:
        self.parts = [begun.text] if begun is not None else []
        self._begun = begun

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def can_rewind(self, port: LoopPort) -> bool:
        """Whether the step can be restarted; always if this client has nothing of it yet."""
        return port.can_rewind or self._begun is not None

    def rewind(self) -> None:
        self.parts, self._begun = [], None

    async def resume(self) -> None:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            await begun.resume()


async def _next_item(
    stream: AsyncGenerator[TextDelta | ToolCall, None],
) -> TextDelta | ToolCall | None:
    """The next item, None at the end. Raises EngineFailed."""
    try:
        return await anext(stream, None)
    except EngineFailed:
        raise
    except AgentError as error:
        raise EngineFailed from error
    except Exception as error:
        log.exception("the engine failed")
        raise EngineFailed from error


def _steps(conversation: Conversation) -> int:
    """Model steps of this turn so far."""
    return sum(message["role"] == "assistant" for message in conversation.of_turn)


def _assistant_message(text: str, calls: Sequence[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls
        ]
    return message
