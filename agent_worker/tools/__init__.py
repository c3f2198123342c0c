"""Tools that the agent can call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.tools.base import Effect, Tool, Toolbox, ToolContext, ToolError, ToolSpec
from agent_worker.tools.calculator import Calculator
from agent_worker.tools.clock import Clock
from agent_worker.tools.mail import SendMail
from agent_worker.tools.memory import MemorySave, MemorySearch
from agent_worker.tools.notes import NoteGet, NoteSet
from agent_worker.tools.preferences import PreferenceGet, PreferenceSet
from agent_worker.tools.produce import Produce
from agent_worker.tools.results import ReadResult

if TYPE_CHECKING:
    from pathlib import Path

    from agent_worker.storage.base import Storages


def default_toolbox(storages: Storages, *, mail_file: Path | None = None) -> Toolbox:
    """The built-in tools: clock, calculator, notes, and those of the configured storages."""
    tools: list[Tool] = [Clock(), Calculator(), NoteSet(), NoteGet(), Produce()]
    if storages.preferences is not None:
        tools += [PreferenceSet(storages.preferences), PreferenceGet(storages.preferences)]
    if storages.memory is not None:
        tools += [MemorySave(storages.memory), MemorySearch(storages.memory)]
    if storages.blobs is not None:
        tools.append(ReadResult(storages.blobs))
    if mail_file is not None:
        tools.append(SendMail(mail_file))
    return Toolbox(tools)
