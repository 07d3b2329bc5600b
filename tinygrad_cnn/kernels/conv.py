"""conv2d and its two adjoints: the problem, worked out once, and the backends that solve it.

A `Problem` is a forward convolution.  conv2d_input is one of the cotangent with turned filters, for
each set of pixels that see the same taps; conv2d_weight is the adjoint of one in its filters.  A
backend is a module of three functions, which know of nothing else:

    applies(problem)               whether it serves these shapes, steps and dtypes
    forward(problem, x, w, b, y)   write the results into y, or decline with NotImplemented
    weight(problem, x, y)          the gradient of the filters, or NotImplemented

The order in which they are asked is a rule of thumb, and says what was measured.  A wrong choice
costs time, never correctness.  Inside a block of ``autotune``, times on this machine come first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from types import NotImplementedType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels import compiled, direct, winograd
from tinygrad_cnn.kernels.autotune import fastest, is_tuning
from tinygrad_cnn.kernels.compiled import get_compiled
from tinygrad_cnn.kernels.memory import allocate, empty, move
from tinygrad_cnn.kernels.parallel import parallel
from tinygrad_cnn.shapes import Pair, Shape, Sides
from tinygrad_cnn.types import Array, DType, Function

Answer: TypeAlias = Array | NotImplementedType          # which says that another kernel is asked

__all__ = ["BACKENDS", "Backend", "Problem", "choose", "kernels"]

_SMALL = 1 << 16            # products, below which calling compiled code costs more than it saves
_GROUP = 8                  # channels of a group, from which it is a problem of its own
_WIDE = 1 << 13             # filters of C·O channels, from which tiles beat compiled strips

_Dtypes = tuple[DType, DType]       # of the two arrays that a kernel reads


@dataclass(frozen=True, eq=False)       # compared by identity: there is one for each kind of call
class Problem:
    """A forward convolution: shapes, steps between pixels, and dtype."""

    images: Shape                       # N H W C
    filters: Shape                      # KH KW C/groups O
    results: Shape                      # N OH OW O
    stride: Pair
    origin: Pair                        # rows above and columns left of the images, may be negative
    dilation: Pair
    groups: int
    dtypes: _Dtypes
    whole: bool = True                  # else the results are every so many pixels of an array

    @cached_property
    def dtype(self) -> DType:
        """That of the results."""
        return np.result_type(*self.dtypes)

    @property
    def plain(self) -> bool:
        """Whether windows are dense, side by side, and of all channels."""
        return self.stride == self.dilation == (1, 1) and self.groups == 1 and self.whole


class _Part(NamedTuple):
    """Pixels that see the same taps; no problem if they see none."""

    pixels: tuple[slice, slice]
    taps: tuple[slice, slice]           # of the turned filters
    problem: Problem | None


@lru_cache(maxsize=1024)
def _problem(x: Shape, w: Shape, y: Shape | None, dtypes: _Dtypes, stride: Pair, padding: Sides,
             dilation: Pair, groups: int) -> Problem:
    """That of conv2d, or of conv2d_weight if there are results already, and of w only its size."""
    settings: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if y is None:
        y = shapes.conv2d(x, w, **settings)
    else:
        w = shapes.conv2d_weight(x, y, kernel_size=(w[0], w[1]), **settings)
    return Problem(x, w, y, stride, (padding[0][0], padding[1][0]), dilation, groups, dtypes)


@lru_cache(maxsize=1024)
def _parts(y: Shape, w: Shape, dtypes: _Dtypes, image_size: Pair, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> tuple[Shape, tuple[_Part, ...]]:
    """The images that conv2d_input makes, and the problems that make them."""
    out = shapes.conv2d_input(y, w, image_size=image_size, stride=stride, padding=padding,
                              dilation=dilation, groups=groups)
    found = []
    for rows, columns in itertools.product(*(
            shapes.phases(*axis) for axis in zip(image_size, w[:2], stride, (
                padding[0][0], padding[1][0]), dilation, strict=True))):
        pixels, taps = (rows.pixels, columns.pixels), (rows.taps, columns.taps)
        sizes = [len(range(n)[part]) for n, part in zip((*image_size, *w[:2]), (*pixels, *taps),
                                                        strict=True)]
        filters = (sizes[2], sizes[3], w[3] // groups, out[3])
        problem = Problem(y, filters, (out[0], sizes[0], sizes[1], out[3]), (1, 1),
                          (rows.padding, columns.padding), (rows.dilation, columns.dilation),
                          groups, dtypes, whole=stride == (1, 1))
        found.append(_Part(pixels, taps, problem if all(sizes) else None))
    return out, tuple(found)


class Backend(NamedTuple):
    """The kernels that a module serves."""

    conv2d: Function
    conv2d_input: Function
    conv2d_weight: Function


def _backend(find: Callable[[], Any]) -> Backend:
    """The kernels of a module that is found when it is first asked."""
    def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
               dilation: Pair, groups: int) -> Answer:
        """N H W C, KH KW C/groups O, O -> N OH OW O."""
        problem = _problem(x.shape, w.shape, None, (x.dtype, w.dtype), stride, padding, dilation,
                           groups)
        module = find()
        if module is None or not module.applies(problem):
            return NotImplemented
        y = allocate("conv2d", problem.results, problem.dtype)
        return y if module.forward(problem, x, w, b, y) is not NotImplemented else NotImplemented

    def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                     dilation: Pair, groups: int) -> Answer:
        """N OH OW O, KH KW C/groups O -> N H W C."""
        out, parts = _parts(y.shape, w.shape, (y.dtype, w.dtype), image_size, stride, padding,
                            dilation, groups)
        module = find()
        if module is None or not all(part.problem is None or module.applies(part.problem)
                                     for part in parts):
            return NotImplemented
        x = allocate("conv2d_input", out, np.result_type(y, w))
        kh, kw, c, o = w.shape
        turned = empty((kh, kw, o // groups, groups * c), w.dtype)
        np.copyto(turned.reshape(kh, kw, o // groups, groups, c),
                  w.reshape(kh, kw, c, groups, o // groups)[::-1, ::-1].transpose(0, 1, 4, 3, 2))
        for (rows, columns), taps, problem in parts:
            pixels = x[:, rows, columns]
            if problem is None:
                pixels[...] = 0                             # no window reaches these pixels
            elif module.forward(problem, y, turned[taps], None, pixels) is NotImplemented:
                return NotImplemented
        return x

    def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                      dilation: Pair, groups: int) -> Answer:
        """N H W C, N OH OW O -> KH KW C/groups O."""
        problem = _problem(x.shape, kernel_size, y.shape, (x.dtype, y.dtype), stride, padding,
                           dilation, groups)
        module = find()
        if module is None or not module.applies(problem):
            return NotImplemented
        return module.weight(problem, x, y)

    return Backend(conv2d, conv2d_input, conv2d_weight)


class _Split:
    """Groups of some channels and dilated windows, as several plain problems: a backend of its own.

    Every so many pixels of an image, as many as the dilation, make an image of their own, in which
    windows are dense.  What that costs is a copy; what it gains are the products of filtering.
    """

    @staticmethod
    def applies(problem: Problem) -> bool:
        """Where the copies are worth it, and there are tiles to fill."""
        return problem.whole and (problem.filters[2] >= _GROUP if problem.groups > 1 else
                                  problem.stride == (1, 1) != problem.dilation)

    @staticmethod
    def forward(problem: Problem, x: Array, w: Array, b: Array | None, y: Array) -> None:
        """N H W C, KH KW C/groups O, O -> N OH OW O, into ``y``."""
        for part in _plain_parts(problem):
            target, bias = y[part.results], None if b is None else b[part.filters[-1]]
            if not all(part.problem.images):
                target[...] = 0 if bias is None else bias
                continue
            made = empty(part.problem.results, y.dtype)
            _first(part.problem, "forward", _copied(x[part.images]),
                   np.ascontiguousarray(w[part.filters]), bias, made)
            _copied(made, target)

    @staticmethod
    def weight(problem: Problem, x: Array, y: Array) -> Array:
        """N H W C, N OH OW O -> KH KW C/groups O."""
        w = np.zeros(problem.filters, problem.dtype)
        for part in _plain_parts(problem):
            if all(part.problem.images):
                w[part.filters] += _first(part.problem, "weight", _copied(x[part.images]),
                                          _copied(y[part.results]))
        return w


class _Plain(NamedTuple):
    """Pixels and channels that are a plain problem: slices of images, filters and results."""

    images: tuple[slice, ...]
    filters: tuple[slice, ...]
    results: tuple[slice, ...]
    problem: Problem


@lru_cache(maxsize=1024)
def _plain_parts(problem: Problem) -> tuple[_Plain, ...]:
    every, found = slice(None), []
    c, o = problem.filters[2], problem.filters[3] // problem.groups
    apart = problem.dilation if problem.stride == (1, 1) else (1, 1)
    for group in range(problem.groups):
        own, made = (slice(group * size, (group + 1) * size) for size in (c, o))
        for offset in itertools.product(*map(range, apart)):
            first = [(i - before) % d for i, before, d in
                     zip(offset, problem.origin, apart, strict=True)]
            images = (every, *(slice(i, None, d) for i, d in zip(first, apart, strict=True)), own)
            results = (every, *(slice(i, None, d) for i, d in zip(offset, apart, strict=True)),
                       made)
            (n, h, w), (_, oh, ow) = (
                [len(range(size)[part]) for size, part in zip(shape, parts, strict=False)]
                for shape, parts in ((problem.images[:3], images), (problem.results[:3], results)))
            origin = [(r - i + before) // d for r, i, before, d in
                      zip(first, offset, problem.origin, apart, strict=True)]
            if oh and ow:
                found.append(_Plain(images, (every, every, every, made), results, Problem(
                    (n, h, w, c), (*problem.filters[:2], c, o), (n, oh, ow, o), problem.stride,
                    (origin[0], origin[1]), problem.dilation if apart == (1, 1) else (1, 1), 1,
                    problem.dtypes)))
    return tuple(found)


def _copied(x: Array, out: Array | None = None) -> Array:
    """``x`` in ``out``, or in memory of its own, side by side."""
    target = empty(x.shape, x.dtype) if out is None else out
    parallel(len(x), lambda low, high: move(target[low:high], x[low:high]), products=False)
    return target


def _first(problem: Problem, name: str, *arrays: Any) -> Any:
    """What the first backend gives that serves a plain problem."""
    modules: dict[str, Callable[[], Any]] = {
        "compiled": partial(compiled.load, "conv"), "winograd": lambda: winograd,
        "blas": lambda: direct}
    for kind in _ranked((problem,), get_compiled()):
        module = modules[kind]()
        if module is not None and module.applies(problem):
            made = getattr(module, name)(problem, *arrays)
            if made is not NotImplemented:
                return made
    raise AssertionError("direct takes every case")


BACKENDS = {"winograd": _backend(lambda: winograd), "blas": _backend(lambda: direct),
            "compiled": _backend(partial(compiled.load, "conv")),
            "split": _backend(lambda: _Split)}


def kernels(op: str) -> dict[str, Function]:
    """The kernels of conv2d, conv2d_input or conv2d_weight, by name."""
    return {name: getattr(backend, op) for name, backend in BACKENDS.items()}


def choose(op: str) -> Callable[..., tuple[str, ...]]:
    """A function of the arguments of the op: names of kernels in the order in which to ask them."""
    found = kernels(op)

    def ordered(first: Array, second: Array, *bias: Array | None,
                **settings: object) -> tuple[str, ...]:
        names = _order(op, first.shape, second.shape, (first.dtype, second.dtype), get_compiled(),
                       **settings)
        if not is_tuning():
            return names
        rivals = {name: found[name] for name in ("compiled", "split", "winograd", "blas")
                  if name != "compiled" or get_compiled()}
        best = fastest(op, rivals, (first, second, *bias), settings)
        return names if best is None else (best, *(name for name in names if name != best))

    return ordered


@lru_cache(maxsize=1024)
def _order(op: str, first: Shape, second: Shape, dtypes: _Dtypes, compiled: bool, *,
           image_size: Pair | None = None, kernel_size: Pair | None = None,
           **settings: object) -> tuple[str, ...]:
    """Names of kernels in the order in which to ask them."""
    if image_size is not None:
        parts = _parts(first, second, dtypes, image_size, **settings)[1]
        problems = [part.problem for part in parts if part.problem is not None]
    elif kernel_size is not None:
        problems = [_problem(first, kernel_size, second, dtypes, **settings)]
    else:
        problems = [_problem(first, second, None, dtypes, **settings)]
    return _ranked(tuple(problems), compiled)


def _ranked(problems: tuple[Problem, ...], compiled: bool) -> tuple[str, ...]:
    """The rule of thumb."""
    products = sum(math.prod(p.results[:3]) * math.prod(p.filters) for p in problems)
    if products >= _SMALL and problems and all(map(_Split.applies, problems)):
        return ("split", "blas")
    # Wherever it applies, Winograd took 0.4 to 0.9 of the time of patches: least where a layer has
    # hundreds of channels, most where it has one.
    filtered = all(map(winograd.applies, problems))
    names = ("winograd", "blas") if filtered else ("blas",)
    # Compiled, a convolution took 0.4 to 0.9 of NumPy's time: least at large strides and where
    # channels are few.  Layers of hundreds of channels save more by tiles, in both directions.
    wide = filtered and any(math.prod(p.filters[2:]) >= _WIDE for p in problems)
    return names if not compiled or wide or products < _SMALL else ("compiled", *names)
