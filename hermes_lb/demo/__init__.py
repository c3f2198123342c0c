"""The whole system on one machine, with a client that demonstrates it.

show        `run`: the whole demo, from the first check of a port to the last process
plan        what runs where, from the configuration; which ports are taken
processes   child processes that never outlive the demo (each through `launcher`)
system      starts Valkey, the workers and the balancer, and waits until they are ready
client      a client of the sessions API, through the balancer
reader      a client that loses its connection, before a `storyteller` that can't resume
scenes      what is shown, and checked (`checks`)
open_house  stays up: commands to try, the access log, restarted workers
screen      the output, on a terminal and in a pipe
failures    the error that ends it early

Balancer and workers run in processes of their own, as users would start them.
"""

from hermes_lb.demo.show import run

__all__ = ["run"]
