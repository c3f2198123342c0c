"""`hermes-lb proxy ADDRESS...`: a configuration for servers that run already, without a file.

The text is what `--print-config` prints, and what the balancer reads: kept as a file, it means the
same. Caddy's `reverse-proxy` is the model.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.options.units import Address, UnixAddress, parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

_HTTPS = "https://"
_DEFAULT_PORTS = {"http://": 80, _HTTPS: 443}
_NAME_MAX = 60  # of 64 characters; the rest is for a number


class Wanted(NamedTuple):
    """What the command line says. Raises ValueError in `configuration` where it can't be used."""

    servers: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8080
    balance: str = "leastconn"
    cookie: str | None = "SERVERID"
    health: str | None = None
    admin_port: int | None = 9900
    turns: bool = False


class Upstream(NamedTuple):
    name: str
    address: Address | UnixAddress


def configuration(wanted: Wanted) -> str:
    """The TOML. Raises ValueError with the address that can't be used, and the reason."""
    is_tls = {address.startswith(_HTTPS) for address in wanted.servers}
    if len(is_tls) > 1:
        raise ValueError(
            "servers of one backend have TLS, or none has: give only https://, or none"
        )
    upstreams = _named([_endpoint(address) for address in wanted.servers])
    lines = [
        "[[frontends]]",
        'name = "public"',
        f"bind = {_quoted(str(Address(wanted.host, wanted.port)))}",
    ]
    if wanted.turns:
        lines += [
            "",
            "[[frontends.routes]]",
            'backend = "servers"',
            "",
            "# Repeated keys execute once, and streams can be resumed: docs/turn-gateway.md.",
            "[frontends.routes.turns]",
            'principal = ["header:Authorization", "client"]',
        ]
    else:
        lines.append('default_backend = "servers"')
    probe = {"probe": "tcp"} if wanted.health is None else {"path": wanted.health}
    lines += ["", "[backends.servers]", f"balance = {_quoted(wanted.balance)}"]
    if wanted.cookie is not None:
        lines.append(f"affinity = {_table({'cookie': wanted.cookie})}")
    lines.append(f"health = {_table(probe)}")
    if True in is_tls:
        lines.append("tls = true")
    rows = [_table({"name": name, "address": str(address)}) for name, address in upstreams]
    lines += ["servers = [", *(f"  {row}," for row in rows), "]", "", "[admin]"]
    if wanted.admin_port is None:
        lines.append("enabled = false")
    else:
        lines.append(f"bind = {_quoted(str(Address('127.0.0.1', wanted.admin_port)))}")
    return "\n".join(lines) + "\n"


def introduction(wanted: Wanted) -> list[str]:
    """What runs where, and a first request, for a person."""
    url = f"http://{Address(wanted.host, wanted.port).as_destination()}/"
    affinity = f", cookie {wanted.cookie}" if wanted.cookie else ""
    checks = f"GET {wanted.health}" if wanted.health else "TCP"
    lines = [
        f"{url} -> {', '.join(wanted.servers)}",
        f"  {wanted.balance}{affinity}, health checks by {checks}",
    ]
    if wanted.admin_port is not None:
        lines.append(f"  dashboard: http://127.0.0.1:{wanted.admin_port}/")
    if wanted.turns:
        lines.append(f"  a turn:    curl -N {url} -H 'Idempotency-Key: 1' -d '{{}}'")
    else:
        lines.append(f"  a request: curl -i {url}")
    return [*lines, "  to keep this as a file: the same command with --print-config > lb.toml"]


def anonymous_file(text: str) -> Path:
    """A file in memory, for reloads and upgrades of this process, which find it by its path."""
    fd = os.memfd_create("hermes-lb-proxy", 0)
    os.write(fd, text.encode())
    return Path(f"/proc/{os.getpid()}/fd/{fd}")


def _endpoint(address: str) -> Address | UnixAddress:
    """`host:port`, `:port` or `port` on this machine, `unix:/path`, or a URL without a path."""
    rest, default_port = address, None
    for scheme, port in _DEFAULT_PORTS.items():
        if address.startswith(scheme):
            rest, default_port = address.removeprefix(scheme).removesuffix("/"), port
    if re.fullmatch(r":?\d+", rest):
        rest = f"127.0.0.1:{rest.lstrip(':')}"
    elif default_port is not None and not re.search(r":\d+$", rest):
        rest = f"{rest}:{default_port}"
    try:
        return parse_endpoint(rest)
    except ValueError as error:
        raise ValueError(f"{address!r} is no address of a server: {error}") from None


def _named(endpoints: list[Address | UnixAddress]) -> list[Upstream]:
    """Each with a name of its own, for the log, the cookie and the dashboard."""
    named: dict[str, Address | UnixAddress] = {}
    for endpoint in endpoints:
        if endpoint in named.values():
            raise ValueError(f"{endpoint} is given twice")
        name = re.sub(r"[^A-Za-z0-9.]+", "-", str(endpoint)).strip("-.")[-_NAME_MAX:].lstrip("-.")
        if name in named:
            name = f"{name}-{len(named) + 1}"
        named[name] = endpoint
    return [Upstream(*item) for item in named.items()]


def _table(values: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {_quoted(value)}" for key, value in values.items()) + " }"


def _quoted(text: str) -> str:
    """A basic string of TOML, in which nothing names a variable of the environment."""
    return json.dumps(text.replace("${", "$${"))
