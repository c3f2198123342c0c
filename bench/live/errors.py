"""What the bench reports instead of a figure."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


class BenchError(Exception):
    """A measurement could not be made, or its figure must not be believed."""


@contextmanager
def exit_on_error(console: Console) -> Iterator[None]:
    """Report an interruption or a BenchError, and exit with 130 or 1."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted; everything started has been ended")
        raise SystemExit(130) from None
    except BenchError as error:
        console.print(f"[red]{error}[/]")
        raise SystemExit(1) from None
