"""Mistakes in the rules of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutation.mutant import Mutant, broken, post
from tinygrad_cnn.core.op import Array

__all__ = ["MUTANTS"]

Place = Callable[[int, int, int, int, dict[str, Any]], tuple[int, int]]


def _right_place(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    """The pixel under entry (u, v) of the window (i, j)."""
    (sh, sw), (dh, dw), ((top, _), (left, _)) = s["stride"], s["dilation"], s["padding"]
    return i * sh + u * dh - top, j * sw + v * dw - left


def _by_hand(place: Place = _right_place, *, add: bool = True,
             windows: Callable[[int, int], tuple[int, int]] = lambda oh, ow: (oh, ow),
             group: Callable[[int, int], int] = lambda g, groups: g) -> Callable[..., Array]:
    """The input gradient by loops over windows, with one thing changed."""
    def rule(right: Any, *tensors: Any, **s: Any) -> Array:
        ct, _, x, w = tensors[:4]
        dx = np.zeros_like(x)
        groups = s["groups"]
        c, o = x.shape[3] // groups, ct.shape[3] // groups
        rows, columns = windows(*ct.shape[1:3])
        for i, j in np.ndindex(rows, columns):
            for u, v in np.ndindex(*w.shape[:2]):
                h, k = place(i, j, u, v, s)
                if not (0 <= h < x.shape[1] and 0 <= k < x.shape[2]):
                    continue
                for g in range(groups):
                    other = group(g, groups)
                    part = ct[:, i, j, g * o:(g + 1) * o] @ w[u, v, :, g * o:(g + 1) * o].T
                    where = (slice(None), h, k, slice(other * c, (other + 1) * c))
                    dx[where] = dx[where] + part if add else part
        return dx
    return rule


def _stride_ignored(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, u, v, {**s, "stride": (1, 1)})


def _dilation_ignored(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, u, v, {**s, "dilation": (1, 1)})


def _strides_swapped(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, u, v, {**s, "stride": s["stride"][::-1]})


def _no_crop(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, u, v, {**s, "padding": ((0, 0), (0, 0))})


def _crop_late(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    h, k = _right_place(i, j, u, v, s)
    return h - 1, k


def _padding_swapped(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, u, v, {**s, "padding": s["padding"][::-1]})


def _window_transposed(i: int, j: int, u: int, v: int, s: dict[str, Any]) -> tuple[int, int]:
    return _right_place(i, j, v, u, s)


def _not_turned(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None, **s: Any) -> Any:
    from_the_wrong_end = np.ascontiguousarray(w[::-1, ::-1])
    return right(ct, out, x, from_the_wrong_end, b, **s)


def _channels_reversed(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None,
                       **s: Any) -> Array:
    return np.asarray(right(ct, out, x, w, b, **s)[..., ::-1])


def _first_sample(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None, **s: Any) -> Any:
    only = ct.copy()
    only[1:] = 0
    return right(only, out, x, w, b, **s)


def _weights_at_stride_1(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None,
                         **s: Any) -> Array:
    return _gathered(ct, x, w.shape, {**s, "stride": (1, 1)})


def _weights_without_dilation(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None,
                              **s: Any) -> Array:
    return _gathered(ct, x, w.shape, {**s, "dilation": (1, 1)})


def _gathered(ct: Array, x: Array, shape: tuple[int, ...], s: dict[str, Any]) -> Array:
    """The filter gradient by loops over windows."""
    dw = np.zeros(shape, x.dtype)
    groups = s["groups"]
    c, o = x.shape[3] // groups, ct.shape[3] // groups
    for i, j in np.ndindex(*ct.shape[1:3]):
        for u, v in np.ndindex(*shape[:2]):
            h, k = _right_place(i, j, u, v, s)
            if 0 <= h < x.shape[1] and 0 <= k < x.shape[2]:
                for g in range(groups):
                    own = slice(g * o, (g + 1) * o)
                    dw[u, v, :, own] += x[:, h, k, g * c:(g + 1) * c].T @ ct[:, i, j, own]
    return dw


def _bias(change: Callable[[Array], Array]) -> Callable[..., Array]:
    """A bias gradient made by hand from the cotangent N OH OW O."""
    return lambda right, ct, *rest, **s: change(ct)


def _used_area(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None, **s: Any) -> Array:
    """Without the strip of pixels that no window reaches."""
    dx = right(ct, out, x, w, b, **s)
    used = [(n - 1) * st + (k - 1) * d + 1 - p[0] for n, st, k, d, p in
            zip(ct.shape[1:3], s["stride"], w.shape[:2], s["dilation"], s["padding"], strict=True)]
    return np.asarray(dx[:, :max(used[0], 1), :max(used[1], 1)])


def _strip_filled(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None, **s: Any) -> Array:
    """The strip that no window reaches repeats the last row that one does."""
    dx = np.array(right(ct, out, x, w, b, **s))
    reached = (ct.shape[1] - 1) * s["stride"][0] + (w.shape[0] - 1) * s["dilation"][0] + 1 \
        - s["padding"][0][0]
    if 0 < reached < dx.shape[1]:
        dx[:, reached:] = dx[:, reached - 1:reached]
    return dx


def _turned_about(right: Any, ct: Any, out: Any, x: Any, w: Any, b: Any = None, **s: Any) -> Array:
    """Transposed convolution, with the filters' entries taken from the wrong end."""
    return np.asarray(right(ct, out, x, np.ascontiguousarray(w[::-1, ::-1]), b,
                            **s))


