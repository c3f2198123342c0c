"""Validates the conversation that a client sends, and converts it to messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.api.bodies import MAX_CONTENT
from agent_worker.api.chat_errors import BadParameter, Unsupported
from agent_worker.errors import TooLarge
from agent_worker.models.arguments import arguments_of

if TYPE_CHECKING:
    from agent_worker.sessions import Message
    from agent_worker.sessions.records import ToolCallRecord

#: Of one request. A body of 1 MiB could hold ten times as many empty ones.
MAX_MESSAGES = 2048
# Of one message; the same limit as for the answers of engines.
_MAX_CALLS = 64
_MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class ClientsMessages:
    #: All system and developer messages, from any place: an engine takes them first.
    instructions: str
    #: Of users, assistants and tools; each call has its result.
    messages: list[Message]
    #: Their place in the body, such as `messages`.
    param: str

    def check_end(self) -> None:
        """Raises BadParameter unless the last message is one that a model can answer."""
        if not self.messages or self.messages[-1]["role"] not in ("user", "tool"):
            raise BadParameter(self.param, "must end with a user's message or a tool's result.")
        if all(message["role"] != "user" for message in self.messages):
            raise BadParameter(self.param, "must contain a user's message.")

    def new_content(self) -> str:
        """The user's text since the assistant's last message. Raises BadParameter, TooLarge."""
        texts: list[str] = []
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                break
            if message["role"] == "tool":
                raise BadParameter(self.param, message="In a session, tools run in the worker.")
            texts.insert(0, message["content"])
        content = "\n\n".join(texts)
        if not content.strip():
            raise BadParameter(self.param, "must end with a non-empty message of the user.")
        if len(content) > MAX_CONTENT:
            raise TooLarge(f"The user's messages exceed {MAX_CONTENT} characters.")
        return content


def messages_of(listed: Any, param: str) -> ClientsMessages:
    """Raises BadParameter, Unsupported, TooLarge."""
    if not isinstance(listed, list):
        raise BadParameter(param, "must be an array of messages.")
    if len(listed) > MAX_MESSAGES:
        raise BadParameter(param, f"has more than {MAX_MESSAGES} entries.")
    instructions: list[str] = []
    messages: list[Message] = []
    #: Calls of the last assistant message that have no result yet: id -> tool.
    open_calls: dict[str, str] = {}
    for index, given in enumerate(listed):
        where = f"{param}[{index}]"
        if not isinstance(given, dict):
            raise BadParameter(where, "must be an object.")
        if given.get("role") in ("system", "developer"):
            instructions.append(_content(given, where))
            continue
        message = _message(given, where)
        if message["role"] == "tool":
            _settle(open_calls, message, where)
        elif open_calls:
            raise _unanswered(param, open_calls)
        for call in message.get("tool_calls", ()):
            if call["id"] in open_calls:
                raise BadParameter(
                    f"{where}.tool_calls", message="Two tool calls have the same id."
                )
            open_calls[call["id"]] = call["name"]
        messages.append(message)
    if open_calls:
        raise _unanswered(param, open_calls)
    return ClientsMessages("\n\n".join(instructions), messages, param)


def _message(given: dict[str, Any], where: str) -> Message:
    match given.get("role"):
        case "user":
            return {"role": "user", "content": _content(given, where)}
        case "assistant":
            return _assistant(given, where)
        case "tool":
            call_id = _short_text(given.get("tool_call_id"), f"{where}.tool_call_id")
            return {"role": "tool", "content": _content(given, where), "tool_call_id": call_id}
    raise BadParameter(f"{where}.role", "must be system, developer, user, assistant or tool.")


def _assistant(given: dict[str, Any], where: str) -> Message:
    calls = given.get("tool_calls")
    if calls is None or calls == []:
        return {"role": "assistant", "content": _content(given, where)}
    if not isinstance(calls, list) or len(calls) > _MAX_CALLS:
        raise BadParameter(f"{where}.tool_calls", f"must be an array of 1 to {_MAX_CALLS}.")
    content = "" if given.get("content") is None else _content(given, where)
    records = [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]
    return {"role": "assistant", "content": content, "tool_calls": records}


def _content(given: dict[str, Any], where: str) -> str:
    """A string, or parts of type text, which are joined by line breaks."""
    where += ".content"
    content = given.get("content")
    if isinstance(content, list) and content:
        content = "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise BadParameter(where, "must be a string, or an array of text parts.")
    if len(content) > MAX_CONTENT:
        raise TooLarge(f'"{where}" exceeds {MAX_CONTENT} characters.')
    return content


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Unsupported(where, 'must be of type "text".')
    text = part.get("text")
    if not isinstance(text, str):
        raise BadParameter(f"{where}.text", "must be a string.")
    return text


def _call(call: Any, where: str) -> ToolCallRecord:
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise Unsupported(where, 'must be of type "function".')
    function = call.get("function")
    if not isinstance(function, dict):
        raise BadParameter(f"{where}.function", "must be an object.")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise BadParameter(f"{where}.function.arguments", "must be a JSON string.")
    return {
        "id": _short_text(call.get("id"), f"{where}.id"),
        "name": _short_text(function.get("name"), f"{where}.function.name"),
        "arguments": arguments_of(arguments),
    }


def _short_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        raise BadParameter(where, f"must be a string of 1 to {_MAX_NAME} characters.")
    return value


def _settle(open_calls: dict[str, str], result: Message, where: str) -> None:
    """Match a result with its call. Raises BadParameter."""
    name = open_calls.pop(result["tool_call_id"], None)
    if name is None:
        raise BadParameter(
            f"{where}.tool_call_id",
            message=f'"{where}" must answer a tool call of the preceding assistant message.',
        )
    result["name"] = name


def _unanswered(param: str, open_calls: dict[str, str]) -> BadParameter:
    return BadParameter(
        param, message=f"No tool message answers the tool call {next(iter(open_calls))!r}."
    )
