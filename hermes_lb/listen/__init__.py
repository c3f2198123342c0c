"""Public entrances: where clients connect, and the decisions before a request.

frontend          an entrance: routes, certificates, trusted proxies
router            host, path -> backend; `match`: what else a route asks of a request
listener          one of its binds: sockets, accept
connection_limit  the limit on client connections of a process
passed_on         a connection that another process serves
sockets           listening sockets
proxied           a connection that begins with a PROXY header, which `proxy_protocol` parses
files             the files that a configuration names
"""

from hermes_lb.listen.files import check_files
from hermes_lb.listen.frontend import Frontend

__all__ = ["Frontend", "check_files"]
