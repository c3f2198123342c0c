"""Produces a text of a given size, to try out large results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolError, ToolSpec

if TYPE_CHECKING:
    from agent_worker.tools.base import ToolContext

MAX_KILOBYTES = 1024
_LINES_PER_KILOBYTE = 16


class Produce:
    spec = ToolSpec(
        "produce",
        "A text of this size in kilobytes, the same each time",
        Effect.READ,
        {
            "type": "object",
            "properties": {
                "kilobytes": {"type": "integer", "minimum": 1, "maximum": MAX_KILOBYTES}
            },
            "required": ["kilobytes"],
        },
    )

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        size = arguments.get("kilobytes")
        # bool is a subclass of int.
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_KILOBYTES:
            raise ToolError(f"'kilobytes' must be an integer from 1 to {MAX_KILOBYTES}")
        count = size * _LINES_PER_KILOBYTE
        # Lines of 64 bytes.
        return "".join(
            f"line {number:05} of {count:05} ".ljust(63, ".") + "\n" for number in range(count)
        )
