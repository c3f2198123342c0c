"""Secrets in files of their own: read with the configuration, and never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Config, ConfigError, load_config
from hermes_lb.config.changes import describe_changes
from hermes_lb.config.secret_files import refreshed, watched_files
from tests.support.mounted_secret import MountedSecret

if TYPE_CHECKING:
    from pathlib import Path

URL = "redis://:hush@127.0.0.1:6379/0"


@pytest.fixture
def mounted(tmp_path: Path) -> MountedSecret:
    return MountedSecret(tmp_path / "mounted", cookie="hush\n", pins=f"{URL}\n", store=f" {URL} ")


def configuration(mounted: MountedSecret, **backend: Any) -> dict[str, Any]:
    return {
        "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}],
        "store": {"url_file": str(mounted.path("store"))},
        "backends": {
            "agents": {
                "servers": [{"name": "agent1", "address": "127.0.0.1:8001"}],
                "affinity": {"cookie": "ID", "secret_file": str(mounted.path("cookie"))},
                "stick": [{"on": "header:X-Session", "learn": True}],
                "pins": {"redis_file": str(mounted.path("pins"))},
                **backend,
            }
        },
    }


def secrets_of(config: Config) -> tuple[str | None, ...]:
    agents = config.backends["agents"]
    assert agents.affinity is not None
    return agents.affinity.secret, agents.pins.redis, config.store.url


def test_each_is_read_without_the_blanks_around_it(mounted: MountedSecret) -> None:
    config = load_config(configuration(mounted))
    assert secrets_of(config) == ("hush", URL, URL)
    assert "hush" not in repr(config)


def test_the_file_is_the_one_that_counts(mounted: MountedSecret) -> None:
    """As with the admin token: also in a configuration that was read before."""
    affinity = {"cookie": "ID", "secret": "older", "secret_file": str(mounted.path("cookie"))}
    config = load_config(configuration(mounted, affinity=affinity))
    assert secrets_of(config)[0] == "hush"


def test_a_configuration_as_an_object_has_them_too(mounted: MountedSecret) -> None:
    given = Config.model_validate(configuration(mounted))
    assert secrets_of(given) == (None, None, None)
    assert secrets_of(load_config(given)) == ("hush", URL, URL)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file or directory"), ("", "it is empty"), (b"\xff\xfe", "it is not text")],
    ids=["missing", "empty", "binary"],
)
def test_a_file_of_no_use_is_one_problem_with_its_key(
    mounted: MountedSecret, content: str | bytes | None, problem: str
) -> None:
    config = load_config(configuration(mounted))
    rest = {"pins": URL, "store": URL}
    mounted.replace(**rest, **({} if content is None else {"cookie": content}))
    for read in (lambda: load_config(configuration(mounted)), lambda: refreshed(config)):
        with pytest.raises(ConfigError) as refused:
            read()
        [found] = refused.value.problems
        assert found.key == "backends.agents.affinity.secret_file"
        assert found.message == f"can't use {mounted.path('cookie')}: {problem}"


def test_a_problem_with_the_content_does_not_show_it(mounted: MountedSecret) -> None:
    mounted.replace(cookie="hush", pins="hush://secret", store=URL)
    with pytest.raises(ConfigError) as refused:
        load_config(configuration(mounted))
    assert "pins" in str(refused.value)
    assert "hush" not in str(refused.value)


def test_it_can_be_read_again(mounted: MountedSecret) -> None:
    before = load_config(configuration(mounted))
    assert refreshed(before) is before
    mounted.replace(cookie="other", pins=URL, store=URL)
    after = refreshed(before)
    assert secrets_of(after) == ("other", URL, URL)
    assert describe_changes(before, after) == ["backends.agents.affinity.secret: changed"]


def test_files_that_are_watched(mounted: MountedSecret) -> None:
    tls = {"ca": "/etc/ca.pem"}
    found = watched_files(load_config(configuration(mounted, tls=tls)))
    names = [path.name for path in found]
    assert names == ["cookie", "pins", "store", "ca.pem"]
