"""Where compiled kernels are chosen, and what is chosen where they are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.kernels import compiled, conv
from tinygrad_cnn.kernels.compiled import get_compiled, set_compiled

ROOT = Path(__file__).parents[2]
PLAIN = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
IMAGES, FILTERS = np.ones((8, 16, 16, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)


@pytest.fixture
def installed(monkeypatch):
    """Say whether numba is there, whatever is."""
    def say(answer):
        monkeypatch.setattr(compiled, "_installed", lambda: answer)
    return say


@pytest.mark.parametrize("on", [1, 0, None, "yes", np.True_])
def test_what_is_not_a_bool_is_refused(on):
    before = get_compiled()
    with pytest.raises(tc.SettingError, match="set_compiled: on must be True or False, got "):
        set_compiled(on)
    assert get_compiled() == before


def test_without_the_compiler_it_says_what_to_install(installed):
    installed(False)
    assert not get_compiled()
    with pytest.raises(tc.MissingExtraError) as caught:
        set_compiled(True)
    assert str(caught.value) == ("compiled kernels need the package numba, which is not installed: "
                                 'pip install "tinygrad-cnn[fast]"')
    assert not get_compiled()
    with set_compiled(False):
        assert not get_compiled()


def test_the_default_is_to_compile_where_that_is_possible(installed):
    for answer in (True, False, True):
        installed(answer)
        assert get_compiled() is answer


def test_a_block_puts_back_what_was_chosen_before(installed):
    installed(True)
    with set_compiled(False):
        assert not get_compiled()
        with set_compiled(True):
            assert get_compiled()
        assert not get_compiled()
    assert get_compiled()
    with pytest.raises(ZeroDivisionError), set_compiled(False):
        raise ZeroDivisionError
    assert get_compiled()


def test_a_block_puts_back_the_default_and_not_its_answer(installed):
    installed(True)
    with set_compiled(False):
        pass
    installed(False)
    assert not get_compiled(), "the default follows what is installed"


def test_a_call_sets_it_for_good(installed):
    installed(True)
    guard = set_compiled(False)
    try:
        assert not get_compiled()
    finally:
        guard.__exit__(None, None, None)
    assert get_compiled()


def test_compiled_kernels_are_tried_first_where_they_are_chosen(installed):
    installed(True)
    assert conv.choose("conv2d")(IMAGES, FILTERS, **PLAIN)[0] == "compiled"
    with set_compiled(False):
        assert "compiled" not in conv.choose("conv2d")(IMAGES, FILTERS, **PLAIN)
    installed(False)
    assert "compiled" not in conv.choose("conv2d")(IMAGES, FILTERS, **PLAIN)


@pytest.mark.parametrize("images, filters, why", [
    ((1, 4, 4, 1), (3, 3, 1, 1), "too small to be worth a call"),
    ((2, 8, 8, 128), (3, 3, 128, 128), "wide enough for tiles in both directions"),
])
def test_some_shapes_are_left_to_numpy(images, filters, why, installed):
    installed(True)
    names = conv.choose("conv2d")(np.ones(images, np.float32), np.ones(filters, np.float32),
                                  **PLAIN)
    assert "compiled" not in names, why


def test_without_the_compiler_every_face_is_declined(installed):
    installed(False)
    y = np.ones((8, 16, 16, 4), np.float32)
    kernels = conv.BACKENDS["compiled"]
    assert kernels.conv2d(IMAGES, FILTERS, **PLAIN) is NotImplemented
    assert kernels.conv2d_input(y, FILTERS, image_size=(16, 16), **PLAIN) is NotImplemented
    assert kernels.conv2d_weight(IMAGES, y, kernel_size=(3, 3), **PLAIN) is NotImplemented
    assert compiled.module("passes", np.dtype(np.float32)) is None


def test_a_forced_kernel_that_is_not_installed_gives_way_to_the_next(installed):
    installed(False)
    with tc.use_kernels("compiled"):
        y = tc.conv2d(tc.Tensor(IMAGES), tc.Tensor(FILTERS), padding=1)
    np.testing.assert_allclose(y.data[0, 5, 5], 36, rtol=1e-5)


def test_a_training_step_runs_where_the_compiler_cannot_be_found():
    """As on a machine without the extra: numba is hidden from the import system."""
    code = ("import sys\n"
            "class Hidden:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] in ('numba', 'llvmlite'): raise ImportError(name)\n"
            "import importlib.util\n"
            "found = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda n, *a: None if n == 'numba' else found(n, *a)\n"
            "sys.meta_path.insert(0, Hidden())\n"
            "import numpy as np, tinygrad_cnn as tc\n"
            "x = tc.Tensor(np.ones((16, 32, 32, 4), np.float32))\n"
            "w = tc.Parameter(np.ones((3, 3, 4, 4), np.float32))\n"
            "s, b = (tc.Parameter(np.ones(4, np.float32)) for _ in range(2))\n"
            "y = tc.relu(tc.batch_norm(tc.conv2d(x, w, padding=1), s, b))\n"
            "tc.max_pool2d(y, kernel_size=2).sum().backward()\n"
            "print(tc.get_compiled(), w.grad.shape, 'numba' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=ROOT)
    assert done.stdout.strip() == "False (3, 3, 4, 4) False"
