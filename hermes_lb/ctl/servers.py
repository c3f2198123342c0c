"""Commands that change servers: each takes several names, and patterns of names."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hermes_lb.ctl.app import Names, app
from hermes_lb.ctl.errors import CtlError
from hermes_lb.ctl.output import (
    errors_as_exit_status,
    interruptible,
    print_server,
    printed_json,
    usage_error,
    warn_if_unsettled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has no requests.")]


@app.command()
def ready(context: typer.Context, names: Names) -> None:
    """Put servers back into rotation, with their slow start if configured."""
    _change(context, names, "state", "ready")


@app.command()
def maint(context: typer.Context, names: Names) -> None:
    """Put servers into maintenance: no new requests, not even for pinned sessions."""
    _change(context, names, "state", "maint")


@app.command()
def drain(
    context: typer.Context,
    names: Names,
    wait: Wait = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="10m", help="Wait at most this long.")
    ] = None,
    then: Annotated[
        Literal["maint"] | None, typer.Option(help="Then put it into maintenance.")
    ] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Cut what is left at the deadline.")] = False,
) -> None:
    """Drain servers: no new sessions; running requests and pinned sessions continue.

    Exit status 1 if requests are left at the deadline; they continue unless --kill is given.
    """
    seconds = _seconds(deadline)
    if kill and seconds is None:
        usage_error("--kill needs a --deadline")
    if then and not (wait or seconds is not None):
        usage_error("--then needs --wait or a --deadline")
    ends = None if seconds is None else time.monotonic() + seconds
    is_left = False
    with errors_as_exit_status():
        client = context.obj.client
        # All of them first: what one loses must not go to another that is to be drained.
        drained = [client.change(one, "state", "drain") for one in client.find_all(names)]
        for server in drained:
            left = 0
            if wait or ends is not None:
                remains = None if ends is None else max(0.0, ends - time.monotonic())
                left = _wait(context, server, remains)
            if left and kill:
                client.end_sessions(server)
            now = client.look_at(server)
            if then and now["state"] != "removed":
                now = server = client.change(server, "state", then)
            print_server(context, now)
            warn_if_unsettled(server)
            is_left = is_left or bool(left)
    if is_left and not kill:
        raise typer.Exit(1)


@app.command()
def weight(
    context: typer.Context,
    names: Names,
    number: Annotated[str, typer.Argument(metavar="N", help='0 to 65535, or "configured".')],
) -> None:
    """Set servers' weight; with 0 they get pinned sessions only."""
    if number != "configured" and not (
        re.fullmatch(r"[0-9]{1,5}", number) and int(number) <= 65535
    ):
        usage_error(f'{number!r} is not a weight: give a number from 0 to 65535, or "configured"')
    _change(context, names, "weight", None if number == "configured" else int(number))


@app.command()
def health(
    context: typer.Context,
    names: Names,
    verdict: Annotated[
        Literal["up", "down", "auto"], typer.Argument(help="auto: as the checks say again.")
    ],
) -> None:
    """Set servers up or down whatever their checks say, which are suspended."""
    _change(context, names, "health", verdict)


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="BACKEND/SERVER", help="The new server.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="host:port or unix:/path.")],
    weight: Annotated[int | None, typer.Option(min=1, max=65535, help="Its weight.")] = None,
    max_connections: Annotated[
        int | None, typer.Option(min=0, help="Requests at a time; 0: no limit.")
    ] = None,
    backup: Annotated[bool, typer.Option("--backup", help="A backup.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any other key of a server, such as slow_start=30s"),
    ] = None,
    state: Annotated[
        Literal["ready", "drain", "maint"], typer.Option(help="Its state at first.")
    ] = "ready",
) -> None:
    """Add a server, until the balancer ends. A reload and an upgrade keep it."""
    backend, slash, server = name.partition("/")
    if not (backend and slash and server):
        usage_error(f"{name!r}: write BACKEND/SERVER")
    options = {
        "weight": weight,
        "max_connections": max_connections,
        "backup": backup or None,
        **_pairs(option or []),
    }
    body = {
        "name": server, "address": address, "state": state,
        "options": {key: value for key, value in options.items() if value is not None},
    }  # fmt: skip
    with errors_as_exit_status():
        answer = context.obj.client.add_server(backend, body)
        print_server(context, answer)
        warn_if_unsettled(answer)


