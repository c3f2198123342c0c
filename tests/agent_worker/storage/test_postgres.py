from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agent_worker.storage.base import StorageUnavailable
from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.postgres import PostgresStorage
from agent_worker.storage.postgres_server import PostgresServer
from agent_worker.storage.setup import StorageSetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from agent_worker.sessions import Message

S1, S2 = "session-number-one", "session-number-two"
HELLO: Message = {"role": "user", "content": "hello"}
ANSWER: Message = {
    "role": "assistant",
    "content": "odd \0 \ud800 😀 text",
    "tool_calls": [{"id": "1", "name": "clock", "arguments": {"a": [1, None]}}],
}
DAY_S = 86_400.0


def user(content: str) -> Message:
    return {"role": "user", "content": content}


@contextlib.asynccontextmanager
async def opened(
    url: str, embedder: HashingEmbedder | None = None
) -> AsyncIterator[PostgresStorage]:
    storage = await PostgresStorage.open(url, embedder)
    try:
        yield storage
    finally:
        await storage.close()


async def sql(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


# Setting up


async def test_many_workers_may_start_at_once_on_an_empty_database(database_url: str) -> None:
    opening = (PostgresStorage.open(database_url, HashingEmbedder()) for _ in range(8))
    storages = await asyncio.gather(*opening)
    await storages[0].preferences.set("ann", "colour", "green")
    assert await storages[7].preferences.all("ann") == {"colour": "green"}
    for storage in storages:
        await storage.close()
    assert await sql(database_url, "SELECT count(*) FROM hermes.part") == 2


async def test_without_an_embedder_there_is_no_memory_and_pgvector_is_not_needed(
    database_url: str,
) -> None:
    async with opened(database_url) as storage:
        assert storage.memory is None
    assert await sql(database_url, "SELECT to_regtype('vector') IS NULL")
    async with opened(database_url, HashingEmbedder()) as storage:
        assert storage.memory is not None


async def test_a_memory_of_another_dimension_is_refused(database_url: str) -> None:
    async with opened(database_url, HashingEmbedder(256)):
        pass
    told = r"hashing-1-256 \(256 dimensions\), and this worker has hashing-1-128 \(128\)"
    with pytest.raises(StorageSetupError, match=told):
        await PostgresStorage.open(database_url, HashingEmbedder(128))


async def test_a_memory_of_another_model_is_refused(database_url: str) -> None:
    async with opened(database_url, HashingEmbedder()):
        pass
    other = HashingEmbedder()
    other.name = "another model"
    with pytest.raises(StorageSetupError, match="another model"):
        await PostgresStorage.open(database_url, other)


async def test_more_dimensions_than_can_be_indexed_are_refused(database_url: str) -> None:
    with pytest.raises(StorageSetupError, match="3072 dimensions; pgvector can index 2000"):
        await PostgresStorage.open(database_url, HashingEmbedder(3072))
    # Nothing remains of the attempt.
    assert await sql(database_url, "SELECT to_regnamespace('hermes') IS NULL")


async def test_an_ordinary_user_suffices_once_the_tables_are_there(
    database_url: str, postgres_server: PostgresServer
) -> None:
    async with opened(database_url, HashingEmbedder()):
        pass
    user = "worker_" + database_url.partition("test_")[2][:8]
    rights = "SELECT, INSERT, UPDATE, DELETE"
    await sql(database_url, f"CREATE ROLE {user} LOGIN")
    await sql(database_url, f"GRANT USAGE ON SCHEMA hermes TO {user}")
    await sql(database_url, f"GRANT {rights} ON ALL TABLES IN SCHEMA hermes TO {user}")
    async with opened(database_url.replace("postgres@", f"{user}@"), HashingEmbedder()) as storage:
        await storage.preferences.set("ann", "colour", "green")


async def test_a_newer_version_of_the_tables_suits_this_worker(database_url: str) -> None:
    async with opened(database_url):
        pass
    await sql(database_url, "UPDATE hermes.part SET version = 99")
    async with opened(database_url) as storage:
        assert await storage.preferences.all("ann") == {}
    assert await sql(database_url, "SELECT version FROM hermes.part") == 99


async def test_nobody_there_is_reported_without_the_password() -> None:
    with pytest.raises(StorageSetupError, match="cannot use PostgreSQL at postgresql://") as caught:
        await PostgresStorage.open("postgresql://ann:secret@127.0.0.1:1/agents")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "postgresql://127.0.0.1:port/"])
async def test_what_is_no_url_of_postgresql_is_reported(url: str) -> None:
    with pytest.raises(StorageSetupError, match="cannot use PostgreSQL at"):
        await PostgresStorage.open(url)


# Preferences


async def test_preferences_are_each_principals_own(storage: PostgresStorage) -> None:
    preferences = storage.preferences
    await preferences.set("ann", "colour", "red")
    await preferences.set("ann", "colour", "green")
    await preferences.set("ben", "colour", "blue")
    assert await preferences.all("ann") == {"colour": "green"}
    assert await preferences.delete("ann", "colour")
    assert not await preferences.delete("ann", "colour")
    assert await preferences.all("ann") == {}
    assert await preferences.all("ben") == {"colour": "blue"}


