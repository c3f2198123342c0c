"""Texts that are too large for Redis: stored as blobs, with a preview in the history."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agent_worker.storage.base import BlobMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Message
    from agent_worker.storage.base import BlobStore

log = logging.getLogger(__name__)

#: The largest message in Redis, in bytes of UTF-8.
LARGE = 32 * 1024
# Characters of the preview: enough for a model to recognise the text.
_PREVIEW = 2000


class LargeTexts:
    """Without a blob store, or while it is unavailable, tool results are truncated.

    Other texts are never truncated.
    """

    def __init__(self, blobs: BlobStore | None) -> None:
        self._blobs = blobs

    async def keep(self, session_id: str, message: Message) -> Message:
        """`message`, or its preview with a reference to the blob. Raises StorageUnavailable."""
        content = message["content"]
        data = content.encode() if len(content) * 4 > LARGE else b""
        if len(data) <= LARGE:
            return message
        key = await self._put(session_id, data, is_needed=message["role"] != "tool")
        if key:
            preview = f"{content[:_PREVIEW]}\n[... {len(data)} bytes in all: blob {key}]"
            return {**message, "content": preview, "blob": key, "size": len(data)}
        if message["role"] != "tool":
            return message
        kept = data[:LARGE].decode("utf-8", "ignore")
        return {**message, "content": f"{kept}\n[... cut; {len(data)} bytes in all]"}

    async def _put(self, session_id: str, data: bytes, *, is_needed: bool) -> str:
        """The blob's key; empty if there is no store or, unless `is_needed`, it is unavailable."""
        if self._blobs is None:
            return ""
        try:
            return await self._blobs.put(session_id, data)
        except StorageUnavailable:
            if is_needed:
                raise
            # The tool has run already: keep as much of its result as possible.
            log.warning("session %s: a large tool result was truncated", session_id)
            return ""

    async def restore(self, messages: Sequence[Message]) -> list[Message]:
        """Load the full content of everything but tool results, which a model reads by reference.

        A missing blob leaves the preview in place. Raises StorageUnavailable.
        """
        return [
            message if message["role"] == "tool" else await self.whole(message)
            for message in messages
        ]

    async def whole(self, message: Message) -> Message:
        """`message` with its full content. Raises StorageUnavailable."""
        if self._blobs is None or "blob" not in message:
            return message
        try:
            data = await self._blobs.get(message["blob"])
        except BlobMissing:
            log.warning("blob %s is missing", message["blob"])
            return message
        return {**message, "content": data.decode("utf-8", "replace")}
