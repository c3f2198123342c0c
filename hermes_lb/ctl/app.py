"""`hermes-lb ctl` itself: its options, which every command shares.

Exit status: 0 success; 1 failure, or not by the deadline, with the reason on stderr; 2 usage error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hermes_lb.ctl.errors import CtlError
from hermes_lb.ctl.output import errors_as_exit_status
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


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="BACKEND/SERVER, or SERVER if the name is unique; * ? [...] match several.",
    ),
]
InBackend = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="Only of this backend; may be *.")
]
Watch = Annotated[
    float | None,
    typer.Option("--watch", metavar="SECONDS", min=0.1, help="Repeat at this interval."),
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
