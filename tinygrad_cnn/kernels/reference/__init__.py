"""The oracle: every windowed op as the loops of a textbook, slow and obviously right.

One pixel of one channel of one image at a time, in the order in which the formula is written.  The
fast kernels are checked against these, and ``tinygrad_cnn.stepwise`` teaches with them, so nothing
here is clever, and nothing is shared with the fast files.  Every case is taken: any stride,
asymmetric padding, dilation, groups, any float or complex dtype (a maximum of complex numbers
compares real parts).

Settings arrive in one form: ``stride`` and ``dilation`` are pairs (down, across), ``padding`` is
((top, bottom), (left, right)), axes are counted from the front.  Images N H W C, filters
KH KW C/groups O, results N OH OW O.
"""

from tinygrad_cnn.kernels.reference.convolution import (
    conv2d,
    conv2d_input,
    conv2d_weight,
    single_step,
)
from tinygrad_cnn.kernels.reference.padding import crop, pad, remove_padding, zero_pad
from tinygrad_cnn.kernels.reference.pooling import (
    avg_pool2d,
    avg_pool2d_input,
    equal_share,
    fold,
    gather_max,
    mask_of_maxima,
    max_pool2d,
    scatter_max,
    spread_maxima,
    unfold,
)
from tinygrad_cnn.kernels.reference.rows import (
    batch_statistics,
    cross_entropy,
    linear,
    log_softmax,
    logsumexp,
    matmul,
    softmax,
)

__all__ = [
    "avg_pool2d", "avg_pool2d_input", "batch_statistics", "conv2d", "conv2d_input", "conv2d_weight",
    "crop", "cross_entropy", "equal_share", "fold", "gather_max", "linear", "log_softmax",
    "logsumexp", "mask_of_maxima", "matmul", "max_pool2d", "pad", "remove_padding", "scatter_max",
    "single_step", "softmax", "spread_maxima", "unfold", "zero_pad",
]
