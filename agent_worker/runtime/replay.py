"""The finished turn of a repeated Idempotency-Key: its answer is sent again, and nothing runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent_worker.runtime.events import DONE, MESSAGE_DELTA
from agent_worker.sessions import Event, turn_text
from agent_worker.sessions.event_log import event_order
from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.runtime.events import Emit
    from agent_worker.sessions import Answer, Message, Replay


class ReplayedTurn:
    """`messages` are those of the turn, with the content of their blobs."""

    is_replay = True

    def __init__(self, replay: Replay, messages: Sequence[Message]) -> None:
        self._answer = replace(replay.answer, content=turn_text(messages))
        self._done_event = replay.done_event
        self.name = replay.turn_event.partition("-")[0]

    def is_behind(self, event_id: str) -> bool:
        """Whether the event is one of this turn's, and not its last one."""
        return bool(self.name) and (
            (int(self.name), 0) < event_order(event_id) < event_order(self._done_event)
        )

    async def run(self, emit: Emit) -> Answer:
        """Emit the text as one event, with the id of the last event before `done`, and `done`."""
        answer = self._answer
        fence, _, seq = self._done_event.partition("-")
        if answer.content:
            data = dump({"content": answer.content})
            await emit(Event(f"{fence}-{max(int(seq) - 1, 0)}", MESSAGE_DELTA, data))
        await emit(Event(self._done_event, DONE, dump(answer.as_json())))
        return answer
