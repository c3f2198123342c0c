"""Parses what clients send: JSON objects, message contents, Idempotency-Keys."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent_worker.errors import BadRequest, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from agent_worker.runtime import Policy

T = TypeVar("T")

#: Bytes of a request body or WebSocket message.
MAX_BODY = 1024 * 1024
#: Characters of a user's message; about 60,000 tokens of a model.
MAX_CONTENT = 256 * 1024
#: Bytes of a session's metadata as JSON.
MAX_METADATA = 16 * 1024

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is `{}`.

    Raises UnsupportedMediaType, BadRequest, and aiohttp's 413.
    """
    try:
        raw = await request.read()
    except (HttpProcessingError, web.RequestPayloadError):
        raise BadRequest("The body is incomplete, or not encoded as declared.") from None
    if not raw:
        return {}
    media_type = request.content_type
    # Refusing the types of forms keeps pages of other sites from posting without a preflight.
    if "Content-Type" in request.headers and not (
        media_type == "application/json" or media_type.endswith("+json")
    ):
        raise UnsupportedMediaType
    return parse_object(raw)


def parse_object(raw: bytes | str) -> dict[str, Any]:
    """A JSON object in UTF-8. Raises BadRequest for everything else."""
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
        # A lone surrogate cannot be stored.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def content_of(body: dict[str, Any]) -> str:
    """The user's message. Raises BadRequest, TooLarge."""
    content = body.get("content")
    if not isinstance(content, str) or not content.strip():
        raise BadRequest('"content" must be a non-empty string.')
    if len(content) > MAX_CONTENT:
        raise TooLarge(f'"content" exceeds {MAX_CONTENT} characters.')
    return content


def policy_of(body: dict[str, Any]) -> Policy:
    """What to do while another turn runs. Raises BadRequest."""
    match body.get("policy", "reject"):
        case "reject" | "enqueue" | "interrupt" as policy:
            return policy  # type: ignore[no-any-return]
    raise BadRequest('"policy" must be "reject", "enqueue" or "interrupt".')


def metadata_of(body: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a new session; the default is empty. Raises BadRequest, TooLarge."""
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict):
        raise BadRequest('"metadata" must be a JSON object.')
    if len(json.dumps(metadata)) > MAX_METADATA:
        raise TooLarge(f'"metadata" exceeds {MAX_METADATA} bytes.')
    return metadata


def idempotency_key_of(request: web.Request) -> str | None:
    """Raises BadRequest unless it is 1 to 255 visible ASCII characters, given once."""
    keys = request.headers.getall("Idempotency-Key", [])
    return _checked_key("Idempotency-Key", keys[0] if len(keys) == 1 else keys or None)


def idempotency_key_in(body: dict[str, Any]) -> str | None:
    """The Idempotency-Key as a field of a message. Raises BadRequest."""
    return _checked_key('"idempotency_key"', body.get("idempotency_key"))


def _checked_key(name: str, key: object) -> str | None:
    if key is None or (isinstance(key, str) and _IDEMPOTENCY_KEY.fullmatch(key)):
        return key
    raise BadRequest(f"{name} must be 1 to 255 visible ASCII characters.")


def number_of(request: web.Request, name: str, default: T) -> int | T:
    """A non-negative integer of the query. Raises BadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadRequest(f'"{name}" must be a non-negative integer.')
    return int(text)


def accepts_event_stream(request: web.Request) -> bool:
    """Whether the Accept header names text/event-stream (and not with q=0)."""
    for value in request.headers.getall("Accept", []):
        for part in value.split(","):
            media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
            if media_type == "text/event-stream":
                return not any(re.fullmatch(r"q=0(\.0*)?", p) for p in parameters)
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
