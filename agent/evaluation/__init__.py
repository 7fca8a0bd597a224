"""Simulated callers: what they do, the lines that they call on, and how the agent is judged. Used by ``denwa eval``."""
