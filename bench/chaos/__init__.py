"""Faults at load: `python -m bench.chaos` tries the balancer's promises. See README.md."""
