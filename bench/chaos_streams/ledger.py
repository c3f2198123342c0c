"""The mails that were sent, as the outside world has them: what `once` is judged by."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from bench.chaos.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


# Seconds.
_PATIENCE = 0.8


class Ledger:
    """The file that all workers append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def sent(self) -> Counter[str]:
        """How often each uid was sent."""
        lines = self.path.read_text().splitlines()
        return Counter(str(json.loads(line)["text"]) for line in lines)

    async def next_mail(self) -> str:
        """The uid of the next mail, a few ms behind it. Raises NeverCame."""
        known = self._size()

        async def has_grown() -> bool:
            return self._size() > known

        await until(has_grown, "a mail", patience=_PATIENCE)
        return str(json.loads(self.path.read_text().splitlines()[-1])["text"])

    def _size(self) -> int:
        return self.path.stat().st_size
