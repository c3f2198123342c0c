"""`selective_push` for the laboratory's model of a server, which works on 16 requests at a time.

Its default is 64; with more than a server has it never holds a request back.
"""

from __future__ import annotations

from typing import Final

from hermes_lb.balancing.selective_push import PushOptions, SelectivePush
from hermes_lb.lab.llm import Model

OPTIONS: Final = PushOptions(slots=Model().slots)
NAME: Final = f"python:{__name__}:Pushing"


class Pushing(SelectivePush):
    def __init__(self, options: PushOptions = OPTIONS) -> None:
        super().__init__(OPTIONS)
