"""Rate limits and connection counts by key."""
