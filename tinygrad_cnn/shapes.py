"""Shapes of images, windows and axes: integers only, no arrays.

Settings come in the one form that `checks` gives them: ``stride`` (down, across), ``padding``
((top, bottom), (left, right)), axes counted from the front.

Letters: images ``N H W C``, filters ``KH KW C/groups O``, results ``N OH OW O``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.types import Named

__all__ = [
    "Axis", "PaddingLike", "Pair", "PairLike", "Phase", "Shape", "Sides", "avg_pool2d",
    "bind_axes", "broadcast", "conv2d", "conv2d_input", "conv2d_weight",
    "effective_kernel_size", "max_pool2d", "output_size", "phases", "reduced", "same_padding",
]

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]               # down, across
Sides: TypeAlias = tuple[Pair, Pair]            # (top, bottom), (left, right)

# What public functions take for an axis or several, for a pair, and for padding.
Axis: TypeAlias = int | Sequence[int] | None
PairLike: TypeAlias = int | Sequence[int]
PaddingLike: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | str


# ---- arithmetic of windows -----------------------------------------------------------------------

def effective_kernel_size(kernel: int, dilation: int) -> int:
    """How many pixels a window spans along one axis."""
    return (kernel - 1) * dilation + 1


def output_size(n: int, kernel: int, stride: int, padding: Pair, dilation: int = 1) -> int:
    """How many whole windows fit along an axis of ``n`` pixels."""
    return (n + sum(padding) - effective_kernel_size(kernel, dilation)) // stride + 1


def same_padding(image: Sequence[int], kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    """Padding that makes OH = ceil(H / stride); an odd pixel goes to the bottom and the right."""
    out = []
    for n, k, s, d in zip(image, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + effective_kernel_size(k, d) - n)
        out.append((total // 2, total - total // 2))
    return out[0], out[1]


def _output_size(op: str, image: Sequence[int], kernel_size: Pair, stride: Pair,
                      padding: Sides, dilation: Pair = (1, 1), *, what: str = "window") -> Pair:
    """(OH, OW), or an error that says which setting is impossible."""
    for setting, value, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1),
                                  ("dilation", dilation, 1), ("padding", sum(padding, ()), 0)):
        if min(value) < least:
            raise SettingError(f"{op}: {setting} must be at least {least} along each axis, "
                               f"got {value if setting != 'padding' else padding}")
    out = []
    for n, k, s, p, d in zip(image, kernel_size, stride, padding, dilation, strict=True):
        out.append((n + p[0] + p[1] - (k - 1) * d - 1) // s + 1)        # as `output_size`
    if min(out) < 1:
        padded = tuple(n + sum(p) for n, p in zip(image, padding, strict=True))
        spread = "" if dilation == (1, 1) else f" with dilation {dilation}"
        raise ShapeError(f"{op}: a {what} of {tuple(kernel_size)}{spread} does not fit in an image "
                         f"of {tuple(image)} with padding {padding}, which is {padded} pixels; "
                         "use a smaller kernel_size or more padding")
    return out[0], out[1]


# ---- axis letters --------------------------------------------------------------------------------

def bind_axes(op: str, axes: str, shapes: Mapping[str, Shape | None],
              settings: Named) -> dict[str, int]:
    """Give each axis letter its size, or say which two inputs disagree about it.

    ``C/groups`` is an axis of C // groups entries.  An input that was left out is passed over.

    >>> bind_axes("matmul", "N I, I O -> N O", {"a": (2, 3), "b": (3, 4)}, {})
    {'N': 2, 'I': 3, 'O': 4}
    """
    patterns = [part.split() for part in axes.split("->")[0].split(",")]
    table = [(name, pattern, shape)
             for (name, shape), pattern in zip(shapes.items(), patterns, strict=True)
             if shape is not None]
    listing = "".join(f"\n  {name} ({' '.join(pattern)}) = {shape}"
                      for name, pattern, shape in table)
    size: dict[str, int] = {}
    seen_in: dict[str, str] = {}
    for name, pattern, shape in table:
        if len(pattern) != len(shape):
            axes = "axis" if len(pattern) == 1 else "axes"
            cure = ""
            if pattern[0] == "N" and len(shape) == len(pattern) - 1:
                cure = f"\none entry without the axis N? put it in front: {name}[None]"
            raise ShapeError(f"{op}: {name} needs {len(pattern)} {axes}, got {len(shape)}{listing}"
                             f"{cure}")
        for item, n in zip(pattern, shape, strict=True):
            letter, _, divisor = item.partition("/")
            parts = settings[divisor] if divisor else 1
            whole = n * parts
            if size.setdefault(letter, whole) != whole:
                here = f"{n}" if parts == 1 else f"{n} × {parts} {divisor} = {whole}"
                raise ShapeError(f"{op}: {letter} is {size[letter]} in {seen_in[letter]} "
                                 f"but {here} in {name}{listing}"
                                 f"{_channels_first(table[0], letter, whole)}")
            seen_in.setdefault(letter, name)
    return size


def _channels_first(first: tuple[str, list[str], Shape], letter: str, channels: int) -> str:
    """The cure for images N C H W, where there seem to be some."""
    name, pattern, shape = first
    if letter == "C" and pattern == ["N", "H", "W", "C"] and (
            shape[1] == channels != shape[2] == shape[3]):
        return f"\n{name} looks like N C H W; make it N H W C: transpose({name}, (0, 2, 3, 1))"
    return ""


def broadcast(op: str, **shapes: Shape) -> Shape:
    """The shape that NumPy's broadcasting gives, or an error that shows the inputs."""
    rank = max((len(s) for s in shapes.values()), default=0)
    out = []
    for i in range(-rank, 0):
        sizes = {s[i] for s in shapes.values() if len(s) >= -i}
        if len(sizes - {1}) > 1:
            listing = "".join(f"\n  {name} = {shape}" for name, shape in shapes.items())
            words = " in one input and ".join(map(str, sorted(sizes - {1})))
            raise ShapeError(f"{op}: axis {i} is {words} in another, and only an axis of 1 is "
                             f"stretched{listing}")
        out.append(max(sizes) if 0 not in sizes else 0)
    return tuple(out)


