"""Arrays in, arrays out: the loops of ``reference`` and the fast kernels checked against them."""
