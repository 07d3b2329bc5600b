"""What holds for every test: single-threaded BLAS is not assumed, global state is put back."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core import graph, op
from tinygrad_cnn.ops import random


def _global_state() -> dict[str, object]:
    return {
        "recording, scope, observer": graph._state.get(),
        "forced kernels": op._forced.get(),
        "threads": tc.get_num_threads(),
        "numpy error handling": np.geterr(),
        "print options": {k: v for k, v in np.get_printoptions().items() if k != "formatter"},
        "warning filters": len(warnings.filters),
    }


@pytest.fixture(autouse=True)
def global_state_is_left_alone():
    """Fail a test that leaves global state changed; give each the same random numbers."""
    with contextlib.suppress(tc.SettingError):
        random.manual_seed(0)
    ops, functions = dict(tc.OPS), dict(op.FUNCTIONS)
    before = _global_state()
    yield
    after = _global_state()
    changed = [name for name, value in before.items() if after[name] != value]
    removed = set(ops) - set(tc.OPS)
    # Ops that a test declares are taken out again, so that tests do not see each other's.
    for registry, kept in ((tc.OPS, ops), (op.FUNCTIONS, functions)):
        for name in set(registry) - set(kept):
            del registry[name]
    assert not changed, f"the test left changed: {', '.join(changed)}"
    assert not removed, f"the test unregistered {removed}"
