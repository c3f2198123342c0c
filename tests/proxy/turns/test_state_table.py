"""Each state of a turn, and what a duplicate, GET and DELETE of its path get.

The turn is another balancer's, so nothing of it is known here but by the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hermes_lb.turns.ports import OwnedTurn
from tests.support.http_peer import Ended
from tests.support.turn_store import MemoryStore
from tests.support.turns import Elsewhere, Gateway, get, path_of, post, request
from tests.support.waiting import turns

if TYPE_CHECKING:
    from tests.support.http_peer import Client
    from tests.support.stage import Stage

Drive = Callable[[Elsewhere, OwnedTurn], Awaitable[None]]

WAITS, LIVE, WHOLE, CUT = "waits", "live", "whole", "cut"


async def waiting(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    pass


async def running(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await owned.started("agent1")


async def running_head(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await elsewhere.with_events(owned)


async def trimmed(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await elsewhere.with_events(owned)
    owned.journal.skip()


async def cancelling(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await elsewhere.with_events(owned)
    await elsewhere.balancer.cancel(elsewhere.principal, owned.id)


async def done(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await elsewhere.with_events(owned)
    await owned.done()


async def done_and_gone(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await trimmed(elsewhere, owned)
    await owned.done()


async def lost(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await elsewhere.with_events(owned)
    await owned.lost("backend")


async def lost_before_its_head(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await owned.started("agent1")
    await owned.lost("backend")


async def cancelled(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await cancelling(elsewhere, owned)
    await owned.cancelled()


async def released(elsewhere: Elsewhere, owned: OwnedTurn) -> None:
    await owned.release(b"")


class Row(NamedTuple):
    """A status, or WAITS; and of a 200 its end. `behind`: GET behind the last event."""

    drive: Drive
    duplicate: tuple[int | str, str]
    get: tuple[int | str, str]
    behind: tuple[int | str, str]
    delete: int
    after_delete: str


EXECUTES = (200, WHOLE)  # "ok", of the origin
NO = ""
ROWS = [
    Row(waiting, (WAITS, NO), (WAITS, NO), (WAITS, NO), 204, "cancelled"),
    Row(running, (WAITS, NO), (WAITS, NO), (WAITS, NO), 202, "cancelling"),
    Row(running_head, (200, LIVE), (200, LIVE), (200, LIVE), 202, "cancelling"),
    Row(trimmed, (410, NO), (410, NO), (410, NO), 202, "cancelling"),
    Row(cancelling, (200, LIVE), (200, LIVE), (200, LIVE), 202, "cancelling"),
    Row(done, (200, WHOLE), (200, WHOLE), (204, NO), 200, "done"),
    Row(done_and_gone, (410, NO), (410, NO), (410, NO), 200, "done"),
    Row(lost, (409, NO), (200, CUT), (409, NO), 200, "lost"),
    Row(lost_before_its_head, (409, NO), (409, NO), (409, NO), 200, "lost"),
    Row(cancelled, (409, NO), (200, CUT), (409, NO), 204, "cancelled"),
    Row(released, EXECUTES, (410, NO), (410, NO), 204, "released"),
]
by_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.drive.__name__)


async def scene(stage: Stage, row: Row) -> tuple[Gateway, Elsewhere, OwnedTurn]:
    shared = MemoryStore()
    gateway = await Gateway.before(stage, await stage.serving(), shared=shared)
    elsewhere = Elsewhere(shared)
    owned = await elsewhere.begin()
    await row.drive(elsewhere, owned)
    return gateway, elsewhere, owned


async def expect(client: Client, status: int | str, end: str) -> None:
    if status == WAITS:
        assert await client.gets_nothing()
        return
    head = await client.read_head()
    assert head.status == status
    if end == LIVE:
        await turns(20)
    elif end == WHOLE:
        await client.read_body(head)
    elif end == CUT:
        with pytest.raises(Ended):
            await client.read_body(head)
    elif status in (409, 410):
        body = await client.read_body(head)
        assert head.get("Content-Type") == "application/problem+json"
        assert head.get("x-should-retry") == "false"
        assert head.get("Retry-After") is None
        assert (
            head.get(
                "X-Hermes-Turn",
            )
            is not None
        )
        assert (head.get("X-Hermes-Turn") or "").encode() in body


@by_row
async def test_a_duplicate(stage: Stage, row: Row) -> None:
    gateway, _, _ = await scene(stage, row)
    client = await gateway.client()
    await client.send(post(key="k"))
    await expect(client, *row.duplicate)


@by_row
async def test_get_of_its_path(stage: Stage, row: Row) -> None:
    gateway, _, owned = await scene(stage, row)
    client = await gateway.client()
    await client.send(get(path_of(owned.id)))
    await expect(client, *row.get)


@by_row
async def test_get_behind_its_last_event(stage: Stage, row: Row) -> None:
    gateway, _, owned = await scene(stage, row)
    client = await gateway.client()
    await client.send(get(path_of(owned.id), last=f"h1.{owned.id}.2"))
    await expect(client, *row.behind)


@by_row
async def test_delete_of_its_path(stage: Stage, row: Row) -> None:
    gateway, _, owned = await scene(stage, row)
    answer = await gateway.ask(request("DELETE", path_of(owned.id)))
    assert answer.status == row.delete
    await gateway.in_state(owned.id, row.after_delete)
    if answer.status != 204:
        assert f'"state": "{row.after_delete}"'.encode() in answer.body


@by_row
async def test_another_principal_finds_nothing(stage: Stage, row: Row) -> None:
    gateway, _, owned = await scene(stage, row)
    for method in ("GET", "DELETE"):
        answer = await gateway.ask(request(method, path_of(owned.id), user="mallory"))
        assert answer.status == 404
        assert owned.id.encode() not in answer.body


@by_row
async def test_without_the_store_nothing_is_answered(stage: Stage, row: Row) -> None:
    gateway, _, owned = await scene(stage, row)
    gateway.shared.is_away = True
    for data in (post(key="k"), get(path_of(owned.id)), request("DELETE", path_of(owned.id))):
        answer = await gateway.ask(data)
        assert (answer.status, answer.get("X-Hermes-Degraded")) == (503, "store")
        assert answer.get("Retry-After") is not None
    gateway.shared.is_away = False


async def test_what_waits_is_answered_once_there_is_a_head(stage: Stage) -> None:
    gateway, elsewhere, owned = await scene(stage, ROWS[0])
    joined, by_path = await gateway.client(), await gateway.client()
    await joined.send(post(key="k"))
    await by_path.send(get(path_of(owned.id)))
    await turns(20)
    await elsewhere.with_events(owned)
    await owned.done()
    expected = elsewhere.event(owned, 1) + elsewhere.event(owned, 2)
    assert (await joined.read_response()).body == expected
    priming = f"id: h1.{owned.id}.0\n\n".encode()
    assert (await by_path.read_response()).body == priming + expected


async def test_followers_of_a_turn_that_is_released_get_its_answer(stage: Stage) -> None:
    gateway, _, owned = await scene(stage, ROWS[0])
    joined, by_path = await gateway.client(), await gateway.client()
    await joined.send(post(key="k"))
    await by_path.send(get(path_of(owned.id)))
    await turns(20)
    await owned.release(b"HTTP/1.1 429 Too Many\r\nX-Why: quota\r\n\r\nslow down")
    answer = await joined.read_response()
    assert (answer.status, answer.body, answer.get("X-Why")) == (429, b"slow down", "quota")
    assert answer.get("Retry-After") == "1"
    assert (await by_path.read_response()).status == 410


@pytest.mark.parametrize("end", ["lost", "cancelled", "dies"])
async def test_live_followers_are_cut_visibly(stage: Stage, end: str) -> None:
    gateway, elsewhere, owned = await scene(stage, ROWS[2])
    client = await gateway.client()
    await client.send(post(key="k"))
    head = await client.read_head()
    await client.read_until(elsewhere.event(owned, 2) + b"\r\n")
    if end == "lost":
        await owned.lost("backend")
    elif end == "cancelled":
        await owned.cancelled()
    else:
        elsewhere.balancer.kill()
    with pytest.raises(Ended):
        await client.read_body(head)


async def test_another_request_with_the_key_is_refused(stage: Stage) -> None:
    gateway = await Gateway.before(stage, await stage.serving())
    first = await gateway.ask(post(b'{"a": 1}', key="k"))
    assert first.status == 200
    for other in (
        post(b'{"a": 2}', key="k"),
        post(b'{"a": 1}', key="k", target="/v1/other"),
        request("PUT", "/v1/run", "Content-Type: application/json", body=b'{"a": 1}', key="k"),
        request("POST", "/v1/run", "Content-Type: text/plain", body=b'{"a": 1}', key="k"),
    ):
        answer = await gateway.ask(other)
        assert (answer.status, answer.get("x-should-retry")) == (422, "false")
        assert b"key_reused" in answer.body
    # Nothing else of a request counts: SDKs count their retries in a field.
    again = await gateway.ask(post(b'{"a": 1}', "X-Stainless-Retry-Count: 1", key="k"))
    assert again.status == 200


async def test_a_duplicate_may_be_refused_while_its_turn_runs(stage: Stage) -> None:
    shared = MemoryStore()
    gateway = await Gateway.before(
        stage, await stage.serving(), shared=shared, turns={"on_duplicate": "reject"}
    )
    owned = await Elsewhere(shared).begin()
    answer = await gateway.ask(post(key="k"))
    assert (answer.status, answer.get("Retry-After")) == (409, "1")
    assert b"in_progress" in answer.body
    await owned.started("agent1")
    await owned.headed(b"HTTP/1.1 201 Made\r\n\r\n", is_stream=False)
    owned.journal.append(b"it", 1)
    await owned.done()
    answer = await gateway.ask(post(key="k"))
    assert (answer.status, answer.body) == (201, b"it")
