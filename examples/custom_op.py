"""An op of your own: declared, used in a model, tested, and drawn, in one file.

``swish_gate(x, g)`` is x · sigmoid(g).  Its samples are its own test cases.

python examples/custom_op.py [--quick]
"""

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import Sample, custom_op
from tinygrad_cnn.testing import check_op


def _vjp_x(ct, out, x, g):
    return ct * tc.sigmoid(g)


def _vjp_g(ct, out, x, g):
    s = tc.sigmoid(g)
    return ct * x * s * (1.0 - s)


def _samples(rng):
    yield Sample("matrix", (rng.normal(size=(2, 3)), rng.normal(size=(2, 3))))
    yield Sample("images", (rng.normal(size=(2, 3, 2, 4)), rng.normal(size=(2, 3, 2, 4))))


def _shape(x, g):
    if x != g:
        raise tc.ShapeError(f"swish_gate: x is {x} but g is {g}")
    return x


@custom_op(shape=_shape, vjp={"x": _vjp_x, "g": _vjp_g}, samples=_samples, exact_in=("x",))
def swish_gate(x, g):
    """The kernel: arrays in, array out."""
    return x / (1 + np.exp(-g))


# It is an op like any other: it records, and every order of derivative follows from its rules.
x = tc.Tensor([1.0, -2.0], requires_grad=True, name="x")
g = tc.Tensor([0.5, 3.0], requires_grad=True, name="g")
y = swish_gate(x, g).sum()
y.backward(retain_graph=True)
print("x.grad", x.grad.data)
print("g.grad", g.grad.data)

# All that is asked of the built-in ops is asked of it.
print(check_op(swish_gate.op))

# Drawings know it too.
print(y.graph().text())
