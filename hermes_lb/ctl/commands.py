"""The commands of `hermes-lb ctl`.

Exit status: 0 success; 1 failure, or not by the deadline, with the reason on stderr; 2 usage error.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hermes_lb.ctl.errors import CtlError
from hermes_lb.ctl.output import (
    errors_as_exit_status,
    interruptible,
    print_answer,
    print_server,
    print_upgraded,
    printed_json,
    usage_error,
    warn_if_unsettled,
)
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from hermes_lb.ctl.client import AdminClient

_DEFAULT_URL = "http://127.0.0.1:9900"


class _Anywhere(TyperGroup):
    """Accepts the options of `ctl` also after the command."""

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
    """The options of `ctl` itself."""

    client: AdminClient
    as_json: bool


Named = Annotated[
    str, typer.Argument(metavar="NAME", help="BACKEND/SERVER, or SERVER if the name is unique.")
]


@app.callback()
def ctl(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"The admin listener; {_DEFAULT_URL}."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Read address and token from it."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="The admin token; or set HERMES_LB_ADMIN_TOKEN.")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="A certificate authority to trust as well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Inspect and control a running balancer.

    The options of `ctl` itself may also follow a command.
    """
    with errors_as_exit_status():
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
        raise CtlError(reason(error)) from None
    if not admin.enabled and url is None:
        raise CtlError(f"{config} has [admin] enabled = false: no admin listener")
    scheme = "http" if admin.tls is None else "https"
    own = None if admin.tls is None else admin.tls.certificate
    return AdminClient(url or f"{scheme}://{admin.bind.as_destination()}", token, ca or own)


# Queries.


@app.command()
def status(context: typer.Context) -> None:
    """Show the balancer: backends, frontends, processes."""
    with errors_as_exit_status():
        print_answer(context, "status", context.obj.client.get("status"))


@app.command()
def servers(context: typer.Context) -> None:
    """List servers: state and its reason, load, errors."""
    with errors_as_exit_status():
        print_answer(context, "servers", context.obj.client.get("servers"))


@app.command()
def certificates(context: typer.Context) -> None:
    """List the certificates in use and when they expire, the next one first."""
    with errors_as_exit_status():
        status = context.obj.client.get("status")
        print_answer(context, "certificates", status.get("certificates", []))


@app.command()
def sessions(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(metavar="NAME", help="Only on this server.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
    kill: Annotated[bool, typer.Option("--kill", help="Cut all on --server.")] = False,
) -> None:
    """List requests, streams and tunnels in flight, longest first.

    A server removed by a reload is included while requests run on it.
    """
    if kill and server is None:
        usage_error("--kill needs a --server")
    with errors_as_exit_status():
        client = context.obj.client
        path = f"sessions?limit={limit}"
        if server is not None:
            from urllib.parse import urlencode

            found = client.find(server, is_busy=True)
            if kill:
                ended = client.end_sessions(found)
                if not printed_json(context, {"ended": ended}):
                    print(f"{found['backend']}/{found['name']}: {ended} ended")
                return
            path += "&" + urlencode({"backend": found["backend"], "server": found["name"]})
        print_answer(context, "sessions", client.get(path))


@app.command()
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show once, not every second.")] = False,
) -> None:
    """Show live rates, errors and percentiles; once in a pipe or with --json."""
    with errors_as_exit_status():
        moments = context.obj.client.events()
        if context.obj.as_json:
            printed_json(context, next(moments))
            return
        from hermes_lb.ctl.tables import console
        from hermes_lb.ctl.top import show, view

        screen = console()
        if once or not screen.is_terminal:
            screen.print(view(next(moments)))
        else:
            with suppress(KeyboardInterrupt):
                show(moments, screen)


turns_app = typer.Typer(no_args_is_help=True, help="Turns in the store, of all balancers.")
app.add_typer(turns_app, name="turns")

Turn = Annotated[str, typer.Argument(metavar="TURN", help="As `ctl turns list` shows it.")]
Principal = Annotated[
    str, typer.Option(metavar="PRINCIPAL", help="The first 16 characters of its turns.")
]


@turns_app.command("list")
def list_turns(
    context: typer.Context,
    principal: Principal = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
) -> None:
    """List turns, newest first. Ids are shortened: nothing can be resumed by them."""
    _print_turns(context, principal, limit)


