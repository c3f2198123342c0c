"""THE DATA PATH, file by file in travel order; docs/life-of-a-request.md walks through it.

listener      bind, accept, whom to believe
gate          how many connections there may be in all
client        faces the client: bytes -> request heads                      R
admission     how many connections and requests an address may have
exchange      one request and its response: phases, retries, the one end
upload        the request's body
router        host, path -> backend
dispatch      affinity, strategy, lease, or wait                            Q
connections   reuse an idle connection to the server, or dial               C
upstream      faces the server: bytes -> response heads                     H
relay         bodies both ways, back-pressure, the end of the message       D L
stream        events that go on from another server when theirs is lost
tunnel        after a 101: raw bytes both ways
detached      what the server may finish although its client has left
responses     the one place where an error becomes a response
record        counters and the access log
sweep         all deadlines
liveness      does a server that leaves a check unanswered still send?
turn          what one turn of the event loop still has to do, stage by stage
context       what the connections of one balancer share
plane         all of it, in one process; and another configuration while it runs
resolver      host names of servers, looked up again and again
sessions      the requests that run now, for the operator
"""

from hermes_lb.proxy.context import Context
from hermes_lb.proxy.dispatch import Backend
from hermes_lb.proxy.files import check_files
from hermes_lb.proxy.listener import Frontend
from hermes_lb.proxy.liveness import has_moved
from hermes_lb.proxy.plane import DataPlane
from hermes_lb.proxy.resolver import Resolver
from hermes_lb.proxy.sessions import end_sessions, running_sessions

__all__ = [
    "Backend",
    "Context",
    "DataPlane",
    "Frontend",
    "Resolver",
    "check_files",
    "end_sessions",
    "has_moved",
    "running_sessions",
]
