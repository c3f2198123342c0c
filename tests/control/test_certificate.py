"""The admin listener's certificate is used again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from hermes_lb.control import certificate
from tests.support.certificates import authority
from tests.support.mounted_secret import MountedSecret
from tests.support.operator import Client, admin_listener
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def files_of(*names: str) -> dict[str, bytes]:
    """As cert-manager writes a Secret."""
    issued = authority().issue_cert(*names)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}


async def names_shown(client: Client) -> set[str]:
    """Of the certificate that a new handshake gets."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    _, writer = await asyncio.open_connection(*client.admin.address, ssl=context)
    seen = writer.get_extra_info("peercert")["subjectAltName"]
    writer.transport.abort()
    return {name for _, name in seen}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_EVERY", 0.01)


async def test_a_renewed_certificate_is_used(tmp_path: Path) -> None:
    mounted = MountedSecret(tmp_path / "tls", **files_of("127.0.0.1"))
    tls = {"certificate": str(mounted.path("tls.crt")), "key": str(mounted.path("tls.key"))}
    async with admin_listener(tls=tls) as client:
        assert await names_shown(client) == {"127.0.0.1"}
        mounted.replace(**files_of("127.0.0.1", "admin.test"))

        async def is_new() -> bool:
            return await names_shown(client) == {"127.0.0.1", "admin.test"}

        await until(is_new)


async def test_files_of_no_use_leave_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = files_of("127.0.0.1")
    mounted = MountedSecret(tmp_path / "tls", **good)
    tls = {"certificate": str(mounted.path("tls.crt")), "key": str(mounted.path("tls.key"))}
    caplog.set_level("INFO", "hermes_lb.admin")
    async with admin_listener(tls=tls) as client:
        # The certificate is read before the key, and must not be in use with the old one.
        other = files_of("127.0.0.1", "wrong.test")
        mounted.replace(**{**other, "tls.key": files_of("127.0.0.1")["tls.key"]})
        await until(lambda: caplog.records)
        assert await names_shown(client) == {"127.0.0.1"}
        mounted.replace(**files_of("127.0.0.1", "later.test"))
        await until(lambda: len(caplog.records) > 1)
        assert await names_shown(client) == {"127.0.0.1", "later.test"}
    refused, used = [record.getMessage() for record in caplog.records]
    assert refused.startswith("the admin certificate stays as it was: ")
    assert "are no certificate with its key" in refused
    assert used == f"the admin certificate is the new one of {mounted.path('tls.crt')}"
