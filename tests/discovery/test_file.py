"""`file`: the form of file_sd, changes, atomic replacement, and files with mistakes."""

from __future__ import annotations

import json
import os
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.discovery.sources import file as file_module
from hermes_lb.discovery.sources.base import DiscoveryFailed, Endpoint
from hermes_lb.discovery.sources.file import FileOptions, FileSource, parse
from hermes_lb.options.units import Address

if TYPE_CHECKING:
    from pathlib import Path


def group(*targets: str, **labels: Any) -> dict[str, Any]:
    return {"targets": list(targets), "labels": labels}


def parsed(*groups: Any) -> dict[str, Endpoint]:
    return parse(json.dumps(groups).encode(), "servers.json")


@pytest.mark.parametrize(
    ("given", "servers"),
    [
        ([], {}),
        ([group("10.0.0.1:80")], {"10.0.0.1-80": Endpoint(Address("10.0.0.1", 80))}),
        ([{"targets": ["a.internal:80"]}], {"a.internal-80": Endpoint(Address("a.internal", 80))}),
        ([group("[::1]:80")], {"--1-80": Endpoint(Address("::1", 80))}),
        (
            [group("10.0.0.1:80", name="a", weight="3", backup="true", job="x", __meta="y")],
            {"a": Endpoint(Address("10.0.0.1", 80), 3, is_backup=True)},
        ),
        (
            [group("10.0.0.1:80", name="a", weight=0, server_name="a.internal")],
            {"a": Endpoint(Address("10.0.0.1", 80), None, leaves=True, server_name="a.internal")},
        ),
        ([group("10.0.0.1:80", name="a", drain=True)],
         {"a": Endpoint(Address("10.0.0.1", 80), leaves=True)}),
        # The same server twice is one; one address by two names is two.
        ([group("10.0.0.1:80"), group("10.0.0.1:80")],
         {"10.0.0.1-80": Endpoint(Address("10.0.0.1", 80))}),
        ([group("10.0.0.1:80", name="a"), group("10.0.0.1:80", name="b")],
         {"a": Endpoint(Address("10.0.0.1", 80)), "b": Endpoint(Address("10.0.0.1", 80))}),
    ],
)  # fmt: skip
def test_servers(given: list[Any], servers: dict[str, Endpoint]) -> None:
    assert parsed(*given) == servers


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"{}", "is no list of groups"),
        (b"[5]", 'group 0: it has no list "targets"'),
        (b'[{"targets": "10.0.0.1:80"}]', 'group 0: it has no list "targets"'),
        (b'[{"targets": []}, {"targets": [5]}]', "group 1: write"),
        (b'[{"targets": ["10.0.0.1"]}]', "group 0: write"),
        (b'[{"targets": ["10.0.0.1:0"]}]', "has the port 0"),
        (b'[{"targets": [], "labels": []}]', '"labels" is no table'),
        (b'[{"targets": ["a:1", "b:1"], "labels": {"name": "x"}}]', "a group with one target"),
        (b'[{"targets": ["a:1"], "labels": {"name": "x\\n"}}]', "is no name of a server"),
        (b'[{"targets": ["a:1"], "labels": {"name": 5}}]', "is no name of a server"),
        (b'[{"targets": ["a:1"], "labels": {"weight": "-1"}}]', "not a number from 0 to 65535"),
        (b'[{"targets": ["a:1"], "labels": {"weight": 70000}}]', "above 65535"),
        (b'[{"targets": ["a:1"], "labels": {"weight": true}}]', "not a number from 0 to 65535"),
        (b'[{"targets": ["a:1"], "labels": {"weight": "\xc2\xb2"}}]', "not a number"),
        (b'[{"targets": ["a:1"], "labels": {"drain": "no"}}]', 'drain is "true" or "false"'),
        (b'[{"targets": ["a:1"], "labels": {"drain": []}}]', 'drain is "true" or "false"'),
        (b'[{"targets": ["a:1"], "labels": {"server_name": ""}}]', "write a host name"),
        (
            b'[{"targets": ["a:1"], "labels": {"name": "x"}},'
            b' {"targets": ["b:1"], "labels": {"name": "x"}}]',
            "group 1: two different servers have the name x",
        ),
    ],
)
def test_a_mistake_is_named(text: bytes, problem: str) -> None:
    with pytest.raises(DiscoveryFailed, match="servers") as failed:
        parse(text, "servers.json")
    assert problem in str(failed.value)
    assert str(failed.value).isprintable()


async def test_it_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text(json.dumps([group("10.0.0.1:80")]))
    source = FileSource(FileOptions(path=str(path), interval=0.01), Random(0))
    async with aclosing(source.answers()) as answers:  # type: ignore[type-var]
        assert set((await anext(answers)).present) == {"10.0.0.1-80"}
        replacement = tmp_path / "new"
        replacement.write_text(json.dumps([group("10.0.0.2:80")]))
        os.replace(replacement, path)
        answer = await anext(answers)
        assert answer.is_complete
        assert set(answer.present) == {"10.0.0.2-80"}


@pytest.mark.parametrize("what", ["missing", "directory", "fifo", "large"])
async def test_what_can_not_be_read_is_a_failure(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "servers.json"
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        monkeypatch.setattr(file_module, "MOST_BYTES", 100)
        path.write_bytes(b" " * 101)
    source = FileSource(FileOptions(path=str(path), interval=0.5), Random(0))
    with pytest.raises(DiscoveryFailed) as failed:
        await anext(source.answers())
    assert failed.value.retry_after == 0.5  # a look is cheap
