"""Strategies on a virtual clock, and live beside it.

command       `run`: from the command line's options to the files
experiment    one scenario, or a trace, with several strategies
scenarios     load and events, by name
workloads     arrivals and lengths; `trace` reads them from an access log
engine        the virtual clock, the machines, and the life of a request
pace          a machine's speed over time
measures      the results of a run
why           explains one pick; `explanations`: by each strategy's own numbers
report        tables for a terminal; `html` and `plots` make the page
live          a real balancer with real servers, beside the model
sockets       its servers and clients; `agents`: real workers instead
interruption  SIGINT and SIGTERM end a run and everything it has started
"""

from hermes_lb.lab.command import Asked, run
from hermes_lb.lab.scenarios import SCENARIOS

__all__ = ["SCENARIOS", "Asked", "run"]
