"""`hermes-lb ctl`: a running balancer from the command line, over its admin API."""
