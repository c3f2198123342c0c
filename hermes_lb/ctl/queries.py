"""Commands that show something."""

from __future__ import annotations

import time
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_lb.ctl.app import InBackend, Watch, app
from hermes_lb.ctl.output import errors_as_exit_status, print_answer, printed_json, usage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hermes_lb.control.shapes import Server

_WORST: tuple[str, ...] = ("up", "drain", "degraded", "maint", "failing", "ejected", "down")

# By the name for --sort: numbers are shown largest first, states worst first.
SORTS: dict[str, Callable[[Server], Any]] = {
    "name": lambda s: (s["backend"], s["name"]),
    "state": lambda s: -_WORST.index(s["state"]),
    "in-flight": lambda s: -s["in_flight"],
    "queued": lambda s: -s["queued"],
    "weight": lambda s: -s["full_weight"],
    "requests": lambda s: -sum(s["counters"]["responses"].values()),
    "errors": lambda s: -s["counters"]["responses"]["5xx"] - s["counters"]["aborted_by_server"],
    "bytes": lambda s: -s["counters"]["bytes_out"],
    "downtime": lambda s: -(s["tally"] or {"downtime": 0})["downtime"],
}
Sort = Annotated[
    str | None, typer.Option("--sort", metavar="KEY", help=f"One of {', '.join(SORTS)}.")
]
OfState = Annotated[
    str | None, typer.Option("--state", metavar="STATE,...", help="Only in these states.")
]
Shown = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these; * ? [...] match.")
]


def again(watch: float | None, show: Callable[[], None]) -> None:
    """Once, or until Ctrl-C; on a terminal in place of what was shown before."""
    with errors_as_exit_status():
        if watch is None:
            show()
            return
        from hermes_lb.ctl.tables import console

        screen = console()
        with suppress(KeyboardInterrupt):
            while True:
                if screen.is_terminal:
                    screen.clear()
                show()
                time.sleep(watch)


def _of(context: typer.Context, table: str, path: str, **query: object) -> None:
    from urllib.parse import urlencode

    asked = urlencode({key: value for key, value in query.items() if value is not None})
    answer = context.obj.client.get(f"{path}?{asked}" if asked else path)
    print_answer(context, table, answer)


def _in_backend(rows: list[Any], backend: str | None) -> list[Any]:
    if backend is None:
        return rows
    return [row for row in rows if fnmatchcase(row["backend"] or "", backend)]


@app.command()
def status(context: typer.Context, watch: Watch = None) -> None:
    """Show the balancer: backends, frontends, processes."""
    again(watch, lambda: _of(context, "status", "status"))


@app.command()
def servers(
    context: typer.Context,
    names: Shown = None,
    backend: InBackend = None,
    state: OfState = None,
    sort: Sort = None,
    full: Annotated[
        bool, typer.Option("--full", help="Bytes, retries, downtime, maxima as well.")
    ] = False,
    watch: Watch = None,
) -> None:
    """List servers: state and its reason, load, errors."""
    if sort is not None and sort not in SORTS:
        usage_error(f"--sort {sort}: there are {', '.join(SORTS)}")
    states = None if state is None else state.split(",")
    if unknown := [one for one in states or () if one not in _WORST]:
        usage_error(f"--state {unknown[0]}: there are {', '.join(_WORST)}")

    def show() -> None:
        rows: list[Server] = _in_backend(context.obj.client.get("servers"), backend)
        if names:
            chosen = context.obj.client.chosen(rows, names)
            rows = [row for row in rows if row in chosen]
        if states is not None:
            rows = [row for row in rows if row["state"] in states]
        if sort is not None:
            rows.sort(key=SORTS[sort])
        print_answer(context, "servers_in_full" if full else "servers", rows)

    again(watch, show)


@app.command()
def certificates(context: typer.Context) -> None:
    """List the certificates in use and when they expire, the next one first."""
    with errors_as_exit_status():
        found = context.obj.client.get("status")
        print_answer(context, "certificates", found.get("certificates", []))


@app.command()
def aborts(context: typer.Context, backend: InBackend = None, watch: Watch = None) -> None:
    """List the last requests that ended abnormally, with the cause; the newest last."""

    def show() -> None:
        print_answer(context, "aborts", _in_backend(context.obj.client.get("recent"), backend))

    again(watch, show)


@app.command()
def changes(context: typer.Context, backend: InBackend = None, watch: Watch = None) -> None:
    """List the last changes of servers' states, with reasons; the newest last."""

    def show() -> None:
        print_answer(context, "changes", _in_backend(context.obj.client.get("changes"), backend))

    again(watch, show)


@app.command()
def errors(context: typer.Context, watch: Watch = None) -> None:
    """List why requests were refused and servers failed, the most frequent first."""
    again(watch, lambda: _of(context, "errors", "errors"))


@app.command()
def resolvers(context: typer.Context) -> None:
    """List the host names of servers (`resolve`) and their addresses."""
    again(None, lambda: _of(context, "resolvers", "resolvers"))


@app.command()
def config(
    context: typer.Context,
    under: Annotated[
        str, typer.Argument(metavar="[KEY]", help="Only below it: backends.agents")
    ] = "",
    changed: Annotated[
        bool, typer.Option("--changed", help="Only values that are not the default.")
    ] = False,
) -> None:
    """Show the running configuration: each value, and where it comes from.

    Secrets are not shown.
    """
    with errors_as_exit_status():
        from urllib.parse import urlencode

        rows = context.obj.client.get(f"config?{urlencode({'under': under})}")
        shown = [row for row in rows if not changed or row["origin"] != "default"]
        print_answer(context, "config", shown)


@app.command()
def sessions(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(metavar="NAME", help="Only on this server.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this backend.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
    kill: Annotated[bool, typer.Option("--kill", help="Cut all on --server.")] = False,
    watch: Watch = None,
) -> None:
    """List requests, streams and tunnels in flight, longest first.

    A server removed by a reload is included while requests run on it.
    """
    if kill and server is None:
        usage_error("--kill needs a --server")
    if kill and watch is not None:
        usage_error("--kill excludes --watch")
    client = context.obj.client

    def show() -> None:
        on: Mapping[str, Any] = {"backend": backend}
        if server is not None:
            found = client.find(server, is_busy=True)
            if kill:
                ended = client.end_sessions(found)
                if not printed_json(context, {"ended": ended}):
                    print(f"{found['backend']}/{found['name']}: {ended} ended")
                return
            on = {"backend": found["backend"], "server": found["name"]}
        _of(context, "sessions", "sessions", limit=limit, **on)

    again(watch, show)


@app.command()
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show once, not every second.")] = False,
    backend: InBackend = None,
) -> None:
    """Show live rates, errors and percentiles, problems first; once in a pipe or with --json."""
    with errors_as_exit_status():
        moments = context.obj.client.events()
        if context.obj.as_json:
            printed_json(context, next(moments))
            return
        from hermes_lb.ctl.tables import console
        from hermes_lb.ctl.top import show, view

        screen = console()
        if once or not screen.is_terminal:
            screen.print(view(next(moments), backend))
        else:
            with suppress(KeyboardInterrupt):
                show(moments, screen, backend)
