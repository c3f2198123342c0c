"""The dashboard in a real browser."""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from agent_worker.redis_server import RedisServer
from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.control import api, guard
from hermes_lb.control.operator import NotPossible
from hermes_lb.observe.certificates import CertificateView
from hermes_lb.turns.states import CANCELLING
from tests.support.needs import needs_package, needs_program
from tests.support.operator import TOKEN, FakeOperator, admin_listener, agents
from tests.support.turn_fleet import ValkeyFleet, record_of, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.operator import Client

playwright = needs_package("playwright", "async_api")
CHROMIUM = needs_program("chromium")

# A browser is slow on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
PATIENCE = 10_000  # milliseconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Any]:
    """One browser for all tests, with a profile each."""
    async with playwright.async_api.async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=60_000
        )
        yield browser
        await browser.close()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the interval of the live stream."""
    monkeypatch.setattr(api, "_EVERY", 0.05)
    monkeypatch.setattr(guard, "_PENALTY", 0.0)


class Tab:
    """A dashboard page; it must request nothing elsewhere and report no error."""

    def __init__(self, page: Any, client: Client) -> None:
        self.page = page
        self.client = client
        self.operator = client.operator
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._asks)

    def _asks(self, request: Any) -> None:
        if not request.url.startswith(self.client.url + "/"):
            self.problems.append(f"asks for {request.url}")

    def row(self, server: str) -> Any:
        return self.page.get_by_role("listitem", name=f"server {server}")

    def button(self, server: str, name: str) -> Any:
        return self.row(server).get_by_role("button", name=name)

    async def confirm(self, name: str) -> None:
        await self.page.get_by_role("dialog").get_by_role("button", name=name).click()

    async def shows(self, server: str, text: str) -> None:
        await self.row(server).get_by_text(text).filter(visible=True).first.wait_for()


@asynccontextmanager
async def showing(
    chromium: Any, operator: FakeOperator | None = None, *, scheme: str = "light", **configured: Any
) -> AsyncIterator[Tab]:  # fmt: skip
    async with admin_listener(operator, **configured) as client:
        context = await chromium.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=scheme
        )
        context.set_default_timeout(PATIENCE)
        tab = Tab(await context.new_page(), client)
        try:
            await tab.page.goto(client.url)
            yield tab
        finally:
            await context.close()
        assert tab.problems == []


async def test_it_shows_what_there_is(chromium: Any) -> None:
    operator = FakeOperator()
    operator.server("agent1").last_check = "200 in 3 ms"
    operator.server("agent1").in_flight = 7
    frontend = operator.frontend
    frontend.connections, frontend.http2_connections, frontend.http2_streams = 12, 3, 40
    async with showing(chromium, operator) as tab:
        await tab.page.get_by_text("3 of HTTP/2, 40 streams").wait_for()
        for text in ("127.0.0.1:8001", "200 in 3 ms", "7", "/ 9"):
            await tab.shows("agent1", text)
        await tab.shows("agent2", "backup")
        await tab.page.get_by_text("Process 0").wait_for()
        await tab.page.get_by_text("pid 4711").wait_for()
        await tab.page.locator("#connection[data-state=live]").wait_for()


async def test_turns_are_listed_when_asked_for_and_cancelled(chromium: Any) -> None:
    operator = FakeOperator()
    with RedisServer.start() as server:
        fleet = ValkeyFleet(server.url)
        store = await fleet.at(0)
        claim = fleet.claim(key="k")
        turn = await run(store, claim, b"data: secret\n\n")
        async with showing(chromium, operator) as tab:
            region = tab.page.get_by_role("region", name="Turns")
            await region.get_by_role("button", name="List").click()
            await region.get_by_text("no route has turns").wait_for()
            operator.store_url = server.url
            await region.get_by_role("button", name="List").click()
            await region.get_by_text("1 turn, 1 running").wait_for()
            text = await region.inner_text()
            assert turn.id[:24] in text
            assert turn.id not in text
            assert "secret" not in text
            await region.get_by_role("button", name="Cancel").click()
            await tab.confirm("Cancel it")
            await region.get_by_text("1 turn, 1 cancelling").wait_for()
            assert not await region.get_by_role("button", name="Cancel").count()
            assert (await record_of(store, claim, turn.id)).state == CANCELLING
        await turn.cancelled()
        await fleet.close()


async def test_a_server_says_why_nothing_comes_and_not_what_its_checks_say(chromium: Any) -> None:
    servers = [
        {"name": f"agent{number}", "address": f"127.0.0.1:800{number}", "slow_start": "1m"}
        for number in (1, 2, 3)
    ]
    operator = FakeOperator(Pool("agents", Backend.model_validate({"servers": servers})))
    down, failing = operator.server("agent1"), operator.server("agent2")
    down.set_up(False, "connection refused")
    assert down.weight < down.full_weight
    failing.last_check = "200 in 3 ms"
    for _ in range(3):
        failing.failed(operator.now(), "connection refused")
    async with showing(chromium, operator) as tab:
        await tab.shows("agent1", "connection refused")
        await tab.shows("agent2", "failing")
        await tab.shows("agent2", "3 failures: connection refused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_only_a_good_check_makes_a_server_green(chromium: Any, scheme: str) -> None:
    operator = FakeOperator()
    operator.server("agent1").last_check = "200 in 3 ms"
    async with showing(chromium, operator, scheme=scheme) as tab:
        await tab.shows("agent1", "200 in 3 ms")
        await tab.shows("agent2", "not checked")
        colours = {}
        for server in ("agent1", "agent2"):
            strip = tab.row(server).locator(".strip rect").last
            await strip.wait_for(state="attached")
            state = (
                await tab.row(server).locator(".state").evaluate("e => getComputedStyle(e).color")
            )
            assert await strip.evaluate("e => getComputedStyle(e).fill") == state
            red, green, blue = map(int, re.findall(r"\d+", state)[:3])
            colours[server] = green - max(red, blue)
        assert colours["agent1"] > 30, "green"
        assert abs(colours["agent2"]) < 30, "grey"


async def test_certificates_are_shown_and_those_that_expire_soon_stand_out(chromium: Any) -> None:
    operator = FakeOperator()
    async with showing(chromium, operator) as tab:
        await tab.shows("agent1", "up")
        region = tab.page.get_by_role("region", name="Certificates")
        assert not await region.is_visible(), "there are none"
        now = time.time()
        operator.certificates = [
            CertificateView("public", "/etc/b.pem", ("b.test",), now + 90 * 86_400),
            CertificateView("public", "/etc/a.pem", ("a.test",), now + 86_400),
            CertificateView("public", "/etc/c.pem", (), now - 1),
        ]
        await region.get_by_text("b.test").wait_for()
        rows = region.get_by_role("listitem")
        shown = await rows.locator("b").all_text_contents()
        assert shown == ["/etc/c.pem", "a.test", "b.test"]
        styles = [
            await row.locator("span").first.get_attribute("class") for row in await rows.all()
        ]
        assert styles == ["alarm", "alarm", None]
        await rows.first.get_by_text("has expired").wait_for()


async def test_the_drain_button_asks_and_then_drains(chromium: Any) -> None:
    operator = FakeOperator()
    operator.server("agent1").in_flight = 4
    async with showing(chromium, operator) as tab:
        await tab.button("agent1", "drain").click()
        await tab.page.get_by_text("what runs goes on: 4 requests now").wait_for()
        assert operator.server("agent1").admin == "ready"
        await tab.confirm("Drain")
        await tab.shows("agent1", "set to drain")
        assert operator.server("agent1").admin == "drain"
        assert await tab.button("agent1", "drain").get_attribute("aria-pressed") == "true"
        operator.server("agent1").in_flight = 1
        await tab.shows("agent1", "of 4 left")
        await tab.row("agent1").get_by_label("agent1 drains: 1 of 4 left").wait_for()


async def test_the_keyboard_is_enough(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        await tab.button("agent1", "ready").focus()
        for key in ("Tab", "Tab", "Enter"):  # to "maint"
            await tab.page.keyboard.press(key)
        await tab.page.get_by_role("dialog", name="Put agent1 into maintenance?").wait_for()
        await tab.page.keyboard.press("Enter")
        await tab.shows("agent1", "set to maint")
        # The dialog gives the focus back to where it was.
        assert await tab.page.evaluate("document.activeElement.value") == "maint"
        await tab.page.keyboard.press("Shift+Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await tab.page.evaluate(outline) == "solid"


@pytest.mark.parametrize("way", ["Escape", "Cancel"])
async def test_a_question_can_be_left(chromium: Any, way: str) -> None:
    async with showing(chromium) as tab:
        await tab.button("agent1", "maint").click()
        dialog = tab.page.get_by_role("dialog")
        await dialog.wait_for()
        if way == "Escape":
            await tab.page.keyboard.press("Escape")
        else:
            await tab.confirm("Cancel")
        await dialog.wait_for(state="hidden")
        assert tab.operator.server("agent1").admin == "ready"


async def test_a_weight_is_a_number_in_bounds(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.button("agent1", "weight").click()
        field = tab.page.get_by_label("Weight, 0 to 65535")
        for wrong in ("70000", ""):
            await field.fill(wrong)
            await tab.confirm("Set weight")
            assert await field.is_visible()
        await field.fill("8")
        await tab.confirm("Set weight")
        await tab.shows("agent1", "weight 8")
        assert tab.operator.server("agent1").full_weight == 8


async def test_what_happens_is_seen_at_once(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        tab.operator.server("agent1").set_up(False, "connection refused")
        await tab.shows("agent1", "connection refused")
        changes = tab.page.get_by_role("region", name="State changes")
        await changes.get_by_text("connection refused").wait_for()
        tab.operator.abort("SDVN", "GET /<img src=x onerror=alert(1)> HTTP/1.1")
        aborts = tab.page.get_by_role("region", name="Recent aborted requests")
        await aborts.get_by_text("SDVN").wait_for()
        await aborts.get_by_text("the server aborted").wait_for()
        await aborts.get_by_text("GET /<img src=x onerror=alert(1)> HTTP/1.1").wait_for()
        assert await tab.page.locator("img").count() == 0


async def test_charts_and_rates_follow_the_traffic(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        chart = tab.page.locator(".chart path.requests").first
        drawn = len(await chart.get_attribute("d") or "")
        counters = tab.operator.server("agent1").counters
        counters.responses[2] += 400
        for _ in range(400):
            counters.at_once.observe(0.02)
        rate = tab.row("agent1").locator("[data-label='Requests/s'] b")
        await rate.filter(has_text=re.compile("[1-9]")).wait_for()
        latency = tab.page.get_by_role("img", name=re.compile(r"^Latency: p50 \d+ ms"))
        await latency.wait_for()
        longer = re.compile(f"^.{{{drawn + 1},}}$")  # after the next event
        await playwright.async_api.expect(chart).to_have_attribute("d", longer, timeout=PATIENCE)


async def test_a_reload_says_what_has_changed_or_what_is_wrong(chromium: Any) -> None:
    operator = FakeOperator()
    operator.reload_answer = NotPossible("this balancer was built without a file")
    async with showing(chromium, operator) as tab:
        await tab.shows("agent1", "up")
        await tab.page.get_by_role("button", name="Reload").click()
        await tab.confirm("Reload")
        await tab.page.get_by_role("alert").get_by_text("without a file").wait_for()
        operator.reload_answer = ["backend agents: server agent3 added"]
        await tab.confirm("Reload")
        await tab.page.get_by_text("server agent3 added").wait_for()


async def test_a_restart_is_noticed_and_lived_through(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        port = tab.client.admin.address.port
        await tab.client.admin.stop()
        await tab.page.locator("#connection[data-state=lost]").wait_for()
        fresh = FakeOperator()
        fresh.server("agent1").set_up(False, "after the restart")
        async with admin_listener(fresh, bind=f"127.0.0.1:{port}"):
            await tab.shows("agent1", "after the restart")


async def test_after_an_upgrade_that_resets_counters_what_ends_badly_is_shown(
    chromium: Any,
) -> None:
    async with showing(chromium) as tab:
        for _ in range(3):
            tab.operator.abort("SD--", "GET /before HTTP/1.1")
        aborts = tab.page.get_by_role("region", name="Recent aborted requests")
        await aborts.get_by_text("GET /before").nth(2).wait_for()
        port = tab.client.admin.address.port
        await tab.client.admin.stop()
        upgraded = FakeOperator()
        upgraded.observed.upkeep.started_at = tab.operator.observed.upkeep.started_at
        upgraded.abort("SD--", "GET /after HTTP/1.1")
        async with admin_listener(upgraded, bind=f"127.0.0.1:{port}"):
            await aborts.get_by_text("GET /after").wait_for()


async def test_a_stream_that_falls_silent_is_lost_and_reopened(
    chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        monkeypatch.setattr(api, "_EVERY", 3600.0)  # as after a suspend: open, and silent
        await tab.page.locator("#connection[data-state=lost]").wait_for()
        tab.operator.server("agent1").set_up(False, "meanwhile")
        await tab.shows("agent1", "meanwhile")
        await tab.page.locator("#connection[data-state=live]").wait_for()


async def test_an_answer_that_is_cut_is_asked_for_again(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        await tab.page.route(
            "**/history?**", lambda route: route.fulfill(status=200, body='{"step'), times=1
        )
        await tab.page.reload()
        await tab.shows("agent1", "up")


async def test_the_focus_stays_when_another_server_goes(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.button("agent2", "drain").focus()
        only = {"servers": [{"name": "agent2", "address": "[::1]:8002", "backup": True}]}
        tab.operator.pools["agents"].reconfigure(Backend.model_validate(only))
        await tab.row("agent1").wait_for(state="detached")
        assert await tab.page.evaluate("document.activeElement.value") == "drain"


async def test_servers_that_have_gone_take_no_memory(chromium: Any) -> None:
    async with showing(chromium) as tab:
        devtools = await tab.page.context.new_cdp_session(tab.page)

        async def nodes() -> int:
            await devtools.send("HeapProfiler.collectGarbage")
            return int((await devtools.send("Memory.getDOMCounters"))["nodes"])

        async def become(name: str) -> None:
            servers = {"servers": [{"name": name, "address": "127.0.0.1:8001"}]}
            tab.operator.pools["agents"].reconfigure(Backend.model_validate(servers))
            await tab.shows(name, "up")

        await become("first")
        before = await nodes()
        for number in range(20):
            await become(f"server{number}")
        # A row is some 60 nodes; a few more are in the list of state changes.
        assert await nodes() < before + 20 * 40


async def test_a_screen_reader_hears_what_the_numbers_are(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        heard = await tab.row("agent1").aria_snapshot()
        for label in ("In flight", "Requests/s", "Errors/s", "First byte p95"):
            assert label in heard


async def test_a_server_that_flaps_has_a_short_story(chromium: Any) -> None:
    async with showing(chromium) as tab:
        server = tab.operator.server("agent1")
        strip = tab.row("agent1").get_by_role("img", name=re.compile("then down$"))
        for number in range(8):
            server.set_up(bool(number % 2), "again")
            last = "up" if number % 2 else "down"
            await tab.row("agent1").get_by_role("img", name=re.compile(f"{last}$")).wait_for()
        server.set_up(False, "at last")
        await strip.wait_for()
        story = await strip.get_attribute("aria-label")
        assert re.fullmatch(
            r"\d+ changes of state, at last: down, then up, then down, then up, then down", story
        )


async def test_what_is_skipped_to_is_not_below_the_bar(chromium: Any) -> None:
    operator = FakeOperator(*(agents(f"agents{number}") for number in range(3)))
    async with showing(chromium, operator) as tab:
        title = tab.page.get_by_role("heading", name="agents0")
        await title.wait_for()
        await tab.page.get_by_role("link", name="Skip to the backends").press("Enter")
        await tab.page.wait_for_function("scrollY > 0")
        bar = await tab.page.locator(".bar").bounding_box()
        place = await title.bounding_box()
        assert place["y"] >= bar["y"] + bar["height"]


async def test_colours_of_the_readers_own_show_what_is_set(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.page.emulate_media(forced_colors="active")
        await tab.shows("agent1", "up")
        colour = "element => getComputedStyle(element).backgroundColor"
        set_, other = tab.button("agent1", "ready"), tab.button("agent1", "drain")
        assert await set_.evaluate(colour) != await other.evaluate(colour)
        keys = [await key.evaluate(colour) for key in await tab.page.locator(".key i").all()]
        assert len(set(keys[:2])) == 2


async def test_what_is_asked_of_a_balancer_that_is_gone_is_no_error_of_the_page(
    chromium: Any,
) -> None:
    async with showing(chromium) as tab:
        await tab.button("agent1", "drain").click()
        await tab.client.admin.stop()
        await tab.confirm("Drain")
        await tab.page.get_by_role("alert").get_by_text("does not answer").wait_for()
        async with tab.page.expect_event("requestfailed"):
            await tab.confirm("Cancel")
        await tab.page.get_by_role("dialog").wait_for(state="hidden")
        await tab.page.get_by_role("button", name="1 h").click()


async def test_with_a_token_it_asks_for_it_and_keeps_it_in_the_tab(chromium: Any) -> None:
    async with showing(chromium, token=TOKEN) as tab:
        field = tab.page.get_by_label("Token")
        await field.fill("not-the-token-at-all")
        await tab.confirm("Sign in")
        await tab.page.get_by_text("This is not the token.").wait_for()
        await field.fill(TOKEN)
        await tab.confirm("Sign in")
        await tab.shows("agent1", "up")
        await tab.button("agent1", "drain").click()
        await tab.confirm("Drain")
        await tab.shows("agent1", "set to drain")
        await tab.page.reload()
        await tab.shows("agent1", "drain")
        kept = await tab.page.evaluate("[localStorage.length, document.cookie, location.href]")
        assert kept == [0, "", tab.client.url + "/"]
        await tab.page.get_by_role("button", name="Sign out").click()
        await tab.page.get_by_role("dialog", name="Sign in").wait_for()


async def test_signed_out_it_claims_nothing(chromium: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with showing(chromium, token=TOKEN) as tab:
        claims = tab.page.get_by_text("No server has changed its state")
        await tab.page.get_by_label("Token").wait_for()
        await claims.wait_for(state="hidden")
        assert await tab.page.locator("main").inner_text() == ""
        await tab.page.get_by_label("Token").fill(TOKEN)
        await tab.confirm("Sign in")
        await claims.wait_for()
        await tab.page.evaluate("sessionStorage.setItem('hermes_lb.token', 'x'.repeat(20))")
        monkeypatch.setattr(api, "_EVERY", 3600.0)  # so it connects again
        await tab.page.get_by_role("dialog", name="Sign in").wait_for()
        assert await tab.page.locator("main").inner_text() == ""


async def test_what_is_stale_is_grey(chromium: Any) -> None:
    async with showing(chromium) as tab:
        await tab.shows("agent1", "up")
        grey = "getComputedStyle(document.querySelector('main')).filter"
        assert await tab.page.evaluate(grey) == "none"
        await tab.client.admin.stop()
        await tab.page.locator("#connection[data-state=lost]").wait_for()
        assert await tab.page.evaluate(grey) == "grayscale(1)"
        await tab.shows("agent1", "up")


COLOURS = """[getComputedStyle(document.body).backgroundColor,
             getComputedStyle(document.body).color]"""

# Cells whose content reaches out of their server's row, or into another cell.
OVERLAPS = """[...document.querySelectorAll(".server")].flatMap(row => {
    const place = element => element.getBoundingClientRect();
    const out = ({left, right, top, bottom}, to) => left < to.right - 1 && right > to.left + 1
        && top < to.bottom - 1 && bottom > to.top + 1;
    return [...row.children].filter(cell => [...cell.children].some(part =>
        place(part).right > place(row).right + 1
        || [...row.children].some(other => other !== cell && out(place(part), place(other)))));
}).map(cell => cell.textContent)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits(chromium: Any, scheme: str) -> None:
    long = {"servers": [{"name": "w" * 64, "address": "127.0.0.1:8003"}]}
    operator = FakeOperator(agents(), Pool("b" * 64, Backend.model_validate(long)))
    operator.server("agent1").set_weight(65535)
    async with showing(chromium, operator, scheme=scheme) as tab:
        await tab.shows("agent1", "up")
        await tab.shows("agent1", "weight 65535")
        for width in (320, 375, 736, 900, 1200, 1201, 1280, 1312, 1320, 1600):
            await tab.page.set_viewport_size({"width": width, "height": 800})
            assert await tab.page.evaluate("document.documentElement.scrollWidth") == width
            assert await tab.page.evaluate(OVERLAPS) == []
        page, ink = [
            sum(map(int, re.findall(r"\d+", colour)[:3]))
            for colour in await tab.page.evaluate(COLOURS)
        ]
        assert (page > ink) is (scheme == "light")


