"""Shared by the tests of chat completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.agent.running_worker import RunningWorker

MODEL = "hermes-agent"
BEARER = {"Authorization": "Bearer secret"}

#: A client's description of its own tool, which the scripted engine calls.
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time on the user's desk",
        "parameters": {"type": "object", "properties": {}},
    },
}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@dataclass
class System:
    """Workers behind a balancer, used through the SDK."""

    client: Any
    url: str
    workers: list[RunningWorker]

    async def ask(self, *messages: Any, session: str | None = None, **options: Any) -> Any:
        """A completion, or a stream of chunks; a string is a message of the user."""
        return await self.client.chat.completions.create(**_asked(messages, session, options))

    async def answer(self, *messages: Any, session: str | None = None, **options: Any) -> Any:
        """The raw response: its headers, and `.parse()`."""
        create = self.client.chat.completions.with_raw_response.create
        return await create(**_asked(messages, session, options))


def _asked(messages: Any, session: str | None, options: dict[str, Any]) -> dict[str, Any]:
    listed = [user(message) if isinstance(message, str) else message for message in messages]
    headers = {"X-Hermes-Session-Id": session} if session else {}
    headers |= options.pop("extra_headers", {})
    return {"model": MODEL, "messages": listed, "extra_headers": headers, **options}


async def chunks_of(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
