"""Checkpoints: the shapes of the published models."""
