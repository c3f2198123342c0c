"""`hermes-lb ctl`: controls a running balancer over its admin API."""
