"""`ctl upgrade --wait`, while the admin listener closes and opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from hermes_lb.ctl import upgrade
from hermes_lb.ctl.errors import CtlError

if TYPE_CHECKING:
    from hermes_lb.ctl.client import AdminClient


class Scripted:
    """A listener with these answers, one per poll; the last one for ever."""

    def __init__(self, *shown: dict[str, Any] | CtlError) -> None:
        self._shown = list(shown)

    def get(self, path: str) -> dict[str, Any]:
        assert path == "status"
        shown = self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]
        if isinstance(shown, CtlError):
            raise shown
        return shown


def status(*processes: tuple[int, float], draining: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "processes": [
            {"pid": pid, "started_at": at, "is_draining": pid in draining} for pid, at in processes
        ]
    }


BEFORE = status((1, 10.0), (2, 10.0))
AWAY = CtlError("nothing answers at http://127.0.0.1:9900")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "_EVERY", 0.0)


def wait(*shown: dict[str, Any] | CtlError) -> dict[str, Any]:
    return upgrade.wait_until_upgraded(cast("AdminClient", Scripted(*shown)), BEFORE)


def test_it_ends_when_no_old_process_serves() -> None:
    half = status((1, 10.0), (2, 10.0), (3, 20.0), draining=(1,))
    done = status((1, 10.0), (3, 20.0), (4, 20.0), draining=(1,))
    assert wait(BEFORE, AWAY, status(), half, done) is done


def test_a_new_process_may_have_an_old_number() -> None:
    done = status((1, 20.0))
    assert wait(done) is done


def test_it_is_patient_as_long_as_something_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each poll is later than its patience, but shows progress."""
    monkeypatch.setattr(upgrade, "_PATIENCE", 0.0)
    half = status((1, 10.0), (2, 10.0), (3, 20.0), draining=(1,))
    done = status((2, 10.0), (3, 20.0), (4, 20.0), draining=(2,))
    assert wait(BEFORE, AWAY, half, done) is done


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (BEFORE, "process 1, 2 still runs the old code"),
        (status((1, 10.0), draining=(1,)), "no process serves"),
        (AWAY, "nothing answers at"),
    ],
    ids=["old", "none", "away"],
)
def test_at_the_end_of_its_patience_it_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any] | CtlError, said: str
) -> None:
    monkeypatch.setattr(upgrade, "_PATIENCE", 0.0)
    with pytest.raises(CtlError, match=f"giving up: {said}.*; see its log"):
        wait(shown)
