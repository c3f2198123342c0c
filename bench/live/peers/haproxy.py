"""HAProxy, one thread, set up as for a fleet of agent workers.

Three times, by its log: `haproxy` sends a datagram a line to a syslog daemon, as the configurations
do that our users have; `haproxy-ring` buffers lines and sends batches over TCP, the cheapest way it
has; `haproxy-silent` writes no log, which no other proxy here is spared.
"""

from __future__ import annotations

import shutil

from bench.live.peers.base import (
    BACKLOG,
    HEALTH_PATH,
    MAX_CONNECTIONS,
    Peer,
    Setup,
    first_line,
)


class HAProxy(Peer):
    name = "haproxy"
    install = "apt-get install haproxy"
    has_http2 = has_http2_servers = True

    def is_installed(self) -> bool:
        return shutil.which("haproxy") is not None

    def version(self) -> str:
        return first_line("haproxy", "-v")

    def log(self, setup: Setup) -> str:
        """The lines of its configuration that say where a line for every request goes."""
        return f"  log 127.0.0.1:{setup.syslog_port} local0"

    def command(self, setup: Setup) -> list[str]:
        tls = f" ssl crt {setup.certificate.combined} no-tls-tickets" if setup.certificate else ""
        if tls and setup.http2:
            tls += " alpn h2,http/1.1"
        protocol = " proto h2" if setup.http2_servers else ""
        servers = "\n".join(
            f"  server s{number} 127.0.0.1:{port}{protocol} cookie s{number} check inter 5s "
            "rise 2 fall 3"
            for number, port in enumerate(setup.upstreams, 1)
        )
        config = f"""
global
  nbthread 1
  maxconn {MAX_CONNECTIONS}
  tune.ssl.cachesize 0
{self.log(setup)}

defaults
  mode http
  log global
  option httplog
  # Without it the first token of a stream is held back by some 200 ms.
  option http-no-delay
  option forwardfor
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout tunnel 1h
  timeout http-request 10s
  timeout http-keep-alive 75s
  timeout queue 30s

frontend bench
  bind 127.0.0.1:{setup.port} backlog {BACKLOG}{tls}
  default_backend upstreams

backend upstreams
  balance leastconn
  cookie SERVERID insert indirect nocache
  # An idle upstream connection is for any client, as with the other proxies here.
  http-reuse always
  option httpchk
  http-check send meth GET uri {HEALTH_PATH} hdr Host bench
{servers}
"""
        return ["haproxy", "-db", "-f", str(setup.write("haproxy.cfg", config))]


class HAProxyRing(HAProxy):
    name = "haproxy-ring"

    def log(self, setup: Setup) -> str:
        return f"""  log ring@buffered local0

ring buffered
  format rfc3164
  size 4194304
  timeout connect 5s
  timeout server 10s
  server sink 127.0.0.1:{setup.syslog_port}"""


class HAProxySilent(HAProxy):
    name = "haproxy-silent"

    def log(self, setup: Setup) -> str:
        return ""
