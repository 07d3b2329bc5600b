"""The nets in tinygrad_cnn: what a user writes with functions, parameters and layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad_cnn as tc
from tinygrad_cnn import OPS, Parameter, Tensor, nn, optim
from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.frameworks.base import COPY, GEMM, Framework, Timers
from tinygrad_cnn.bench.nets import Conv, Problem
from tinygrad_cnn.bench.operands import operands
from tinygrad_cnn.kernels.threads import parallel
from tinygrad_cnn.op import FUNCTIONS
from tinygrad_cnn.stepwise import conv_backward, conv_forward

__all__ = ["Own", "open"]

Array = NDArray[Any]


class Own(Framework):
    """tinygrad_cnn itself.

    Parameters
    ----------
    compiled : bool, optional
        Time compiled kernels, or NumPy's alone; what `tinygrad_cnn.get_compiled` says if not given.

    Raises
    ------
    MissingExtraError
        If compiled kernels are asked for and not installed.
    """

    def __init__(self, compiled: bool | None = None) -> None:
        self.compiled = tc.get_compiled() if compiled is None else compiled
        with tc.set_compiled(self.compiled):
            if self.compiled:               # here, as others import their library before timing
                import_module("numba")

    def versions(self) -> dict[str, str]:
        """tinygrad_cnn, NumPy, and the compiler if its kernels are timed."""
        found = {"tinygrad_cnn": tc.__version__, "numpy": np.__version__}
        return found | ({"numba": version("numba")} if self.compiled else {})

    # ---- nets

    def load(self, given: Problem) -> None:
        """Parameters for what is trained, a layer for each norm, whose statistics run."""
        self.problem = given
        self.weights: list[Any] = [Parameter(w.array) if w.trained else w.array.copy()
                                   for w in given.weights]
        self.trained = [w for w in self.weights if isinstance(w, Parameter)]
        self.optimizer = optim.SGD(self.trained, lr=given.net.rate)
        for i, weight in enumerate(given.weights):
            if weight.kind == "scale":
                layer = nn.BatchNorm2D(len(weight.array))
                (layer.weight, layer.bias, layer.running_mean,
                 layer.running_var) = self.weights[i:i + 4]
                self.weights[i] = layer
        self.feed(given.images, given.labels)

    def feed(self, images: Array, labels: Array) -> None:
        """The images become a tensor, the labels stay an array."""
        self.x, self.labels = Tensor(images), labels

    def loss(self) -> Tensor:
        """Cross-entropy of the batch, recorded."""
        logits = self.forward(self.problem.net.layers, self.x, iter(self.weights), training=True)
        return tc.cross_entropy(logits, self.labels)

    def step(self) -> float:
        """One step of plain SGD."""
        loss = self.loss()
        loss.backward()
        self.update()
        return float(loss.item())

    def update(self) -> None:
        """Take the gradients from the parameters, and forget them."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def infer(self) -> Array:
        """Under no_grad, with the running statistics."""
        with tc.no_grad():
            logits: Tensor = self.forward(self.problem.net.layers, self.x, iter(self.weights),
                                          training=False)
        return logits.data

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Tensor:
        """N H W C."""
        return tc.conv2d(x, w, b, stride=layer.stride, padding=layer.padding)

    def relu(self, x: Any) -> Tensor:
        """max(x, 0)."""
        return tc.relu(x)

    def pool(self, x: Any, size: int) -> Tensor:
        """Windows that do not overlap."""
        return tc.max_pool2d(x, kernel_size=size)

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Tensor:
        """By the layer, which holds the scale, the shift and the running statistics."""
        layer: nn.BatchNorm2D = w
        return layer.train(training)(x)

    def global_pool(self, x: Any) -> Tensor:
        """N C."""
        return tc.global_avg_pool2d(x)

    def linear(self, x: Any, w: Any, b: Any) -> Tensor:
        """N K."""
        return tc.linear(x if x.ndim == 2 else tc.flatten(x), w, b)

    # ---- everything else that is timed

    def timers(self, case: Case) -> Timers:
        """Nets, chains, single ops by kernel, and the notebooks' loops, with the kernels chosen."""
        with tc.set_compiled(self.compiled):
            return {name: partial(self._timed, call) for name, call in self._timers(case).items()}

    def _timed(self, call: Callable[[], Any]) -> Any:
        with tc.set_compiled(self.compiled):
            return call()

    def _timers(self, case: Case) -> Timers:
        if case.kind == "chain":
            return {"chain": partial(_chain, case.settings["length"], case.settings["width"])}
        if case.kind == "notebook":
            return _notebook(case.settings["images"])
        if case.kind == "kernel":
            return _kernels(case)
        if case.kind == "layer":
            return _layer(case)
        if case.kind == "machine":
            return _machine()
        return super().timers(case)