CUT = """[...document.querySelectorAll(".because, .request")]
    .filter(text => text.scrollWidth > text.clientWidth).map(text => text.textContent)"""


async def test_on_a_phone_reasons_and_requests_are_whole(chromium: Any) -> None:
    operator = FakeOperator()
    operator.server("agent1").last_check = "500, expected " + "200 or 204 or " * 5
    async with showing(chromium, operator) as tab:
        operator.abort("SD--", f"GET /{'x' * 150} HTTP/1.1")
        await tab.page.get_by_text("xxx").wait_for()
        await tab.page.set_viewport_size({"width": 390, "height": 800})
        assert await tab.page.evaluate(CUT) == []
        assert await tab.page.evaluate(OVERLAPS) == []
        assert await tab.page.evaluate("document.documentElement.scrollWidth") == 390


async def test_a_name_is_not_broken_in_two_for_its_badge(chromium: Any) -> None:
    servers = [
        {"name": "agents-1", "address": "127.0.0.1:8001"},
        {"name": "agents-2", "address": "127.0.0.1:8002", "backup": True},
    ]
    pool = Pool("agents", Backend.model_validate({"servers": servers}))
    async with showing(chromium, FakeOperator(pool)) as tab:
        await tab.shows("agents-2", "backup")
        plain, marked = [
            await tab.row(name).locator(".who b").evaluate("name => name.offsetHeight")
            for name in ("agents-1", "agents-2")
        ]
        assert marked == plain


