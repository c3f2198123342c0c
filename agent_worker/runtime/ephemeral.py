"""Turns of no session: the client sends the whole conversation, and nothing of it is kept.

They need no Redis, so they run while it is away. As nobody keeps a record of what was begun, only
tools that change nothing are run here. A client may bring tools of its own instead: they are
offered to the model, and a call of one ends the turn, since only the client can run it.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent_worker.errors import AgentError, BadRequest
from agent_worker.runtime.conversation import Conversation, tokens_in
from agent_worker.runtime.events import DONE, ERROR, error_data, unlogged
from agent_worker.runtime.large import LargeTexts
from agent_worker.sessions import Answer, Grant, Lease, Summary, ToolStart, turn_text
from agent_worker.tools import Toolbox, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.events import Emit
    from agent_worker.runtime.loop import AgentLoop, Part
    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import Message
    from agent_worker.sessions.records import ToolCallRecord
    from agent_worker.tools import Effect, ToolContext, ToolSpec

log = logging.getLogger(__name__)


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


class EphemeralTurns:
    """Opens them. `turns` counts them among the worker's; `window` is in tokens."""

    def __init__(self, loop: AgentLoop, turns: Turns, *, window: int) -> None:
        tool_calls = replace(
            loop.tool_calls,
            toolbox=loop.tool_calls.toolbox.read_only(),
            large=LargeTexts(None),
            once_ledger=None,
        )
        self._loop = replace(loop, tool_calls=tool_calls)
        self._turns = turns
        self._window = window

    @contextlib.contextmanager
    def open(self, request: EphemeralRequest) -> Iterator[EphemeralTurn]:
        """Raises ConversationTooLong."""
        conversation = _ClientsConversation(request, self._window)
        if tokens_in(conversation.for_model()) > self._window:
            raise ConversationTooLong
        are_clients = request.client_tools is not None
        with self._turns.without_session():
            yield EphemeralTurn(
                self._loop_for(request), conversation, are_tools_clients=are_clients
            )

    def _loop_for(self, request: EphemeralRequest) -> AgentLoop:
        if request.client_tools is None:
            return self._loop
        toolbox = Toolbox(_ClientsTool(spec) for spec in request.client_tools)
        return replace(self._loop, tool_calls=replace(self._loop.tool_calls, toolbox=toolbox))


class EphemeralTurn:
    """A turn that keeps everything in memory. Used once: `run`."""

    is_replay = False
    #: Its events have no ids.
    can_rewind = False

    def __init__(
        self, loop: AgentLoop, conversation: Conversation, *, are_tools_clients: bool
    ) -> None:
        #: What the model is asked first.
        self.sent = conversation.for_model()
        #: What the client has to run now; the turn is over, and its answer not final.
        self.calls: list[ToolCallRecord] = []
        self._loop = loop
        self._conversation = conversation
        self._are_tools_clients = are_tools_clients
        self._client: Emit
        self._steps = 0
        self._is_final = True

    def __repr__(self) -> str:
        return f"EphemeralTurn({self._steps} steps)"

    async def run(self, emit: Emit) -> Answer:
        """Run the turn to its end; its events go to `emit`, `done` or `error` as the last.

        Raises EngineFailed, AgentError (a bug, logged), and ConnectionError from `emit`.
        """
        self._client = emit
        outcome = "interrupted"
        try:
            await self._run()
            outcome = "completed" if self._is_final or self.calls else "step_limit"
        except AgentError as error:
            outcome = error.code
            with contextlib.suppress(ConnectionError):
                await self.emit(ERROR, error_data(error))
            raise
        finally:
            self._metrics.turns.labels(outcome).inc()
        content = turn_text(self._conversation.of_turn)
        answer = Answer(self._conversation.session_id, self._steps, content, self._is_final)
        await self.emit(DONE, answer.as_json())
        return answer

    @property
    def _metrics(self) -> Metrics:
        return self._loop.metrics

    async def _run(self) -> None:
        try:
            await self._loop.run(self, self._conversation)
        except _ClientsMove:
            pass
        except (AgentError, ConnectionError):
            raise
        except Exception as error:
            log.exception("a turn without a session failed")
            raise AgentError from error

    # The port of the loop.

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        await self._client(unlogged(name, data))

    async def commit(self, part: Part) -> None:
        """Nothing is kept; the conversation has the part's messages already."""
        self._steps += part.is_step
        if part.ends_turn:
            self._is_final = part.is_final
        calls = part.messages[0].get("tool_calls") if part.is_step else None
        if self._are_tools_clients and calls:
            self.calls, self._is_final = calls, False
            raise _ClientsMove

    async def rewind(self) -> None:
        """Not for this client."""

    def speaking(self, *, can_continue: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def tool_begin(
        self, call_key: str, effect: Effect, arguments_hash: str, attempt: str
    ) -> ToolStart:
        return ToolStart("RUN")

    async def tool_end(self, call_key: str, attempt: str, message: Message | None) -> None:
        """Nobody will ask."""


class _ClientsConversation(Conversation):
    """The turn is what comes behind the client's messages. These are never summed up."""

    def __init__(self, request: EphemeralRequest, window: int) -> None:
        grant = Grant(
            "GRANTED",
            # No session's: an engine or a tool that is told of one would look for it.
            Lease("", request.principal, fence=0, nonce=""),
            version=0,
            step=0,
            # The place where an engine looks for what goes before all messages.
            summary=Summary(request.instructions, 0),
            history=list(request.messages),
            turn_at=len(request.messages),
            notes={},
            last_event="",
            step_event="",
        )
        super().__init__(grant, window)

    def outgrown(self) -> list[Message]:
        # A summary would take the place of the client's instructions, and be lost afterwards.
        return []


class _ClientsTool:
    """Offered, and never run here."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        raise ToolError("only the client can run this tool")


class _ClientsMove(Exception):
    """The model asked for tools that only the client can run."""
