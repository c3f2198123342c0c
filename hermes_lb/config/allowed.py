"""What a key accepts, in words: from the JSON Schema, so that it is never out of date."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from hermes_lb.config.models import Config
from hermes_lb.options.patterns import IN_WORDS
from hermes_lb.options.problems import any_of, quoted
from hermes_lb.options.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.options.problems import KeyPath

Node = dict[str, Any]
"""A part of the JSON Schema; every `$ref` that `node_at` passes is followed."""


@cache
def json_schema() -> Node:
    """The JSON Schema of a configuration file, for editors: completion and checks as one types."""
    return Config.model_json_schema()


def node_at(path: KeyPath) -> Node | None:
    """The schema of the value at a place in the configuration, or None: no such key is known."""
    node: Node | None = json_schema()
    for part in path:
        if node is None:
            return None
        if isinstance(part, int):
            node = _variant(node, "items")
        else:
            # The tables of users' own names have a pattern for these: [backends.NAME].
            named = _variant(node, "patternProperties") or {}
            known = _variant(node, "properties") or {}
            node = known.get(part) or next(iter(named.values()), None)
    return None if node is None else _follow(node)


def keys_of(node: Node | None) -> list[str]:
    """The keys of a table, in the order of the documentation; none for any other value."""
    return list((node and _variant(node, "properties")) or {})


def allowed(node: Node | None) -> str:
    """What a value may be: `an integer from 1 to 65535`, `"GET", "HEAD" or "OPTIONS"`, ..."""
    if node is None:
        return "no value"
    node = _follow(node)
    if "const" in node:
        return quoted(node["const"])
    if "enum" in node:
        return any_of([quoted(value) for value in node["enum"]])
    if "anyOf" in node:
        kinds = [one for one in _kinds(node) if one.get("type") != "null"]
        elements = [  # or one without brackets
            kind for one in kinds if "items" in one for kind in _kinds(one["items"])
        ]
        words: list[str] = []
        for one in kinds:
            if one not in elements:
                words += map(quoted, one["enum"]) if "enum" in one else [allowed(one)]
        return any_of(words)
    match node.get("type"):
        case "integer":
            return f"an integer{_range(node, str)}"
        case "number":
            return f"a number{_range(node, '{:g}'.format)}"
        case ["string", "number"]:
            return f"a duration{_range(node, format_duration)}, {_examples(node)}"
        case ["string", "integer"] if "16KiB" in node.get("examples", ()):
            return f"a size{_range(node, format_size)}, {_examples(node)}"
        case "string" if "pattern" in node:
            return IN_WORDS.get(node["pattern"], f"text like {node['pattern']}")
        case "string" | ["string", "integer"] if "examples" in node:
            return f"a value {_examples(node)}"
        case "boolean" | "string" | "array" | "object" as kind:
            return _KINDS[kind](node)
    return "another value"


def _kinds(node: Node) -> list[Node]:
    return [_follow(one) for one in node.get("anyOf", [node])]


def _table(node: Node) -> str:
    keys = keys_of(node)
    return f"a table with the keys {', '.join(keys)}" if keys else "a table with names of yours"


_KINDS: dict[str, Callable[[Node], str]] = {
    "boolean": lambda _: "true or false",
    "string": lambda node: "text in quotes" + ", not empty" * ("minLength" in node),
    "array": lambda node: (
        f"an array{' of at least one' * ('minItems' in node)}, each {allowed(node['items'])}"
    ),
    "object": _table,
}


def _range(node: Node, text: Callable[[Any], str]) -> str:
    low, high, above = (node.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None and high is not None:
        return f" from {text(low)} to {text(high)}"
    if low is not None:
        return f" of at least {text(low)}"
    return "" if above is None else f" above {above}"


def _examples(node: Node) -> str:
    return f"such as {any_of([quoted(example) for example in node['examples']])}"


def _follow(node: Node) -> Node:
    reference = node.get("$ref")
    if reference is None:
        return node
    found: Node = json_schema()["$defs"][reference.rpartition("/")[2]]
    return found


def _variant(node: Node, key: str) -> Node | None:
    """`node[key]` of the node, or of the first of its alternatives that has it."""
    node = _follow(node)
    for one in (node, *map(_follow, node.get("anyOf", ()))):
        if isinstance(found := one.get(key), dict):
            return found
    return None
