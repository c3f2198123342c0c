"""Where session tables are kept: in memory, or in Redis."""
