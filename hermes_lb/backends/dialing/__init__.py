"""How servers are reached, by requests and by health checks alike: TCP or a Unix socket, a PROXY
header, TLS."""

from hermes_lb.backends.dialing.dialer import Dialer, ServerDialer, in_words
from hermes_lb.backends.dialing.host_name import HostName
from hermes_lb.backends.dialing.proxy_header import Peers, build_v1, build_v2
from hermes_lb.backends.dialing.tls import Tls

__all__ = ["Dialer", "HostName", "Peers", "ServerDialer", "Tls", "build_v1", "build_v2", "in_words"]
