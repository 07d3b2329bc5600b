"""The nets in PyTorch: images as N C H W, as channels_last, or compiled."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.frameworks.base import GEMM, Framework, Timers, planes, rows_of_planes
from tinygrad_cnn.bench.nets import Conv, Problem
from tinygrad_cnn.bench.operands import operands

__all__ = ["PyTorch", "open"]

Array = NDArray[Any]


class PyTorch(Framework):
    """PyTorch on the CPU.

    Parameters
    ----------
    variant : {"nchw", "channels_last", "compile"}
        The memory order of images; "compile" is torch.compile over N C H W.
    threads : int
        Of one operation.
    """

    def __init__(self, variant: str, threads: int) -> None:
        import torch
        import torch.nn.functional
        torch.set_num_threads(threads)
        self.torch, self.functional = torch, torch.nn.functional
        self.last = variant == "channels_last"
        self.compiled = variant == "compile"

    def versions(self) -> dict[str, str]:
        """torch, and whether its convolutions come from oneDNN."""
        return {"torch": str(self.torch.__version__),
                "oneDNN in torch": str(self.torch.backends.mkldnn.is_available())}

    # ---- nets

    def _ordered(self, x: Any) -> Any:
        """Images and filters in the memory order of this variant."""
        return x.contiguous(memory_format=self.torch.channels_last) \
            if self.last and x.ndim == 4 else x

    def load(self, given: Problem) -> None:
        """Leaves for what is trained, plain tensors for running statistics."""
        self.problem = given
        self.weights = [
            self._ordered(self.torch.from_numpy(self._row_order(w))).requires_grad_(w.trained)
            for w in given.weights]
        self.trained = [w for w in self.weights if w.requires_grad]
        self.feed(given.images, given.labels)
        self._loss, self._logits = self.loss, self.logits
        if self.compiled:
            self._loss, self._logits = (self.torch.compile(f) for f in (self.loss, self.logits))

    def _row_order(self, weight: Any) -> Array:
        # With channels last, flattening N H W C is free, so the matrix keeps its order.
        keep = self.last and weight.kind == "matrix"
        return weight.array.copy() if keep else rows_of_planes(weight)

    def feed(self, images: Array, labels: Array) -> None:
        """Copied once, outside the step."""
        self.x = self._ordered(self.torch.from_numpy(planes(images)))
        self.labels = self.torch.from_numpy(labels)

    def logits(self, x: Any) -> Any:
        """In evaluation mode."""
        return self.forward(self.problem.net.layers, x, iter(self.weights), training=False)

    def loss(self, x: Any, labels: Any) -> Any:
        """Cross-entropy of the batch."""
        logits = self.forward(self.problem.net.layers, x, iter(self.weights), training=True)
        return self.functional.cross_entropy(logits, labels)

    def step(self) -> float:
        """One step of plain SGD."""
        loss = self._loss(self.x, self.labels)
        loss.backward()
        with self.torch.no_grad():
            for p in self.trained:
                p.add_(p.grad, alpha=-self.problem.net.rate)
                p.grad = None
        return float(loss.item())

    def infer(self) -> Array:
        """In inference mode, which is quicker than no_grad."""
        with self.torch.inference_mode():
            logits: Array = self._logits(self.x).numpy()
        return logits

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """N C H W."""
        return self.functional.conv2d(x, w, b, stride=layer.stride, padding=layer.padding)

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return self.functional.relu(x)

    def pool(self, x: Any, size: int) -> Any:
        """Windows that do not overlap."""
        return self.functional.max_pool2d(x, size)

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Updates the running statistics in training."""
        return self.functional.batch_norm(x, mean, var, w, b, training=training)

    def global_pool(self, x: Any) -> Any:
        """N C."""
        return x.mean((2, 3))

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """N K."""
        if self.last and x.ndim == 4:
            x = x.permute(0, 2, 3, 1)
        return self.torch.addmm(b, x.flatten(1), w)

    # ---- everything else that is timed

    def timers(self, case: Case) -> Timers:
        """Nets, chains and single ops."""
        if case.kind == "chain" and not self.compiled:
            return {"chain": partial(self._chain, case.settings["length"],
                                     case.settings["width"])}
        if case.kind == "kernel" and not self.compiled:
            return {"op": self._kernel(case)}
        if case.kind == "layer" and not self.compiled:
            return self._layer(case)
        if case.kind == "machine":
            a, b, c = (self.torch.ones((GEMM, GEMM)) for _ in range(3))
            return {"sgemm": lambda: float(self.torch.mm(a, b, out=c)[0, 0])}
        return super().timers(case)

    def _chain(self, length: int, width: int) -> float:
        a, b = self.torch.full((width,), 0.001), self.torch.full((width,), 0.999)
        h = start = self.torch.ones(width, requires_grad=True)
        for _ in range(length):
            h = h * b + a
        h.sum().backward()
        return float(start.grad[0])

    def _kernel(self, case: Case) -> Any:
        """One face of a convolution; the two gradients by the function that autograd calls."""
        settings = case.settings
        (top, _), (left, _) = settings["padding"]
        plain = (list(settings["stride"]), [top, left], list(settings["dilation"]))
        groups = settings["groups"]
        arrays: list[Any] = [self._images(a) if a is not None and a.ndim == 4 else None
                             for a in operands(case)[0]]

        if case.name == "conv2d":
            x, w = arrays[0], self._filters(operands(case)[0][1])

            def forward() -> Array:
                with self.torch.inference_mode():
                    y: Array = self.functional.conv2d(x, w, None, *plain, groups).numpy()
                return y
            return forward

        wants_image = case.name == "conv2d_input"
        if wants_image:
            ct, w = arrays[0], self._filters(operands(case)[0][1])
            x = self._ordered(self.torch.zeros(ct.shape[0], w.shape[1] * groups,
                                               *settings["image_size"]))
        else:
            x, ct = arrays
            w = self._ordered(self.torch.zeros(ct.shape[1], x.shape[1] // groups,
                                               *settings["kernel_size"]))

        def backward() -> Array:
            with self.torch.inference_mode():
                parts = self.torch.ops.aten.convolution_backward(
                    ct, x, w, None, *plain, False, [0, 0], groups,
                    [wants_image, not wants_image, False])
            part: Array = parts[0 if wants_image else 1].numpy()
            return part
        return backward

    def _images(self, array: Array) -> Any:
        return self._ordered(self.torch.from_numpy(planes(array)))

    def _filters(self, array: Array) -> Any:
        turned = np.ascontiguousarray(array.transpose(3, 2, 0, 1))
        return self._ordered(self.torch.from_numpy(turned))

    def _layer(self, case: Case) -> Timers:
        arrays, ct_array = operands(case)
        inputs = [self._images(a) if a.ndim == 4 else self.torch.from_numpy(a.copy())
                  for a in arrays]
        for x in inputs:
            x.requires_grad_(x.is_floating_point())
        ct = self._images(ct_array) if ct_array.ndim == 4 else self.torch.from_numpy(ct_array)
        call = self._function(case)

        def forward() -> Array:
            with self.torch.no_grad():
                y: Array = call(*inputs).numpy()
            return y

        def both() -> Array:
            call(*inputs).backward(ct)
            first: Array = inputs[0].grad.numpy()
            for x in inputs:
                x.grad = None
            return first

        return {"forward": forward, "both": both}

    def _function(self, case: Case) -> Any:
        f, size = self.functional, case.settings.get("kernel_size")
        table = {
            "relu": f.relu, "max_pool2d": lambda x: f.max_pool2d(x, size),
            "avg_pool2d": lambda x: f.avg_pool2d(x, size),
            "global_avg_pool2d": lambda x: x.mean((2, 3)),
            "batch_norm": lambda x, w, b: f.batch_norm(x, None, None, w, b, training=True),
            "linear": lambda x, w, b: self.torch.addmm(b, x, w),
            "cross_entropy": f.cross_entropy, "sum": lambda x: x.sum(),
            "add": lambda a, b: a + (b if a.ndim == b.ndim else b.view(1, -1, 1, 1)),
        }
        if case.name not in table:
            raise NotImplementedError(f"torch: no counterpart of {case.name} here")
        return table[case.name]


def open(variant: str, threads: int) -> PyTorch:
    """Import PyTorch."""
    return PyTorch(variant, threads)
