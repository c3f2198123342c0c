"""What tests need from outside: without it they are skipped, and say what is missing.

At the top of a test module:

    needs_program("slowhttptest")
    openai = needs_package("openai")
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_OUTSIDE = Path(__file__).parents[2] / ".venv-outside"


def needs_program(name: str) -> str:
    """The path of a program; Debian's package has the same name."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(
            f"{name} is not installed: apt-get install {name}",
            allow_module_level=True,
        )
    return path


def needs_outside(environment: str, program: str) -> str:
    """The path of a Python program with an environment of its own, `tests/outside/*.txt`."""
    path = _OUTSIDE / environment / "bin" / program
    if not path.exists():
        pytest.skip(f"{environment} is not installed: make outside", allow_module_level=True)
    return str(path)


def needs_package(name: str, *modules: str) -> ModuleType:
    """The Python package, with these modules of it imported as well."""
    reason = f"the Python package {name} is not installed: pip install -c constraints.txt {name}"
    for module in modules:
        pytest.importorskip(f"{name}.{module}", reason=reason)
    package: ModuleType = pytest.importorskip(name, reason=reason)
    return package


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 on this machine")
