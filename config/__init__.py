"""Configuration: what an operator writes, read once and validated; the audio contract; logging."""
