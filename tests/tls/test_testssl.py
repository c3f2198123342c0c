"""testssl.sh on a running balancer. Minutes, so only if asked: HERMES_TESTSSL=1."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import authority, ca_file
from tests.support.origin import answers
from tests.support.tls import with_tls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")

pytestmark = [
    pytest.mark.skipif(TESTSSL is None, reason="testssl.sh is not installed"),
    pytest.mark.skipif("HERMES_TESTSSL" not in os.environ, reason="HERMES_TESTSSL=1 is not set"),
    pytest.mark.timeout(900),
]

# What a certificate of a test's own authority has not, and DNS does not know of it.
OF_THE_CERTIFICATE = ("cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL", "DNS_CAA")
# The kept connections of a scripted server last for seconds only.
OF_THE_SERVER = ("Connection: close", "X-Frame-Options: DENY", "X-Content-Type-Options: nosniff")
BAD = ("MEDIUM", "HIGH", "CRITICAL")


def certificate(folder: Path) -> str:
    """For 90 days: a longer life would be a finding."""
    now = datetime.now(UTC)
    issued = authority().issue_cert(
        "localhost", not_before=now - timedelta(days=1), not_after=now + timedelta(days=89)
    )
    path = folder / "localhost.pem"
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return str(path)


async def findings(port: str, folder: Path) -> list[dict[str, Any]]:
    assert TESTSSL is not None
    report = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        TESTSSL, "--quiet", "--color", "0", "--nodns", "min", "--ip", "127.0.0.1",
        "--add-ca", ca_file(folder), "--jsonfile", str(report), f"localhost:{port}",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()
    found: list[dict[str, Any]] = await asyncio.to_thread(lambda: json.loads(report.read_text()))
    return found


@pytest.mark.parametrize("min_version", ["1.2", "1.3"])
async def test_nothing_is_found_at_medium_or_above(
    stage: Stage, tmp_path: Path, min_version: str
) -> None:
    origin = await stage.serving(answers(b"hello", *OF_THE_SERVER))
    frontend = with_tls(
        certificate(tmp_path), min_version=min_version, hsts="365d", hsts_subdomains=True
    )
    lb = await stage.balancer(origin, frontend=frontend)
    found = await findings(lb.url.rsplit(":", 1)[1], tmp_path)
    bad = [one for one in found if one["severity"] in BAD]
    assert [one for one in bad if not one["id"].startswith(OF_THE_CERTIFICATE)] == []
    assert len(found) > 100
