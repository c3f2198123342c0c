"""Which build of the data path runs: its sources, or the C extensions that mypyc made of them.

`setup.py` has the list of modules, docs/performance.md what the extensions bring.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

#: Their common shared library is installed beside the sources.
IS_COMPILED: Final = find_spec("hermes_lb.compiled__mypyc") is not None
BUILD: Final = "compiled" if IS_COMPILED else "pure Python"
