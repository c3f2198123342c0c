"""The expected errors: HTTP status, code for programs, message for the user.

`agent_worker.api.errors` converts them to responses. None contains anything that a client may not
see.
"""

from __future__ import annotations

from typing import ClassVar


class AgentError(Exception):
    """Base of the expected errors; `str(error)` is sent to the client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    message: ClassVar[str] = "Something went wrong in the worker."
    #: Further response headers.
    headers: ClassVar[dict[str, str]] = {}
    #: Seconds after which a retry makes sense; None if it never does.
    retry_after_s: int | None = None

    def __init__(self, message: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(message or self.message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def as_json(self) -> dict[str, str]:
        """The data of an `error` event."""
        return {"code": self.code, "message": str(self)}


# The client's fault.


class BadRequest(AgentError):
    status, code, message = 400, "bad_request", "The request is invalid."


class Unauthorized(AgentError):
    status, code = 401, "unauthorized"
    message = "A valid bearer token is required: Authorization: Bearer <token>."
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(AgentError):
    status, code, message = 403, "forbidden", "Access is denied."


class SessionNotFound(AgentError):
    """Unknown, deleted, expired, or another principal's: the client cannot tell which."""

    status, code, message = 404, "session_not_found", "The session does not exist."


class EventsGone(AgentError):
    """The log was trimmed, or has expired; the session itself is unchanged."""

    status, code = 410, "events_gone"
    message = "These events have expired; read the session instead."


class UnsupportedMediaType(AgentError):
    status, code = 415, "unsupported_media_type"
    message = "The body must be JSON: Content-Type: application/json."


class TooLarge(AgentError):
    status, code, message = 413, "too_large", "The request is too large."


class UpgradeRequired(AgentError):
    status, code, message = 426, "upgrade_required", "WebSocket is required here."
    headers: ClassVar[dict[str, str]] = {"Upgrade": "websocket"}


# Conflicts with the state of the session.


class TurnBusy(AgentError):
    """Another turn holds the lease. Nothing of this request was stored, so a retry is safe."""

    status, code, message = 409, "turn_in_progress", "A turn of this session is already running."
    retry_after_s = 1


class TurnInProgress(TurnBusy):
    """The turn of the key is running. If its holder is dead, it can be resumed.

    `free_in_s`: seconds until then, unless the holder sends a heartbeat meanwhile. `silent_s`:
    seconds since its last heartbeat; `holder`: the worker, as in `TurnPage`.
    """

    def __init__(
        self, *, retry_after_s: int, free_in_s: float, silent_s: float, holder: str
    ) -> None:
        super().__init__(retry_after_s=retry_after_s)
        self.free_in_s = free_in_s
        self.silent_s = silent_s
        self.holder = holder


class IdempotencyMismatch(AgentError):
    status, code = 409, "idempotency_mismatch"
    message = "This Idempotency-Key was used with another body."


class TurnAbandoned(AgentError):
    """The key's message is in the history, but its turn was interrupted and others followed."""

    status, code = 409, "turn_abandoned"
    message = (
        "The turn of this Idempotency-Key was interrupted and the conversation has continued; "
        "send the message with a new key."
    )


class InboxFull(AgentError):
    status, code, message = 429, "inbox_full", "Too many messages of this session are queued."
    retry_after_s = 5


class SessionFull(AgentError):
    status, code = 413, "session_full"
    message = "The conversation has become too large; continue in a new session."


class TurnInterrupted(AgentError):
    """Another message of the session interrupted the turn; the finished steps are kept."""

    status, code = 409, "turn_interrupted"
    message = "The turn was stopped for another message of this session."


class NoTurnRuns(AgentError):
    status, code, message = 409, "no_turn", "No turn of this session is running."


class SessionTooNew(AgentError):
    status, code = 409, "session_too_new"
    message = "This session was written by a newer worker; this one cannot serve it."


# The worker's fault.


class LeaseLost(AgentError):
    """This worker may not write: its lease has expired, was taken over, or was deleted.

    The turn's finished steps are kept; the same Idempotency-Key continues from them.
    """

    status, code = 503, "lease_lost"
    message = "This worker has lost the turn before it was finished."
    retry_after_s = 1


class TurnGivenUp(AgentError):
    """Each worker that resumed the turn died in the same place; its finished steps are kept."""

    status, code = 500, "turn_given_up"
    message = "The turn was given up: several workers failed while they ran it."


class HandedOver(AgentError):
    """This worker is shutting down, and another one can continue the turn."""

    status, code, message = 503, "handed_over", "The turn continues on another worker."
    retry_after_s = 1


class StoreUnavailable(AgentError):
    """Redis is unreachable or refuses to work. Whether the operation was done is unknown."""

    status, code, message = 503, "store_unavailable", "The session store is unavailable."
    headers: ClassVar[dict[str, str]] = {"X-Hermes-Degraded": "store"}
    retry_after_s = 2


class Draining(AgentError):
    status, code, message = 503, "draining", "This worker is shutting down."
    retry_after_s = 1


class EngineFailed(AgentError):
    status, code, message = 502, "engine_failed", "The model failed to answer."


class EngineCut(EngineFailed):
    """The answer was interrupted; a retry is safe and may succeed."""


class CannotContinue(EngineFailed):
    """The engine cannot continue the given text; it can start the step again."""


def status_of(code: str) -> int:
    """The status of the error with this code; 500 if there is none."""
    kinds = [AgentError]
    for kind in kinds:
        if kind.code == code:
            return kind.status
        kinds += kind.__subclasses__()
    return AgentError.status
