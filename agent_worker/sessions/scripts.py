"""The store's operations as Lua scripts, read from the package's own files."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

OPERATIONS = ("create", "begin", "commit", "renew", "release", "read", "check", "delete")


def register_scripts(redis: Redis) -> dict[str, AsyncScript]:
    """Operation -> script, each with the common rules before it. Does no I/O with Redis."""
    folder = resources.files(__package__) / "lua"
    common = (folder / "_common.lua").read_text("utf-8")
    return {
        name: redis.register_script(common + (folder / f"{name}.lua").read_text("utf-8"))
        for name in OPERATIONS
    }
