"""The conversation as a turn works on it, and the part of it that fits the model's window.

The history in Redis only grows. What a model gets is its end, after a summary of what came before;
which messages the summary stands for is kept with it (the watermark).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Grant, Message

# A common rule of thumb for English; exact counts differ by model.
_CHARACTERS_PER_TOKEN = 4
# Of each message: its role and marks.
_TOKENS_PER_MESSAGE = 4
# What is left of an old tool result when the turn itself outgrows the window.
_CLIPPED_RESULT = 400


def tokens_in(messages: Sequence[Message]) -> int:
    """An estimate of what the messages cost a model, in tokens."""
    return sum(map(_tokens, messages))


class Conversation:
    """`window` is how many tokens the model may get, the summary included."""

    def __init__(self, grant: Grant, window: int) -> None:
        self.summary = grant.summary
        self.messages = list(grant.history)
        self.notes = dict(grant.notes)
        self.session_id = grant.lease.session_id
        self.principal = grant.lease.principal
        self._turn_at = grant.turn_at
        self._window = window

    @property
    def length(self) -> int:
        """How many messages the session has."""
        return self.summary.stands_for + len(self.messages)

    @property
    def of_turn(self) -> list[Message]:
        """The messages of this turn so far."""
        return self.messages[self._turn_at - self.summary.stands_for :]

    def for_model(self) -> list[Message]:
        """Summary and messages. Old tool results of this turn are clipped if nothing else helps."""
        messages = self._whole()
        excess = tokens_in(messages) - self._window
        for index, message in enumerate(messages[:-1]):
            if excess <= 0:
                break
            if message["role"] == "tool" and len(message["content"]) > _CLIPPED_RESULT:
                clipped = {**message, "content": message["content"][:_CLIPPED_RESULT] + " [...]"}
                excess -= _tokens(message) - _tokens(clipped)  # type: ignore[arg-type]
                messages[index] = clipped  # type: ignore[call-overload]
        return messages

    def outgrown(self) -> list[Message]:
        """What to sum up now: the summary and the oldest turns; nothing while all of it fits.

        The newest turns that fill half of the window stay, so that it is not for each turn again.
        """
        if tokens_in(self._whole()) <= self._window:
            return []
        cut = self._cut()
        return [*self._summary_message(), *self.messages[:cut]] if cut else []

    def sum_up(self, text: str) -> Summary:
        """`text` stands for what `outgrown` gave; returns what to keep of that."""
        cut = self._cut()
        self.messages = self.messages[cut:]
        self.summary = Summary(text, self.summary.stands_for + cut)
        return self.summary

    def _cut(self) -> int:
        """Where the messages that stay begin: at a user's message, not behind this turn's."""
        turn_at = self._turn_at - self.summary.stands_for
        room = self._window // 2 - tokens_in(self.messages[turn_at:])
        cut = turn_at
        for index in range(turn_at - 1, -1, -1):
            room -= _tokens(self.messages[index])
            if room < 0:
                break
            if self._opens_turn(index):
                cut = index
        return cut

    def _opens_turn(self, index: int) -> bool:
        return self.messages[index]["role"] == "user" and (
            index == 0 or self.messages[index - 1]["role"] != "user"
        )

    def _whole(self) -> list[Message]:
        return [*self._summary_message(), *self.messages]

    def _summary_message(self) -> list[Message]:
        return [{"role": "system", "content": self.summary.text}] if self.summary.text else []


def _tokens(message: Message) -> int:
    size = len(message["content"])
    for call in message.get("tool_calls", ()):
        size += len(call["name"]) + len(str(call["arguments"]))
    return size // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE
