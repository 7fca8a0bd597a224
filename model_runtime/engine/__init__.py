"""The engine: slots, the thread that steps them, and the models it can step."""
