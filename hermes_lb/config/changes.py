"""The differences between two configurations in words; and those that need a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from hermes_lb.options.problems import ConfigError, Problem, dotted, quoted
from hermes_lb.options.section import Section
from hermes_lb.turns.store.url import identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from hermes_lb.config.models import Config
    from hermes_lb.options.problems import KeyPath
    from hermes_lb.turns.options import StoreOptions

# What only a restart can change; `[admin]` waits for it, and everything else changes in place.
_FIXED = {
    ("process", "workers"): "the number of processes",
    ("process", "state_file"): "the state file",
    ("process", "reload_on_change"): "whether it reloads by itself",
}


def refuse_fixed(
    old: Config, new: Config, source: str | None = None, *, instead: str = "restart"
) -> None:
    """Raise ConfigError if `new` has changes that a reload can't make; `instead`: what can."""
    problems = [
        Problem(dotted(path), None, f"{what} can't change while it runs: {instead} to change it")
        for path, what in _FIXED.items()
        if _at(old, path) != _at(new, path)
    ]
    if not is_same_store(old, new):
        what = f"the store of turns can't change while it runs: {instead} to change it"
        problems.append(Problem("store", None, what))
    if problems:
        raise ConfigError(problems, source)


def is_same_store(old: Config, new: Config) -> bool:
    """Their stores of turns differ at most in how to log in, which a reload can change."""
    return _without_login(old.store) == _without_login(new.store)


def _without_login(store: StoreOptions) -> StoreOptions:
    url = None if store.url is None else identity(store.url)
    return store.model_copy(update={"url": url, "url_file": None})


def hold_back(old: Config, new: Config, *, instead: str = "restart") -> tuple[Config, list[str]]:
    """`new` with the admin listener of `old`, and what waits for that reason, as text."""
    held = new.model_copy(update={"admin": old.admin})
    return held, [f"{line} (waits for: {instead})" for line in describe_changes(held, new)]


def describe_changes(old: Config, new: Config) -> list[str]:
    """`timeouts.server: 300 -> 60`, `backends.agents.servers.agent4: added`, ...

    In the order of the file's sections; empty if nothing differs. Secrets are not shown.
    """
    return [*_differences(old, new, ()), *_changed_modules(old, new)]


def _changed_modules(old: Config, new: Config) -> Iterator[str]:
    """Of strategies of one's own that are named as before."""
    for name, backend in new.backends.items():
        before, code = old.backends.get(name), backend.code
        if before is None or code is None or before.balance != backend.balance:
            continue
        if before.code != code:
            yield f"backends.{name}.balance: the module {code.module} has changed"


def _at(config: Config, path: KeyPath) -> object:
    value: object = config
    for part in path:
        value = getattr(value, str(part), None)
    return value


def _differences(old: Any, new: Any, path: KeyPath, *, is_secret: bool = False) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Section) and isinstance(new, Section):
        # Of different types if the kind has changed: a key that only one has is not given there.
        for key, field in (type(old).model_fields | type(new).model_fields).items():
            yield from _differences(
                _given(old, key, field), _given(new, key, field), (*path, field.alias or key),
                is_secret=not field.repr,
            )  # fmt: skip
    elif isinstance(old, dict) and isinstance(new, dict):
        yield from _by_name(old, new, path)
    elif _are_named(old) and _are_named(new) and (old or new):
        yield from _by_name({x.name: x for x in old}, {x.name: x for x in new}, path)
    elif _are_tables(old) and _are_tables(new):
        yield from _by_place(old, new, path)
    elif is_secret:
        yield f"{dotted(path)}: changed"
    else:
        yield f"{dotted(path)}: {_text(old)} -> {_text(new)}"


def _given(section: Section, key: str, field: FieldInfo) -> Any:
    return getattr(section, key, field.default)


def _by_name(old: dict[str, Any], new: dict[str, Any], path: KeyPath) -> Iterator[str]:
    for name, value in new.items():
        if name in old:
            yield from _differences(old[name], value, (*path, name))
        else:
            yield f"{dotted((*path, name))}: added"
    for name in old:
        if name not in new:
            yield f"{dotted((*path, name))}: removed"
    common = [name for name in new if name in old]
    if common != [name for name in old if name in new]:
        yield f"{dotted(path)}: in another order"


def _by_place(old: list[Section], new: list[Section], path: KeyPath) -> Iterator[str]:
    for place, (before, after) in enumerate(zip(old, new, strict=False)):
        yield from _differences(before, after, (*path, place))
    for place in range(len(old), len(new)):
        yield f"{dotted((*path, place))}: added"
    for place in range(len(new), len(old)):
        yield f"{dotted((*path, place))}: removed"


def _are_named(value: object) -> bool:
    return _are_tables(value) and all(hasattr(table, "name") for table in value)


def _are_tables(value: object) -> TypeGuard[list[Any]]:
    """An empty list may have been one of them."""
    return isinstance(value, list) and all(isinstance(item, Section) for item in value)


def _text(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, Section):
        return "a table"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return quoted(value if isinstance(value, str | bool | int) else str(value))