@app.command()
def remove(context: typer.Context, names: Names) -> None:
    """Remove servers, until the balancer ends. What runs on them goes on."""

    def act(server: dict[str, Any]) -> None:
        answer = context.obj.client.remove_server(server)
        if not printed_json(context, answer):
            print(f"{server['backend']}/{server['name']}: removed")

    _each(context, names, act)


@app.command("set")
def set_options(
    context: typer.Context,
    names: Names,
    address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Another one.")] = None,
    max_connections: Annotated[
        int | None, typer.Option(min=0, help="Requests at a time; 0: no limit.")
    ] = None,
    max_fails: Annotated[
        int | None, typer.Option(min=0, help="Failures that take it out; 0: none do.")
    ] = None,
    fail_timeout: Annotated[
        str | None, typer.Option(metavar="30s", help="How long they take it out.")
    ] = None,
    slow_start: Annotated[
        str | None, typer.Option(metavar="60s", help="Until it has its full weight.")
    ] = None,
    server_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="That its certificate has to have.")
    ] = None,
) -> None:
    """Change servers' address or limits, until the balancer ends.

    A server at another address is checked again; what runs at the old one goes on.
    """
    given = {
        "address": address, "max_connections": max_connections, "max_fails": max_fails,
        "fail_timeout": fail_timeout, "slow_start": slow_start, "server_name": server_name,
    }  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    if not options:
        usage_error("give at least one option: hermes-lb ctl set --help")
    _change(context, names, "options", options)


@app.command()
def kill(
    context: typer.Context,
    sessions: Annotated[
        list[str], typer.Argument(metavar="ID...", help="As `ctl sessions` shows them.")
    ],
) -> None:
    """Cut single requests, streams or tunnels."""
    with errors_as_exit_status():
        for session in sessions:
            answer = context.obj.client.kill_session(session)
            if not printed_json(context, answer):
                print(f"{session}: ended")


# Helpers.


def _change(context: typer.Context, names: list[str], what: str, value: Any) -> None:
    def act(server: dict[str, Any]) -> None:
        answer = context.obj.client.change(server, what, value)
        print_server(context, answer)
        warn_if_unsettled(answer)

    _each(context, names, act)


def _each(context: typer.Context, names: list[str], act: Callable[[dict[str, Any]], None]) -> None:
    """For all of them, also behind one for which it fails; the failures are reported last."""
    failures: list[str] = []
    with errors_as_exit_status():
        found = context.obj.client.find_all(names)
        for server in found:
            try:
                act(server)
            except CtlError as error:
                failures.append(f"{server['backend']}/{server['name']}: {error}")
        if failures:
            [first, *others] = failures
            raise CtlError(first if len(found) > 1 else first.partition(": ")[2], others)


def _wait(context: typer.Context, server: dict[str, Any], deadline: float | None) -> int:
    from hermes_lb.ctl.drain import wait_until_drained
    from hermes_lb.ctl.tables import console

    screen = None if context.obj.as_json else console()
    with interruptible("drain"):
        return wait_until_drained(context.obj.client, server, deadline, screen)


def _seconds(deadline: str | None) -> float | None:
    from hermes_lb.options.units import parse_duration

    if deadline is None:
        return None
    try:
        return parse_duration(deadline)
    except ValueError as error:
        usage_error(f"--deadline {deadline}: {error}")


def _pairs(options: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` -> JSON if it is any, else text."""
    import json

    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not (key and equals):
            usage_error(f"--option {option}: write KEY=VALUE")
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs
