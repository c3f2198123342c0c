"""Answers about turns: application/problem+json (RFC 9457), with the turn's id."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from hermes_lb.proxy.local_replies import LocalReply

# Outcomes that no repetition of the request changes. The OpenAI SDK obeys this field, and would
# otherwise retry 409.
_FINAL: Final = frozenset(
    ("outcome_unknown", "turn_cancelled", "result_not_kept", "ambiguous_event_id",
     "unknown_event_id", "key_reused")
)  # fmt: skip


class TurnProblem(Exception):
    """A request that gets this answer. `code`: stable, for programs. `detail`: for people.

    `turn`: its id. `retry_after`: seconds; 0: no Retry-After.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, turn: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.turn = turn
        self.retry_after = retry_after
        self.fields = b""  # more lines of the answer

    def reply(self, *, is_head: bool = False) -> LocalReply:
        """As the client gets it."""
        problem: dict[str, object] = {
            "type": f"urn:hermes:turn:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        fields = b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\n"
        if self.turn:
            problem["turn"] = self.turn
            fields += b"X-Hermes-Turn: %b\r\n" % self.turn.encode()
        if self.code in _FINAL:
            fields += b"x-should-retry: false\r\n"
        elif self.retry_after:
            fields += b"Retry-After: %d\r\n" % max(1, round(self.retry_after))
        if self.code == "store_away":
            fields += b"X-Hermes-Degraded: store\r\n"
        fields += self.fields
        body = json.dumps(problem, separators=(",", ":")).encode() + b"\n"
        return LocalReply(self.status, fields, body, is_head)


def store_away() -> TurnProblem:
    """The request needs the store, and there is none now."""
    return TurnProblem(503, "store_away", "turns can't be stored now", retry_after=5)


def not_found() -> TurnProblem:
    """Unknown, expired, or another principal's: the same answer."""
    return TurnProblem(404, "no_such_turn", "there is no such turn")


def result_not_kept(turn: str) -> TurnProblem:
    return TurnProblem(410, "result_not_kept", "the response is not kept any more", turn=turn)


def outcome_unknown(turn: str, reason: str) -> TurnProblem:
    detail = "whether it has been executed to its end is unknown"
    return TurnProblem(
        409, "outcome_unknown", f"{detail} ({reason})" if reason else detail, turn=turn
    )


def turn_cancelled(turn: str) -> TurnProblem:
    return TurnProblem(409, "turn_cancelled", "a client has cancelled it", turn=turn)


def key_reused(turn: str) -> TurnProblem:
    return TurnProblem(422, "key_reused", "the key was used for another request", turn=turn)


def session_busy(retry_after: float) -> TurnProblem:
    return TurnProblem(
        409, "session_busy", "another turn of the session runs", retry_after=retry_after or 1.0
    )
