"""pydantic's errors in words for operators: the value given, what is allowed, the nearest match.

pydantic's own messages are about Python ("Input should be a valid dictionary or instance of ..."),
and name neither both bounds of a range nor the key that was probably meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.config.allowed import allowed, keys_of, node_at
from hermes_lb.options.kinds import OTHER_KIND
from hermes_lb.options.patterns import IN_WORDS
from hermes_lb.options.problems import did_you_mean, dotted, quoted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from hermes_lb.options.problems import KeyPath

# Names in nginx, HAProxy and others of what has another name here.
_SAME_THING = {
    "source": "ip_hash",
    "rr": "round_robin",
    "least_connections": "leastconn",
    "hash": "consistent_hash",
    "ring_hash": "consistent_hash",
    "power_of_two": "p2c",
    "ewma": "peak_ewma",
}

_KIND_NEEDED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "string_type": "text in quotes",
    "list_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
}
_OUT_OF_RANGE = {
    "greater_than": "too small",
    "greater_than_equal": "too small",
    "less_than": "too large",
    "less_than_equal": "too large",
    "too_short": "not enough",
    "string_too_short": "too short",
    "string_too_long": "too long",
}


def explain(error: ErrorDetails, path: KeyPath, value: Any) -> str:
    """The message for one of pydantic's errors.

    `path` is its place without pydantic's marks, and `value` what the file has there: pydantic
    itself has only what a validator made of it, such as seconds.
    """
    kind, node = error["type"], node_at(path)
    if kind == OTHER_KIND:
        return error["msg"]
    if kind == "missing":
        return f"missing; {_how_to_add(path)}"
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "value_error":
        reason = str(error["ctx"]["error"])
        return reason if isinstance(value, dict) else f"{quoted(value)} is not allowed; {reason}"
    if kind in ("list_type", "dict_type", "model_type"):
        return _wrong_shape(path, value)
    if kind == "literal_error":
        return _not_one_of(path, value)
    if kind == "too_short":
        return f"it is empty; {_how_to_add(path)}"
    if kind in _OUT_OF_RANGE:
        return f"{quoted(value)} is {_OUT_OF_RANGE[kind]}; allowed is {allowed(node)}"
    if kind in _KIND_NEEDED:
        return f"{quoted(value)} is not {_KIND_NEEDED[kind]}; allowed is {allowed(node)}"
    if kind == "string_pattern_mismatch":
        is_key = error["loc"][-1] == "[key]"
        return _wrong_text(path, None if is_key else value, error["ctx"]["pattern"])
    return f"{quoted(value)} is not allowed: {error['msg']}"


def _wrong_text(path: KeyPath, value: object, pattern: str) -> str:
    words = IN_WORDS.get(pattern, f"text like {pattern}")
    if isinstance(value, str):
        return f"{quoted(value)} is not allowed; write {words}"
    return f"the name {quoted(path[-1])} is not allowed; write {words}"  # such as [backends.NAME]


def _unknown_key(path: KeyPath) -> str:
    *table, key = path
    around = tuple(table)
    known = keys_of(node_at(around))
    for child in known:
        if str(key) in keys_of(node_at((*around, child))):
            return f"unknown key here; it belongs into {dotted((*around, child))}"
    # TOML's own trap: a key that is written below the header of a sub-table is a key of that.
    for length in range(len(around) - 1, -1, -1):
        if isinstance(around[length], str) and str(key) in keys_of(node_at(around[:length])):
            owner = dotted(around[:length]) or "the top of the file"
            return (
                f"unknown key here; it is a key of {owner}, "
                f"and must stand before the header of {dotted(around)}"
            )
    if near := did_you_mean(str(key), known):
        return f"unknown key; did you mean {quoted(near)}?"
    return f"unknown key; the keys here are {', '.join(known)}"


def _not_one_of(path: KeyPath, value: Any) -> str:
    node = node_at(path) or {}
    nodes = node.get("anyOf", [node])
    words = [str(word) for one in nodes for word in one.get("enum", [one.get("const")])]
    text = f"{quoted(value)} is not allowed; allowed is {allowed(node)}"
    near = isinstance(value, str) and (
        did_you_mean(_SAME_THING.get(value.lower(), value), words) or None
    )
    return f"{text}; did you mean {quoted(near)}?" if near else text


def _wrong_shape(path: KeyPath, value: Any) -> str:
    if isinstance(value, dict) and _is_array_of_tables(path):
        return f"a single table; write [[{_header(path)}]], with two brackets, for each of them"
    if isinstance(value, list) and path == ("backends",):
        return "an array; write [backends.NAME] for each backend"
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return f"an array of tables; write [{_header(path)}], with one bracket"
    return f"{quoted(value)} is not {_needed(path)}; allowed is {allowed(node_at(path))}"


def _needed(path: KeyPath) -> str:
    node = node_at(path) or {}
    kinds = {one.get("type", "object") for one in node.get("anyOf", [node])}
    return "an array" if "array" in kinds else "a table"


def _how_to_add(path: KeyPath) -> str:
    if path == ("backends",):
        return "write [backends.NAME] for at least one backend"
    if _is_array_of_tables(path):
        return f"write [[{_header(path)}]] for at least one"
    return f"give {allowed(node_at(path))}"


def _is_array_of_tables(path: KeyPath) -> bool:
    return bool(keys_of(node_at((*path, 0))))


def _header(path: KeyPath) -> str:
    """A place as a table's header names it: without the numbers of the elements."""
    return dotted(tuple(part for part in path if isinstance(part, str)))
