"""A file or a mapping -> a Config, or every problem it has, each with its key and its line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from hermes_lb.config.backend import MODULES
from hermes_lb.config.dump import Origin
from hermes_lb.config.environment import expanded
from hermes_lb.config.error_pages import read_pages
from hermes_lb.config.lines import LineIndex
from hermes_lb.config.models import Config
from hermes_lb.config.references import check_references
from hermes_lb.config.secret_files import filled, refreshed
from hermes_lb.config.source import read_source
from hermes_lb.options.problems import ConfigError, Problem, dotted

if TYPE_CHECKING:
    from hermes_lb.options.problems import KeyPath


def load_config(
    source: Config | Mapping[str, Any] | str | Path,
    *,
    strategy_modules: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in a TOML file (a path), in a mapping of the same shape, or as it is.

    In a file `${NAME}` is a variable of the environment; files of secrets are read. Raises
    ConfigError with every problem at once: wrong values, unknown and missing keys, and names that
    do not fit together. Problems of a file have lines; a file that cannot be read, or is not TOML,
    has one. `strategy_modules`: what to take in the place of the files of these modules, as a
    `Config` has it.
    """
    if isinstance(source, Config):
        return refreshed(source)  # coherent, or it could not have been made
    if isinstance(source, Mapping):
        return _validate(_plain(source), None, None, {MODULES: strategy_modules or {}})
    name = os.fspath(source)
    text, tables = read_source(Path(source), name)
    return _validate(tables, text, name)


def _validate(
    tables: dict[str, Any], text: str | None, name: str | None, context: Any = None
) -> Config:
    """`text`: of the file, whose strings may name variables of the environment."""
    values, found = (tables, []) if text is None else expanded(tables, os.environ)
    values, missing = filled(values)
    found += missing
    found += check_references(values)
    try:
        config, unread = read_pages(Config.model_validate(values, context=context))
        found += unread
    except ValidationError as error:
        # By the tables: a message must not show a secret.
        found += _explained(error, tables, has_references=bool(found))
    if not found:
        return config if text is None else config.made_of(Origin(name or "", text, tables))
    # Only now: a good file is not parsed a second time.
    index = None if text is None else LineIndex(text)
    problems: dict[str, Problem] = {}
    for path, message in found:
        line = None if index is None else index.line_of(path)
        problem = Problem(dotted(path), line, message)
        # One a key: a name that no backend has may be an impossible name besides.
        problems.setdefault(problem.key, problem)
    raise ConfigError(problems.values(), name)


def _explained(
    error: ValidationError, tables: dict[str, Any], *, has_references: bool
) -> list[tuple[KeyPath, str]]:
    from hermes_lb.config.explain import explain  # a good file does without the JSON Schema

    found = []
    for details in error.errors(include_url=False):
        if details["loc"] == () and has_references:
            continue  # Config's own check of its references, which is in `found` in more detail
        place = tuple(part for part in details["loc"] if part != "[key]")
        path, value = _in_file(place, tables)
        found.append((path, explain(details, place, value)))
    return found


def _in_file(place: KeyPath, tables: dict[str, Any]) -> tuple[KeyPath, Any]:
    """The part of a place that the file has, with the last key even if it is missing; its value.

    pydantic goes further: into the list of one that a lone value becomes, and into the names of a
    union's members.
    """
    value: Any = tables
    path: list[str | int] = []
    for part in place:
        if isinstance(value, dict) and isinstance(part, str):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif isinstance(value, dict) and part == 0:
            continue  # a lone table
        else:
            break
        path.append(part)
    return tuple(path), value


def _plain(value: object) -> Any:
    """Mappings, sequences and models within a mapping -> the values that TOML would have."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return [_plain(item) for item in value]
    return value
