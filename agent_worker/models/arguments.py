"""The arguments of a tool call, which are JSON text in the chat completions API."""

from __future__ import annotations

import json
from typing import Any

#: The only argument of a call whose arguments were not a JSON object: the model's text, truncated.
#: Answer such a call with an error, so that the model can repeat it.
INVALID_ARGUMENTS = "_invalid"

_MAX_DEPTH = 64
_MAX_INVALID_KEPT = 200


def arguments_of(text: str) -> dict[str, Any]:
    """The object; `{INVALID_ARGUMENTS: ...}` if `text` is not one."""
    # Functions without parameters are often called with an empty text.
    value = loads(text) if text.strip() else {}
    if isinstance(value, dict) and is_plain(value):
        return value
    return {INVALID_ARGUMENTS: encodable(text[:_MAX_INVALID_KEPT])}


def text_of(arguments: dict[str, Any]) -> str:
    """The text of `arguments`; that of the model if it was not an object."""
    invalid = arguments.get(INVALID_ARGUMENTS)
    return invalid if isinstance(invalid, str) else json.dumps(arguments, ensure_ascii=False)


def is_plain(value: object) -> bool:
    """Whether it can be stored as JSON in UTF-8, and its depth is within `_MAX_DEPTH`."""
    layer = [value]
    for _ in range(_MAX_DEPTH):
        layer = [child for item in layer for child in _children(item)]
        if not layer:
            break
    else:
        return False
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # NaN, an infinity, half of a surrogate pair
        return False
    return True


def loads(text: str) -> object:
    """The value; None if `text` is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def encodable(text: str) -> str:
    r"""`text` with U+FFFD for lone surrogates: JSON can express them ("\ud83d"), UTF-8 cannot."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
