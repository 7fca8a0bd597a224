"""Triton kernels: one launch where eager torch makes several. Imported only where a tensor lies on a GPU."""
