"""Mimi, the streaming audio codec."""
