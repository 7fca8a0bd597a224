"""Checkpoints: where they lie, what their config says, and how their tensors get into the modules."""

from model_runtime.checkpoint.loading import load_language_model, load_listener, load_mimi, load_moshi

__all__ = ["load_language_model", "load_listener", "load_mimi", "load_moshi"]
