"""Cookie affinity as HAProxy has it; the expectations were read off a running HAProxy 2.6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.affinity import CookieAffinity, Reading, request_letter
from hermes_lb.affinity.cookie import CookieOptions
from hermes_lb.http import ResponseParser
from tests.support.pools import make_pool

if TYPE_CHECKING:
    from hermes_lb.backends import Server

ETAG = (b"ETag", b'"v1"')
OWN = {"cookie": "SERVERID"}


def affinity(servers: list[dict[str, Any]] | None = None, **configured: Any) -> tuple:
    """Three servers: agent1, agent2 and agent3, which is down."""
    pool = make_pool(
        *(servers or [{"name": "agent1"}, {"name": "agent2"}, {"name": "agent3", "down": True}])
    )
    settings = CookieOptions.model_validate({**OWN, **configured})
    return CookieAffinity(settings, pool.servers), pool.servers


def set_cookie(cookies: CookieAffinity, server: Server) -> bytes:
    """The value of the Set-Cookie field that names `server`."""
    head = ResponseParser(100).parse(b"HTTP/1.1 200 OK\r\n\r\n")
    field = cookies.inserted(server, b"POST", head)
    return field.removeprefix(b"Set-Cookie: ").removesuffix(b"\r\n")


def test_cookies_of_earlier_secrets_are_accepted() -> None:
    """A secret of several lines: the first is in use."""
    values = {}
    for secret in ("old", "new\nold", "new"):
        cookies, (first, *_) = affinity(secret=secret)
        values[secret] = set_cookie(cookies, first).partition(b";")[0].partition(b"=")[2]
    assert values["new\nold"] == values["new"] != values["old"]
    both, (first, *_) = affinity(secret="new\nold")
    assert both.server_for(values["old"]) is both.server_for(values["new"]) is first
    after, _ = affinity(secret="new")
    assert after.server_for(values["old"]) is None


class TestExtract:
    @pytest.mark.parametrize(
        ("header", "value", "remaining"),
        [
            (b"SERVERID=agent2", b"agent2", None),
            (b"SERVERID=agent2; a=b", b"agent2", b"a=b"),
            (b"a=b; SERVERID=agent2", b"agent2", b"a=b"),
            (b"a=b; SERVERID=agent2; c=d", b"agent2", b"a=b; c=d"),
            (b"a=b;SERVERID=agent2;c=d", b"agent2", b"a=b;c=d"),
            (b"a=b ;  SERVERID=agent2 ;  c=d", b"agent2", b"a=b ;  c=d"),
            (b"SERVERID=agent2;  c=d", b"agent2", b"c=d"),
            (b"SERVERID=agent2\t; a=b", b"agent2", b"a=b"),
            (b"SERVERID= agent2", b"agent2", None),
            (b"SERVERID=agent2;", b"agent2", None),
            (b";SERVERID=agent2; a=b", b"agent2", b"; a=b"),
            (b"a=b;;SERVERID=agent2", b"agent2", b"a=b;"),
            (b"SERVERID=", b"", None),
            (b"SERVERID=agent1=x", b"agent1=x", None),
            (b'SERVERID="agent2"', b'"agent2"', None),
            (b"SERVERID; SERVERID=agent2", b"agent2", b"SERVERID"),
            (b'a="x;y"; SERVERID=agent2; b="\\";"', b"agent2", b'a="x;y"; b="\\";"'),
        ],
    )
    def test_removes_the_pair_and_nothing_else(self, header, value, remaining):
        cookies, _ = affinity()
        assert cookies.extract([header]) == (value, [] if remaining is None else [remaining])

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"a=b",
            b"SERVERID",
            b"serverid=agent2",
            b"XSERVERID=agent2",
            b"x=SERVERID=agent2",
            b"x=y SERVERID=agent2",
            b'x="a; SERVERID=agent2"',
            b'x="a\\"; SERVERID=agent2"',
            b'x="a; SERVERID=agent2',  # never closed: it runs to the end
            b"x=1,SERVERID=agent2",  # RFC 6265: a comma ends nothing (HAProxy: it does)
        ],
    )
    def test_leaves_others_alone(self, header):
        cookies, _ = affinity()
        assert cookies.extract([header, b"c=d"]) == (None, [header, b"c=d"])

    def test_without_it_the_very_list_comes_back(self):
        cookies, _ = affinity()
        values = [b"a=b", b"c=d"]
        assert cookies.extract(values)[1] is values
        assert cookies.extract([]) == (None, [])

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            (b"SERVERID=agent1; SERVERID=agent2", b"agent1"),
            (b"SERVERID=nope; SERVERID=agent2", b"agent2"),
            (b"SERVERID=agent3; SERVERID=agent2", b"agent2"),
            (b"SERVERID=nope; SERVERID=agent3", b"agent3"),
            (b"SERVERID=nope; SERVERID=nada", b"nope"),
        ],
    )
    def test_of_several_the_first_that_helps(self, header, value):
        cookies, _ = affinity()
        assert cookies.extract([header]) == (value, [])

    def test_several_headers(self):
        cookies, _ = affinity()
        values = [b"a=b", b"SERVERID=agent2", b"c=d; SERVERID=agent1", b"e=f"]
        assert cookies.extract(values) == (b"agent2", [b"a=b", b"c=d", b"e=f"])

    def test_an_odd_name_is_taken_literally(self):
        cookies, _ = affinity(cookie="a.b*c")
        assert cookies.extract([b"aXbbc=agent1; a.b*c=agent2"]) == (b"agent2", [b"aXbbc=agent1"])

    PAIRS = st.lists(
        st.builds(
            lambda name, value, quoted: f'{name}="{value}"' if quoted else f"{name}={value}",
            st.sampled_from(["a", "SERVER", "XSERVERID", "SERVERIDX", "serverid"]),
            st.text("SERVERID=agt12 ,", max_size=15).map(str.strip),
            st.booleans(),
        ),
        max_size=6,
    )

    @given(before=PAIRS, after=PAIRS, separator=st.sampled_from(["; ", ";", ";  ", " ; "]))
    @example(before=[], after=[], separator="; ")
    def test_the_others_survive_byte_for_byte(self, before, after, separator):
        cookies, _ = affinity()
        others = separator.join(before + after).encode()
        header = separator.join([*before, "SERVERID=agent1", *after]).encode()
        value, remaining = cookies.extract([header])
        assert value == b"agent1"
        kept = [cookie.strip() for cookie in b"".join(remaining).split(b";") if cookie.strip()]
        assert kept == [cookie.strip() for cookie in others.split(b";") if cookie.strip()]
        assert cookies.extract(remaining) == (None, remaining)

    @given(
        header=st.lists(st.sampled_from(["SERVERID=", "x", ";", " ", "\t", "="]), max_size=12)
        .map("".join)
        .map(str.encode)
    )
    def test_the_short_way_is_the_long_way(self, header):
        cookies, _ = affinity()
        short: list[bytes] = []
        long: list[bytes] = []
        assert cookies._removed(header, short) == cookies._removed_pairwise(header, long)
        assert short == long

    @given(header=st.text('SERVERID=1;", \\', max_size=40).map(str.encode))
    def test_any_text_is_parsed_once_and_for_all(self, header):
        cookies, _ = affinity()
        value, remaining = cookies.extract([header])
        assert cookies.extract(remaining) == (None, remaining)
        assert (value is None) == (remaining == [header])
        assert b"" not in remaining or header == b""


class TestServers:
    def test_by_name_or_by_the_configured_value(self):
        cookies, [first, second] = affinity([{"name": "x", "cookie": "one"}, {"name": "y"}])
        assert cookies.server_for(b"one") is first
        assert cookies.server_for(b"y") is second
        assert cookies.server_for(b"x") is None

    @pytest.mark.parametrize("value", [b"", b"nope", b"AGENT1", b"agent1 ", b"|agent1", b"\xff"])
    def test_nobody(self, value):
        assert affinity()[0].server_for(value) is None

    def test_one_that_is_down_is_still_named(self):
        cookies, servers = affinity()
        assert cookies.server_for(b"agent3") is servers[2]

    def test_dates_that_haproxy_added_are_ignored(self):
        cookies, servers = affinity()
        assert cookies.server_for(b"agent2|ZmFrZ|ZmFrZ") is servers[1]
        assert cookies.server_for(b"agent2|") is servers[1]


class TestSetCookie:
    @pytest.mark.parametrize(
        ("configured", "expected"),
        [
            ({}, b"SERVERID=agent1; path=/"),
            (
                {"domain": ".example.com", "httponly": True, "secure": True, "samesite": "Lax"},
                b"SERVERID=agent1; path=/; domain=.example.com; HttpOnly; Secure; SameSite=Lax",
            ),
            (
                {"secure": True, "samesite": "None"},
                b"SERVERID=agent1; path=/; Secure; SameSite=None",
            ),
            ({"httponly": True}, b"SERVERID=agent1; path=/; HttpOnly"),
        ],
    )
    def test_order_and_form(self, configured, expected):
        cookies, servers = affinity(**configured)
        assert set_cookie(cookies, servers[0]) == expected

    def test_names_the_server_so_that_it_is_found_again(self):
        cookies, servers = affinity([{"cookie": "one"}, {"name": "y"}])
        for server in servers:
            pair, _, _ = set_cookie(cookies, server).partition(b";")
            value, remaining = cookies.extract([pair])
            assert cookies.server_for(value) is server
            assert remaining == []

    @pytest.mark.parametrize(
        ("value", "is_ours"),
        [
            (b"SERVERID=q", True),
            (b"SERVERID=; Path=/", True),
            (b"SERVERID =q; Path=/", True),
            (b" SERVERID=q", True),
            (b"serverid=q", False),
            (b"SERVERID; Path=/", False),
            (b"SERVERID", False),
            (b"XSERVERID=q", False),
            (b"a=b; SERVERID=q", False),
            (b"a=b, SERVERID=q", False),
        ],
    )
    def test_the_servers_own(self, value, is_ours):
        stripping, preserving = affinity()[0], affinity(preserve=True)[0]
        assert (stripping.strips(value), stripping.preserves(value)) == (is_ours, False)
        assert (preserving.strips(value), preserving.preserves(value)) == (False, is_ours)


NOCACHE = [
    # method, status, headers of the server, Cache-Control: private added by HAProxy 2.6
    ("GET", 200, [], False),
    ("GET", 200, [ETAG], True),
    ("GET", 200, [(b"Last-Modified", b"Mon, 01 Jan 2024 00:00:00 GMT")], True),
    ("GET", 200, [(b"Expires", b"Mon, 01 Jan 2024 00:00:00 GMT")], True),
    ("GET", 200, [(b"ETag", b"")], True),
    *[("GET", 200, [(b"Cache-Control", value)], True) for value in (b"max-age=60", b"s-maxage=1")],
    *[
        ("GET", 200, [(b"Cache-Control", value)], False)
        for value in (b"public", b"max-age=0", b"must-revalidate", b'no-cache="set-cookie"')
    ],
    *[(method, 200, [ETAG], True) for method in ("HEAD", "OPTIONS", "TRACE")],
    *[(method, 200, [ETAG], False) for method in ("POST", "PUT", "PATCH", "DELETE", "LINK")],
    *[("GET", s, [ETAG], True) for s in (203, 204, 206, 300, 301, 404, 405, 410, 414, 501)],
    *[("GET", s, [ETAG], False) for s in (201, 202, 302, 304, 307, 308, 400, 403, 500, 503)],
    ("POST", 200, [(b"Cache-Control", b"max-age=60")], False),
    ("POST", 200, [ETAG, (b"Cache-Control", b"public")], True),
    ("GET", 500, [ETAG, (b"Cache-Control", b"public")], True),
    *[
        ("GET", 200, [ETAG, (b"Cache-Control", value)], False)
        for value in (
            b"private", b"Private", b"no-cache", b"no-store", b"max-age=0", b"s-maxage=0",
            b"public, private", b"max-age=60, s-maxage=0", b"private, max-age=60",
            b"s-maxage=5, max-age=0", b'private, x=",public"',
        )
    ],
    *[
        ("GET", 200, [ETAG, (b"cache-control", value)], True)
        for value in (
            b"public", b"PUBLIC", b"max-age=60", b"private, public", b"no-store, public",
            b'private="x"', b'no-cache="set-cookie"', b"must-revalidate",
        )
    ],
    ("GET", 200, [ETAG, (b"Cache-Control", b"public"), (b"Cache-Control", b"no-store")], False),
    ("GET", 200, [ETAG, (b"Pragma", b"no-cache")], False),
    ("GET", 200, [ETAG, (b"Pragma", b"no-cache"), (b"Cache-Control", b"public")], False),
    ("GET", 200, [ETAG, (b"Set-Cookie", b"a=b")], True),
]  # fmt: skip


class TestMakesPrivate:
    @pytest.mark.parametrize(("method", "status", "headers", "expected"), NOCACHE)
    def test_as_haproxy(self, method, status, headers, expected):
        assert affinity()[0].makes_private(method.encode(), status, headers) is expected

    def test_never_on_a_101(self):
        headers = [ETAG, (b"Cache-Control", b"public")]
        assert not affinity()[0].makes_private(b"GET", 101, headers)

    def test_s_maxage_overrides_a_max_age_before_it(self):
        """RFC 9111 section 5.2.2.10; HAProxy 2.6.12 does not know it, later ones do."""
        headers = [(b"Cache-Control", b"max-age=0, s-maxage=5")]
        assert affinity()[0].makes_private(b"GET", 200, headers)

    def test_never_without_nocache(self):
        assert not affinity(nocache=False)[0].makes_private(b"GET", 200, [ETAG])

    def test_a_head_that_answers_several_methods(self):
        """It is decided for each of them, in whatever order they come."""
        cookies, [server, *_] = affinity()
        for methods in ([b"GET", b"POST", b"HEAD"], [b"POST", b"GET"]):
            head = ResponseParser(100).parse(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\n\r\n")
            for method in methods * 2:
                is_private = b"private" in cookies.inserted(server, method, head)
                assert is_private is (method != b"POST")


class TestLetters:
    def test_request(self):
        cookies, [agent1, agent2, agent3] = affinity()
        assert cookies is not None
        assert request_letter(None, agent1) == "N"
        assert request_letter(Reading(None), agent1) == "I"
        assert request_letter(Reading(agent1), agent1) == "V"
        assert request_letter(Reading(agent1), agent2) == "D"  # could not be reached
        assert request_letter(Reading(agent3), agent1) == "D"
        assert request_letter(Reading(agent1), None) == "V"  # 503 from the queue
        assert request_letter(Reading(agent3), None) == "D"
        assert request_letter(Reading(None, "E"), agent1) == "E"  # too old
