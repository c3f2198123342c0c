"""The proxies that are measured, one driver a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.live.peers.aiohttp_pair import AiohttpPair
from bench.live.peers.direct import Direct
from bench.live.peers.envoy import Envoy
from bench.live.peers.haproxy import HAProxy, HAProxyRing, HAProxySilent
from bench.live.peers.hermes_lb import (
    HermesLb,
    HermesLbCompiled,
    HermesLbCompiledResume,
    HermesLbCompiledTurns,
    HermesLbEmbedded,
    HermesLbResume,
    HermesLbTurns,
    HermesLbTwo,
)
from bench.live.peers.nginx import Nginx, NginxCurrent

if TYPE_CHECKING:
    from bench.live.peers.base import Peer

# In the order in which tables have them.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        HermesLb(),
        HermesLbCompiled(),
        HermesLbResume(),
        HermesLbCompiledResume(),
        HermesLbTurns(),
        HermesLbCompiledTurns(),
        HermesLbTwo(),
        HermesLbEmbedded(),
        HAProxy(),
        HAProxyRing(),
        HAProxySilent(),
        Nginx(),
        NginxCurrent(),
        Envoy(),
        AiohttpPair(),
        Direct(),
    )
}
