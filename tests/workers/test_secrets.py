"""Secrets that change in their files are used without a restart, by all processes.

The files are mounted as Kubernetes mounts a Secret: all of them change at once, by a link.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support import certificates
from tests.support.balancer_process import run
from tests.support.mounted_secret import MountedSecret
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.balancer_process import Running
    from tests.workers.processes import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TOKENS = ["a-token-of-the-first-days", "another-token-for-later"]


def _files(token: str, cookie: str, *names: str) -> dict[str, str | bytes]:
    issued = certificates.authority().issue_cert(*names)
    pem = issued.private_key_and_cert_chain_pem.bytes()
    return {"token": token, "cookie": cookie, "tls": pem}


class Mounted:
    """A balancer of two processes whose secrets are all in one mounted Secret."""

    def __init__(self, site: Site) -> None:
        self.client = site.client
        self.secret = MountedSecret(site.folder / "mounted", **_files(TOKENS[0], "old", "a.test"))
        path = self.secret.path
        self.file: Path = site.write(
            site.workers[:1],
            frontend=f"tls = {{ certificate = '{path('tls')}', reload_interval = \"100ms\" }}",
            backend=f"affinity = {{ cookie = \"ID\", secret_file = '{path('cookie')}' }}",
        )
        text = self.file.read_text()
        text = text.replace('bind = "127.0.0.1:0"\n[log]', f'''bind = "127.0.0.1:0"
token_file = '{path("token")}'
[log]''')  # fmt: skip
        text = text.replace(
            'name = "public"\nbind = "127.0.0.1:0"',
            'name = "public"\nbind = { address = "127.0.0.1:0", tls = true }',
        )
        self.file.write_text(text)

    async def started(self, running: Running) -> None:
        self.public = (await running.says(r"listening on (https://\S+)"))[1]
        self.admin = (await running.says(r"admin on (http://\S+)"))[1]

    async def status(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(f"{self.admin}/api/v1/status", headers=headers) as answer:
            return answer.status

    async def cookies(self, sent: str = "") -> set[str]:
        """Those that new connections get, to any process; "": none was needed."""
        return set(await asyncio.gather(*(self._cookie(sent) for _ in range(6))))

    async def _cookie(self, sent: str) -> str:
        headers = {"Cookie": f"ID={sent}"} if sent else {}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(self.public, ssl=False, headers=headers) as answer,
        ):
            assert answer.status == 200
            found = answer.cookies.get("ID")
            return found.value if found is not None else ""

    async def names(self) -> set[str]:
        """In the certificate that a client gets."""
        context = certificates.trusting()
        context.check_hostname = False
        host, port = self.public.removeprefix("https://").rsplit(":", 1)
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        found: dict[str, Any] = writer.get_extra_info("peercert")
        writer.close()
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
        return {name for _, name in found["subjectAltName"]}


async def test_all_of_a_mounted_secret_changes(site: Site) -> None:
    mounted = Mounted(site)
    async with run(mounted.file) as running:
        await mounted.started(running)
        [old] = await mounted.cookies()
        mounted.secret.replace(**_files(TOKENS[1], "new\nold", "a.test", "b.test"))
        await running.says(r"reloaded\n\s+backends.agents.affinity.secret: changed")

        async def is_new() -> bool:
            found = await mounted.cookies()
            return len(found) == 1 and old not in found

        await until(is_new)
        assert await mounted.cookies(old) == {""}  # sessions stay where they are
        assert [await mounted.status(token) for token in TOKENS] == [401, 200]

        async def has_names() -> bool:
            return await mounted.names() == {"a.test", "b.test"}

        await until(has_names)
        assert not any(secret in running.said for secret in (*TOKENS, "old", "new\n"))


async def test_files_of_no_use_leave_the_old_ones(site: Site) -> None:
    mounted = Mounted(site)
    async with run(mounted.file) as running:
        await mounted.started(running)
        [old] = await mounted.cookies()
        mounted.secret.replace(token="", cookie="", tls="")
        assert await mounted.status(TOKENS[0]) == 200
        line = await running.says(r"(.*)secret_file: can't use \S+: it is empty\n")
        assert "affinity" in line[1]
        assert await mounted.cookies() == {old}
        assert await mounted.names() == {"a.test"}
        # And the state after: what is of use again is used.
        mounted.secret.replace(**_files(TOKENS[1], "new", "b.test"))
        await running.says(r"reloaded\n\s+backends.agents.affinity.secret: changed")
        assert await mounted.status(TOKENS[1]) == 200

        async def has_names() -> bool:
            return await mounted.names() == {"b.test"}

        await until(has_names)
        for what in ("secret_file: can't use", "the admin token stays as it was"):
            assert running.said.count(what) == 1, running.said
