"""The input gradient of a convolution whose images have fewer channels than its results.

The forward convolution with turned filters would copy KH·KW·O numbers for each pixel; here one
matrix product gives what each tap of a window sends to each channel, and KH·KW·C numbers for each
pixel are added where they belong.  The results stand in a frame of zeros as wide as the padded
images, so that a tap is one shift of the whole block, and an addition runs along all of its pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.kernels.blocks import borrowed, move
from tinygrad_cnn.kernels.threads import get_num_threads, parallel
from tinygrad_cnn.shapes import Pair, Sides, reach

__all__ = ["fits", "spread_taps"]

Array = NDArray[Any]

_BUDGET = 1 << 18           # numbers that taps send in a block: 2 MB of float64


def fits(w: tuple[int, ...], stride: Pair, groups: int) -> bool:
    """Whether so few channels receive from so many that adding costs less than copying."""
    return groups == 1 and stride == (1, 1) and w[2] <= 4 and 2 * w[2] <= w[3]


def spread_taps(y: Array, w: Array, x: Array, padding: Sides, dilation: Pair) -> None:
    """Write the adjoint of a convolution at stride 1, of N OH OW O and KH KW C O, into N H W C."""
    (n, oh, ow, o), (kh, kw, c, _), (_, h, width, _) = y.shape, w.shape, x.shape
    (dh, dw), ((top, _), (left, _)) = dilation, padding
    rows = max(top + h, oh - 1 + reach(kh, dh))
    columns = max(left + width, ow - 1 + reach(kw, dw))
    taps = np.ascontiguousarray(w, x.dtype).reshape(-1, o)   # KH·KW·C O
    shifts = [u * dh * columns + v * dw for u in range(kh) for v in range(kw)]
    step = max(1, min(-(-n // get_num_threads()),
                      _BUDGET // max(1, len(taps) * rows * columns)))
    starts = range(0, n, step)

    def work(low: int, high: int) -> None:
        for start in starts[low:high]:
            images = slice(start, min(start + step, n))
            count = images.stop - start
            pixels = count * rows * columns
            with borrowed(x.dtype, (count, rows, columns, o), (kh * kw, c, pixels),
                          (c, pixels)) as (frame, sent, canvas):
                frame[:, oh:] = 0
                frame[:, :oh, ow:] = 0
                move(frame[:, :oh, :ow], y[images])
                np.matmul(taps, frame.reshape(pixels, o).T, out=sent.reshape(len(taps), pixels))
                canvas[...] = sent[0]
                for tap, shift in enumerate(shifts[1:], start=1):
                    # What is pushed over the end was sent by the zeros of the frame.
                    np.add(canvas[:, shift:], sent[tap, :, :pixels - shift], out=canvas[:, shift:])
                whole = canvas.reshape(c, count, rows, columns)
                x[images] = whole[:, :, top:top + h, left:left + width].transpose(1, 2, 3, 0)

    parallel(len(starts), work)
