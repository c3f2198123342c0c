"""The conversation of a running turn, and the part of it that fits the model's context window.

The history in Redis is append-only. A model gets the end of it, preceded by a summary of the rest.
The summary is stored with its watermark: the number of messages that it replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Grant, Message

# A common rule of thumb for English; exact counts differ by model.
_CHARACTERS_PER_TOKEN = 4
# Overhead of a message: its role and delimiters.
_TOKENS_PER_MESSAGE = 4
# Characters kept of an old tool result when the turn alone exceeds the window.
_CLIPPED_RESULT = 400


def tokens_in(messages: Sequence[Message]) -> int:
    """An estimate of the messages' size in tokens."""
    return sum(map(_tokens, messages))


class Conversation:
    """`window` is the model's budget in tokens, including the summary."""

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
        """The number of messages in the session."""
        return self.summary.stands_for + len(self.messages)

    @property
    def of_turn(self) -> list[Message]:
        """The messages of this turn so far."""
        return self.messages[self._turn_at - self.summary.stands_for :]

    def for_model(self) -> list[Message]:
        """Summary and messages. Old tool results of this turn are clipped as the last resort."""
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
        """The messages to summarise now: the summary and the oldest turns. Empty if all fit.

        The newest turns that fill half of the window stay, so that not every turn summarises.
        """
        if tokens_in(self._whole()) <= self._window:
            return []
        cut = self._cut()
        return [*self._summary_message(), *self.messages[:cut]] if cut else []

    def sum_up(self, text: str) -> Summary:
        """Replace the messages that `outgrown` returned by `text`; returns the new summary."""
        cut = self._cut()
        self.messages = self.messages[cut:]
        self.summary = Summary(text, self.summary.stands_for + cut)
        return self.summary

    def _cut(self) -> int:
        """Index of the first message to keep: it opens a turn, this one at the latest."""
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
