"""Engines by name; importing this package registers the built-in ones.

base            the protocol of an engine, and the registry
scripted        deterministic, for demos and tests; with scripted_tools and faults
openai          any server of the chat completions API
hermes          a hermes-agent
chat            the client of that API for both; with chat_messages, arguments, chat_answer, sse
"""

from agent_worker.models.arguments import INVALID_ARGUMENTS
from agent_worker.models.base import (
    Engine,
    EngineOptions,
    StepRequest,
    TextDelta,
    ToolCall,
    create_engine,
    engine_names,
    register_engine,
)
from agent_worker.models.hermes import HermesEngine
from agent_worker.models.openai import CONTINUATIONS, OpenAIEngine
from agent_worker.models.scripted import ScriptedEngine

register_engine(
    "scripted",
    lambda options: ScriptedEngine(
        options.token_interval_s, fault_rate=options.fault_rate, seed=options.seed
    ),
)
register_engine("openai", OpenAIEngine)
register_engine("hermes", HermesEngine)
