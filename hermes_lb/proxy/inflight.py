"""The requests that run now: seen, and ended, by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.proxy.abandoned import Abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ResponseSink


def running_sessions(context: Context, process: int) -> list[dict[str, Any]]:
    """A row for each, of plain values (`control.operator.Session`)."""
    now = context.clock()
    return [{"process": process, **one.describe(now)} for one in _all(context)]


def end_sessions(context: Context, backend: str, server: str) -> int:
    """Cut the requests on a server -> their number. Their clients see it, and the log has a K.

    Abandoned requests, which have no client, are logged already. The server is given by name: it
    may have been removed from its backend while its requests continue.
    """
    now = context.clock()
    doomed = []
    for one in _all(context):
        row = one.describe(now)
        if (row["backend"], row["server"]) == (backend, server):
            doomed.append(one)
    for one in doomed:
        one.shut_down()
    return len(doomed)


def _all(context: Context) -> Iterator[ResponseSink]:
    """Exchanges, and then what servers finish for clients that have left."""
    for client in context.clients:
        yield from client.exchanges()
    for upstream in context.upstreams:
        if isinstance(upstream.sink, Abandoned):
            yield upstream.sink
