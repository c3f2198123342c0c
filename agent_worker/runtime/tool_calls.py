"""The tool calls of one step: run concurrently, each with a timeout, each recorded in the ledger.

Guarantees by class (`tools.Effect`):
- `read`, `idempotent`: at least once, always with the same idempotency key.
- `once`: at most once. A call with an unknown outcome is reported as such, and never repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections import ChainMap
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from agent_worker.models import INVALID_ARGUMENTS
from agent_worker.runtime.events import TOOL_COMPLETED, TOOL_STARTED
from agent_worker.sessions import new_nonce
from agent_worker.storage.base import StorageUnavailable
from agent_worker.tasks import cancel_and_wait, spawn, uncancelled
from agent_worker.tools import Effect, ToolContext, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.conversation import Conversation
    from agent_worker.runtime.large import LargeTexts
    from agent_worker.sessions import Message, ToolStart
    from agent_worker.sessions.records import ToolCallRecord
    from agent_worker.storage.base import OnceLedger
    from agent_worker.tools import Tool, Toolbox

log = logging.getLogger(__name__)

# Characters of a result in its event.
_SHOWN = 2000


class Ledger(Protocol):
    """Records the calls of a running turn, and takes their events."""

    async def emit(self, name: str, data: dict[str, Any]) -> None: ...

    async def tool_begin(
        self, call_key: str, effect: Effect, arguments_hash: str, attempt: str
    ) -> ToolStart: ...

    async def tool_end(self, call_key: str, attempt: str, message: Message | None) -> None:
        """None: the call has not run after all."""


@dataclass(frozen=True, slots=True)
class ToolCalls:
    toolbox: Toolbox
    metrics: Metrics
    large: LargeTexts
    timeout_s: float = 30.0
    #: Concurrent calls of one step.
    max_concurrent: int = 8
    #: A second ledger of `once` calls, for a Redis that may lose its last writes.
    once_ledger: OnceLedger | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def run(
        self,
        ledger: Ledger,
        conversation: Conversation,
        index: int,
        calls: Sequence[ToolCallRecord],
    ) -> tuple[list[Message], list[str]]:
        """Run the calls of the message at `index`. Returns results in order, and ledger keys.

        Raises what the ledger raises, once every running call has ended.
        """
        slots = asyncio.Semaphore(self.max_concurrent)
        keys = [f"{index}.{position}" for position in range(len(calls))]

        async def one(key: str, call: ToolCallRecord) -> Message:
            async with slots:
                return await self._run_call(ledger, conversation, key, call)

        running = [
            spawn(one(key, call), name=f"tool {call['name']}")
            for key, call in zip(keys, calls, strict=True)
        ]
        try:
            return await asyncio.gather(*running), keys
        except BaseException:
            # gather does not cancel the others when one fails.
            await cancel_and_wait(*running)
            raise

    async def _run_call(
        self, ledger: Ledger, conversation: Conversation, key: str, call: ToolCallRecord
    ) -> Message:
        about = {"tool_call_id": call["id"], "name": call["name"]}
        await ledger.emit(TOOL_STARTED, {**about, "arguments": call["arguments"]})
        outcome, message = await self._result(ledger, conversation, key, call)
        # Bounded labels: models invent names of tools.
        label = call["name"] if call["name"] in self.toolbox else "unknown"
        self.metrics.tool_calls.labels(label, outcome).inc()
        text = message["content"].removeprefix("error: ").removeprefix("unknown: ")
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + " [...]"
        done = {**about, "ok": outcome in {"ok", "replayed"}, "result": shown}
        await ledger.emit(TOOL_COMPLETED, done)
        return message

    async def _result(
        self, ledger: Ledger, conversation: Conversation, key: str, call: ToolCallRecord
    ) -> tuple[str, Message]:
        try:
            tool = self.toolbox.get(call["name"])
            if INVALID_ARGUMENTS in call["arguments"]:
                raise ToolError("the arguments are not a JSON object; call it again with one")
        except ToolError as error:
            return "error", _message(call, f"error: {error}")
        effect = tool.spec.effect
        attempt = new_nonce()
        start = await ledger.tool_begin(key, effect, _hash(call), attempt)
        match start.verdict:
            case "REPLAY":
                assert start.message is not None
                return "replayed", start.message
            case "UNKNOWN":
                return "unknown", _message(call, "unknown: " + _MAY_HAVE_BEEN_DONE)
            case "ARGS_MISMATCH":
                return "error", _message(call, "error: this call was begun with other arguments")
            case "NOT_SAFE":
                await ledger.tool_end(key, attempt, None)
                return "error", _message(call, "error: not run: " + _NOT_SAFE)
        if effect is Effect.ONCE and self.once_ledger is not None:
            try:
                known = await _claim(self.once_ledger, conversation.session_id, key, call)
            except StorageUnavailable:
                await ledger.tool_end(key, attempt, None)
                return "error", _message(call, "error: not run: " + _NOT_SAFE)
            if known is not None:
                return known
        work = self._run_and_record(ledger, conversation, key, call, tool, attempt)
        if effect is Effect.ONCE:
            # Not cancelled once begun: its outcome would be unknown.
            return await uncancelled(work, name=f"once {call['name']}")
        return await work

    async def _run_and_record(
        self,
        ledger: Ledger,
        conversation: Conversation,
        key: str,
        call: ToolCallRecord,
        tool: Tool,
        attempt: str,
    ) -> tuple[str, Message]:
        notes: ChainMap[str, str] = ChainMap({}, conversation.notes)
        context = ToolContext(
            notes=notes,
            now=self.now,
            principal=conversation.principal,
            session_id=conversation.session_id,
            idempotency_key=f"{conversation.session_id}.{key}",
        )
        outcome, text = await self._outcome(tool, call["arguments"], context)
        message = await self.large.keep(context.session_id, _message(call, text))
        conversation.notes.update(changed := notes.maps[0])
        if not changed:
            # Notes are committed with the step, and so is the end of a call that changed them.
            await ledger.tool_end(key, attempt, message)
        if self.once_ledger is not None and tool.spec.effect is Effect.ONCE:
            with contextlib.suppress(StorageUnavailable):
                await self.once_ledger.finish(context.session_id, key, text)
        return outcome, message

    async def _outcome(
        self, tool: Tool, arguments: dict[str, Any], context: ToolContext
    ) -> tuple[str, str]:
        """The outcome for metrics, and the text for the model. Raises only CancelledError."""
        is_once = tool.spec.effect is Effect.ONCE
        try:
            async with asyncio.timeout(self.timeout_s):
                return "ok", await tool.run(arguments, context)
        except ToolError as error:
            return "error", f"error: {error}"
        except TimeoutError:
            outcome, text = "timeout", f"no result within {self.timeout_s:g} s"
        except Exception:
            log.exception("tool %s failed", tool.spec.name)
            outcome, text = "error", "the tool failed"
        if is_once:
            return "unknown", f"unknown: {text}; {_MAY_HAVE_BEEN_DONE}"
        return outcome, f"error: {text}"


async def _claim(
    ledger: OnceLedger, session_id: str, key: str, call: ToolCallRecord
) -> tuple[str, Message] | None:
    """Claim the call; None: it may run."""
    arguments_hash = _hash(call)
    if await ledger.claim(session_id, key, arguments_hash):
        return None
    # If Redis has lost its last writes, the claim may be that of another call in this place. The
    # present call may be the same one in other words (the model was asked again): it does not run.
    result = await ledger.result(session_id, key, arguments_hash)
    if result is None:
        return "unknown", _message(call, "unknown: " + _MAY_HAVE_BEEN_DONE)
    return "replayed", _message(call, result)


_NOT_SAFE = "it cannot be recorded safely at the moment"
_MAY_HAVE_BEEN_DONE = "it may have been done, and is not repeated"


def _message(call: ToolCallRecord, content: str) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call["id"], "name": call["name"]}


def _hash(call: ToolCallRecord) -> str:
    text = json.dumps([call["name"], call["arguments"]], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
