"""When certificates expire, as operators see it: of real processes, while a file is renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import certificates
from tests.support.balancer_process import run
from tests.workers.processes import Site, becomes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SOON = datetime(2030, 1, 1, tzinfo=UTC)


def _in_files(folder: Path, count: int) -> Path:
    public = certificates.site(folder, "a.test", not_after=SOON)
    admin = certificates.site(folder, "admin.test", not_after=SOON + timedelta(days=1))
    file = folder / "lb.toml"
    file.write_text(
        f"[process]\nworkers = {count}\nmax_connections = 100\n"
        f'[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:0"\n'
        f"tls = {{ certificate = '{admin}', key = '{admin}' }}\n"
        '[[frontends]]\nname = "public"\nbind = { address = "127.0.0.1:0", tls = true }\n'
        'default_backend = "agents"\n'
        f"tls = {{ certificate = '{public}', reload_interval = \"100ms\" }}\n"
        '[backends.agents]\nservers = [{ name = "a", address = "127.0.0.1:1" }]\n'
    )
    return file


@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two processes"])
async def test_the_expiry_of_what_is_served_is_known(site: Site, count: int) -> None:
    file = _in_files(site.folder, count)
    async with run(file) as running:
        api = (await running.says(r"admin on (https://\S+)"))[1] + "/api/v1"

        async def shown() -> dict[str, Any]:
            async with site.client.get(f"{api}/status", ssl=False) as response:
                listed = (await response.json())["certificates"]
            return {one["names"][0]: one["not_after"] for one in listed}

        admin = (SOON + timedelta(days=1)).timestamp()
        await becomes(shown, {"a.test": SOON.timestamp(), "admin.test": admin})
        renewed = SOON + timedelta(days=90)
        certificates.site(site.folder, "a.test", not_after=renewed)
        await becomes(shown, {"a.test": renewed.timestamp(), "admin.test": admin})
        url = api.removesuffix("/api/v1") + "/metrics"
        async with site.client.get(url, ssl=False) as response:
            text = await response.text()
        path = site.folder / "a.test.pem"
        labels = f'frontend="public",file="{path}",name="a.test"'
        sample = f"hermes_lb_certificate_not_after_timestamp_seconds{{{labels}}}"
        assert f"{sample} {int(renewed.timestamp())}\n" in text
