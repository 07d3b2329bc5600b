"""What happens when a declaration runs again, and what it takes besides its full form."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from tinygrad_cnn import OPS, DeclarationError, Sample, Tensor, custom_op
from tinygrad_cnn.testing import check_op

CELL = """
from tinygrad_cnn import Sample, custom_op
import numpy as np
@custom_op(shape=lambda x: x, vjp=lambda ct, out, x: ct * FACTOR,
           samples=[Sample("row", np.ones(3))])
def times_in_a_cell(x):
    return x * x.dtype.type(FACTOR)
"""


@pytest.mark.parametrize("edited", [CELL, CELL.replace("row", "another row")])
def test_a_cell_that_runs_again_replaces_the_op(edited):
    cell = {"__name__": "__main__", "FACTOR": 2.0}
    exec(compile(CELL, "<cell 1>", "exec"), cell)
    first = cell["times_in_a_cell"]
    cell["FACTOR"] = 3.0
    exec(compile(edited, "<cell 2>", "exec"), cell)
    assert OPS["times_in_a_cell"] is cell["times_in_a_cell"].op
    assert OPS["times_in_a_cell"] is not first.op
    assert cell["times_in_a_cell"](Tensor([1.0])).item() == 3.0
    assert check_op("times_in_a_cell").verdict == "right"


def test_a_module_that_is_loaded_again_replaces_its_ops(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ops_to_load_again.py").write_text("FACTOR = 2.0" + CELL)
    module = importlib.import_module("ops_to_load_again")
    (tmp_path / "ops_to_load_again.py").write_text("\n\nFACTOR = 5.00" + CELL)
    module = importlib.reload(module)
    assert OPS["times_in_a_cell"] is module.times_in_a_cell.op
    del sys.modules["ops_to_load_again"]


def test_an_op_of_the_same_name_from_elsewhere_is_refused_with_the_cure():
    exec(compile(CELL, "<cell 1>", "exec"), {"__name__": "__main__", "FACTOR": 2.0})
    other = {"__name__": "another_module", "FACTOR": 2.0}
    with pytest.raises(DeclarationError, match=r"already registered, by __main__; .*replace=True"):
        exec(compile(CELL, "<cell 1>", "exec"), other)
    exec(compile(CELL.replace("custom_op(", "custom_op(replace=True, "), "<cell 1>", "exec"), other)
    assert OPS["times_in_a_cell"] is other["times_in_a_cell"].op
    with pytest.raises(DeclarationError, match=r"relu is already registered, by tinygrad_cnn\."):
        @custom_op(shape=lambda x: x, vjp=lambda ct, out, x: ct, samples=[])
        def relu(x):
            return x.copy()


@pytest.mark.parametrize("args", [np.ones(3), (np.ones(3),), [np.ones(3)], ([1.0, 1.0, 1.0],)])
def test_the_arrays_of_a_sample_become_a_tuple(args):
    sample = Sample("row", args)
    assert isinstance(sample.args, tuple)
    np.testing.assert_array_equal(sample.args[0], np.ones(3))


@pytest.mark.parametrize("fields, words", [
    ({"vjp": lambda ct, out, a, b: ct, "shape": lambda a, b: a}, "name the rule of each"),
    ({"samples": 3}, "samples is int, expected a function"),
    ({"shape": (3,)}, "shape is tuple, expected a function"),
])
def test_what_a_declaration_cannot_mean_is_refused_at_once(fields, words):
    given = {"shape": lambda x: x, "vjp": lambda ct, out, x: ct, "samples": [], **fields}
    with pytest.raises(DeclarationError, match=words):
        custom_op(**given)(lambda x: x)


def test_a_sample_that_holds_no_arrays_is_refused():
    with pytest.raises(DeclarationError, match="Sample 'row': args is int, expected a tuple"):
        Sample("row", 3)
