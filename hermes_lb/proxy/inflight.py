"""The requests that run now: seen, and ended, by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.proxy.abandoned import Abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.proxy.live import LiveConnections
    from hermes_lb.proxy.ports import ResponseSink


def running_sessions(live: LiveConnections, now: float, process: int) -> list[dict[str, Any]]:
    """A row for each, of plain values (`control.shapes.Session`)."""
    return [_row(one, now, process) for one in _all(live)]


def _row(one: ResponseSink, now: float, process: int) -> dict[str, Any]:
    row = dict(one.describe(now))
    # As HAProxy's, an address; which another request may get, but not with the same beginning.
    began = row.pop("began")
    return {"id": f"{process}-{id(one):x}-{int(began * 1000):x}", "process": process, **row}


def end_sessions(live: LiveConnections, now: float, process: int, **wanted: str | None) -> int:
    """Cut the requests whose rows have these values -> their number.

    Their clients see it, and the log has a K. Abandoned requests, which have no client, are logged
    already. A server is given by name: it may have been removed from its backend while its requests
    continue.
    """
    doomed = []
    for one in _all(live):
        row = _row(one, now, process)
        if all(row[field] == value for field, value in wanted.items()):
            doomed.append(one)
    for one in doomed:
        one.shut_down()
    return len(doomed)


def _all(live: LiveConnections) -> Iterator[ResponseSink]:
    """Exchanges, and then what servers finish for clients that have left."""
    for client in live.all_held():
        yield from client.exchanges()
    for upstream in live.upstreams:
        if isinstance(upstream.sink, Abandoned):
            yield upstream.sink
