"""The balancer's own messages: a thread writes them, with the access log's writer.

A pipe without a reader never blocks the caller. Messages that it does not take are queued; memory
is bounded: further ones are dropped and counted, and the count is logged after the queue.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from hermes_lb.observe.background import BackgroundWriter

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hermes_lb.observe.sinks import Outcome

MAX_MESSAGES = 10_000
MAX_SIZE = 4 * 1024 * 1024  # characters
FLUSH_TAKES = 2.0  # seconds at most


class MessageHandler(logging.Handler):
    """Messages to a target of `open_sink`, in their order. Only `flush` blocks.

    `flush` waits until earlier messages are written, `FLUSH_TAKES` at most; after one that timed
    out the next ones do not wait, until the target takes something again. `logging` calls it at the
    interpreter's end; code that ends or replaces the process otherwise has to call it before.
    """

    def __init__(
        self, target: str, *, max_messages: int = MAX_MESSAGES, max_size: int = MAX_SIZE
    ) -> None:
        super().__init__()
        self._room_messages = self._max_messages = max_messages
        self._room_size = max_size
        self._target = target
        self._lost = 0  # lost messages that have not been reported yet
        self._why = ""
        self._is_stuck = False
        # Over the above. It is no other's: `logging` has the handler's own while it flushes.
        self._changed = threading.Condition()
        # Late: a stderr that is closed costs the messages, and nothing else.
        self._writer = BackgroundWriter(target, "", may_be_late=True, name="messages")

    def __repr__(self) -> str:
        waiting = self._max_messages - self._room_messages
        return f"<MessageHandler {waiting} waiting, {self._lost} lost>"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as error:  # a bug of the caller
            text = f"{record.name}: {record.pathname}:{record.lineno} can't be said: {error!r}"
        with self._changed:
            if not self._is_waiting:
                self._say_lost()  # the target failed, and may be well again
            has_room = self._room_messages > 0 and len(text) <= self._room_size
            if has_room and not self._lost:
                self._hand_over(text)
            else:  # perhaps it has room, but a gap has to be reported first
                self._lose(1, "it is too slow")

    def flush(self) -> None:
        with self._changed:
            if not self._is_stuck:
                is_done = self._changed.wait_for(lambda: not self._is_waiting, FLUSH_TAKES)
                self._is_stuck = not is_done

    @property
    def _is_waiting(self) -> bool:
        return self._room_messages < self._max_messages

    def _hand_over(self, text: str, stands_for: int = 1) -> None:
        """`stands_for`: the number of messages that are lost with this one."""
        self._room_messages -= 1
        self._room_size -= len(text)
        written = self._writer.write([text])
        written.add_done_callback(partial(self._written, len(text), stands_for))

    def _written(self, size: int, stands_for: int, written: Future[Outcome]) -> None:
        """Called in the writer's thread."""
        outcome = written.result()
        with self._changed:
            self._room_messages += 1
            self._room_size += size
            self._is_stuck = False
            if outcome.lost:
                self._lose(stands_for, outcome.error)
            elif not self._is_waiting:
                self._say_lost()
            self._changed.notify_all()

    def _lose(self, messages: int, why: str) -> None:
        if not self._lost:
            self._why = why
        self._lost += messages

    def _say_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            said = {"name": "hermes_lb", "levelno": logging.WARNING, "levelname": "WARNING"}
            said |= {"msg": f"{self._target}: {lost} messages lost: {self._why}"}
            self._hand_over(self.format(logging.makeLogRecord(said)), stands_for=lost)


def flush_messages() -> None:
    """Wait until earlier messages are written, for `FLUSH_TAKES` at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()
