from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from redis.asyncio.connection import AbstractConnection

from agent_worker.redis_server import RedisServer
from agent_worker.tasks import cancel_and_wait, spawn
from tests.agent_worker.redis.topologies import ask
from tests.support.agent.redis import Heard, publish
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent_worker.sessions import RedisBackend
    from agent_worker.sessions.subscriber import Subscriber
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy

    Connected = Callable[[str], RedisBackend]


class Listening(NamedTuple):
    client: RedisBackend
    heard: Heard
    subscriber: Subscriber


@pytest.fixture
async def listening(calm_server: RedisServer, connected: Connected) -> AsyncIterator[Listening]:
    client, heard = connected(calm_server.url), Heard()
    subscriber = heard.subscribe_with(client)
    yield Listening(client, heard, subscriber)
    await subscriber.close()


async def test_messages_of_the_subscribed_channels_arrive_in_order(listening: Listening) -> None:
    client, heard, subscriber = listening
    await subscriber.subscribe("one")
    # Messages that are published now are received.
    for n in range(100):
        await publish(client, "one", f"{n}")
        await publish(client, "other", "unheard")
    await until(lambda: len(heard.messages) == 100)
    assert heard.messages == [("one", f"{n}") for n in range(100)]
    assert heard.reconnections == 0


async def test_all_channels_share_one_connection(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        subscriber = Heard().subscribe_with(client)
        await asyncio.gather(*(subscriber.subscribe(f"c{n}") for n in range(500)))
        assert ask(server.port, "CLIENT", "LIST", "TYPE", "pubsub").count("\n") == 1
        assert len(ask(server.port, "PUBSUB", "CHANNELS")) == 500
        await asyncio.gather(*(subscriber.unsubscribe(f"c{n}") for n in range(500)))
        await until(lambda: not ask(server.port, "PUBSUB", "CHANNELS"))
        await subscriber.close()
        await until(lambda: not ask(server.port, "CLIENT", "LIST", "TYPE", "pubsub"))


async def test_an_unsubscribed_channel_is_silent_and_can_be_had_again(listening: Listening) -> None:
    client, heard, subscriber = listening
    await subscriber.subscribe("again")
    await subscriber.subscribe("again")
    await subscriber.unsubscribe("again")
    await subscriber.unsubscribe("again")
    await publish(client, "again", "unheard")
    await subscriber.subscribe("again")
    await publish(client, "again", "heard")
    await until(lambda: heard.messages)
    assert heard.messages == [("again", "heard")]


async def test_a_channel_given_up_and_taken_again_at_once_misses_nothing(
    listening: Listening,
) -> None:
    client, heard, subscriber = listening
    for n in range(50):
        first = spawn(subscriber.subscribe("flip"), name="first")
        give_up = spawn(subscriber.unsubscribe("flip"), name="give up")
        # Started in this order, like tasks.
        await spawn(subscriber.subscribe("flip"), name="again")
        await publish(client, "flip", f"{n}")
        await until(lambda n=n: ("flip", f"{n}") in heard.messages)
        await asyncio.gather(first, give_up)
        await subscriber.unsubscribe("flip")


async def test_a_caller_that_gives_up_leaves_the_channel_to_the_others(
    listening: Listening,
) -> None:
    _, _, subscriber = listening
    await subscriber.subscribe("any")
    async with subscriber._sending:
        first, other = (spawn(subscriber.subscribe("shared"), name="caller") for _ in range(2))
        await turns()
        await cancel_and_wait(first)
    await other


async def test_a_cut_connection_is_replaced_and_all_channels_with_it(
    proxy: DroppingProxy, calm_server: RedisServer, connected: Connected
) -> None:
    publisher = connected(calm_server.url)
    heard = Heard()
    subscriber = heard.subscribe_with(connected(proxy.url))
    await asyncio.gather(subscriber.subscribe("a"), subscriber.subscribe("b"))
    assert subscriber.live_s == math.inf
    for times in (1, 2, 3):
        proxy.refuses = True
        proxy.cut()
        await until(lambda: subscriber.live_s == 0.0)
        proxy.refuses = False
        await until(lambda times=times: heard.reconnections == times)
        assert 0.0 < subscriber.live_s < math.inf
        # All are live when it is called.
        await publish(publisher, "a", f"{times}")
        await publish(publisher, "b", f"{times}")
        await until(lambda times=times: len(heard.messages) == 2 * times)
    await subscriber.close()


async def test_while_the_server_is_away_it_is_not_hammered(
    proxy: DroppingProxy, connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    subscriber = heard.subscribe_with(connected(proxy.url))
    await subscriber.subscribe("a")
    proxy.refuses = True
    refused = proxy.refused
    with caplog.at_level(logging.WARNING):
        proxy.cut()
        await until(lambda: proxy.refused >= refused + 3)
        # Wanted meanwhile: it waits, and is live with the others.
        late = spawn(subscriber.subscribe("late"), name="late")
        proxy.refuses = False
        await late
        await until(lambda: heard.reconnections == 1)
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "subscriptions lost" in text]) == 1
    assert told[-1] == "subscriptions restored"
    await subscriber.close()


