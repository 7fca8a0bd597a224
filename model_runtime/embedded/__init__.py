"""Model files that ship with Denwa; see README.md here for how they were made."""
