"""Turns of no session: the client sends the whole conversation, and no session keeps it.

They need no Redis, so they run while it is away. As nobody keeps a record of what was begun, only
tools that change nothing are run here. A client may bring tools of its own instead: they are
offered to the model, and a call of one ends the turn, since only the client can run it.

If the client can go on elsewhere, its turn is kept in a journal for as long as it runs.
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
from agent_worker.sessions import Grant, Lease, Summary
from agent_worker.tools import Effect, Toolbox, ToolError, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent_worker.runtime.journal import Journals
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import Message
    from agent_worker.tools import ToolContext


class ConversationTooLong(BadRequest):
    """It is the client's own, so the client has to say what of it can go."""

    code = "context_length_exceeded"
    message = "The conversation is longer than the model's window."


@dataclass(frozen=True, slots=True)
class EphemeralRequest:
    """`messages` end with a user's, or with the results of the client's tools."""

    principal: str
    messages: Sequence[Message]
    #: What the client tells the model before all messages.
    instructions: str = ""
    #: The client's own tools, in place of ours; None: ours.
    client_tools: Sequence[ToolSpec] | None = None
    #: Whether the client goes on elsewhere when this worker is lost, or tells `handover`.
    is_resumable: bool = False
    #: As in `TurnRequest`.
    accepts_rewind: bool = False


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """A turn that was opened, and its journal."""

    turn: Turn
    journal: Journal
    #: Of what the model is asked first; an estimate.
    prompt_tokens: int


class EphemeralTurns:
    """Opens them. `turns` counts them among the worker's; `window` is in tokens."""

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
        with self._turns.without_session():
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
                with self._turns.reaching(turn):
                    yield Ephemeral(turn, journal, prompt_tokens)
            finally:
                self._loop.metrics.turns.labels(turn.outcome).inc()
                if not turn.finished:
                    await journal.release()

    def loop_for(self, client_tools: Sequence[ToolSpec] | None) -> AgentLoop:
        """None: with our own tools."""
        if client_tools is None:
            return self._loop
        toolbox = Toolbox(_ClientsTool(spec) for spec in client_tools)
        tool_calls = replace(self._loop.tool_calls, toolbox=toolbox)
        return replace(self._loop, tool_calls=tool_calls, calls_end_turn=True)

    def loop_of(self, spec: dict[str, Any]) -> AgentLoop:
        """Of a turn whose journal has this `spec`."""
        tools = spec["tools"]
        return self.loop_for(None if tools is None else [_tool_of(tool) for tool in tools])


class ClientsConversation(Conversation):
    """The turn is what comes behind the client's messages. These are never summed up."""

    def __init__(self, grant: Grant, window: int) -> None:
        super().__init__(grant, window)
        # No session's: an engine or a tool that is told of one would look for it.
        self.session_id = ""

    def outgrown(self) -> list[Message]:
        # A summary would take the place of the client's instructions, and be lost afterwards.
        return []


def _grant(request: EphemeralRequest) -> Grant:
    """As the store gives it, but for what it is called there."""
    return Grant(
        "GRANTED",
        Lease("", request.principal, fence=0, nonce=""),
        version=0,
        step=0,
        # The place where an engine looks for what goes before all messages.
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
    """Offered, and never run here."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        raise ToolError("only the client can run this tool")
