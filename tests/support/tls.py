"""Frontends that speak TLS, and scripted peers that do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.certificates import trusting
from tests.support.http_peer import AtOrigin, Client
from tests.support.tls_peer import TlsPeer

if TYPE_CHECKING:
    import socket
    import ssl

    from hermes_lb import LoadBalancer
    from tests.support.log_line import LogLine
    from tests.support.origin import Origin
    from tests.support.stage import Stage


def with_tls(certificate: str, **options: Any) -> dict[str, Any]:
    """A frontend that speaks TLS only."""
    return {
        "bind": {"address": "127.0.0.1:0", "tls": True},
        "tls": {"certificate": certificate, **options},
    }


async def serving(stage: Stage, certificate: str, **options: Any) -> LoadBalancer:
    """A balancer that speaks TLS only, before a server that says "ok"."""
    return await stage.balancer(await stage.serving(), frontend=with_tls(certificate, **options))


async def refused(stage: Stage, lb: LoadBalancer) -> LogLine:
    """The only line of the log, which is about no request."""
    line = await stage.log_line(lb)
    assert line.request == "<BADREQ>"
    return line


class TlsClient(TlsPeer, Client):
    """A client that wants the certificate of `name`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None) -> None:
        super().__init__(sock, context, server_name=name)


async def tls_client(
    stage: Stage,
    lb: LoadBalancer | str,
    name: str | None = "a.test",
    context: ssl.SSLContext | None = None,
    *,
    before: bytes = b"",
) -> TlsClient:
    """A connection whose handshake is done. `before`: what is sent before it begins."""
    bare = await stage.client(_plain(lb))
    if before:
        await bare.send(before)
    if context is None:
        context = trusting()
        context.check_hostname = name is not None
    client = TlsClient(bare.sock, context, name)
    await client.shake_hands()
    return client


async def bare_client(stage: Stage, lb: LoadBalancer | str) -> Client:
    """A connection to a TLS port that has said nothing yet."""
    return await stage.client(_plain(lb))


def _plain(lb: LoadBalancer | str) -> str:
    url = lb if isinstance(lb, str) else lb.url
    return url.replace("https://", "http://")


async def resuming_client(
    stage: Stage, lb: LoadBalancer, context: ssl.SSLContext, first: TlsClient
) -> TlsClient:
    """The same client again, with its ticket."""
    client = TlsClient((await bare_client(stage, lb)).sock, context, "a.test")
    client.tls.session = first.tls.session
    await client.shake_hands()
    return client


async def asking(
    stage: Stage,
    certificate: str,
    *fields: str,
    context: ssl.SSLContext | None = None,
    version: str = "1.1",
) -> tuple[LoadBalancer, TlsClient, AtOrigin]:
    """A client's GET is at its server, which has said nothing yet."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client = await tls_client(stage, lb, context=context)
    await client.get("/", *fields, version=version)
    at_origin, _ = await origin.accept_request()
    return lb, client, at_origin


class TlsAtOrigin(TlsPeer, AtOrigin):
    """A connection that an origin has accepted; `server_name` is what was asked for."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.server_name: str | None = None
        context.sni_callback = self._note_name
        super().__init__(sock, context, server_side=True)

    def _note_name(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.server_name = name


async def accept_tls(
    origin: Origin, context: ssl.SSLContext, accepted: AtOrigin | None = None
) -> TlsAtOrigin:
    """The next connection, or the one that was accepted, up to the end of its handshake."""
    connection = TlsAtOrigin((accepted or await origin.accept()).sock, context)
    await connection.shake_hands()
    return connection
