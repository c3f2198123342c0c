"""`session_stealing` for the laboratory's model of a server, where a move costs a long prefill.

A session moves for as many requests as a server works on at a time; the default is 4.
"""

from __future__ import annotations

from typing import Final

from hermes_lb.balancing.session_stealing import SessionStealing, StealingOptions
from hermes_lb.lab.llm import Model

OPTIONS: Final = StealingOptions(gap=Model().slots)
NAME: Final = f"python:{__name__}:Stealing"


class Stealing(SessionStealing):
    def __init__(self, options: StealingOptions = OPTIONS) -> None:
        super().__init__(OPTIONS)
