"""halog and GoAccess read what a running balancer has written, and count right.

The command lines are those of docs/logs.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.logging_balancer import logging_balancer

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.stage import Stage

DOCS = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()

needs_halog = pytest.mark.skipif(shutil.which("halog") is None, reason="halog: apt haproxy")
needs_goaccess = pytest.mark.skipif(shutil.which("goaccess") is None, reason="goaccess: apt")

HOSTILE = 'Mozilla/5.0 "x" \\ [y] {z}'


async def log_of_a_balancer(stage: Stage, path: Path, **log: Any) -> None:
    """Eleven requests: 200 six times, 404 three times, 500 once, and what was no request."""

    async def by_target(connection: AtOrigin, message: Message) -> None:
        status = {"/gone": 404, "/boom": 500}.get(message.head.target, 200)
        await connection.respond(b"x" * 100, status=status)

    origin = await stage.origin()
    origin.serve(by_target)
    async with logging_balancer(path, origin, **log) as lb:
        client = await stage.client(lb)
        for target in ["/a"] * 3 + ["/b?q=1", '/"quoted\\"', "/c"]:
            await client.get(target, f"User-Agent: {HOSTILE}", "Referer: http://from.example/")
            assert (await client.read_response()).status == 200
        for target in ["/gone"] * 3 + ["/boom"]:
            await client.ask(target)
        await client.send(b"BAD\r\n\r\n")
        await client.read_to_end()


class Report(NamedTuple):
    """What GoAccess makes of a log."""

    valid: int
    failed: int
    statuses: dict[int, int]
    requests: dict[str, int]
    data: dict[str, Any]


def documented(section: str) -> list[str]:
    """The options of the first GoAccess command under a heading of docs/logs.md."""
    text = DOCS.split(f"\n### {section}\n")[1]
    match = re.search(r"goaccess (\S+)((?:[^\n]*\\\n)*[^\n]*)\n```", text)
    assert match
    options = match[2].replace("\\\n", " ")
    return [found[0] + found[1] for found in re.findall(r"(--[a-z-]+=)(?:'([^']*)'|\S+)", options)]


def goaccess(log: Path, *options: str) -> Report:
    out = log.with_suffix(".report.json")
    subprocess.run(
        ["goaccess", str(log), "--no-global-config", *options, "-o", str(out)],
        check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip
    data = json.loads(out.read_text())
    statuses = {
        int(one["data"][:3]): one["hits"]["count"]
        for kind in data["status_codes"]["data"]
        for one in kind["items"]
    }
    requests = {
        one["data"]: one["hits"]["count"]
        for panel in ("requests", "not_found")
        for one in data.get(panel, {}).get("data", [])
    }
    general = data["general"]
    return Report(general["valid_requests"], general["failed_requests"], statuses, requests, data)


COUNTS = {200: 6, 404: 3, 500: 1, 400: 1}


@pytest.mark.http1_only("it sends what is no request")
@needs_goaccess
async def test_goaccess_reads_combined(stage: Stage, tmp_path: Path) -> None:
    await log_of_a_balancer(stage, tmp_path / "log", format="combined")
    report = goaccess(tmp_path / "log", "--log-format=COMBINED")
    assert (report.valid, report.failed, report.statuses) == (11, 0, COUNTS)
    assert (report.requests["/a"], report.requests["/gone"]) == (3, 3)
    assert report.data["referring_sites"]["data"][0]["data"] == "from.example"


@pytest.mark.http1_only("it sends what is no request")
@needs_goaccess
async def test_goaccess_reads_json(stage: Stage, tmp_path: Path) -> None:
    """But for what has no method: that was no request."""
    await log_of_a_balancer(stage, tmp_path / "log", format="json")
    report = goaccess(tmp_path / "log", *documented("GoAccess: json"))
    assert (report.valid, report.failed) == (10, 1)
    assert report.statuses == {200: 6, 404: 3, 500: 1}
    assert (report.requests["/a"], report.requests["/gone"]) == (3, 3)
    assert report.data["vhosts"]["data"][0]["data"] == "agents"


@pytest.mark.http1_only("it sends what is no request")
@needs_goaccess
@pytest.mark.parametrize("capture_trace", [False, True])
async def test_goaccess_reads_httplog(capture_trace: bool, stage: Stage, tmp_path: Path) -> None:
    await log_of_a_balancer(stage, tmp_path / "log", capture_trace=capture_trace)
    report = goaccess(tmp_path / "log", *documented("GoAccess: httplog"))
    assert (report.valid, report.failed, report.statuses) == (11, 0, COUNTS)
    assert (report.requests["/a"], report.requests["/gone"]) == (3, 3)
    assert report.data["vhosts"]["data"][0]["hits"]["count"] == 10


@pytest.mark.http1_only("it sends what is no request")
@needs_halog
@pytest.mark.parametrize("capture_trace", [False, True])
async def test_halog_reads_httplog(capture_trace: bool, stage: Stage, tmp_path: Path) -> None:
    await log_of_a_balancer(stage, tmp_path / "log", capture_trace=capture_trace)

    def rows(*options: str) -> set[str]:
        with (tmp_path / "log").open() as stream:
            ran = subprocess.run(
                ["halog", "-s", "-4", "-q", *options],
                stdin=stream, capture_output=True, text=True, check=True, timeout=30,
            )  # fmt: skip
        return {row for row in ran.stdout.splitlines() if not row.startswith("#")}

    assert rows("-st") == {f"{status} {count}" for status, count in COUNTS.items()}
    assert rows("-tc") == {"-- 10", "PR 1"}
    urls = {row.split()[-1]: int(row.split()[0]) for row in rows("-u")}
    assert (urls["/a"], urls["/gone"], urls["/boom"]) == (3, 3, 1)
    traces = rows("-hdr", "1:1")
    assert len([one for one in traces if re.fullmatch("[0-9a-f]{32}", one)]) == 10 * capture_trace
    servers = {row.split()[0]: row.split()[1:7] for row in rows("-srv")}
    assert servers["agents/agent1"] == ["0", "6", "0", "3", "1", "0"]  # by class of status
