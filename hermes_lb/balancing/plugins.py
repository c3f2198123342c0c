"""Strategies of one's own: `balance = "python:module:Class"`, or the name of an entry point.

An entry point of the group `hermes_lb.strategies` gives such a class a name. Each load of a
configuration takes a module as its file is then, but not the modules that it imports. The
configuration keeps what it has got as a `Code`, whose text goes to the workers, so that all of them
have the same, whatever the file becomes. `plugin_check` finds the faults of a class before it is
used, and `guarded` handles those that it shows later.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from hermes_lb.balancing.plugin_check import PluginError, check_class, in_words
from hermes_lb.errors import reason
from hermes_lb.options.patterns import pattern
from hermes_lb.options.problems import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from hermes_lb.balancing.base import Strategy

GROUP: Final = "hermes_lb.strategies"
PREFIX: Final = "python:"
PYTHON_NAME: Final = pattern(
    r"^python:[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*$", '"python:module:Class"'
)


class Code(NamedTuple):
    """What a name in `balance` was when a configuration was loaded. Equal if the text is."""

    found: type[Strategy]
    module: str
    text: str | None  # of the module; None: it has no source


_found: dict[str, Code] = {}  # by the name in `balance`, as last loaded
_texts: dict[str, str] = {}  # of modules, as those in `sys.modules` were executed
# Those in use, by target and text: a file that is as it was before gives the same class again.
_classes: WeakValueDictionary[tuple[str, str | None], type[Strategy]] = WeakValueDictionary()


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


def load(name: str, texts: Mapping[str, str] = MappingProxyType({})) -> Code:
    """The class of this name, as its file is now. Raises PluginError.

    `texts`: of modules, in the place of their files.
    """
    target = name.removeprefix(PREFIX) if name.startswith(PREFIX) else installed()[name]
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name.isidentifier():
        raise PluginError('write "python:module:Class"')
    try:
        spec = _spec(module_name)
        text = texts[module_name] if module_name in texts else _text(spec)
        found = _classes.get((target, text)) or _class(_module(spec, text), class_name)
    except PluginError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise PluginError(
                f"there is no module {quoted(error.name)} for {sys.executable}: install it there, "
                "or name its directory in PYTHONPATH"
            ) from None
        raise PluginError(in_words(error, f"import of {module_name}")) from None
    except (Exception, SystemExit) as error:
        raise PluginError(in_words(error, f"import of {module_name}")) from None
    _classes[target, text] = found
    _found[name] = Code(found, module_name, text)
    return _found[name]


def loaded(name: str) -> Code:
    """The class of this name as it was loaded last, or now. Raises PluginError."""
    return _found.get(name) or load(name)


def _spec(name: str) -> ModuleSpec:
    """Without a loader if there is no such module: its text may be known."""
    importlib.invalidate_caches()
    return importlib.util.find_spec(name) or ModuleSpec(name, None)


def _text(spec: ModuleSpec) -> str | None:
    """Of its file; None if there is none."""
    if not isinstance(spec.loader, SourceFileLoader):
        return None
    try:
        text = importlib.util.decode_source(Path(spec.loader.path).read_bytes())
    except OSError as error:
        raise PluginError(f"can't read {spec.loader.path}: {reason(error)}") from None
    if spec.name in sys.modules:
        _texts.setdefault(spec.name, text)  # something else has imported it
    return text


def _module(spec: ModuleSpec, text: str | None) -> ModuleType:
    """As it was imported, or executed again if its text is another; if that fails, the old one
    stays."""
    name, before = spec.name, sys.modules.get(spec.name)
    if text is None:
        return importlib.import_module(name)
    if before is not None and _texts.get(name) == text:
        return before
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not by the loader: its byte code is of the same file if that has the same second and size.
        exec(compile(text, spec.origin or name, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    _texts[name] = text
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _class(module: ModuleType, name: str) -> type[Strategy]:
    where = module.__file__ if hasattr(module, "__file__") else module.__name__
    found: type[Strategy] | None = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if isinstance(value, type)]
        near = did_you_mean(name, names)
        hint = f"; did you mean {quoted(near)}?" if near else ""
        raise PluginError(f"{where} has no class {quoted(name)}{hint}")
    check_class(found, f"{name} in {where}")
    return found