@turns_app.command("show")
def show_turn(context: typer.Context, turn: Turn) -> None:
    """Show one turn."""
    _print_turns(context, turn, 10)


def _print_turns(context: typer.Context, prefix: str, limit: int) -> None:
    from urllib.parse import urlencode

    with errors_as_exit_status():
        path = f"turns?{urlencode({'id': prefix, 'limit': limit})}"
        print_answer(context, "turns", context.obj.client.get(path))


@turns_app.command("cancel")
def cancel_turn(context: typer.Context, turn: Turn) -> None:
    """Ask for the cancellation of a turn, as its client can by DELETE."""
    with errors_as_exit_status():
        cancelled = context.obj.client.cancel_turn(turn)
        if not printed_json(context, {"cancelled": cancelled}):
            print(f"{turn}: cancelled")


@turns_app.command("purge")
def purge_turns(context: typer.Context, principal: Principal) -> None:
    """Cancel and delete all turns of a principal, with their stored responses."""
    with errors_as_exit_status():
        purged = context.obj.client.purge_turns(principal)
        if not printed_json(context, {"purged": purged}):
            print(f"{principal}: {purged} turns deleted")


# Commands that change something.


@app.command()
def ready(context: typer.Context, name: Named) -> None:
    """Put a server back into rotation, with its slow start if configured."""
    _set_state(context, name, "ready")


@app.command()
def maint(context: typer.Context, name: Named) -> None:
    """Put a server into maintenance: no new requests, not even for pinned sessions."""
    _set_state(context, name, "maint")


@app.command()
def drain(
    context: typer.Context,
    name: Named,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has no requests.")] = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="10m", help="Wait at most this long.")
    ] = None,
    then: Annotated[
        Literal["maint"] | None, typer.Option(help="Then put it into maintenance.")
    ] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Cut what is left at the deadline.")] = False,
) -> None:
    """Drain a server: no new sessions; running requests and pinned sessions continue.

    Exit status 1 if requests are left at the deadline; they continue unless --kill is given.
    """
    seconds = _seconds(deadline)
    if kill and seconds is None:
        usage_error("--kill needs a --deadline")
    if then and not (wait or seconds is not None):
        usage_error("--then needs --wait or a --deadline")
    with errors_as_exit_status():
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
        print_server(context, now)
        warn_if_unsettled(server)
    if left and not kill:
        raise typer.Exit(1)


@app.command()
def weight(
    context: typer.Context,
    name: Named,
    number: Annotated[str, typer.Argument(metavar="N", help='0 to 65535, or "configured".')],
) -> None:
    """Set a server's weight; with 0 it gets pinned sessions only."""
    if number != "configured" and not (
        re.fullmatch(r"[0-9]{1,5}", number) and int(number) <= 65535
    ):
        usage_error(f'{number!r} is not a weight: give a number from 0 to 65535, or "configured"')
    with errors_as_exit_status():
        client = context.obj.client
        wanted = None if number == "configured" else int(number)
        print_server(context, client.change(client.find(name), "weight", wanted))


@app.command()
def reload(context: typer.Context) -> None:
    """Reload the configuration file; if it has errors, the old one stays in use."""
    with errors_as_exit_status():
        answer = context.obj.client.send("POST", "reload")
        if not printed_json(context, answer):
            print("\n".join(answer["changes"]) or "nothing has changed")


@app.command()
def upgrade(
    context: typer.Context,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the new processes serve.")
    ] = False,
) -> None:
    """Replace the processes one by one by ones that run the code now on disk."""
    with errors_as_exit_status():
        client = context.obj.client
        before = client.get("status") if wait else None
        answer = client.send("POST", "upgrade")
        if before is not None:
            from hermes_lb.ctl.upgrade import wait_until_upgraded

            with interruptible("upgrade"):
                answer = wait_until_upgraded(client, before)
        if printed_json(context, answer):
            return
        if before is None:
            print("begun: `hermes-lb ctl status` shows the processes")
        else:
            print_upgraded(answer)


# Helpers.


def _set_state(context: typer.Context, name: str, state: str) -> None:
    with errors_as_exit_status():
        client = context.obj.client
        server = client.change(client.find(name), "state", state)
        print_server(context, server)
        warn_if_unsettled(server)


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
