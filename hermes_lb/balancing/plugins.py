"""Strategies of one's own: `balance = "python:module:Class"`, or the name of an entry point.

An entry point of the group `hermes_lb.strategies` gives such a class a name. A module is loaded
again when its file has changed since, at the next load of the configuration; modules that it
imports are not. `plugin_check` finds the faults of a class before it is used, and `guarded` handles
those that it shows later.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.plugin_check import PluginError, check_class, in_words
from hermes_lb.options.patterns import pattern
from hermes_lb.options.problems import did_you_mean, quoted

if TYPE_CHECKING:
    from types import ModuleType

    from hermes_lb.balancing.base import Strategy

GROUP: Final = "hermes_lb.strategies"
PREFIX: Final = "python:"
PYTHON_NAME: Final = pattern(
    r"^python:[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*$", '"python:module:Class"'
)

_found: dict[str, type[Strategy]] = {}  # by the name in `balance`, as last loaded
_texts: dict[str, bytes] = {}  # of the files of modules, as they were executed


def installed() -> dict[str, str]:
    """The entry points of the group: name -> `module:Class`."""
    return {point.name: point.value for point in metadata.entry_points(group=GROUP)}


def is_installed_name(name: str) -> bool:
    """Whether this is the name of an entry point. Raises PluginError if it nearly is."""
    names = installed()
    if name in names:
        return True
    if near := did_you_mean(name, names):
        raise PluginError(f"did you mean {quoted(near)}? It is the strategy {names[near]}")
    return False


def load(name: str) -> type[Strategy]:
    """The class of this name, as its file is now. Raises PluginError."""
    target = name.removeprefix(PREFIX) if name.startswith(PREFIX) else installed()[name]
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name.isidentifier():
        raise PluginError('write "python:module:Class"')
    module = _module(module_name)
    found = getattr(module, class_name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if isinstance(value, type)]
        near = did_you_mean(class_name, names)
        hint = f"; did you mean {quoted(near)}?" if near else ""
        raise PluginError(f"{module.__file__} has no class {quoted(class_name)}{hint}")
    check_class(found, f"{class_name} in {module.__file__}")
    _found[name] = found
    return _found[name]


def loaded(name: str) -> type[Strategy]:
    """The class of this name as it was loaded last, or now. Raises PluginError."""
    return _found.get(name) or load(name)


def _module(name: str) -> ModuleType:
    before = sys.modules.get(name)
    try:
        if before is None:
            importlib.invalidate_caches()
            module = importlib.import_module(name)
        else:
            module = _again(name, before)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise PluginError(
                f"there is no module {quoted(error.name)} for {sys.executable}: install it there, "
                "or name its directory in PYTHONPATH"
            ) from None
        raise PluginError(in_words(error, f"import of {name}")) from None
    except (Exception, SystemExit) as error:
        raise PluginError(in_words(error, f"import of {name}")) from None
    if (text := _text_of(module)) is not None:
        _texts[name] = text
    return module


def _again(name: str, before: ModuleType) -> ModuleType:
    """Executed again if its file has changed; if that fails, the old one stays."""
    text = _text_of(before)
    if text is None or _texts.get(name, text) == text:
        return before
    spec = importlib.util.find_spec(name)
    if spec is None:
        return before
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not by the loader: its byte code is of the same file if that has the same second and size.
        exec(compile(text, str(before.__file__), "exec"), module.__dict__)
    except BaseException:
        sys.modules[name] = before
        raise
    return module


def _text_of(module: ModuleType) -> bytes | None:
    """Of its file; None if it is not Python's."""
    if module.__file__ is None or not module.__file__.endswith(".py"):
        return None
    try:
        return Path(module.__file__).read_bytes()
    except OSError:
        return None
