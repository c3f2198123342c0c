"""The line that `systemctl status` shows."""

from __future__ import annotations

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.workers.status import in_words


def pool(name: str, *servers: str) -> Pool:
    configured = [{"name": one, "address": "127.0.0.1:80"} for one in servers]
    return Pool(name, Backend.model_validate({"servers": configured}))


def test_servers_of_all_backends_are_counted() -> None:
    one, other = pool("one", "a", "b"), pool("other", "c")
    one.servers[0].set_admin("maint")
    assert in_words([one, other], serving=2, slots=2) == "2 workers, 2 of 3 servers up"


@pytest.mark.parametrize(
    ("serving", "slots", "said"),
    [(1, 1, "1 worker"), (2, 2, "2 workers"), (1, 2, "1 of 2 workers"), (0, 1, "0 of 1 worker")],
)
def test_missing_workers_are_reported(serving: int, slots: int, said: str) -> None:
    assert in_words([], serving=serving, slots=slots) == f"{said}, 0 of 0 servers up"


def test_it_is_one_line_whatever_was_refused() -> None:
    said = in_words([], serving=1, slots=1, is_upgrading=True, refused="lb.toml:4: no\nand more")
    assert said == "upgrading; 1 worker, 0 of 0 servers up; reload refused: lb.toml:4: no"
