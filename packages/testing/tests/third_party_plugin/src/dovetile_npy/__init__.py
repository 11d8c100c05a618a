"""The device NPY: kernels in NumPy."""
