"""Write an op with a mistake in its backward rule, and let the tester find and name it.

Run it with ``python examples/find_a_wrong_rule.py``.
"""

import numpy as np

from tinygrad_cnn import GradientMismatch, Sample, custom_op
from tinygrad_cnn.testing import check_gradients, check_op, check_vjp_pair

# ---- an op: the moving average of three neighbors in a row


def samples(rng):
    yield Sample("a row", (rng.normal(size=6),))
    yield Sample("two rows", (rng.normal(size=(2, 5)),))


def smooth_vjp(ct, out, x):
    """Each result goes back to the three entries it came from."""
    dx = np.zeros(x.shape, x.dtype)
    for i in range(3):
        place = (..., slice(i, i + ct.shape[-1]))
        dx[place] = ct / 3                  # the mistake: it must be +=, since neighbors overlap
    return dx


@custom_op(shape=lambda x: (*x[:-1], x[-1] - 2), vjp={"x": smooth_vjp}, samples=samples,
           exact_in=("x",))
def smooth(x):
    return (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / x.dtype.type(3)


def main():
    try:
        check_op(smooth)
    except GradientMismatch as found:
        print(found, end="\n\n")

    # ---- any function of tensors, and any pair of NumPy functions
    x = np.linspace(-1, 1, 6)
    print(check_gradients(lambda x: (x * x).tanh().sum(), x, order=2))
    try:
        check_vjp_pair(lambda x: np.maximum(x, 0), lambda ct, x: ct, x)
    except GradientMismatch as found:
        print(str(found).splitlines()[0])


if __name__ == "__main__":
    main()
