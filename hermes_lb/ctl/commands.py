"""The commands of `hermes-lb ctl`.

Exit status: 0 done; 1 it could not be done, or not by the deadline, with the reason on stderr; 2
the command line itself is wrong.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from hermes_lb.ctl.errors import CtlError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.ctl.client import AdminClient

_DEFAULT_URL = "http://127.0.0.1:9900"


class _Anywhere(TyperGroup):
    """Its own options may stand behind the command too, as people write them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {
            name: not getattr(option, "is_flag", False)
            for option in self.params
            for name in option.opts
            if name.startswith("-")
        }
        front, rest = [], []
        words = iter(args)
        for word in words:
            name, equals, _ = word.partition("=")
            if word == "--":
                rest += [word, *words]
            elif name in takes_value:
                front += [word, *islice(words, int(takes_value[name] and not equals))]
            else:
                rest.append(word)
        return super().parse_args(ctx, front + rest)


app = typer.Typer(cls=_Anywhere, no_args_is_help=True, add_completion=False)


@dataclass(frozen=True)
class Ctl:
    """What the options of all commands say."""

    client: AdminClient
    as_json: bool


Named = Annotated[
    str, typer.Argument(metavar="NAME", help="BACKEND/SERVER, or SERVER if only one is called so.")
]


@app.callback()
def ctl(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"The admin listener; {_DEFAULT_URL}.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Take address and token from it."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="The admin token; or set HERMES_LB_ADMIN_TOKEN.")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Trust this authority's certificates too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See and change a running balancer.

    The options of `ctl` itself may stand behind a command too.
    """
    with _told():
        context.obj = Ctl(_client(url, config or context.obj, token, ca), as_json)


def _client(url: str | None, config: Path | None, token: str | None, ca: str | None) -> AdminClient:
    from hermes_lb.ctl.client import AdminClient

    if config is None:
        from hermes_lb.config.process import TOKEN_VARIABLE

        return AdminClient(url or _DEFAULT_URL, token or os.environ.get(TOKEN_VARIABLE), ca)
    from hermes_lb.config import ConfigError, load_config
    from hermes_lb.config.token import read_token

    try:
        admin = load_config(config).admin
        token = token or read_token(admin)
    except ConfigError as error:
        raise CtlError(f"{config} has errors", str(error).splitlines()) from None
    except (OSError, ValueError) as error:
        raise CtlError(getattr(error, "strerror", None) or str(error)) from None
    if not admin.enabled and url is None:
        raise CtlError(f"{config} has [admin] enabled = false: nothing can be asked")
    scheme = "http" if admin.tls is None else "https"
    own = None if admin.tls is None else admin.tls.certificate
    return AdminClient(url or f"{scheme}://{admin.bind.as_destination()}", token, ca or own)


# What there is to see.


@app.command()
def status(context: typer.Context) -> None:
    """The balancer as a whole: backends, frontends, processes."""
    with _told():
        answer = context.obj.client.get("status")
        if not _printed_json(context, answer):
            from hermes_lb.ctl import tables

            _print(*tables.status(answer))


@app.command()
def servers(context: typer.Context) -> None:
    """Every server: its state and why, its load, its errors."""
    with _told():
        answer = context.obj.client.get("servers")
        if not _printed_json(context, answer):
            from hermes_lb.ctl import tables

            _print(tables.servers(answer))


@app.command()
def sessions(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(metavar="NAME", help="Only on this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    kill: Annotated[bool, typer.Option("--kill", help="Cut all of those on --server.")] = False,
) -> None:
    """The requests, streams and tunnels that run now, the longest first.

    A server that a reload has removed is there as long as something runs on it.
    """
    if kill and server is None:
        _wrong("--kill needs a --server")
    with _told():
        client = context.obj.client
        path = f"sessions?limit={limit}"
        if server is not None:
            from urllib.parse import urlencode

            found = client.find(server, is_busy=True)
            if kill:
                ended = client.end_sessions(found)
                if not _printed_json(context, {"ended": ended}):
                    print(f"{found['backend']}/{found['name']}: {ended} ended")
                return
            path += "&" + urlencode({"backend": found["backend"], "server": found["name"]})
        answer = client.get(path)
        if not _printed_json(context, answer):
            from hermes_lb.ctl import tables

            _print(*tables.sessions(answer))


@app.command()
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Once, and not each second.")] = False,
) -> None:
    """Live: rates, errors and percentiles of the last second. In a pipe, and with --json, once."""
    with _told():
        moments = context.obj.client.events()
        if context.obj.as_json:
            _printed_json(context, next(moments))
            return
        from hermes_lb.ctl.tables import console
        from hermes_lb.ctl.top import show, view

        screen = console()
        if once or not screen.is_terminal:
            screen.print(view(next(moments)))
        else:
            with suppress(KeyboardInterrupt):
                show(moments, screen)


# What may be changed.


@app.command()
def ready(context: typer.Context, name: Named) -> None:
    """Let a server take requests again, with a slow start if it has one."""
    with _told():
        _set_state(context, name, "ready")


@app.command()
def maint(context: typer.Context, name: Named) -> None:
    """Put a server into maintenance: nothing new, not even of sessions pinned to it."""
    with _told():
        _set_state(context, name, "maint")


@app.command()
def drain(
    context: typer.Context,
    name: Named,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing is left on it.")] = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="10m", help="Wait for so long at most.")
    ] = None,
    then: Annotated[
        Literal["maint"] | None, typer.Option(help="At the end: into maintenance.")
    ] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Cut what is left at the deadline.")] = False,
) -> None:
    """Give a server no new sessions; what runs goes on, and those pinned to it still come.

    Exit status 1 if requests were left at the deadline; they go on, unless --kill ends them.
    """
    seconds = _seconds(deadline)
    if kill and seconds is None:
        _wrong("--kill needs a --deadline")
    if then and not (wait or seconds is not None):
        _wrong("--then needs --wait or a --deadline")
    with _told():
        client = context.obj.client
        server = client.change(client.find(name), "state", "drain")
        left = 0
        if wait or seconds is not None:
            left = _wait(context, server, seconds)
        if left and kill:
            client.end_sessions(server)
        now = client.look_at(server)
        if then and now["state"] != "removed":
            now = server = client.change(server, "state", then)
        _say(context, now)
        _say_unsettled(server)
    if left and not kill:
        raise typer.Exit(1)


@app.command()
def weight(
    context: typer.Context,
    name: Named,
    number: Annotated[
        str, typer.Argument(metavar="N", help='0 to 65535; "configured": as in the configuration.')
    ],
) -> None:
    """Change a server's weight. With 0 only those pinned to it still come."""
    if number != "configured" and not (
        re.fullmatch(r"[0-9]{1,5}", number) and int(number) <= 65535
    ):
        _wrong(f'{number!r} is no weight: give a number from 0 to 65535, or "configured"')
    with _told():
        client = context.obj.client
        wanted = None if number == "configured" else int(number)
        _say(context, client.change(client.find(name), "weight", wanted))


