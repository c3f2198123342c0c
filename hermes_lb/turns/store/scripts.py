"""The Lua scripts of the store, from `lua/`."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A script and its SHA-1, for EVALSHA."""

    text: str
    sha: str


def script(*names: str) -> Script:
    """`lua/NAME.lua`; several are joined, so that the first ones can define local functions."""
    folder = resources.files("hermes_lb.turns.store") / "lua"
    return script_of("".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


def script_of(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