async def test_a_subscription_that_is_not_waited_for_any_more_can_be_given_up(
    proxy: DroppingProxy, connected: Connected
) -> None:
    proxy.refuses = True
    subscriber = Heard().subscribe_with(connected(proxy.url))
    waiting = spawn(subscriber.subscribe("a"), name="waiting")
    impatient = spawn(subscriber.subscribe("a"), name="impatient")
    await until(lambda: proxy.refused > 1)
    await cancel_and_wait(impatient)
    assert not waiting.done()
    await subscriber.unsubscribe("a")
    await waiting
    await subscriber.close()


async def test_a_server_that_fell_silent_is_left(
    proxy: DroppingProxy, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_worker.sessions.subscriber._QUIET_S", 0.1)
    monkeypatch.setattr("agent_worker.sessions.subscriber._PONG_S", 0.1)
    heard = Heard()
    subscriber = heard.subscribe_with(connected(proxy.url))
    await subscriber.subscribe("a")
    # An idle server answers PINGs.
    await until(lambda: proxy.commands["PING"] >= 3)
    assert proxy.accepted == 1
    proxy.go_mute()
    await until(lambda: proxy.accepted > 1)
    proxy.speak()
    await until(lambda: heard.reconnections == 1)
    await subscriber.close()


async def test_a_failing_callback_does_not_end_it(
    calm_server: RedisServer, connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    client = connected(calm_server.url)
    heard: list[str] = []

    def on_message(channel: str, data: str) -> None:
        heard.append(data)
        if data == "bad":
            raise LookupError("a bug")

    subscriber = client.subscriber(on_message=on_message, on_reconnected=lambda: None)
    await subscriber.subscribe("a")
    await publish(client, "a", "bad")
    await publish(client, "a", "good")
    await until(lambda: heard == ["bad", "good"])
    assert "a bug" in caplog.text
    await subscriber.close()


async def test_closing_twice_or_unused_is_no_matter(
    calm_server: RedisServer, connected: Connected
) -> None:
    client = connected(calm_server.url)
    unused = Heard().subscribe_with(client)
    await unused.close()
    used = Heard().subscribe_with(client)
    await used.subscribe("a")
    await used.close()
    await used.close()


@pytest.mark.parametrize("by", ["reader", "server"])
async def test_a_connection_that_closes_amid_a_write_is_the_readers_to_notice(
    listening: Listening, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    client, heard, subscriber = listening
    await subscriber.subscribe("a")
    await subscriber.subscribe("b")
    write = AbstractConnection._send_packed_command

    async def closed_meanwhile(connection: Any, command: Any) -> None:
        monkeypatch.undo()
        if by == "server":  # uvloop's behaviour; asyncio's own loop drops the bytes
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")
        await connection.disconnect(nowait=True)
        await write(connection, command)

    monkeypatch.setattr(AbstractConnection, "_send_packed_command", closed_meanwhile)
    await subscriber.unsubscribe("b")
    await until(lambda: heard.reconnections == 1)
    await publish(client, "a", "again")
    await until(lambda: heard.messages == [("a", "again")])
