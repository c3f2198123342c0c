"""The headers of every response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions import is_session_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from agent_worker.metrics import Metrics

WORKER_HEADER = "X-Hermes-Worker"
SESSION_HEADER = "X-Hermes-Session-Id"
#: The path at which a stream can be resumed, on any worker.
RESUME_HEADER = "X-Hermes-Resume"
#: The worker's load, for a balancer's strategy `least_load`.
LOAD_HEADER = "X-Hermes-Load"
_HANDOVER_HEADER = "X-Hermes-Handover"


def accepts_handover(request: web.Request) -> bool:
    """Whether the client (a balancer) resumes on another worker after the event `handover`."""
    return request.headers.get(_HANDOVER_HEADER, "").strip().lower() == "accept"


def on_prepare(
    metrics: Metrics, name: str, load: Callable[[], int]
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """An `on_response_prepare` handler: sets worker, session and load, and counts the status.

    It is called for every response, including streams, WebSocket handshakes and errors.
    """

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[WORKER_HEADER] = name
        response.headers[LOAD_HEADER] = str(load())
        session_id = request.match_info.get("session_id", "")
        # Not with a 404: a balancer that learns from this header would learn an invalid session.
        if response.status != 404 and is_session_id(session_id):
            response.headers[SESSION_HEADER] = session_id
        metrics.responses.labels(str(response.status)).inc()

    return prepare
