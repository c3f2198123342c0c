import pytest

from agent_worker.sessions import connect, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:1/2", "redis://:***@host:1/2"),
        ("rediss://me:sec@ret@host/0", "rediss://me:***@host/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://x", "redis://h:port/0"])
async def test_what_is_no_redis_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        connect(url)


async def test_an_unknown_option_in_the_url_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown option"):
        connect("redis://127.0.0.1:6379/0?colour=blue")
