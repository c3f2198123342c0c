"""Validates the body of `POST /v1/chat/completions`.

https://platform.openai.com/docs/api-reference/chat/create. Fields that are not mentioned here are
accepted and have no effect, like unknown fields.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.api.bodies import MAX_CONTENT
from agent_worker.api.chat_errors import BadParameter, ModelNotFound, Unsupported
from agent_worker.api.chat_messages import ClientsMessages, messages_of
from agent_worker.errors import TooLarge
from agent_worker.models.arguments import is_plain
from agent_worker.tools import Effect, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Collection

# OpenAI's own limit.
MAX_TOOLS = 128
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    messages: ClientsMessages
    #: None: the client brings none, and the worker's may be used.
    tools: list[ToolSpec] | None
    #: False: no tools at all, neither the client's nor the worker's.
    may_call_tools: bool = True
    is_stream: bool = False
    includes_usage: bool = False


def chat_request_of(body: dict[str, Any], models: Collection[str]) -> ChatRequest:
    """Raises BadParameter, Unsupported, ModelNotFound, TooLarge."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadParameter("model", "must be the id of a model.")
    if model not in models:
        raise ModelNotFound(model)
    _refuse_unsupported(body)
    tools = _tools(body)
    is_stream = _flag(body, "stream", "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadParameter("stream_options", "must be an object.")
    if options and not is_stream:
        raise BadParameter("stream_options", 'is for "stream": true only.')
    return ChatRequest(
        model=model,
        messages=messages_of(body.get("messages"), "messages"),
        tools=tools,
        may_call_tools=_tool_choice(body) != "none",
        is_stream=is_stream,
        includes_usage=_flag(options or {}, "include_usage", "stream_options.include_usage"),
    )


def _refuse_unsupported(body: dict[str, Any]) -> None:
    """Refuse options whose absence would change the answer's meaning."""
    # By value and type: True equals 1.
    if (choices := body.get("n")) is not None and (choices != 1 or isinstance(choices, bool)):
        raise Unsupported("n", "must be 1.")
    for name in ("functions", "function_call", "audio"):
        if body.get(name) is not None:
            raise Unsupported(name, "is not supported.")
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise Unsupported("response_format", 'must be {"type": "text"}.')


def _tool_choice(body: dict[str, Any]) -> str:
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none"):
        return choice or "auto"
    raise Unsupported("tool_choice", 'must be "auto" or "none".')


def _flag(values: dict[str, Any], name: str, param: str) -> bool:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadParameter(param, "must be true or false.")


def _tools(body: dict[str, Any]) -> list[ToolSpec] | None:
    """An empty list means none, as with many clients."""
    listed = body.get("tools")
    if listed is None or listed == []:
        return None
    if not isinstance(listed, list):
        raise BadParameter("tools", "must be an array.")
    if len(listed) > MAX_TOOLS:
        raise BadParameter("tools", f"has more than {MAX_TOOLS} entries.")
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(listed)]
    if len({tool.name for tool in tools}) < len(tools):
        raise BadParameter("tools", "has two tools with the same name.")
    if len(json.dumps(listed)) > MAX_CONTENT:
        raise TooLarge(f'"tools" exceeds {MAX_CONTENT} characters.')
    return tools


def _tool(tool: Any, param: str) -> ToolSpec:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise Unsupported(param, 'must be of type "function".')
    param += ".function"
    function = tool.get("function")
    if not isinstance(function, dict):
        raise BadParameter(param, "must be an object.")
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise BadParameter(f"{param}.name", 'must be 1 to 64 letters, digits, "_" or "-".')
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise BadParameter(f"{param}.description", "must be a string.")
    parameters = function.get("parameters")
    if parameters is not None and (not isinstance(parameters, dict) or not is_plain(parameters)):
        raise BadParameter(f"{param}.parameters", "must be a JSON Schema.")
    # The class does not matter: the worker never runs it.
    return ToolSpec(name, description or "", Effect.ONCE, parameters or {"type": "object"})
