"""The records of calls: spooled to disk, then stored in SQLite or PostgreSQL, and deleted when their time is up."""
