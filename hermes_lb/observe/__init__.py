"""What can be seen from outside: access log, termination codes, metrics."""
