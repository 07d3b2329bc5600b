"""Mistakes in the rules of pooling and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutation.mutant import Mutant, broken, post
from tinygrad_cnn.core.op import Array

__all__ = ["MUTANTS"]


def _window(x: Array, n: int, i: int, j: int, c: int, s: dict[str, Any]) -> list[tuple[int, int]]:
    """The pixels of a window that lie in the image, in reading order."""
    (kh, kw), (sh, sw), ((top, _), (left, _)) = s["kernel_size"], s["stride"], s["padding"]
    return [(h, k) for h in range(i * sh - top, i * sh - top + kh)
            for k in range(j * sw - left, j * sw - left + kw)
            if 0 <= h < x.shape[1] and 0 <= k < x.shape[2]]


def _by_hand(choose: Callable[..., dict[tuple[int, int], float]], *, add: bool = True,
             rows: Callable[[int], int] = lambda oh: oh) -> Callable[..., Array]:
    """The rule by loops: ``choose(values, places)`` says what share each pixel gets."""
    def rule(right: Any, *tensors: Any, **s: Any) -> Array:
        ct, _, x = tensors[:3]
        dx = np.zeros_like(x)
        for n, i, j, c in np.ndindex(*ct.shape):
            if i >= rows(ct.shape[1]):
                continue
            places = _window(x, n, i, j, c, s)
            if not places:
                continue
            values = [x[n, h, k, c] for h, k in places]
            for (h, k), share in choose(values, places).items():
                part = share * ct[n, i, j, c]
                dx[n, h, k, c] = dx[n, h, k, c] + part if add else part
        return dx
    return rule


def _first(values: list[float], places: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    return {places[int(np.argmax(values))]: 1.0}


def _last(values: list[float], places: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    return {places[len(values) - 1 - int(np.argmax(values[::-1]))]: 1.0}


def _all(values: list[float], places: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    return {p: 1.0 for p, v in zip(places, values, strict=True) if v == max(values)}


def _average(values: list[float], places: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    return {p: 1 / len(places) for p in places}


def _smallest(values: list[float], places: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
    return {places[int(np.argmin(values))]: 1.0}


def _kernel_as_stride(right: Any, *tensors: Any, **s: Any) -> Array:
    return _by_hand(_first)(right, *tensors, **{**s, "stride": s["kernel_size"]})


def _unravel_by_height(right: Any, ct: Any, out: Any, x: Any, *, argmax_indices: Array,
                       **s: Any) -> Array:
    """The place in the window is taken apart with the height of the window, not its width."""
    (kh, _), (sh, sw), ((top, _), (left, _)) = s["kernel_size"], s["stride"], s["padding"]
    dx = np.zeros_like(x)
    for n, i, j, c in np.ndindex(*ct.shape):
        u, v = divmod(int(argmax_indices[n, i, j, c]), kh)
        h, k = i * sh + u - top, j * sw + v - left
        if 0 <= h < dx.shape[1] and 0 <= k < dx.shape[2]:
            dx[n, h, k, c] += ct[n, i, j, c]
    return dx


def _channel_0(right: Any, ct: Any, out: Any, x: Any, *, argmax_indices: Array, **s: Any) -> Any:
    """Every channel is sent where channel 0 has its maximum."""
    first = np.repeat(argmax_indices[..., :1], argmax_indices.shape[3], axis=3)
    return right(ct, out, x, argmax_indices=first, **s)


def _sample_0(right: Any, ct: Any, out: Any, x: Any, *, argmax_indices: Array, **s: Any) -> Any:
    first = np.repeat(argmax_indices[:1], len(argmax_indices), axis=0)
    return right(ct, out, x, argmax_indices=first, **s)


def _divided_by(count: Callable[[dict[str, Any]], float]) -> Callable[..., Array]:
    """An average whose windows are divided by something else."""
    def rule(right: Any, ct: Any, *rest: Any, **s: Any) -> Array:
        made: Array = right(ct, *rest, **s)
        kh, kw = s["kernel_size"]
        return np.asarray(made * (kh * kw) / count(s))
    return rule


def _never_the_padding(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    return right(ct, out, x, **{**s, "count_include_pad": not s["count_include_pad"]})


def _pad_width(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """Unpadding with other pad_width, put back into the shape of the input."""
    def rule(right: Any, ct: Any, out: Any, x: Any, *, pad_width: Any, **s: Any) -> Array:
        other = change(pad_width)
        padded = np.pad(ct, [(0, max(0, a + b - c - d)) for (a, b), (c, d)
                                  in zip(other, pad_width, strict=True)])
        crop = tuple(slice(a, a + n) for (a, _), n in zip(other, x.shape, strict=True))
        made = padded[crop]
        return np.asarray(np.pad(made, [(0, n - m) for n, m in
                                        zip(x.shape, made.shape, strict=True)]))
    return rule


def _sides_swapped(pad_width: Any) -> Any:
    return tuple((b, a) for a, b in pad_width)


def _one_late(pad_width: Any) -> Any:
    return tuple((a + 1, b) if a or b else (a, b) for a, b in pad_width)


def _crop_only(right: Any, ct: Any, out: Any, x: Any, *, pad_width: Any, **s: Any) -> Array:
    """The copies of entries, which modes other than constant make, are dropped."""
    return np.asarray(ct[tuple(slice(a, a + n) for (a, _), n
                                    in zip(pad_width, x.shape, strict=True))])


MUTANTS = (
    Mutant("M01", "max_pool2d", "every maximum of a tie gets it", "ties",
           broken("max_pool2d", "x", _by_hand(_all))),
    Mutant("M02", "max_pool2d", "overlaps overwritten", "overwritten",
           broken("max_pool2d", "x", _by_hand(_first, add=False))),
    Mutant("M03", "max_pool2d", "the last maximum of a tie gets it", "ties",
           broken("max_pool2d", "x", _by_hand(_last))),
    Mutant("M04", "max_pool2d", "place taken apart with KH", "wrong place",
           broken("max_pool2d", "x", _unravel_by_height)),
    Mutant("M05", "max_pool2d", "kernel size as stride", "stride",
           broken("max_pool2d", "x", _kernel_as_stride)),
    Mutant("M06", "max_pool2d", "the smallest gets it", "wrong place",
           broken("max_pool2d", "x", _by_hand(_smallest))),
    Mutant("M07", "max_pool2d", "everyone in the window gets a share", "spread out",
           broken("max_pool2d", "x", _by_hand(_average))),
    Mutant("M08", "max_pool2d", "stops after the first row", "one slice",
           broken("max_pool2d", "x", _by_hand(_first, rows=lambda oh: 1))),
    Mutant("M09", "max_pool2d", "argmax_indices of sample 0 for all", "one sample",
           broken("max_pool2d", "x", _sample_0)),
    Mutant("M10", "max_pool2d", "argmax_indices of channel 0 for all", "one slice",
           broken("max_pool2d", "x", _channel_0)),
    Mutant("M11", "max_pool2d_shared", "twice the cotangent", "scale",
           post("max_pool2d_shared", "x", lambda r: 2 * r)),
    Mutant("A01", "avg_pool2d", "not divided", "sum",
           broken("avg_pool2d", "x", _divided_by(lambda s: 1.0))),
    Mutant("A02", "avg_pool2d", "divided by KH twice", "scale", broken(
        "avg_pool2d", "x", _divided_by(lambda s: s["kernel_size"][0] ** 2 + 0.5))),
    Mutant("A03", "avg_pool2d", "padding counted the other way", "setting",
           broken("avg_pool2d", "x", _never_the_padding)),
    Mutant("P01", "pad", "before and after swapped", "shifted",
           broken("pad", "x", _pad_width(_sides_swapped))),
    Mutant("P02", "pad", "copies dropped", "overwritten", broken("pad", "x", _crop_only)),
    Mutant("P03", "pad", "one late", "shifted", broken("pad", "x", _pad_width(_one_late))),
    Mutant("P04", "crop", "a border of ones", "extra", broken(
        "crop", "y", lambda right, ct, out, y, *, pad_width, mode: np.pad(
            ct, pad_width, constant_values=1.0))),
)
