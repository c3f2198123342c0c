"""Who gets which row, over reloads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hermes_lb.workers.block import Block
from hermes_lb.workers.rows import Rows
from tests.support.pools import make_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Pool


@pytest.fixture
def block() -> Iterator[Block]:
    block = Block.create(2, rows=8)
    yield block
    block.close()


@pytest.fixture
def rows(block: Block) -> Rows:
    return Rows(block)


def pool(*names: str) -> Pool:
    return make_pool(*[{"name": name, "address": f"{name}.internal:80"} for name in names])


def deal(rows: Rows, *names: str) -> list[int]:
    """To a backend of these servers and a frontend."""
    return rows.deal({"test": pool(*names)}, ["public"])


def row_of(rows: Rows, name: str) -> int:
    return next(row for key, row in rows.rows.items() if key.startswith(f"test/{name} "))


def test_each_server_backend_and_frontend_has_a_row_of_its_own(rows: Rows):
    rows.deal({"test": pool("a", "b"), "other": pool("a")}, ["test", "b"])
    assert len(rows.rows) == len(set(rows.rows.values())) == 7
    assert sorted(rows.rows) == [
        "frontend b",
        "frontend test",
        "other",
        "other/a a.internal:80",
        "test",
        "test/a a.internal:80",
        "test/b b.internal:80",
    ]


def test_who_stays_keeps_its_row(rows: Rows):
    deal(rows, "a", "b")
    before = dict(rows.rows)
    assert deal(rows, "a", "b", "c") == []
    assert before.items() < rows.rows.items()


def test_at_another_address_it_is_another_server(rows: Rows):
    deal(rows, "a", "b")
    gone = row_of(rows, "b")
    moved = make_pool({"name": "a", "address": "a.internal:80"}, {"name": "b"})
    assert rows.deal({"test": moved}, ["public"]) == [gone]
    assert row_of(rows, "b") != gone


def test_a_row_that_is_free_is_dealt_out_again_but_not_at_once(rows: Rows):
    deal(rows, "a", "b")
    (_, freed) = sorted(rows.rows.values())[-2:]
    assert deal(rows, "a", "c") == [freed]
    assert row_of(rows, "c") != freed
    deal(rows, "a", "c", "d")
    assert row_of(rows, "d") == freed


@pytest.mark.parametrize("what", ["loads", "queued", "waiting", "counters"])
def test_a_row_with_numbers_of_an_old_process_is_nobodys(block: Block, rows: Rows, what: str):
    deal(rows, "a", "b")
    freed = row_of(rows, "b")
    part = block.parts[1]
    if what == "counters":
        part.write_counters(freed, [1.0])
    else:
        getattr(part, what)[freed] = 1
    deal(rows, "a")
    deal(rows, "a", "c")
    assert row_of(rows, "c") != freed
    block.clear(1)  # that process has ended
    deal(rows, "a", "c", "d")
    assert row_of(rows, "d") == freed


def test_more_than_there_are_rows_is_refused_and_nothing_changes(rows: Rows):
    deal(rows, "a")
    before = dict(rows.rows)
    with pytest.raises(ValueError, match="there can be 8 servers, backends and frontends"):
        deal(rows, *"abcdefg")
    assert rows.rows == before
    deal(rows, *"abcdef")
    assert sorted(rows.rows.values()) == list(range(8))


def test_rows_that_old_processes_hold_are_missed(block: Block, rows: Rows):
    deal(rows, *"abcdef")
    block.parts[0].loads[row_of(rows, "f")] = 1
    deal(rows, *"abcde")
    before = rows.state()
    with pytest.raises(ValueError, match="all rows of the shared memory are in use"):
        deal(rows, *"gabcdh")
    assert rows.state() == before
    block.clear(0)
    deal(rows, *"gabcde")


def test_the_next_image_of_the_program_goes_on(block: Block, rows: Rows):
    deal(rows, "a", "b")
    deal(rows, "a")
    following = Rows(block)
    following.restore(json.loads(json.dumps(rows.state())))
    for one in (rows, following):
        deal(one, "a", "c", "d")
    assert following.rows == rows.rows
    assert len(set(rows.rows.values())) == 5
