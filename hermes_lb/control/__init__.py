"""The admin listener: the operator's interface to a running balancer.

operator     the commands that a balancer implements
admin        the listener: start, stop, routes
certificate  its TLS certificate, reread when its files change
guard        access control; `token`: the admin token, reread when its file changes
strangers    closes connections that make no permitted request
runner       aiohttp's server with our form of errors; `quiet`: without its tracebacks
endpoints    how an operation of /api/v1 is declared; `errors`: its error responses
api          queries and the live stream; `feed`: its events
scaling      /api/v1/scaling: the load of each backend, for autoscalers
commands     commands; `turns_api`: /api/v1/turns; `shared_pins`: the learned sessions in stores
shapes       the shapes of all answers, bodies and queries; `views`: the answers
openapi      the API description; `openapi_page`: as a web page
history      samples of the last minutes; `tally`: maxima, downtime, cleared counters
state_file   server states set by operators, in a file; `runtime_states` keeps both in sync
"""

from hermes_lb.control.admin import AdminServer

__all__ = ["AdminServer"]
