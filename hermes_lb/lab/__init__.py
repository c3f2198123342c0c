"""The laboratory: the balancer's own strategies on a virtual clock, and live beside it.

command      `run`: what is asked on the command line, from the options to the files
experiment   one scenario, or a trace, through several strategies
scenarios    what arrives and what happens, by name
workloads    arrivals and lengths; `trace` reads them from an access log
engine       the virtual clock, the machines, and the life of a request
pace         how fast a machine works, and when
measures     what is counted
why          explains one pick; `explanations`: by each strategy's own numbers
report       tables for a terminal; `html` and `plots` make the page
live         the real balancer before real servers, beside the model
sockets      its servers and clients; `agents`: real workers instead
interruption SIGINT and SIGTERM end a run, and what it has started
"""

from hermes_lb.lab.command import Asked, run
from hermes_lb.lab.scenarios import SCENARIOS

__all__ = ["SCENARIOS", "Asked", "run"]
