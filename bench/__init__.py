"""Benchmarks of the balancer. `python -m bench.live` is the one that README.md describes."""
