"""Strategies on a virtual clock, and live beside it.

command       `run`: from the command line's options to the files
experiment    one traffic with several strategies; `study`: several seeds, loads and fleet sizes
traffic       what is played, and to which fleet: `scenarios` by name, or a recording
workloads     arrivals and lengths
traces        recorded traffic, one format a file; `recording`: its sessions, as workloads
calibration   the model of a server that fits a recording
engine        the virtual clock, and the life of a request (`job`)
balancer      a real pool and strategy; `sharing`: several balancers that exchange their loads
fleet         machines and the pools in front of them
machine       a server's slots and queue; `pace`: its speed over time
llm           a server of a language model; `prefix_cache`: what it has in memory
measures      the results of a run; `figures`: those by which strategies are compared
intervals     confidence intervals, paired differences; `summary`: what follows, in sentences
why           explains one pick; `explanations`: by each strategy's own numbers
report        tables for a terminal; `tables`: CSV
html          the page, with its `style`; `plots` and `curves` draw, by `svg`
live          a real balancer with real servers, beside the model
sockets       its servers and clients; `agents`: real workers instead
interruption  SIGINT and SIGTERM end a run and everything it has started
"""

from hermes_lb.lab.calibration import calibrate, read_model
from hermes_lb.lab.command import Asked, run
from hermes_lb.lab.figures import FIGURES
from hermes_lb.lab.scenarios import SCENARIOS
from hermes_lb.lab.study import Sweep
from hermes_lb.lab.traffic import Setup

__all__ = [
    "FIGURES",
    "SCENARIOS",
    "Asked",
    "Setup",
    "Sweep",
    "calibrate",
    "read_model",
    "run",
]
