"""THE DATA PATH, file by file in travel order; docs/life-of-a-request.md walks through it.

frontend      a public entrance: routes, certificates, whom to believe
listener      one of its binds: sockets, accept
gate          how many connections there may be in all
client        faces the client: bytes -> request heads                      R
intake        what it sends while nobody takes it (`endpoint`: of both sides)
admission     how many connections and requests an address may have
exchange      one request and its response: phases, the one end
state         what is known of it, from its head to its record
retries       what may fail before the response head: the retry table
upload        the request's body
router        host, path -> backend
dispatch      affinity, strategy, lease, or wait                            Q
connections   reuse an idle connection to the server, or dial               C
upstream      faces the server: bytes -> response heads                     H
relay         bodies both ways, back-pressure, the end of the message       D L
stream        events that go on from another server when theirs is lost
moving        streams leave a server that stands still
tunnel        after a 101: raw bytes both ways                              T
detached      what the server may finish although its client has left
responses     the one place where an error becomes a response
answers       ends an exchange with one, or with a redirect
record        counters and the access log, whose lines are from `log_lines`

turn          what one turn of the event loop still has to do, stage by stage
run_queue     connections that have had their share of a turn, and go on in a later one
sweep         all deadlines
liveness      does a server that leaves a check unanswered still send?
context       what the connections of one balancer share
plane         all of it, in one process; and another configuration while it runs
resolver      host names of servers, looked up again and again
sessions      the requests that run now, for the operator

before a request:     proxied (a PROXY header: proxy_protocol), tls (client_hello, tls_records,
                      certificates, x509, ticket_keys, client_certificate), https, addresses
learnt sessions:      pin_table, redis_pins; the affinity cookie: response_cookies
the machine:          sockets, kernel, files
"""

from hermes_lb.proxy.context import Context
from hermes_lb.proxy.dispatch import Backend
from hermes_lb.proxy.files import check_files
from hermes_lb.proxy.frontend import Frontend
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
