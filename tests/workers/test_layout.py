"""Assignment of rows over reloads."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from hermes_lb.config import load_config
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.shared_memory import SharedMemory
from tests.support.pools import make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Pool


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(2, rows=8)
    yield memory
    memory.close()


@pytest.fixture
def layout(memory: SharedMemory) -> Layout:
    return Layout(memory)


def pool(*names: str) -> Pool:
    return make_pool(*[{"name": name, "address": f"{name}.internal:80"} for name in names])


def assign(layout: Layout, *names: str) -> list[int]:
    """Assign rows to a backend of these servers and a frontend."""
    return layout.assign({"test": pool(*names)}, ["public"])


def row_of(layout: Layout, name: str) -> int:
    return next(row for key, row in layout.rows.items() if key.startswith(f"test/{name} "))


def test_each_server_backend_and_frontend_has_a_row_of_its_own(layout: Layout):
    layout.assign({"test": pool("a", "b"), "other": pool("a")}, ["test", "b"])
    assert len(layout.rows) == len(set(layout.rows.values())) == 7
    assert sorted(layout.rows) == [
        "frontend b",
        "frontend test",
        "other",
        "other/a a.internal:80",
        "test",
        "test/a a.internal:80",
        "test/b b.internal:80",
    ]


def test_who_stays_keeps_its_row(layout: Layout):
    assign(layout, "a", "b")
    before = dict(layout.rows)
    assert assign(layout, "a", "b", "c") == []
    assert before.items() < layout.rows.items()


def test_at_another_address_it_is_another_server(layout: Layout):
    assign(layout, "a", "b")
    gone = row_of(layout, "b")
    moved = make_pool({"name": "a", "address": "a.internal:80"}, {"name": "b"})
    assert layout.assign({"test": moved}, ["public"]) == [gone]
    assert row_of(layout, "b") != gone


def test_a_row_that_is_free_is_dealt_out_again_but_not_at_once(layout: Layout):
    assign(layout, "a", "b")
    (_, freed) = sorted(layout.rows.values())[-2:]
    assert assign(layout, "a", "c") == [freed]
    assert row_of(layout, "c") != freed
    assign(layout, "a", "c", "d")
    assert row_of(layout, "d") == freed


@pytest.mark.parametrize("what", ["loads", "queued", "waiting", "counters"])
def test_a_row_with_numbers_of_an_old_process_is_nobodys(
    memory: SharedMemory, layout: Layout, what: str
):
    assign(layout, "a", "b")
    freed = row_of(layout, "b")
    region = memory.regions[1]
    if what == "counters":
        region.write_counters(freed, [1.0])
    else:
        getattr(region, what)[freed] = 1
    assign(layout, "a")
    assign(layout, "a", "c")
    assert row_of(layout, "c") != freed
    memory.clear(1)  # that process has ended
    assign(layout, "a", "c", "d")
    assert row_of(layout, "d") == freed


def test_more_than_there_are_rows_is_refused_and_nothing_changes(layout: Layout):
    assign(layout, "a")
    before = dict(layout.rows)
    with pytest.raises(ValueError, match="there can be 8 servers, backends and frontends"):
        assign(layout, *"abcdefg")
    assert layout.rows == before
    assign(layout, *"abcdef")
    assert sorted(layout.rows.values()) == list(range(8))


def test_rows_that_old_processes_hold_are_missed(memory: SharedMemory, layout: Layout):
    assign(layout, *"abcdef")
    memory.regions[0].loads[row_of(layout, "f")] = 1
    assign(layout, *"abcde")
    before = layout.state()
    with pytest.raises(ValueError, match="all rows of the shared memory are in use"):
        assign(layout, *"gabcdh")
    assert layout.state() == before
    memory.clear(0)
    assign(layout, *"gabcde")


def test_the_next_generation_goes_on(memory: SharedMemory, layout: Layout):
    assign(layout, "a", "b")
    assign(layout, "a")
    following = Layout(memory)
    following.restore(json.loads(json.dumps(layout.state())))
    for one in (layout, following):
        assign(one, "a", "c", "d")
    assert following.rows == layout.rows
    assert len(set(layout.rows.values())) == 5


def test_a_discovery_counts_with_all_that_it_may_find() -> None:
    memory = SharedMemory.create(1, 8)
    tables = {"frontends": [{"name": "web", "bind": "127.0.0.1:0", "default_backend": "a"}]}
    for most, fits in ((6, True), (7, False)):
        discovery = {"file": {"path": "none"}, "max_servers": most}
        configured = load_config({**tables, "backends": {"a": {"discovery": discovery}}})
        with nullcontext() if fits else pytest.raises(ValueError, match="with its max_servers"):
            Layout(memory).check(configured)
    memory.close()


def test_rows_of_single_servers_are_given_and_freed() -> None:
    """As a discovery changes them: the cost is that of these rows."""
    memory = SharedMemory.create(2, 4)
    layout = Layout(memory)
    assert layout.change(["a", "b"], []) == []
    [freed] = layout.change(["c"], ["a", "none"])
    assert set(layout.rows) == {"b", "c"}
    memory.regions[1].loads[freed] = 1  # a worker has not heard of it yet
    assert layout.change(["d"], []) == []
    assert layout.rows["d"] != freed
    with pytest.raises(ValueError, match="all rows"):
        layout.change(["e"], ["b"])
    assert set(layout.rows) == {"b", "c", "d"}
    memory.regions[1].loads[freed] = 0
    layout.change(["e"], [])
    assert layout.rows["e"] == freed
    memory.close()
