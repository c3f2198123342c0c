"""The Lua scripts of the store's operations, loaded from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib import resources
from typing import Self


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    text: str = field(repr=False)
    #: SHA-1 of its text, for EVALSHA.
    sha: str

    @classmethod
    def of(cls, name: str, text: str) -> Self:
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def load_scripts() -> dict[str, Script]:
    """Operation -> script, each preceded by `_common.lua`."""
    folder = resources.files(__package__) / "lua"
    common = (folder / "_common.lua").read_text("utf-8")
    names = sorted(file.name.removesuffix(".lua") for file in folder.iterdir())
    return {
        name: Script.of(name, common + (folder / f"{name}.lua").read_text("utf-8"))
        for name in names
        if not name.startswith("_")
    }
