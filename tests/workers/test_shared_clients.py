"""Connections and requests by client, counted over all processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.workers.shared_clients import SharedClients
from hermes_lb.workers.shared_memory import SharedMemory


def views(memory: SharedMemory) -> list[SharedClients]:
    """One per worker."""
    of_all = [region.clients for region in memory.regions]
    return [SharedClients(mine, of_all, b"key") for mine in of_all]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.booleans()), max_size=40))
def test_each_process_gets_the_sum_of_all(events: list[tuple[int, str, bool]]):
    memory = SharedMemory.create(3, rows=1)
    workers = views(memory)
    counts: dict[tuple[int, str], int] = {}
    for worker, client, comes in events:
        before = counts.get((worker, client), 0)
        change = 1 if comes or not before else -1
        counts[worker, client] = before + change
        told = workers[worker].count(client, change)
        assert told == sum(count for (_, name), count in counts.items() if name == client)
    del workers
    memory.close()


def test_no_change_is_a_question():
    memory = SharedMemory.create(2, rows=1)
    first, second = views(memory)
    first.count("10.0.0.1", 2)
    assert second.count("10.0.0.1", 0) == 2
    assert first.count("10.0.0.2", 0) == 0


def test_who_shares_a_slot_depends_on_the_key():
    """So a client can't search for an address that shares another one's bucket."""
    memory = SharedMemory.create(1, rows=1)
    clients = memory.regions[0].clients

    def twin(key: bytes) -> str:
        """An address whose connections are counted as 10.0.0.1's."""
        worker = SharedClients(clients, [clients], key)
        worker.count("10.0.0.1", 1)
        found = next(name for name in map(str, range(10**7)) if worker.count(name, 0))
        worker.count("10.0.0.1", -1)
        return found

    assert twin(b"key") == twin(b"key")
    assert twin(b"key") != twin(b"another")


def test_a_dead_workers_connections_are_gone():
    memory = SharedMemory.create(2, rows=1)
    first, second = views(memory)
    first.count("10.0.0.1", 5)
    memory.clear(0)
    assert second.count("10.0.0.1", 1) == 1
