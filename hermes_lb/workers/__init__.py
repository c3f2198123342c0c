"""Several processes: a supervisor, its workers, and what they share."""
