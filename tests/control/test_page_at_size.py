"""The dashboard before many servers: problems first, filters, links, totals, accessibility."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from tests.control.test_page import _often, chromium, playwright, showing
from tests.support.needs import needs_package
from tests.support.operator import FakeOperator, agents

if TYPE_CHECKING:
    from tests.control.test_page import Tab

__all__ = ["_often", "chromium", "playwright"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]


def fleet(backends: int, servers: int) -> FakeOperator:
    made = []
    for backend in range(backends):
        rows = [
            {"name": f"s{backend}-{n:03}", "address": f"10.0.{backend}.{n % 250 + 1}:80"}
            for n in range(servers)
        ]
        made.append(Pool(f"b{backend}", Backend.model_validate({"servers": rows})))
    return FakeOperator(*made)


async def names(tab: Tab) -> list[str]:
    found: list[str] = await tab.page.locator(".server:visible .who b").all_text_contents()
    return found


async def test_problems_come_first_and_lead_to_their_servers(chromium: Any) -> None:
    operator = fleet(8, 20)
    server = operator.server("s7-015")
    server.set_up(False, "connection <b>refused</b>")
    async with showing(chromium, operator) as tab:
        await tab.page.get_by_role("heading", name="Problems: 1 down").wait_for()
        assert await tab.page.locator(".backend h2").first.inner_text() == "b7"
        assert (await names(tab))[0] == "s7-015"
        await tab.page.locator("#problems").get_by_text("connection <b>refused</b>").wait_for()
        await tab.page.get_by_role("link", name="b7/s7-015").click()
        await tab.page.locator(".server.wanted").get_by_text("s7-015").wait_for()
        assert tab.page.url.endswith("#server=b7%2Fs7-015")
        server.set_up(True, "200 in 1 ms")
        await tab.page.get_by_role("heading", name="No problems").wait_for()


async def test_a_link_opens_the_backend_of_its_server(chromium: Any) -> None:
    async with showing(chromium, fleet(8, 60)) as tab:
        await tab.page.locator(".backend").first.wait_for()
        assert await names(tab) == []  # all are collapsed
        await tab.page.goto(f"{tab.client.url}/#server=b5%2Fs5-058")
        await tab.page.locator(".server.wanted").get_by_text("s5-058").wait_for()
        assert await tab.page.locator(".server.wanted").is_visible()


async def test_servers_are_searched_filtered_and_sorted_and_the_address_keeps_it(
    chromium: Any,
) -> None:
    operator = fleet(2, 30)
    operator.server("s0-004").set_admin("drain")
    operator.server("s1-007").in_flight = 9
    async with showing(chromium, operator) as tab:
        await tab.shows("s0-004", "drain")
        await tab.page.keyboard.press("/")
        await tab.page.keyboard.type("s1-00 ")
        await tab.page.get_by_text("10 servers found").wait_for()
        await tab.page.get_by_label("Order").select_option("flight")
        await tab.page.wait_for_function(
            "document.querySelector('.backend:not([hidden]) .server b').textContent === 's1-007'"
        )
        await tab.page.reload()
        await tab.page.get_by_text("10 servers found").wait_for()
        await tab.page.get_by_label("Search").fill("")
        await tab.page.get_by_role("combobox", name="State").select_option("drain")
        await tab.page.get_by_text("1 server found").wait_for()
        assert await names(tab) == ["s0-004"]
        assert "state=drain" in tab.page.url


async def test_backends_are_collapsed_and_opened_by_the_keyboard(chromium: Any) -> None:
    async with showing(chromium, fleet(1, 3)) as tab:
        await tab.shows("s0-000", "up")
        toggle = tab.page.get_by_role("button", name="b0", exact=True)
        for expanded in ("false", "true"):
            await toggle.press("Enter")
            assert await toggle.get_attribute("aria-expanded") == expanded
            await tab.row("s0-000").wait_for(state="visible" if expanded == "true" else "hidden")


async def test_totals_are_those_of_haproxys_page(chromium: Any) -> None:
    operator = FakeOperator()
    counters = operator.server("agent1").counters
    counters.responses[2], counters.responses[5] = 1200, 34
    counters.bytes_out, counters.retries, counters.connect_errors = 5_600_000, 78, 90
    operator.pools["agents"].unserved.responses[5] = 56
    async with showing(chromium, operator) as tab:
        await tab.shows("agent1", "up")
        await tab.page.get_by_label("Numbers").select_option("totals")
        for text in ("1234", "5.6 MB", "78", "90", "of 9"):
            await tab.shows("agent1", text)
        whole = tab.page.locator(".backend > div > .totals")
        for text in ("1290", "56"):  # with those that got no server
            await whole.get_by_text(text, exact=True).first.wait_for()


async def test_of_500_servers_only_some_rows_are_made(chromium: Any) -> None:
    async with showing(chromium, fleet(1, 500)) as tab:
        await tab.page.get_by_text("500 servers", exact=True).wait_for()
        assert await tab.page.locator(".server").count() == 50
        await tab.page.get_by_role("button", name="Show more: 450 servers left").click()
        await tab.page.get_by_role("button", name="Show more: 400 servers left").wait_for()
        tab.operator.server("s0-499").set_up(False, "refused")
        await tab.row("s0-499").wait_for()


async def serious(tab: Tab) -> list[Any]:
    """What axe finds."""
    package = needs_package("axe_playwright_python")
    await tab.page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text())
    found = await tab.page.evaluate("axe.run()")
    return [
        (one["id"], [node["target"] for node in one["nodes"]][:3])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious(chromium: Any, scheme: str, size: tuple[int, int]) -> None:
    operator = FakeOperator(agents("agents"), agents("web"))
    operator.abort()
    async with showing(chromium, operator, scheme=scheme) as tab:
        await tab.page.set_viewport_size({"width": size[0], "height": size[1]})
        await tab.page.locator("#connection[data-state=live]").wait_for()
        for server, state in (("agent1", "maint"), ("agent2", "drain")):
            operator.server(server).set_admin(state)
        operator.pools["agents"].servers[0].set_admin("ready")
        operator.pools["agents"].servers[0].set_up(False, "refused")
        await tab.page.get_by_role("heading", name="Problems").wait_for()
        for view in ("live", "totals"):
            await tab.page.get_by_label("Numbers").select_option(view)
            assert await serious(tab) == []


# In a page of a phone, by the texts of the elements: what is cut off, too small for a finger
# (WCAG 2.2, 2.5.8: 24 pixels), or touches the line below its row.
CUT_OFF = """() => [...document.querySelectorAll("#main *")].filter((e) =>
  e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && !e.matches(".unseen, svg *")
  && getComputedStyle(e).overflowX !== "visible").map((e) => e.textContent)"""
TOO_SMALL = """() => [...document.querySelectorAll("#main :is(a, button, input, select)")].filter(
  (e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.textContent)"""
TOO_CLOSE = """() => [...document.querySelectorAll(".server:not(:last-child)")].filter((e) =>
  e.getBoundingClientRect().bottom - e.querySelector(".control").getBoundingClientRect().bottom < 8
).map((e) => e.getAttribute("aria-label"))"""


RENDER_ALL = """() => document.querySelectorAll(".server").forEach((e) => {
  e.style.contentVisibility = "visible"; })"""


async def test_a_phone_shows_50_servers_whole(chromium: Any) -> None:
    long = "gpu-node-{}.eu-central-1.compute.internal"
    rows = [{"name": long.format(n), "address": f"10.9.0.{n + 1}:80"} for n in range(20)]
    configured = Backend.model_validate({"servers": rows})
    pools = (*fleet(1, 30).pools.values(), Pool("models-of-a-large-context", configured))
    operator = FakeOperator(*pools)
    because = "agent-22 closed in the middle of a response head, after a part of its fields"
    for name in ("s0-003", "s0-011", long.format(7)):
        operator.server(name).set_up(False, because)
    operator.server("s0-004").set_admin("drain")
    async with showing(chromium, operator) as tab:
        await tab.page.set_viewport_size({"width": 390, "height": 844})
        await tab.page.get_by_role("heading", name="Problems: 3 down, 1 drain").wait_for()
        await tab.page.get_by_role("button", name="Expand all").click()
        await tab.page.evaluate(RENDER_ALL)
        for view in ("live", "totals"):
            await tab.page.get_by_label("Numbers").select_option(view)
            assert await tab.page.evaluate("document.documentElement.scrollWidth") == 390
            for script in (CUT_OFF, TOO_SMALL, TOO_CLOSE):
                assert await tab.page.evaluate(script) == []
            assert await serious(tab) == []
