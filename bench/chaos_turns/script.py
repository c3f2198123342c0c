"""What a backend says to a question, and how two streams are compared.

Each execution of a question says something else: its id is in each event. So two executions of one
question can't be mistaken for one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Ids of this form are the balancer's (`h1.<turn>.<n>`).
OURS = b"h1."


@dataclass(frozen=True)
class Question:
    """The body of a POST; the query of a GET."""

    uid: str
    words: int = 10
    interval: float = 0.1  # s between two events
    has_ids: bool = False  # the backend's own
    has_comments: bool = False
    crlf: bool = False
    pad: int = 0  # bytes more in each event
    as_json: bool = False
    fails: bool = False  # as JSON: with the status 500

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        return cls(**json.loads(body))

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """The inverse of `query`."""
        return cls(**json.loads(query["question"]))

    @property
    def body(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def query(self) -> dict[str, str]:
        return {"question": self.body.decode()}


def answer_as_json(question: Question, execution: str) -> bytes:
    said = {"uid": question.uid, "x": execution, "words": question.words}
    return json.dumps(said).encode()


def answer(question: Question, execution: str) -> list[bytes]:
    """The stream, in the pieces that are written with a pause before each."""
    end = b"\r\n" if question.crlf else b"\n"
    pieces = []
    for number in range(1, question.words + 1):
        lines = []
        if number == 1:
            lines.append(b"retry: 100")
        if question.has_comments and number % 3 == 0:
            pieces.append(b": still here" + end + end)
        if question.has_ids:
            lines.append(b"id: %s-%d" % (execution.encode(), number))
        said = {"uid": question.uid, "x": execution, "n": number, "pad": "." * question.pad}
        lines += [b"event: word", b"data: " + json.dumps(said).encode()]
        pieces.append(b"".join(line + end for line in lines) + end)
    return pieces


def expected(question: Question, execution: str) -> list[bytes]:
    """The events of the answer, as `Reading.events` has them."""
    reading = Reading()
    for piece in answer(question, execution):
        reading.feed(piece)
    return reading.events


class Reading:
    """The events of one connection, as the backend sent them.

    Without the balancer's `id:` lines, `retry:`, comments and blocks that have nothing else. An
    event that the connection's end has cut is not there.
    """

    def __init__(self, last_id: str = "") -> None:
        self.events: list[bytes] = []
        #: As an EventSource has it; empty: none yet.
        self.last_id = last_id
        self.retries: list[bytes] = []
        self.has_gaps = False  # of ids: an event came without one, so nothing can follow it
        self._id: str | None = None
        self._rest = b""
        self._event = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line + b"\n")

    def _take(self, line: bytes) -> None:
        text = line.rstrip(b"\r\n")
        if not text:
            self._end(line)
        elif text.startswith(b":"):
            return
        elif text.startswith(b"retry:"):
            self.retries.append(text)
        else:
            if text.startswith(b"id:"):
                self._id = text.removeprefix(b"id:").removeprefix(b" ").decode()
                if self._id.encode().startswith(OURS):
                    return
            self._event += line

    def _end(self, line: bytes) -> None:
        if self._event:
            self.events.append(self._event + line)
            self.has_gaps |= self._id is None
        if self._id is not None:
            self.last_id = self._id
        self._event, self._id = b"", None
