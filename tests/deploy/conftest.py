"""A store for commands that run as processes."""

from tests.outside.conftest import no_proxies, store_url

__all__ = ["no_proxies", "store_url"]
