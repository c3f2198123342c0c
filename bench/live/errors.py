"""What the bench reports instead of a figure."""


class BenchError(Exception):
    """A measurement could not be made, or its figure must not be believed."""
