"""Reads a large result piece by piece: the history has only its beginning and its blob's key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.storage.base import BlobMissing, StorageUnavailable
from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument

if TYPE_CHECKING:
    from agent_worker.storage.base import BlobStore
    from agent_worker.tools.base import ToolContext

# Characters. A piece must not be so large that it would become a blob itself: 32 KB, and a
# character has up to 4 bytes.
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
        # The model may have been told any key; a foreign one is as good as none. A turn without a
        # session has none of its own.
        if not context.session_id or key.partition("/")[0] != context.session_id:
            raise ToolError(f"there is no result {key!r} in this session")
        try:
            text = (await self._blobs.get(key)).decode("utf-8", "replace")
        except BlobMissing:
            raise ToolError(f"there is no result {key!r} in this session") from None
        except StorageUnavailable:
            raise ToolError("the large results cannot be reached at the moment") from None
        end = min(offset + length, len(text))
        if offset >= end:
            raise ToolError(f"the result has {len(text)} characters")
        return f"[characters {offset} to {end} of {len(text)}]\n{text[offset:end]}"


def _count(arguments: dict[str, Any], name: str, *, default: int, least: int) -> int:
    value = arguments.get(name, default)
    # True is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ToolError(f"{name!r} must be a whole number from {least}")
    return value