@app.command()
def reload(context: typer.Context) -> None:
    """Read the configuration's file anew; with any error in it, the old one goes on."""
    with _told():
        answer = context.obj.client.send("POST", "reload")
        if not _printed_json(context, answer):
            print("\n".join(answer["changes"]) or "nothing has changed")


@app.command()
def upgrade(
    context: typer.Context,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the new processes serve, as long as it goes on.")
    ] = False,
) -> None:
    """Replace the processes one by one by new ones, which load the code anew."""
    with _told():
        client = context.obj.client
        before = client.get("status") if wait else None
        answer = client.send("POST", "upgrade")
        if before is not None:
            answer = _wait_for_upgrade(client, before)
        if _printed_json(context, answer):
            return
        if before is None:
            print("begun: `hermes-lb ctl status` shows the processes")
        else:
            _say_upgraded(answer)


# Their parts.


def _set_state(context: typer.Context, name: str, state: str) -> None:
    client = context.obj.client
    server = client.change(client.find(name), "state", state)
    _say(context, server)
    _say_unsettled(server)


def _wait(context: typer.Context, server: dict[str, Any], deadline: float | None) -> int:
    from hermes_lb.ctl.drain import wait_until_drained
    from hermes_lb.ctl.tables import console

    screen = None if context.obj.as_json else console()
    try:
        return wait_until_drained(context.obj.client, server, deadline, screen)
    except KeyboardInterrupt:
        raise CtlError("not waited for any longer; the drain goes on") from None


def _wait_for_upgrade(client: AdminClient, before: dict[str, Any]) -> dict[str, Any]:
    from hermes_lb.ctl.upgrade import wait_until_upgraded

    try:
        return wait_until_upgraded(client, before)
    except KeyboardInterrupt:
        raise CtlError("not waited for any longer; the upgrade goes on") from None


def _say_upgraded(status: dict[str, Any]) -> None:
    draining = [p["is_draining"] for p in status["processes"]]
    left = f", {draining.count(True)} draining" if any(draining) else ""
    print(
        f"upgraded to hermes_lb {status['version']}; processes: {draining.count(False)} new{left}"
    )


def _say(context: typer.Context, server: dict[str, Any]) -> None:
    """What has become of a server, in a line; and why, if it is not what the operator set."""
    if _printed_json(context, server):
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


def _say_unsettled(server: dict[str, Any]) -> None:
    """If it was set, and a process does not know of that."""
    if not server.get("settled", True):  # balancers of older code do not say it
        reason = "a process has not answered yet: it applies this as soon as it does"
        print(f"hermes-lb: {reason}", file=sys.stderr)


def _seconds(deadline: str | None) -> float | None:
    from hermes_lb.options.units import parse_duration

    if deadline is None:
        return None
    try:
        return parse_duration(deadline)
    except ValueError as error:
        _wrong(f"--deadline {deadline}: {error}")


def _print(*parts: Any) -> None:
    from hermes_lb.ctl.tables import console

    screen = console()
    for part in parts:
        screen.print(part)


def _printed_json(context: typer.Context, answer: Any) -> bool:
    if context.obj.as_json:
        print(json.dumps(answer, indent=2))
    return bool(context.obj.as_json)


@contextmanager
def _told() -> Iterator[None]:
    """Errors in words, and exit status 1."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # `| head` has seen enough: typer ends in silence
    except OSError as error:
        # Python would try again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = error.strerror or error
        print(f"hermes-lb: the output can't be written: {reason}", file=sys.stderr)
        raise typer.Exit(1) from None
    except CtlError as error:
        for line in (f"hermes-lb: {error}", *(f"  {problem}" for problem in error.problems)):
            print(line, file=sys.stderr)
        raise typer.Exit(1) from None


def _wrong(message: str) -> NoReturn:
    print(f"hermes-lb: {message}", file=sys.stderr)
    raise typer.Exit(2)
