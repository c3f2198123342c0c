"""A strategy of one's own in a file that a test writes again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_STRATEGY = """
from hermes_lb.balancing import Strategy

class Mine(Strategy):
    def __init__(self, options=None):
        self.picks = 0

    def pick(self, pool, request, now, rng):
        found = pool.candidates(request.tried, now)
        self.picks += 1
        return found[({place}) % len(found)] if found else None
"""


def picking(place: str) -> str:
    """The text of one that picks the candidate at this place, which may depend on `self.picks`."""
    return _STRATEGY.format(place=place)


FIRST, SECOND = picking("0"), picking("1")
LEARNS = picking("min(self.picks - 1, 1)")
"""The first candidate for the first request of each object, and then the second one."""

# A text that is refused, or None for a file that is removed -> what the refusal says.
BAD: dict[str | None, str] = {
    f"{FIRST}    def pick(": "import of {module} raises SyntaxError at {path}:",
    "class Other: pass": '{path} has no class "Mine"',
    picking("1 / 0"): "raises ZeroDivisionError at {path}:",
    "raise SystemExit": "import of {module} raises SystemExit at {path}:1",
    None: "can't read {path}: No such file or directory",
}
BAD_IDS = ["syntax", "no class", "raises in the check", "raises at import", "no file"]


class StrategyFile:
    """`name`: in `balance`."""

    def __init__(self, folder: Path, module: str) -> None:
        self.module = module
        self.name = f"python:{module}:Mine"
        self.path = folder / f"{module}.py"

    def write(self, text: str | None) -> str:
        """None: remove it."""
        if text is None:
            self.path.unlink()
        else:
            self.path.write_text(text)
        return self.name

    def refusal(self, text: str | None) -> str:
        """The line for a text of `BAD`."""
        return BAD[text].format(module=self.module, path=self.path)
