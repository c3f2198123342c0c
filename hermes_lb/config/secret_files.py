"""Secrets in files of their own: `secret_file` instead of `secret`, and likewise.

The file is read with the configuration, and again when it changes (`workers.watch`). It may be a
link into a directory that is replaced, as Kubernetes mounts a Secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes_lb.errors import reason
from hermes_lb.options.problems import ConfigError, Problem, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.config.models import Config
    from hermes_lb.options.problems import KeyPath

# By place, with "*" for every name: the key of the secret, and that of its file.
_SECRETS: tuple[tuple[KeyPath, str, str], ...] = (
    (("backends", "*", "affinity"), "secret", "secret_file"),
    (("backends", "*", "pins"), "redis", "redis_file"),
    (("store",), "url", "url_file"),
)


def filled(tables: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[KeyPath, str]]]:
    """Tables with the contents of the files that they name, and problems with their places.

    The tables that were given stay as they are.
    """
    problems: list[tuple[KeyPath, str]] = []
    for pattern, key, file_key in _SECRETS:
        for path, table in list(_tables_at(tables, pattern, ())):
            name = table.get(file_key)
            if not isinstance(name, str) or not name:
                continue
            try:
                table = {**table, key: _read(name)}
            except (OSError, ValueError) as error:
                problems.append(((*path, file_key), f"can't use {name}: {reason(error)}"))
            else:
                tables = _replaced(tables, path, table)
    return tables, problems


def refreshed(config: Config) -> Config:
    """The same with the present contents of its files. Raises ConfigError for those of no use."""
    if not any(True for _ in secret_files(config)):
        return config
    tables, problems = filled(config.model_dump())
    if problems:
        raise ConfigError([Problem(dotted(path), None, text) for path, text in problems], None)
    if tables == config.model_dump():
        return config
    return type(config).inherited(tables, config.strategy_modules)


def secret_files(config: Config) -> Iterator[Path]:
    """Those that it names for secrets."""
    for backend in config.backends.values():
        if backend.affinity is not None and backend.affinity.secret_file is not None:
            yield Path(backend.affinity.secret_file)
        if backend.pins.redis_file is not None:
            yield Path(backend.pins.redis_file)
    if config.store.url_file is not None:
        yield Path(config.store.url_file)


def watched_files(config: Config) -> list[Path]:
    """Files of which a change is applied without a reload: secrets, and TLS to the servers.

    Others are watched where they are used: the certificates of frontends, the admin listener's.
    """
    files = list(secret_files(config))
    for backend in config.backends.values():
        if (tls := backend.tls) is not None:
            files += [Path(name) for name in (tls.ca, tls.certificate, tls.key) if name is not None]
    return files


def _read(name: str) -> str:
    """Without blanks around it. Raises OSError, or ValueError for one that is empty or no text."""
    try:
        text = Path(name).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def _tables_at(
    tables: Any, pattern: KeyPath, path: KeyPath
) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    if not isinstance(tables, dict):
        return  # an error of its own
    if not pattern:
        yield path, tables
        return
    for name in list(tables) if pattern[0] == "*" else [pattern[0]]:
        yield from _tables_at(tables.get(name), pattern[1:], (*path, name))


def _replaced(tables: dict[str, Any], path: KeyPath, table: dict[str, Any]) -> dict[str, Any]:
    if not path:
        return table
    name = str(path[0])
    return {**tables, name: _replaced(tables[name], path[1:], table)}
