"""TLS to clients."""
