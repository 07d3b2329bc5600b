"""The one module that checks settings: what passes, in which form, and the wording of refusals."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import checks, optim
from tinygrad_cnn.errors import SettingError, ShapeError


@pytest.mark.parametrize("call, found", [
    (lambda: checks.integer("f", "n", np.int8(3)), 3),
    (lambda: checks.integer("f", "n", 1, minimum=1, maximum=1), 1),
    (lambda: checks.number("f", "x", np.float32(0.5), minimum=0.5, maximum=0.5), 0.5),
    (lambda: checks.number("f", "x", math.inf, above=0, finite=False), math.inf),
    (lambda: checks.number("f", "x", 3), 3.0),
    (lambda: checks.flag("f", "b", np.True_), True),
    (lambda: checks.choice("f", "mode", "a", ("a", "b")), "a"),
    (lambda: checks.pair("f", "s", [1, 2]), (1, 2)),
    (lambda: checks.pad_width("f", ((1, 2), 3)), ((1, 2), (3, 3))),
    (lambda: checks.padding("f", "valid"), ((0, 0), (0, 0))),
    (lambda: checks.padding("f", "same", image=(5, 5), kernel=(3, 2)), ((1, 1), (0, 1))),
    (lambda: checks.axis_index("f", -1, (2, 3)), 1),
    (lambda: checks.axes_tuple("f", [1, -3], (2, 3, 4)), (0, 1)),
])
def test_what_passes_is_in_one_form(call, found):
    assert call() == found
    assert type(call()) is type(found)


@pytest.mark.parametrize("call, words", [
    (lambda v: checks.integer("f", "n", v), "an integer"),
    (lambda v: checks.integer("f", "n", v, minimum=1), "an integer of at least 1"),
    (lambda v: checks.integer("f", "n", v, maximum=-2), "an integer of at most -2"),
    (lambda v: checks.integer("f", "n", v, minimum=5, maximum=6), "an integer from 5 to 6"),
    (lambda v: checks.number("f", "n", v), "a finite number"),
    (lambda v: checks.number("f", "n", v, finite=False), "a number"),
    (lambda v: checks.number("f", "n", v, minimum=0), "a finite number of at least 0"),
    (lambda v: checks.number("f", "n", v, above=0), "a finite number above 0"),
    (lambda v: checks.number("f", "n", v, above=0, finite=False), "a number above 0"),
    (lambda v: checks.number("f", "n", v, maximum=-2), "a finite number of at most -2"),
    (lambda v: checks.number("f", "n", v, minimum=0, maximum=1), "a number from 0 to 1"),
    (lambda v: checks.number("f", "n", v, minimum=0, below=1),
     "a number from 0 up to, not including, 1"),
    (lambda v: checks.number("f", "n", v, above=0, below=1), "a finite number above 0 and below 1"),
    (lambda v: checks.pair("f", "n", v, minimum=0), "one integer or two (down, across)"),
    (lambda v: checks.pad_width("f", v, name="n"), "an integer, (down, across) or"),
    (lambda v: checks.flag("f", "n", v), "True or False"),
    (lambda v: checks.choice("f", "n", v, ("a", "b")), "one of a, b"),
])
def test_every_refusal_has_one_wording(call, words):
    refused = [None, "c", 1j, [1, 2, 3], tc.Tensor([1.0])]
    refused += [] if "True" in words else [True, np.False_]       # a boolean is no number
    for value in refused:
        with pytest.raises(SettingError, match=re.escape(f"f: n must be {words}")) as caught:
            call(value)
        assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("settings, values", [
    ({}, [math.nan, math.inf]), ({"finite": False, "above": 0}, [math.nan, 0.0]),
    ({"minimum": 1}, [0.5, math.inf]), ({"above": 1}, [1]), ({"maximum": 1}, [1.5, -math.inf]),
    ({"minimum": 0, "below": 1}, [1, -0.5]), ({"above": 0, "below": 1}, [0, 1])])
def test_bounds_of_a_number_are_kept(settings, values):
    for value in values:
        with pytest.raises(SettingError, match="n must be"):
            checks.number("f", "n", value, **settings)


def test_axes_that_do_not_exist_or_come_twice_are_refused():
    with pytest.raises(ShapeError, match=r"f: axis 2 does not exist in an array of shape \(2, 3\)"):
        checks.axis_index("f", 2, (2, 3))
    with pytest.raises(SettingError, match=r"f: axis \(0, -2\) names an axis twice"):
        checks.axes_tuple("f", (0, -2), (2, 3))


OPTIMIZERS = [cls for cls in vars(optim).values()
              if isinstance(cls, type) and issubclass(cls, optim.Optimizer)
              and cls is not optim.Optimizer]


@pytest.mark.parametrize("optimizer, name", [
    (o, n) for o in OPTIMIZERS for n in o.declared if n != "params"])
@pytest.mark.parametrize("value", [None, "1", -1.0, math.nan, (1.0, 2.0, 3.0)])
def test_every_setting_of_every_optimizer_is_checked(optimizer, name, value):
    def group():
        return {"params": [tc.Parameter([1.0])]}

    made = optimizer([group()], lr=0.1)
    with pytest.raises(SettingError, match=f"{optimizer.__name__}: {name} must be"):
        made.add_param_group(group() | {name: value})
    assert len(made.param_groups) == 1
