"""Sends mail, as far as a demo has a world to send it to: a line in a file.

What counts is that it behaves like the real thing: nobody can take a sent mail back, or see from
outside whether it was sent.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument

if TYPE_CHECKING:
    from pathlib import Path

    from agent_worker.tools.base import ToolContext

MAX_TO = 254
MAX_TEXT = 2000


class SendMail:
    """Appends `{"id", "to", "text"}` as one line of JSON to `outbox`, made if need be.

    `id` is the call's idempotency key: two lines with the same one are a mail sent twice.
    """

    spec = ToolSpec(
        "send_mail",
        "Send a mail",
        Effect.ONCE,
        {
            "type": "object",
            "properties": {"to": {"type": "string"}, "text": {"type": "string"}},
            "required": ["to", "text"],
        },
    )

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        to = text_argument(arguments, "to", limit=MAX_TO)
        text = text_argument(arguments, "text", limit=MAX_TEXT)
        mail = {"id": context.idempotency_key, "to": to, "text": text}
        # The sync waits for the disk. Cancelled here, the mail may still be sent: class `once`
        # says just that.
        await asyncio.to_thread(self._append, json.dumps(mail).encode() + b"\n")
        return f"sent to {to}"

    def _append(self, line: bytes) -> None:
        """Raises ToolError if nothing was sent, OSError if nobody knows."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.open(self._outbox, flags, 0o600)
        except OSError as error:
            raise ToolError(f"no mail can be sent: {error.strerror}") from error
        try:
            # One write: lines of several processes do not mix.
            if os.write(file, line) != len(line):
                raise OSError("the mail was cut off")
            os.fsync(file)
        finally:
            os.close(file)
