"""This balancer beside nginx, HAProxy, Envoy and a plain aiohttp proxy, in one run."""