def _through_float32(r: Array) -> Array:
    return np.asarray((r * (1 + 2.0 ** -26)).astype(np.float32).astype(r.dtype))


MUTANTS = (
    Mutant("C01", "conv2d", "filters are not turned", "flipped",
           broken("conv2d", "x", _not_turned)),
    Mutant("C02", "conv2d", "stride ignored in dx", "stride",
           broken("conv2d", "x", _by_hand(_stride_ignored))),
    Mutant("C03", "conv2d", "crop one late", "shifted",
           broken("conv2d", "x", _by_hand(_crop_late))),
    Mutant("C04", "conv2d", "padding not cropped", "padding",
           broken("conv2d", "x", _by_hand(_no_crop))),
    Mutant("C05", "conv2d", "overlaps overwritten", "overwritten",
           broken("conv2d", "x", _by_hand(add=False))),
    Mutant("C06", "conv2d", "db is a mean over the batch", "mean",
           broken("conv2d", "b", _bias(lambda g: g.sum((1, 2)).mean(0)))),
    Mutant("C07", "conv2d", "db is a mean over all pixels", "mean",
           broken("conv2d", "b", _bias(lambda g: g.mean((0, 1, 2))))),
    Mutant("C08", "conv2d", "dw divided by N OH OW", "mean", broken(
        "conv2d", "w", lambda right, ct, *rest, **s:
        right(ct, *rest, **s) / ct[..., 0].size)),
    Mutant("C09", "conv2d", "strides swapped", "stride",
           broken("conv2d", "x", _by_hand(_strides_swapped))),
    Mutant("C10", "conv2d", "padding down and across swapped", "padding",
           broken("conv2d", "x", _by_hand(_padding_swapped))),
    Mutant("C11", "conv2d", "filters transposed", "transposed",
           broken("conv2d", "x", _by_hand(_window_transposed))),
    Mutant("C12", "conv2d", "dilation ignored in dx", "dilation",
           broken("conv2d", "x", _by_hand(_dilation_ignored))),
    Mutant("C13", "conv2d", "dw gathered at stride 1", "stride",
           broken("conv2d", "w", _weights_at_stride_1)),
    Mutant("C14", "conv2d", "channels in reverse order", "flipped",
           broken("conv2d", "x", _channels_reversed)),
    Mutant("C15", "conv2d", "groups in reverse order", "permuted",
           broken("conv2d", "x", _by_hand(group=lambda g, groups: groups - 1 - g))),
    Mutant("C16", "conv2d", "db from one column of pixels", "one slice",
           broken("conv2d", "b", _bias(lambda g: g[:, :, 0].sum((0, 1))))),
    Mutant("C17", "conv2d", "dilation ignored in dw", "dilation",
           broken("conv2d", "w", _weights_without_dilation)),
    Mutant("C18", "conv2d", "dx through float16", "rounded", post(
        "conv2d", "x", lambda r: (r / 2 ** 20).astype(np.float16).astype(r.dtype) * 2 ** 20)),
    Mutant("C19", "conv2d", "dw times 1.0005", "scale", post("conv2d", "w", lambda r: r * 1.0005)),
    Mutant("C20", "conv2d", "db subtracted", "sign", post("conv2d", "b", lambda r: -r)),
    Mutant("C21", "conv2d", "db ignores the cotangent", "ignores ct",
           broken("conv2d", "b", _bias(lambda g: np.full(g.shape[3], float(g[..., 0].size),
                                                         g.dtype)))),
    Mutant("C22", "conv2d", "dw through float32", "rounded",
           post("conv2d", "w", _through_float32)),
    Mutant("C23", "conv2d", "dx of the used area only", "shape", broken("conv2d", "x", _used_area)),
    Mutant("C24", "conv2d", "dw of the first sample only", "one sample",
           broken("conv2d", "w", _first_sample)),
    Mutant("C25", "conv2d", "last row of windows left out", "one border window",
           broken("conv2d", "x", _by_hand(windows=lambda oh, ow: (max(oh - 1, 1), ow)))),
    Mutant("C26", "conv2d", "the leftover strip is filled", "leftover",
           broken("conv2d", "x", _strip_filled)),
    Mutant("C27", "conv2d_input", "dy with the filters turned", "flipped", broken(
        "conv2d_input", "y", lambda right, ct, out, y, w, **s: right(
            ct, out, y, np.ascontiguousarray(w[::-1, ::-1]), **s))),
    Mutant("C28", "conv2d_weight", "dx of single precision", "rounded", post(
        "conv2d_weight", "x", _through_float32)),
    Mutant("T01", "conv_transpose2d", "filters are turned", "flipped",
           broken("conv_transpose2d", "x", _turned_about)),
    Mutant("T02", "conv_transpose2d", "db without the last row", "one border window", broken(
        "conv_transpose2d", "b", lambda right, ct, *rest, **s: ct[:, :-1].sum((0, 1, 2))
        if ct.shape[1] > 1 else ct.sum((0, 1, 2)))),
    Mutant("T03", "conv_transpose2d", "dw transposed in its channels", "permuted", broken(
        "conv_transpose2d", "w", lambda right, *args, **s: (
            lambda r: r.transpose(0, 1, 3, 2).reshape(r.shape))(right(*args, **s)))),
)
