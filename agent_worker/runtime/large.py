"""Texts that are too large for Redis: kept as blobs, and their beginning in the history."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agent_worker.storage.base import BlobMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Message
    from agent_worker.storage.base import BlobStore

log = logging.getLogger(__name__)

#: Bytes of UTF-8 that a message in Redis may have.
LARGE = 32 * 1024
# Characters of a large text that stay in the history: enough for a model to see what it is.
_PREVIEW = 2000


class LargeTexts:
    """Without a blob store, or while it is away, tool results are cut; other texts are not."""

    def __init__(self, blobs: BlobStore | None) -> None:
        self._blobs = blobs

    async def keep(self, session_id: str, message: Message) -> Message:
        """`message`, or a reference to it. Raises StorageUnavailable."""
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
        """The blob's key; empty if there is no store, or none at the moment."""
        if self._blobs is None:
            return ""
        try:
            return await self._blobs.put(session_id, data)
        except StorageUnavailable:
            if is_needed:
                raise
            # What a tool did can't be undone: its result is kept as far as it can be.
            log.warning("session %s: a large tool result was cut", session_id)
            return ""

    async def restore(self, messages: Sequence[Message]) -> list[Message]:
        """What a model has to see whole: all but tool results, which it reads by reference.

        Raises StorageUnavailable. A blob that is gone stays what the history has of it.
        """
        return [
            message if message["role"] == "tool" else await self.whole(message)
            for message in messages
        ]

    async def whole(self, message: Message) -> Message:
        """`message` with all of its content. Raises StorageUnavailable."""
        if self._blobs is None or "blob" not in message:
            return message
        try:
            data = await self._blobs.get(message["blob"])
        except BlobMissing:
            log.warning("the blob %s is missing", message["blob"])
            return message
        return {**message, "content": data.decode("utf-8", "replace")}