def reduced(shape: Shape, axis: Iterable[int], keepdims: bool) -> Shape:
    """The shape after a reduction over ``axis``, which is counted from the front."""
    gone = set(axis)
    if keepdims:
        return tuple(1 if i in gone else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in gone)


# ---- shape rules of the windowed ops, shared by ops and kernels ----------------------------------

def conv2d(x: Shape, w: Shape, b: Shape | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Shape:
    """N H W C, KH KW C/groups O -> N OH OW O."""
    (n, *image, _), (kh, kw, _, o) = x, w
    if groups < 1:
        raise SettingError(f"conv2d: groups must be at least 1, got {groups}")
    if not o:
        raise ShapeError(f"conv2d: w {tuple(w)} (KH KW C/groups O) holds no filter")
    if o % groups:
        raise ShapeError(f"conv2d: the number of filters, {o}, is not divisible by groups={groups}")
    out = _output_size("conv2d", image, (kh, kw), stride, padding, dilation, what="filter")
    return n, *out, o


def conv2d_input(y: Shape, w: Shape, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Shape:
    """N OH OW O, KH KW C/groups O -> N H W C."""
    x = (y[0], *image_size, w[2] * groups)
    made = conv2d(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if made != y:
        raise ShapeError(f"conv2d_input: y is {y}, but conv2d makes {made} of images {x}")
    return x


def conv2d_weight(x: Shape, y: Shape, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Shape:
    """N H W C, N OH OW O -> KH KW C/groups O."""
    if groups < 1 or x[3] % groups:
        raise ShapeError(f"conv2d_weight: the number of channels, {x[3]}, is not divisible by "
                         f"groups={groups}")
    w = (*kernel_size, x[3] // groups, y[3])
    made = conv2d(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if made != y:
        raise ShapeError(f"conv2d_weight: y is {y}, but conv2d makes {made} with filters {w}")
    return w


class Phase(NamedTuple):
    """Pixels of one axis that see the same taps of a filter, and how they see them."""

    pixels: slice
    taps: slice                 # of the turned filter
    padding: int                # before the results, may be negative
    dilation: int               # between the results that neighboring taps meet


def phases(n: int, taps: int, stride: int, pad: int, dilation: int) -> list[Phase]:
    """The input gradient of one axis as plain convolutions of the results at stride 1.

    Pixel h = a + stride·q meets result i at tap u where a + stride·q + pad = stride·i + dilation·u,
    so u must have dilation·u ≡ a + pad (mod stride).  Such taps are ``step`` apart, and the results
    that they meet are ``apart`` apart.

    Examples
    --------
    >>> [phase.taps for phase in phases(6, 3, stride=2, pad=1, dilation=1)]
    [slice(1, 2, 2), slice(0, 3, 2)]
    """
    step = stride // math.gcd(stride, dilation)
    apart = step * dilation // stride
    found = []
    for a in range(min(stride, n)):
        taps_met = [u for u in range(taps) if (a + pad - dilation * u) % stride == 0]
        if not taps_met:
            found.append(Phase(slice(a, None, stride), slice(0, 0), 0, 1))
            continue
        last = taps_met[-1]                             # it meets the first of the results
        first = (a + pad - dilation * last) // stride
        turned = slice(taps - 1 - last, taps - taps_met[0], step)
        found.append(Phase(slice(a, None, stride), turned, -first, apart))
    return found


def _pool(op: str, x: Shape, kernel_size: Pair, stride: Pair, padding: Sides) -> Shape:
    n, h, w, c = x
    out = _output_size(op, (h, w), kernel_size, stride, padding)
    if max(padding[0]) >= kernel_size[0] or max(padding[1]) >= kernel_size[1]:
        raise SettingError(f"{op}: padding {padding} leaves windows of {kernel_size} without a "
                           "single pixel of the image; padding must be smaller than kernel_size")
    return n, *out, c


def max_pool2d(x: Shape, *, kernel_size: Pair, stride: Pair, padding: Sides) -> Shape:
    """N H W C -> N OH OW C."""
    return _pool("max_pool2d", x, kernel_size, stride, padding)


def avg_pool2d(x: Shape, *, kernel_size: Pair, stride: Pair, padding: Sides,
               count_include_pad: bool) -> Shape:
    """N H W C -> N OH OW C."""
    return _pool("avg_pool2d", x, kernel_size, stride, padding)


def size(shape: Iterable[int]) -> int:
    """How many entries an array of this shape has."""
    return math.prod(shape)
