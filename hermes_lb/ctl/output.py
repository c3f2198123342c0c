"""What commands print, and how they fail."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from hermes_lb.ctl.errors import CtlError
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from collections.abc import Iterator


def print_upgraded(status: dict[str, Any]) -> None:
    draining = [p["is_draining"] for p in status["processes"]]
    left = f", {draining.count(True)} draining" if any(draining) else ""
    print(
        f"upgraded to hermes_lb {status['version']}; processes: {draining.count(False)} new{left}"
    )


def print_server(context: typer.Context, server: dict[str, Any]) -> None:
    """One line: the state, and its reason if it is not what the operator set."""
    if printed_json(context, server):
        return
    left = server["in_flight"] + server["queued"]
    running = f", {left} in flight" if left else ""
    state, because = server["state"], ""
    if server["because"] and state not in ("up", server["admin"]):
        from hermes_lb.ctl.tables import printable

        because = f" ({printable(server['because'])})"
    print(
        f"{server['backend']}/{server['name']} is {state}{because}, "
        f"weight {server['full_weight']}{running}"
    )


def warn_if_unsettled(server: dict[str, Any]) -> None:
    """A process has not applied the change yet."""
    if not server.get("settled", True):  # older balancers do not have it
        said = "a process has not answered yet: it applies this as soon as it does"
        print(f"hermes-lb: {said}", file=sys.stderr)


def print_answer(context: typer.Context, table: str, answer: Any) -> None:
    """As JSON, or as `ctl.tables` shows it."""
    if printed_json(context, answer):
        return
    from hermes_lb.ctl import tables

    screen = tables.console()
    for part in getattr(tables, table)(answer):
        screen.print(part)


def printed_json(context: typer.Context, answer: Any) -> bool:
    if context.obj.as_json:
        print(json.dumps(answer, indent=2))
    return bool(context.obj.as_json)


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Ctrl-C ends only the wait."""
    try:
        yield
    except KeyboardInterrupt:
        raise CtlError(f"interrupted; the {what} continues") from None


@contextmanager
def errors_as_exit_status() -> Iterator[None]:
    """Print an error to stderr and end with exit status 1."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # as by `| head`: typer ends silently
    except OSError as error:
        # Python would fail again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"hermes-lb: the output can't be written: {reason(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    except CtlError as error:
        for line in (f"hermes-lb: {error}", *(f"  {problem}" for problem in error.problems)):
            print(line, file=sys.stderr)
        raise typer.Exit(1) from None


def usage_error(message: str) -> NoReturn:
    print(f"hermes-lb: {message}", file=sys.stderr)
    raise typer.Exit(2)
