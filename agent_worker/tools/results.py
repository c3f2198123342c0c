"""Reads a part of a large result, of which the history has only a preview and the blob's key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.storage.base import BlobMissing, StorageUnavailable
from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument

if TYPE_CHECKING:
    from agent_worker.storage.base import BlobStore
    from agent_worker.tools.base import ToolContext

# Characters, of up to 4 bytes. A part must not become a blob itself: the limit is 32 KB.
MAX_LENGTH = 8000
_LENGTH = 4000
# A session's id, a slash, a SHA-256 in hex.
_MAX_KEY = 64 + 1 + 64


class ReadResult:
    spec = ToolSpec(
        "read_result",
        "A part of a large tool result of this session; offset and length count characters",
        Effect.READ,
        {
            "type": "object",
            "properties": {
                "blob": {"type": "string"},
                "offset": {"type": "integer", "minimum": 0, "default": 0},
                "length": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_LENGTH,
                    "default": _LENGTH,
                },
            },
            "required": ["blob"],
        },
    )

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        key = text_argument(arguments, "blob", limit=_MAX_KEY)
        offset = _count(arguments, "offset", default=0, least=0)
        length = min(_count(arguments, "length", default=_LENGTH, least=1), MAX_LENGTH)
        # The model may have been given any key: one of another session does not exist. A turn
        # without a session has none.
        if not context.session_id or key.partition("/")[0] != context.session_id:
            raise ToolError(f"there is no result {key!r} in this session")
        try:
            text = (await self._blobs.get(key)).decode("utf-8", "replace")
        except BlobMissing:
            raise ToolError(f"there is no result {key!r} in this session") from None
        except StorageUnavailable:
            raise ToolError("large results are unavailable") from None
        end = min(offset + length, len(text))
        if offset >= end:
            raise ToolError(f"the result has {len(text)} characters")
        return f"[characters {offset} to {end} of {len(text)}]\n{text[offset:end]}"


def _count(arguments: dict[str, Any], name: str, *, default: int, least: int) -> int:
    value = arguments.get(name, default)
    # bool is a subclass of int.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ToolError(f"{name!r} must be an integer of at least {least}")
    return value
