"""The state file: its format, atomic writes, and whatever else may be in its place."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from hermes_lb.control.state_file import SavedState, StateFile

if TYPE_CHECKING:
    from pathlib import Path

ONE = SavedState("drain", 7, configured_weight=1, configured_down=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lb.state"


def test_people_can_read_it(path: Path) -> None:
    StateFile(path).save({"agents": {"a": SavedState("drain", None, 1, False, "10.0.0.1:80")}})
    assert json.loads(path.read_text()) == {
        "version": 1,
        "backends": {
            "agents": {
                "a": {
                    "state": "drain",
                    "weight": None,
                    "configured": {"weight": 1, "down": False, "address": "10.0.0.1:80"},
                }
            }
        },
    }
    assert len(path.read_text().splitlines()) > 5


def test_a_failure_within_the_writing_leaves_the_old_one_and_nothing_else(path: Path) -> None:
    file = StateFile(path)
    file.save({"agents": {"a": ONE}})
    broken = patch.object(os, "fsync", side_effect=OSError(5, "Input/output error"))
    with broken, pytest.raises(OSError, match="Input/output"):
        file.save({})
    assert file.load() == {"agents": {"a": ONE}}
    assert list(path.parent.iterdir()) == [path]


def test_without_a_file_there_is_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert StateFile(path).load() == {}
    assert caplog.records == []


def server(**changed: Any) -> str:
    saved = {"state": "drain", "weight": 7, "configured": {"weight": 1, "down": False}, **changed}
    return json.dumps({"version": 1, "backends": {"agents": {"a": saved}}})


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "Expecting value"),
        ('{"version": 1, "backends": {', "Expecting property name"),
        ("\xff\xfe", "can't decode byte"),
        ("[" * 100_000, "recursion"),
        ("[]", "the file is not an object"),
        ('{"version": 2, "backends": {}}', "version 2, expected 1"),
        ('{"backends": {}}', "version None, expected 1"),
        ('{"version": 1}', "backends is not an object"),
        ('{"version": 1, "backends": {"agents": []}}', "agents is not an object"),
        ('{"version": 1, "backends": {"agents": {"a": "up"}}}', "agents/a is not an object"),
        (server(state="off"), "state 'off' is not one of ready, drain, maint"),
        (server(state=["drain"]), r"state \['drain'\] is not one of"),
        (server(weight=-1), "a weight is a number from 0 to 65535"),
        (server(weight=65_536), "a weight is a number"),
        (server(weight=1.5), "a weight is a number"),
        (server(weight=True), "a weight is a number"),
        (server(configured=None), "configured of agents/a is not an object"),
        (server(configured={"weight": None, "down": False}), "a weight is a number"),
        (server(configured={"weight": 1, "down": 0}), "configured down is not true or false"),
        (
            server(configured={"weight": 1, "down": False, "address": 80}),
            "configured address is not a string",
        ),
    ],
)
def test_a_broken_one_is_put_aside_with_one_warning(
    path: Path, caplog: pytest.LogCaptureFixture, text: str, because: str
) -> None:
    path.write_bytes(text.encode("latin-1"))
    assert StateFile(path).load() == {}
    assert not path.exists()
    aside = path.with_name("lb.state.broken")
    assert aside.read_bytes() == text.encode("latin-1")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    with pytest.raises(ValueError, match=because):
        raise ValueError(record.getMessage())


def test_a_directory_that_is_missing_is_reported_at_the_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert StateFile(path.parent / "missing" / "lb.state").load() == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is missing or not writable" in caplog.text


def test_one_that_cannot_be_read_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    assert StateFile(path).load() == {}
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"can't read the state file {path}, ignored: Is a directory"]


@pytest.fixture
def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_a_fifo_is_not_waited_for(fifo: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert StateFile(fifo).load() == {}
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"can't read the state file {fifo}, ignored: not a regular file"]


def test_a_fifo_is_not_replaced(fifo: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        StateFile(fifo).save({"agents": {"a": ONE}})
    assert fifo.is_fifo()


def test_a_link_to_nothing_yet_is_no_reason_to_refuse(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    StateFile(path).save({"agents": {"a": ONE}})
    assert StateFile(path).load() == {"agents": {"a": ONE}}


def test_what_is_missing_in_a_saved_server_is_refused(path: Path) -> None:
    path.write_text('{"version": 1, "backends": {"agents": {"a": {"state": "drain"}}}}')
    assert StateFile(path).load() == {}
    assert not path.exists()
