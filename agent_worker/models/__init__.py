"""Engines by name; importing this package registers the built-in ones."""

from agent_worker.models.base import (
    Engine,
    EngineOptions,
    TextDelta,
    ToolCall,
    create_engine,
    engine_names,
    register_engine,
)
from agent_worker.models.scripted import ScriptedEngine

register_engine("scripted", lambda options: ScriptedEngine(options.token_interval_s))

__all__ = [
    "Engine",
    "EngineOptions",
    "ScriptedEngine",
    "TextDelta",
    "ToolCall",
    "create_engine",
    "engine_names",
    "register_engine",
]