ATTACK = """async url => {
    const tried = [];
    const attempt = (path, options) => fetch(url + path, options).then(
        answer => tried.push(answer.type === "opaque" ? "unseen" : "seen"),
        () => tried.push("failed"));
    const drain = "/api/v1/servers/agents/agent1/state", body = '{"state": "drain"}';
    await attempt("/api/v1/servers");
    await attempt(drain, {method: "PUT", body, headers: {"Content-Type": "application/json"}});
    await attempt("/api/v1/upgrade", {method: "POST", body: "{}", mode: "no-cors"});
    await attempt("/api/v1/servers", {mode: "no-cors"});
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", action: url + "/api/v1/upgrade"});
    Object.assign(form, {enctype: "text/plain", target: "frame"});
    document.body.append(Object.assign(document.createElement("iframe"), {name: "frame"}), form);
    form.submit();
    return tried;
}"""


async def test_a_page_of_another_origin_can_do_nothing(chromium: Any) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with admin_listener() as client:
        tab = await chromium.new_page()
        statuses: list[int] = []
        tab.on("response", lambda r: statuses.append(r.status) if client.url in r.url else None)
        await tab.goto(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        async with tab.expect_response(client.url + "/api/v1/upgrade"):
            tried = await tab.evaluate(ATTACK, client.url)
        assert "seen" not in tried
        assert len(tried) == 4
        assert 200 not in statuses
        assert 202 not in statuses
        assert client.operator.server("agent1").admin == "ready"
        assert client.operator.upgrades == 0
        await tab.close()
    await runner.cleanup()
