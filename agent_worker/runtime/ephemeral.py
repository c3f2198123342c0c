"""Turns without a session: the client sends the whole conversation, and nothing of it is kept.

They need no Redis, so they run while it is away. Without a ledger only `read` tools run here. A
client may bring its own tools instead: they are offered to the model, and a call of one ends the
turn, since only the client can run it.

If the client can reconnect to another worker, the turn is kept in a journal while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent_worker.errors import BadRequest
from agent_worker.runtime.conversation import Conversation, tokens_in
from agent_worker.runtime.journal import Journal
from agent_worker.runtime.large import LargeTexts
from agent_worker.runtime.turn import Turn
from agent_worker.sessions import Grant, Lease, Summary, new_nonce
from agent_worker.tools import Effect, Toolbox, ToolError, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent_worker.runtime.journal import Journals
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import Message
    from agent_worker.tools import ToolContext


class ConversationTooLong(BadRequest):
    """Only the client can decide which of its messages to drop."""

    code = "context_length_exceeded"
    message = "The conversation is longer than the model's window."


@dataclass(frozen=True, slots=True)
class EphemeralRequest:
    """`messages` end with a user's message, or with the results of the client's tools."""

    principal: str
    messages: Sequence[Message]
    #: The client's system messages; they precede the conversation.
    instructions: str = ""
    #: The client's tools, which replace the worker's; None: the worker's.
    client_tools: Sequence[ToolSpec] | None = None
    #: Whether the client reconnects elsewhere when this worker is lost, or sends `handover`.
    is_resumable: bool = False
    #: As in `TurnRequest`.
    accepts_rewind: bool = False


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """An open turn and its journal."""

    turn: Turn
    journal: Journal
    #: Estimated size of the first request to the model.
    prompt_tokens: int


class EphemeralTurns:
    """Opens them. They count among the worker's `turns`; `window` is in tokens."""

    def __init__(self, loop: AgentLoop, turns: Turns, journals: Journals, *, window: int) -> None:
        tool_calls = replace(
            loop.tool_calls,
            toolbox=loop.tool_calls.toolbox.read_only(),
            large=LargeTexts(None),
            once_ledger=None,
        )
        self._loop = replace(loop, tool_calls=tool_calls)
        self._turns = turns
        self._journals = journals
        self._window = window

    @contextlib.asynccontextmanager
    async def open(self, request: EphemeralRequest) -> AsyncIterator[Ephemeral]:
        """Raises ConversationTooLong."""
        grant = _grant(request)
        prompt_tokens = tokens_in(ClientsConversation(grant, self._window).for_model())
        if prompt_tokens > self._window:
            raise ConversationTooLong
        with self._turns.sessionless():
            journal = Journal(None)
            if request.is_resumable:
                tools = request.client_tools
                spec = {"tools": None if tools is None else [_as_json(tool) for tool in tools]}
                grant, journal = await self._journals.begin(grant, spec) or (grant, journal)
            turn = Turn(
                grant,
                journal,
                self.loop_for(request.client_tools),
                ClientsConversation(grant, self._window),
                lease_until=asyncio.get_running_loop().time() + journal.lease_s,
                accepts_handover=journal.is_kept,
                accepts_rewind=request.accepts_rewind,
            )
            journal.on_lost = turn.keep_here
            try:
                with self._turns.registered(turn):
                    yield Ephemeral(turn, journal, prompt_tokens)
            finally:
                self._loop.metrics.turns.labels(turn.outcome).inc()
                if not turn.finished:
                    await journal.release()

    def loop_for(self, client_tools: Sequence[ToolSpec] | None) -> AgentLoop:
        """None: with the worker's own tools."""
        if client_tools is None:
            return self._loop
        toolbox = Toolbox(_ClientsTool(spec) for spec in client_tools)
        tool_calls = replace(self._loop.tool_calls, toolbox=toolbox)
        return replace(self._loop, tool_calls=tool_calls, calls_end_turn=True)

    def loop_of(self, spec: dict[str, Any]) -> AgentLoop:
        """The loop of a turn whose journal has this `spec`."""
        tools = spec["tools"]
        return self.loop_for(None if tools is None else [_tool_of(tool) for tool in tools])


class ClientsConversation(Conversation):
    """The turn begins after the client's messages. These are never summarised."""

    def __init__(self, grant: Grant, window: int) -> None:
        super().__init__(grant, window)
        # Not that of the journal: engines and tools would take it for a session's.
        self.session_id = ""

    def outgrown(self) -> list[Message]:
        # A summary would replace the client's instructions, and be lost with the turn.
        return []


def _grant(request: EphemeralRequest) -> Grant:
    """A grant as the store makes it, but without a session, a lease and events."""
    return Grant(
        "GRANTED",
        Lease("", request.principal, fence=0, nonce=new_nonce()),  # of this turn, as `Turns` has it
        version=0,
        step=0,
        # Engines put the summary before all messages.
        summary=Summary(request.instructions, 0),
        history=list(request.messages),
        turn_at=len(request.messages) - 1,
        notes={},
        last_event="0-0",
        step_event="0-0",
    )


def _as_json(tool: ToolSpec) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "effect": tool.effect.value,
        "parameters": tool.parameters,
    }


def _tool_of(kept: dict[str, Any]) -> ToolSpec:
    return ToolSpec(kept["name"], kept["description"], Effect(kept["effect"]), kept["parameters"])


class _ClientsTool:
    """Offered to the model; never run by the worker."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        raise ToolError("only the client can run this tool")
