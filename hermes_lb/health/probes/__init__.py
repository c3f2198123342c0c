"""Kinds of health checks: one a file, with its options; `registry` lists them."""
