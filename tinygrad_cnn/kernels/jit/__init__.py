"""Kernels in compiled code; the one place that imports numba.  ``kernels.compiled`` is the door."""