async def test_odd_characters_neither_fail_nor_mix_principals(storage: PostgresStorage) -> None:
    await storage.preferences.set("a\0", "n\ud800", "v\0w")
    assert list((await storage.preferences.all("a\0")).values()) == ["v\ufffdw"]
    assert await storage.preferences.all("a\ufffd") == {}
    await storage.preferences.set("x" * 100_000, "y" * 100_000, "'; DROP TABLE hermes.preference")
    assert await storage.preferences.delete("x" * 100_000, "y" * 100_000)


# Memory (its contract: test_memories.py)


async def test_found_by_the_index_alone_a_crowd_hides_nobodys_own_memories(
    database_url: str,
) -> None:
    # For a small table PostgreSQL would sort instead of using the index.
    name = database_url.partition("?")[0].rpartition("/")[2]
    await sql(database_url, f"ALTER DATABASE {name} SET enable_sort = off")
    async with opened(database_url, HashingEmbedder()) as storage:
        assert storage.memory is not None
        for number in range(300):
            await storage.memory.remember("crowd", str(number), f"green tea {number}")
        for number in range(5):
            await storage.memory.remember("ann", str(number), f"something else {number}")
        assert len(await storage.memory.recall("ann", "green tea")) == 5
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'memory_nearest'"
    assert await sql(database_url, scans) >= 1


# Archive


async def test_the_archive_gives_back_what_it_was_given(storage: PostgresStorage) -> None:
    await storage.archive.append(S1, "ann", 0, [HELLO], fence=1)
    await storage.archive.append(S1, "ann", 1, [ANSWER], fence=1)
    assert await storage.archive.read(S1, "ann") == [HELLO, ANSWER]
    await storage.archive.append(S1, "ann", 2, [], fence=1)
    assert await storage.archive.read(S1, "ann") == [HELLO, ANSWER]


async def test_messages_that_are_known_are_left_alone(storage: PostgresStorage) -> None:
    await storage.archive.append(S1, "ann", 0, [HELLO, ANSWER], fence=1)
    await storage.archive.append(S1, "ann", 0, [ANSWER, HELLO, HELLO], fence=1)
    assert await storage.archive.read(S1, "ann") == [HELLO, ANSWER, HELLO]


async def test_what_was_lost_gives_way_to_what_came_in_its_place(storage: PostgresStorage) -> None:
    archive = storage.archive
    lost = user("lost")
    await archive.append(S1, "ann", 0, [HELLO, ANSWER], fence=1)
    await archive.append(S1, "ann", 2, [lost, ANSWER, lost, ANSWER], fence=2)
    await archive.append(S1, "ben", 2, [lost], fence=1)
    await archive.append(S2, "ann", 2, [lost], fence=1)
    await archive.append(S1, "ann", 1, [ANSWER, user("new")], fence=3)
    assert await archive.read(S1, "ann") == [HELLO, ANSWER, user("new")]
    await archive.append(S1, "ann", 3, [HELLO], fence=3)
    # A reader from before the failover comes too late.
    await archive.append(S1, "ann", 2, [lost, ANSWER, lost, ANSWER], fence=2)
    assert await archive.read(S1, "ann") == [HELLO, ANSWER, user("new"), HELLO]
    assert await archive.read(S1, "ben") == await archive.read(S2, "ann") == [lost]


async def test_what_is_reported_again_under_a_later_fence_takes_nothing_away(
    storage: PostgresStorage,
) -> None:
    messages = [HELLO, ANSWER, HELLO, ANSWER]
    await storage.archive.append(S1, "ann", 0, messages, fence=1)
    await storage.archive.append(S1, "ann", 0, messages[:2], fence=2)
    assert await storage.archive.read(S1, "ann") == messages


async def test_an_archive_of_the_first_version_is_taken_over(
    storage: PostgresStorage, database_url: str
) -> None:
    await storage.archive.append(S1, "ann", 0, [HELLO, HELLO], fence=1)
    await sql(database_url, "ALTER TABLE hermes.archive DROP COLUMN fence")
    await sql(database_url, "UPDATE hermes.part SET version = 1 WHERE name = 'core'")
    async with opened(database_url) as newer:
        await newer.archive.append(S1, "ann", 1, [ANSWER], fence=1)
        assert await newer.archive.read(S1, "ann") == [HELLO, ANSWER]


async def test_two_archivers_at_the_same_time_keep_each_message_once(
    storage: PostgresStorage,
) -> None:
    messages: list[Message] = [{"role": "user", "content": str(n)} for n in range(50)]
    await asyncio.gather(
        *(storage.archive.append(S1, "ann", 0, messages, fence=1) for _ in range(8))
    )
    assert await storage.archive.read(S1, "ann") == messages


async def test_nobody_reads_or_blocks_a_foreign_conversation(storage: PostgresStorage) -> None:
    await storage.archive.append(S1, "ben", 0, [ANSWER], fence=1)
    await storage.archive.append(S1, "ann", 0, [HELLO], fence=1)
    assert await storage.archive.read(S1, "ann") == [HELLO]
    assert await storage.archive.read(S2, "ann") == []


