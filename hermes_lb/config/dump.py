"""The configuration as it runs: each value, and where it comes from.

Secrets are not shown, neither those of keys that hold one nor values of the environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.config.lines import LineIndex
from hermes_lb.options.problems import dotted
from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.config.models import Config
    from hermes_lb.config.runtime import RuntimeServers
    from hermes_lb.options.problems import KeyPath

HIDDEN = "***"
_IN_ENVIRONMENT = "${"


class Origin:
    """The file that a `Config` was made of. It is no part of what the configuration says."""

    __slots__ = ("_index", "name", "tables", "text")

    def __init__(self, name: str, text: str, tables: dict[str, Any]) -> None:
        self.name = name
        self.text = text
        self.tables = tables  # as the file has them
        self._index: LineIndex | None = None

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def line_of(self, path: KeyPath) -> int | None:
        """None: the file does not have this key."""
        if self._index is None:
            self._index = LineIndex(self.text)
        return self._index.line_of(path) if path in self._index else None

    def value_of(self, path: KeyPath) -> Any:
        """As the file has it; None: it has not."""
        value: Any = self.tables
        for part in path:
            if isinstance(value, dict):
                value = value.get(str(part))
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def settings(
    config: Config,
    runtime: RuntimeServers,
    found: Callable[[str], Mapping[str, DiscoveredServer]],
) -> list[dict[str, Any]]:
    """`key`, `value` and `origin` of each. `config` is the file's.

    `found` gives the servers of a backend's discovery: those of `resolve` are shown as well, others
    may be thousands.
    """
    origin = config.origin
    rows = list(_rows(config, (), (), origin))
    of_file = {(name, s.name) for name, one in config.backends.items() for s in one.servers}
    for name, backend in runtime.applied(config.backends).items():
        running = {server.name for server in backend.servers}
        resolved = [s for s in found(name).values() if s.resolved_from not in (None, s.name)]
        for server in (*backend.servers, *resolved):
            place = dotted(("backends", name, "servers", server.name))
            set_keys = runtime.origin_of(name, server.name)
            if set_keys is None:
                rows = [row for row in rows if not row["key"].startswith(f"{place}.")]
                rows += _plain(server, place, "runtime")
            elif server.is_discovered:
                rows += _plain(server, place, "discovery")
            if set_keys:
                values = {row["key"]: row for row in _plain(server, place, "runtime")}
                changed = {f"{place}.{key}" for key in set_keys}
                rows = [values[r["key"]] if r["key"] in changed else r for r in rows]
        for owner, gone in of_file:
            if owner == name and gone not in running:
                place = dotted(("backends", name, "servers", gone))
                rows = [row for row in rows if not row["key"].startswith(f"{place}.")]
                rows.append({"key": place, "value": "removed", "origin": "runtime"})
    return rows


def _plain(server: Section, place: str, origin: str) -> list[dict[str, Any]]:
    return [{**row, "origin": origin} for row in _rows(server, (), (place,), None)]


def _rows(
    section: Section, path: KeyPath, shown: tuple[str, ...], origin: Origin | None
) -> Iterator[dict[str, Any]]:
    """`path` is the place in the file, `shown` the same with names in place of numbers."""
    written = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        yield from _of_value(
            getattr(section, key), written.get(key), (*path, key), (*shown, key), origin,
            is_secret=not field.repr,
        )  # fmt: skip


def _of_value(
    value: Any,
    written: Any,
    path: KeyPath,
    shown: tuple[str, ...],
    origin: Origin | None,
    *,
    is_secret: bool = False,
) -> Iterator[dict[str, Any]]:
    if isinstance(value, Section):
        yield from _rows(value, path, shown, origin)
    elif isinstance(value, dict) and any(isinstance(one, Section) for one in value.values()):
        for name, one in value.items():
            yield from _of_value(one, written[name], (*path, name), (*shown, name), origin)
    elif isinstance(value, list) and any(isinstance(one, Section) for one in value):
        is_lone = origin is not None and not isinstance(origin.value_of(path), list)
        for place, one in enumerate(value):
            inner = path if is_lone else (*path, place)
            name = str(getattr(one, "name", None) or place)
            yield from _of_value(one, written[place], inner, (*shown, name), origin)
    else:
        line = None if origin is None else origin.line_of(path)
        said = "default" if line is None or origin is None else f"{origin.name}:{line}"
        if origin is not None and (given := _with_variables(origin.value_of(path))) is not None:
            written, said = given, f"{said} (environment)"
        elif is_secret and value is not None:
            written = HIDDEN
        yield {"key": ".".join(shown), "value": written, "origin": said}


def _with_variables(raw: Any) -> Any:
    """What the file has, if a part of it is a variable: that may be a secret."""
    if isinstance(raw, str):
        return raw if _IN_ENVIRONMENT in raw else None
    if isinstance(raw, list | dict):
        inner = raw.values() if isinstance(raw, dict) else raw
        return raw if any(_with_variables(one) is not None for one in inner) else None
    return None