def _chain(length: int, width: int) -> float:
    a, b = Tensor(np.full(width, 0.001, np.float32)), Tensor(np.full(width, 0.999, np.float32))
    h = start = Tensor(np.ones(width, np.float32), requires_grad=True)
    for _ in range(length):
        h = h * b + a
    h.sum().backward()
    assert start.grad is not None
    return float(start.grad.data[0])


def _machine() -> Timers:
    """NumPy's matrix product, and a copy that fits into no cache."""
    a, b, c = (np.ones((GEMM, GEMM), np.float32) for _ in range(3))
    source, target = (np.ones(COPY // 4, np.float32) for _ in range(2))

    def copy(low: int, high: int) -> None:
        target[low:high] = source[low:high]

    return {"sgemm": lambda: np.matmul(a, b, out=c)[0, 0],
            "copy": lambda: len(parallel(len(source), copy))}


def _notebook(n: int) -> Timers:
    """The four nested loops on the exercise's own input, and the registered op."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, 32, 32, 3))
    filters, bias = rng.standard_normal((3, 3, 3, 8)), rng.standard_normal((1, 1, 1, 8))
    ct = rng.standard_normal((n, 32, 32, 8))

    def loops() -> float:
        _, cache = conv_forward(images, filters, bias, {"stride": 1, "pad": 1})
        return float(np.abs(conv_backward(ct, cache)[1]).sum())

    x, w, b = (Tensor(a, requires_grad=True) for a in (images, filters, bias.reshape(-1)))

    def op() -> float:
        tc.conv2d(x, w, b, padding=1).backward(ct)
        assert w.grad is not None
        size = float(np.abs(w.grad.data).sum())
        x.grad = w.grad = b.grad = None
        return size

    return {"loops": loops, "op": op}


def _kernels(case: Case) -> Timers:
    """Each kernel of the op that takes the case, by its name; "op" is the one that is chosen."""
    op = OPS[case.name]
    arrays, _ = operands(case)

    def call(kernel: Callable[..., Array]) -> Array:
        return kernel(*arrays, **case.settings)

    timers: Timers = {"op": lambda: op.run(*arrays, **case.settings)[0]}
    for name, kernel in op.kernels.items():
        if name != "reference" and call(kernel) is not NotImplemented:
            timers[name] = partial(call, kernel)
    return timers


def _layer(case: Case) -> Timers:
    """The public function without recording, and with a backward pass."""
    arrays, ct = operands(case)
    function = FUNCTIONS[case.name]
    inputs = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]

    def forward() -> Array:
        with tc.no_grad():
            y: Tensor = function(*inputs, **case.settings)
        return y.data

    def both() -> Array:
        function(*inputs, **case.settings).backward(ct)
        first = inputs[0].grad
        assert first is not None
        for x in inputs:
            x.grad = None
        return first.data

    return {"forward": forward, "both": both}


def open(variant: str, threads: int) -> Own:
    """Set the threads, up to the CPUs of this process; the variant is "compiled" or pure NumPy."""
    own = Own(compiled=variant == "compiled")
    tc.set_num_threads(threads)
    return own
