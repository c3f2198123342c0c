"""Sends mail, for demos and tests: appends a line to a file.

It behaves like real mail: a sent mail cannot be revoked, and whether it was sent cannot be queried.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument, texts

if TYPE_CHECKING:
    from pathlib import Path

    from agent_worker.tools.base import ToolContext

MAX_TO = 254
MAX_TEXT = 2000


class SendMail:
    """Appends `{"id", "to", "text"}` as one line of JSON to `outbox`, created if necessary.

    `id` is the call's idempotency key: two lines with the same id are a mail sent twice.
    """

    spec = ToolSpec("send_mail", "Send a mail", Effect.ONCE, texts("to", "text"))

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        to = text_argument(arguments, "to", limit=MAX_TO)
        text = text_argument(arguments, "text", limit=MAX_TEXT)
        mail = {"id": context.idempotency_key, "to": to, "text": text}
        # In a thread: fsync waits for the disk. After a cancellation the mail may still be sent,
        # which class `once` allows for.
        await asyncio.to_thread(self._append, json.dumps(mail).encode() + b"\n")
        return f"sent to {to}"

    def _append(self, line: bytes) -> None:
        """Raises ToolError if nothing was sent, OSError if that is unknown."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.open(self._outbox, flags, 0o600)
        except OSError as error:
            raise ToolError(f"no mail can be sent: {error.strerror}") from error
        try:
            # One write: lines of several processes are not interleaved.
            if os.write(file, line) != len(line):
                raise OSError("the mail was truncated")
            os.fsync(file)
        finally:
            os.close(file)
