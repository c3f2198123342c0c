"""The commands of `hermes-lb ctl`: those about the balancer as a whole are here.

`queries` has those that show something, `servers` those that change servers.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hermes_lb.ctl import queries, servers
from hermes_lb.ctl.app import app
from hermes_lb.ctl.output import (
    errors_as_exit_status,
    interruptible,
    print_answer,
    print_upgraded,
    printed_json,
    usage_error,
)

__all__ = ["app", "queries", "servers"]

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


pins_app = typer.Typer(no_args_is_help=True, help="Learned sessions and their servers.")
app.add_typer(pins_app, name="pins")

OfBackend = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="Only of this backend.")
]
OfServer = Annotated[
    str | None, typer.Option("--server", metavar="NAME", help="Only to servers of this name.")
]
OfId = Annotated[str | None, typer.Option("--id", metavar="ID", help="Only this one.")]


@pins_app.command("list")
def list_pins(
    context: typer.Context,
    backend: OfBackend = None,
    server: OfServer = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")] = 100,
) -> None:
    """List sessions that were learned (stick, learn), also some of those in shared stores. Ids are
    digests of the sessions' keys."""
    with errors_as_exit_status():
        found = context.obj.client.pins(backend=backend, server=server, limit=limit)
        print_answer(context, "pins", found)


@pins_app.command("clear")
def clear_pins(
    context: typer.Context,
    backend: OfBackend = None,
    server: OfServer = None,
    pin: OfId = None,
    everything: Annotated[bool, typer.Option("--all", help="Of all backends.")] = False,
) -> None:
    """Forget learned sessions, also in shared stores: their next request is balanced again."""
    if everything == bool(backend or server or pin):
        usage_error("give --backend, --server or --id, or else --all")
    with errors_as_exit_status():
        cleared = context.obj.client.clear_pins(backend=backend, server=server, id=pin)
        if not printed_json(context, {"cleared": cleared}):
            print(f"{cleared} pins cleared")


@app.command()
def clear(context: typer.Context) -> None:
    """Clear counters, maxima and downtimes of `ctl` and the dashboard; the metrics go on."""
    with errors_as_exit_status():
        answer = context.obj.client.clear_counters()
        if not printed_json(context, answer):
            print("cleared")


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
