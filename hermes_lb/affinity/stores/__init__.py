"""Where a session table is: in memory, or in a shared store; `registry` lists these."""
