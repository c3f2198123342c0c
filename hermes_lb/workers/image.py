"""Which image of the program this is: the first one, or one that an upgrade has executed."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from hermes_lb.config import Config

HANDOVER = "HERMES_LB_HANDOVER"
"""The variable by which the last image names what it hands over: a descriptor."""


def is_successor() -> bool:
    """Until what was handed over is taken: there are workers already, and clients."""
    return HANDOVER in os.environ


def inherited_config() -> Config | None:
    """What the image before runs by; None if there was none, or this code does not take it."""
    if not (text := os.environ.get(HANDOVER)):
        return None
    with os.fdopen(os.dup(int(text)), "rb") as file, suppress(ValueError):
        file.seek(0)
        return Config.inherited(json.load(file)["inherited"]["config"])
    return None
