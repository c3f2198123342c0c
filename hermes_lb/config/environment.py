"""`${NAME}` in the strings of a configuration file: variables of the environment.

For secrets, which then are in no file; Compose and Envoy have the same form. `$${` is a literal
`${`. A value is put in as it is: it can't add a key or a table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.options.problems import KeyPath

_REFERENCE = re.compile(r"(\$?)\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def expanded(
    tables: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[tuple[KeyPath, str]]]:
    """Tables as the file has them -> the same with values, and problems with their places.

    Names of keys and tables stay as they are.
    """
    problems: list[tuple[KeyPath, str]] = []

    def expand(value: Any, path: KeyPath) -> Any:
        if isinstance(value, str) and "${" in value:
            return _REFERENCE.sub(lambda match: look_up(match, path), value)
        if isinstance(value, dict):
            return {key: expand(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [expand(item, (*path, place)) for place, item in enumerate(value)]
        return value

    def look_up(match: re.Match[str], path: KeyPath) -> str:
        escape, name = match.groups()
        if escape:
            return match[0][1:]
        if not _NAME.fullmatch(name):
            problems.append((path, f'"${{{name}}}" names no variable; a literal one is "$${{"'))
        elif name not in environment:
            problems.append((path, f"the environment has no variable {name}"))
        return environment.get(name, "")

    return {key: expand(value, (key,)) for key, value in tables.items()}, problems