async def test_a_deleted_session_is_not_brought_back_by_a_late_archiver(
    storage: PostgresStorage,
) -> None:
    await storage.archive.append(S1, "ann", 0, [HELLO], fence=1)
    await storage.archive.append(S2, "ann", 0, [HELLO], fence=1)
    await storage.archive.delete(S1)
    await storage.archive.delete(S1)
    await storage.archive.append(S1, "ann", 1, [ANSWER], fence=1)
    assert await storage.archive.read(S1, "ann") == []
    assert await storage.archive.read(S2, "ann") == [HELLO]


async def test_a_deletion_among_appends_wins(storage: PostgresStorage) -> None:
    appends = [storage.archive.append(S1, "ann", n, [HELLO], fence=1) for n in range(20)]
    await asyncio.gather(*appends[:10], storage.archive.delete(S1), *appends[10:])
    assert await storage.archive.read(S1, "ann") == []


async def test_purge_forgets_what_is_old_and_nothing_else(
    storage: PostgresStorage, database_url: str
) -> None:
    for session in (S1, S2):
        await storage.archive.append(session, "ann", 0, [HELLO, HELLO], fence=1)
        await storage.once_ledger.claim(session, "3.0", "hash")
    # One message of S1 is recent: the conversation continues.
    aged = "now() - interval '40 days'"
    await sql(database_url, f"UPDATE hermes.archive SET archived_at = {aged} WHERE position = 0")
    await sql(
        database_url, f"UPDATE hermes.archive SET archived_at = {aged} WHERE session_id = '{S2}'"
    )
    await sql(
        database_url, f"UPDATE hermes.once_call SET claimed_at = {aged} WHERE session_id = '{S2}'"
    )
    await storage.purge(archive_s=30 * DAY_S, calls_s=35 * DAY_S)
    assert await storage.archive.read(S1, "ann") == [HELLO, HELLO]
    assert await storage.archive.read(S2, "ann") == []
    assert not await storage.once_ledger.claim(S1, "3.0", "hash")
    assert await storage.once_ledger.claim(S2, "3.0", "hash")


# The strict ledger


async def test_of_many_claims_at_the_same_time_one_succeeds(
    storage: PostgresStorage, database_url: str
) -> None:
    async with opened(database_url) as other:
        for call in range(20):
            claims = (
                ledger.claim(S1, f"3.{call}", "hash")
                for ledger in [storage.once_ledger, other.once_ledger] * 8
            )
            assert sum(await asyncio.gather(*claims)) == 1
    assert await storage.once_ledger.claim(S2, "3.0", "hash")


async def test_a_claim_stays_made_whatever_its_arguments(storage: PostgresStorage) -> None:
    assert await storage.once_ledger.claim(S1, "3.0", "hash")
    assert not await storage.once_ledger.claim(S1, "3.0", "another hash")


async def test_a_claim_with_other_arguments_does_not_give_the_result(
    storage: PostgresStorage,
) -> None:
    ledger = storage.once_ledger
    await ledger.claim(S1, "3.0", "hash")
    await ledger.finish(S1, "3.0", "sent")
    assert await ledger.result(S1, "3.0", "another hash") is None


async def test_the_first_result_of_a_claimed_call_is_kept(storage: PostgresStorage) -> None:
    ledger = storage.once_ledger
    await ledger.finish(S1, "3.0", "never claimed")
    assert await ledger.result(S1, "3.0", "hash") is None
    await ledger.claim(S1, "3.0", "hash")
    assert await ledger.result(S1, "3.0", "hash") is None
    await ledger.finish(S1, "3.0", "sent")
    await ledger.finish(S1, "3.0", "sent again")
    assert await ledger.result(S1, "3.0", "hash") == "sent"


# Outages


@pytest.mark.slow
async def test_while_the_server_is_away_everything_says_so() -> None:
    with PostgresServer.start() as server:
        storage = await PostgresStorage.open(server.url, HashingEmbedder())
        server.stop()
        assert storage.memory is not None
        calls = [
            storage.preferences.all("ann"),
            storage.preferences.set("ann", "colour", "green"),
            storage.archive.append(S1, "ann", 0, [HELLO], fence=1),
            storage.archive.delete(S1),
            storage.once_ledger.claim(S1, "3.0", "hash"),
            storage.memory.remember("ann", "k", "text"),
            storage.memory.recall("ann", "text"),
            storage.purge(archive_s=1, calls_s=1),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StorageUnavailable] * len(calls)
        await storage.close()


async def test_connections_that_the_server_drops_are_made_again(
    storage: PostgresStorage, database_url: str
) -> None:
    await storage.preferences.set("ann", "colour", "green")
    dropped = await sql(
        database_url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert dropped >= 1
    while True:
        # The pool may not have detected it yet: that is one StorageUnavailable at most.
        with contextlib.suppress(StorageUnavailable):
            assert await storage.preferences.all("ann") == {"colour": "green"}
            return
