"""The JSON Schema for editors: `allowed.json_schema` with a description for each key.

The descriptions are the comments of `reference.toml`, which a test compares with the code: a key is
described in one place. Which options a strategy has is stated as conditions, so an editor marks an
option of another one as the loader does.
"""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from hermes_lb.balancing import STRATEGIES, plugins
from hermes_lb.config.allowed import json_schema
from hermes_lb.config.lines import LineIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.config.allowed import Node
    from hermes_lb.options.problems import KeyPath

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "urn:hermes-lb:configuration"

# A comment behind a value, without the directives of HAProxy and nginx in brackets. In the
# reference no value has a "#".
_COMMENT = re.compile(r"#\s*(?P<text>.*?)\s*(?:\[(?:[^\[\]]|\[[^\[\]]*\])* \| .*\])?$")


def editor_schema(reference: str) -> Node:
    """`reference`: the text of `reference.toml`."""
    schema = deepcopy(json_schema())
    for path, text in _descriptions(reference):
        for node in _properties_at(schema, path):
            node.setdefault("description", text)
    _add_strategies(schema["$defs"]["Backend"])
    return {"$schema": DIALECT, "$id": ID, "title": "hermes_lb", **schema}


def _descriptions(reference: str) -> Iterator[tuple[KeyPath, str]]:
    """The longest one of each key: a second example has "required" only."""
    index, lines = LineIndex(reference), reference.splitlines()
    for path in _paths(tomllib.loads(reference)):
        line = index.line_of(path)
        if path in index and line is not None:
            text = _text_at(lines, line - 1)
            if text and text not in ("required", "required: see above"):
                yield path, text


def _text_at(lines: list[str], place: int) -> str:
    """Behind a value; above a table."""
    if not lines[place].startswith("["):
        found = _COMMENT.search(lines[place])
        return found["text"] if found else ""
    above: list[str] = []
    while place and lines[place - 1].startswith("#"):
        place -= 1
        above.insert(0, lines[place].removeprefix("#").strip())
    found = _COMMENT.search("# " + " ".join(above))
    return found["text"] if found else ""


def _paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from _paths(item, (*path, key))


def _properties_at(schema: Node, path: KeyPath) -> list[Node]:
    """The nodes of a key, in each of the alternatives that its table may be."""
    nodes = [schema]
    for part in path[:-1]:
        nodes = [found for node in _tables(schema, nodes) for found in _step(node, part)]
    key = path[-1]
    tables = _tables(schema, nodes)
    return [node["properties"][key] for node in tables if key in node.get("properties", {})]


def _tables(schema: Node, nodes: list[Node]) -> list[Node]:
    """With references followed, and alternatives apart."""
    found = []
    for node in nodes:
        if "$ref" in node:
            found += _tables(schema, [schema["$defs"][node["$ref"].rpartition("/")[2]]])
        elif "anyOf" in node:
            found += _tables(schema, node["anyOf"])
        elif "oneOf" in node:
            found += _tables(schema, node["oneOf"])
        else:
            found.append(node)
    return found


def _step(node: Node, part: str | int) -> list[Node]:
    if isinstance(part, int):
        return [node["items"]] if "items" in node else []
    if part in node.get("properties", {}):
        return [node["properties"][part]]
    return list(node.get("patternProperties", {}).values())


def _add_strategies(backend: Node) -> None:
    """One condition a strategy: it has these options and no others."""
    backend["allOf"] = [
        {
            "if": {"properties": {"balance": {"const": name}}, "required": ["balance"]},
            "then": {"properties": {"strategy": {"propertyNames": {"enum": sorted(options)}}}},
        }
        for name, options in ((name, _options_of(name)) for name in STRATEGIES)
    ]
    balance = backend["properties"]["balance"]
    balance["anyOf"][0]["enum"] += list(plugins.installed())
    default = balance["default"]
    none = {"properties": {"strategy": {"propertyNames": {"enum": sorted(_options_of(default))}}}}
    backend["allOf"].append({"if": {"not": {"required": ["balance"]}}, "then": none})


def _options_of(strategy: str) -> set[str]:
    return set(STRATEGIES[strategy].options.model_fields)
