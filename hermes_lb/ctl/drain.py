"""`ctl drain --wait`: waits for a server's last request, and shows progress."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hermes_lb.ctl.errors import CtlError
from hermes_lb.ctl.tables import count, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from hermes_lb.ctl.client import AdminClient

    Show = Callable[[int, int], None]  # how many are left, of how many

# Seconds between two polls.
_EVERY = 0.5


def wait_until_drained(
    client: AdminClient, server: dict[str, Any], deadline: float | None, screen: Console | None
) -> int:
    """Wait until no request runs or waits on `server` -> how many are left at `deadline`.

    `deadline` is in seconds from now, or None. Without a `screen` nothing is shown. A server that a
    reload removes meanwhile is waited for as well.
    Raises CtlError if the drain is ended by another operator.
    """
    name = f"{server['backend']}/{server['name']}"
    ends = None if deadline is None else time.monotonic() + deadline
    most = 0
    with _progress(screen, name) as show:
        while True:
            left = _left(client, server)
            most = max(most, left)
            show(left, most)
            if left == 0 or (ends is not None and time.monotonic() >= ends):
                return left
            pause = _EVERY if ends is None else min(_EVERY, max(0.0, ends - time.monotonic()))
            time.sleep(pause)
            server = client.look_at(server)
            # `state` may differ in a drain: ejected or down.
            if server["admin"] == "ready":
                raise CtlError(f"{name} was set to ready: another operator ended the drain")


def _left(client: AdminClient, server: dict[str, Any]) -> int:
    """Processes are asked for their requests only when the counters say that none is left."""
    return int(server["in_flight"] + server["queued"]) or client.running_on(server)


@contextmanager
def _progress(screen: Console | None, name: str) -> Iterator[Show]:
    """A bar on a terminal; in a pipe a line for each change."""
    if screen is None:
        yield lambda left, most: None
    elif screen.is_terminal:
        with _bar(screen, name) as show:
            yield show
    else:
        yield _Lines(screen, name)


class _Lines:
    def __init__(self, screen: Console, name: str) -> None:
        self._screen = screen
        self._name = name
        self._last = -1
        self._began = time.monotonic()

    def __call__(self, left: int, most: int) -> None:
        if left != self._last:
            self._last = left
            took = duration(time.monotonic() - self._began)
            self._screen.print(f"{self._name}: {count(left)} of {count(most)} left after {took}")


@contextmanager
def _bar(screen: Console, name: str) -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]} of {task.fields[most]} left"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen) as progress:
        task = progress.add_task(name, total=None, left="?", most="?")

        def show(left: int, most: int) -> None:
            progress.update(
                task, total=max(most, 1), completed=most - left if most else 1,
                left=count(left), most=count(most),
            )  # fmt: skip

        yield show
