"""Fused operations. Each has an eager twin in torch, which is what it must equal and what runs without a GPU.

``model_runtime.kernels.gpu`` holds the Triton side. It is imported where a tensor lies on a GPU and nowhere else, so a
machine without Triton needs none. All of it runs on the engine thread.
"""
