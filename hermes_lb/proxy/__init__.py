"""The data path, file by file in travel order; docs/life-of-a-request.md walks through it.

phases         the table: transitions, which deadline runs, which side is waited for
ports          both sides of an exchange, as it sees them
exchange       one request and its response; `enter` changes its phase

admit          begins an exchange: may it be served, and by which backend?   R
destination    where a request goes, by its route
policy         what its route and its backend have of their own: who may ask, answers, fields
policies       makes policies from the configuration
variables      what stands for variables in fields and redirects
split          weights between backends
select         a backend: affinity, strategy, lease, or the queue            Q C
upload         the request's body                                            R H
retry          the retry table: decides on a request whose server failed
response       the response's head, rewritten for the client                 D
learning       session keys in the response's body
first_chunk    when a stream's first chunk comes, for spans
resume         event streams that continue from another server when theirs is lost
stream_rules   what a route says of its streams
tunnel         after a 101: raw bytes both ways
abandoned      a response that the server may finish although the client has left
local_replies  errors as responses
record         an exchange that has ended: the counters, and its line in the access log

context        the parts that the connections of one balancer share
settings       timeouts, limits and parsers: a reload replaces them
live           the register of connections, and the drain state
batch          the events of one loop iteration, processed stage by stage
identity       the names in Via, and request ids
turn_gateway   what all turns of one process share: the store, the secret, bounds
wall_clock     the Date field

deadlines      the sweep over all deadlines
moving         moves streams away from a server that stands still
liveness       whether a server that leaves a check unanswered still sends
inflight       the requests in flight, for the operator

No module here knows those that use it: an exchange is known to `admit`, `record` and `moving`, and
not to its parts, each of which declares what it needs of an exchange. `http1` has the
connections, which implement the ports; nothing else here imports it.
"""

from hermes_lb.proxy.inflight import end_sessions, running_sessions
from hermes_lb.proxy.liveness import saw_progress

__all__ = ["end_sessions", "running_sessions", "saw_progress"]
