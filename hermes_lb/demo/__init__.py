"""The whole system on one machine, and a client that shows what it does.

    show        `run`: all of it, from the first check of a port to the end of the last process
    plan        what runs where, read from the configuration; which ports are taken
    processes   child processes that never outlive the demo (each through `launcher`)
    system      starts Valkey, the workers and the balancer, and waits until they are ready
    client      acts as a client would, through the balancer
    scenes      what is shown, and checked (`checks`)
    open_house  stays up: what to try, the requests as they are logged, workers that come back
    screen      how all of it looks, on a terminal and in a pipe
    failures    what ends it before its time

Nothing of the balancer or of the workers runs in this process: each is what a user would start.
"""

from hermes_lb.demo.show import run

__all__ = ["run"]
