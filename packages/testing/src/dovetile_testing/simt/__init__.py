"""The device SIMT: an emulated GPU, for machines that have none, which finds races.

Kernels run in NumPy, the threads of many workgroups in lockstep, one operation at a time. Every
access is checked: for bounds, and for other threads that use the same memory with no barrier
between. No hardware is so strict, so what passes here may rely on no accident of a real one.
"""
