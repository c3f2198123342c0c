"""The proxies that are measured, one driver a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.live.peers.aiohttp_pair import AiohttpPair
from bench.live.peers.direct import Direct
from bench.live.peers.envoy import Envoy
from bench.live.peers.haproxy import HAProxy, HAProxyRing
from bench.live.peers.hermes_lb import HermesLb, HermesLbEmbedded, HermesLbResume, HermesLbTwo
from bench.live.peers.nginx import Nginx

if TYPE_CHECKING:
    from bench.live.peers.base import Peer

# In the order in which a round measures them.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        HermesLb(),
        HermesLbResume(),
        HermesLbTwo(),
        HermesLbEmbedded(),
        HAProxy(),
        HAProxyRing(),
        Nginx(),
        Envoy(),
        AiohttpPair(),
        Direct(),
    )
}
