"""Turns and the agent loop."""

from agent_worker.runtime.events import Emit, Event
from agent_worker.runtime.loop import AgentLoop
from agent_worker.runtime.turns import ReplayedTurn, Turn, TurnRequest, Turns

__all__ = ["AgentLoop", "Emit", "Event", "ReplayedTurn", "Turn", "TurnRequest", "Turns"]
