"""The arguments of a tool call, as the text in which the chat completions API has them."""

from __future__ import annotations

import json
from typing import Any

#: The one argument of a call whose arguments were no JSON object: what the model wrote instead,
#: or its beginning. Such a call must be answered with an error, so that the model can repeat it.
INVALID_ARGUMENTS = "_invalid"

_MAX_DEPTH = 64
_MAX_INVALID_KEPT = 200


def arguments_of(text: str) -> dict[str, Any]:
    """The object; `{INVALID_ARGUMENTS: ...}` if it is none."""
    # A function without parameters is often called with nothing at all.
    value = loads(text) if text.strip() else {}
    if isinstance(value, dict) and is_plain(value):
        return value
    return {INVALID_ARGUMENTS: encodable(text[:_MAX_INVALID_KEPT])}


def text_of(arguments: dict[str, Any]) -> str:
    """The text again; if the model wrote something else than an object, just that."""
    invalid = arguments.get(INVALID_ARGUMENTS)
    return invalid if isinstance(invalid, str) else json.dumps(arguments, ensure_ascii=False)


def is_plain(value: object) -> bool:
    """Whether JSON in UTF-8 can hold it, no deeper than whoever walks it later can go."""
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
    """The value, or None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def encodable(text: str) -> str:
    r"""`text` with U+FFFD for half surrogate pairs: JSON can spell them ("\ud83d"), UTF-8 not."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
