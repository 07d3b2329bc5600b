"""`detect_anomaly` names the op that made the first NaN or infinity, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, nn
from tinygrad_cnn.core import apply
from tinygrad_cnn.core.op import OPS, Op


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_op_that_makes_it_is_named_in_the_forward_pass(name, value, monkeypatch):
    op, run = OPS[name], Op.run
    for sample in list(op.test.samples(np.random.default_rng(0)))[:2]:
        leaves = [None if a is None else Tensor(a, requires_grad=a.dtype.kind == "f")
                  for a in sample.args]
        y = apply(op, *leaves, **sample.settings)
        if not y.size or y.dtype.kind != "f" or not np.isfinite(y.numpy()).all():
            continue
        place = tuple(n - 1 for n in y.shape)

        def spoiled(self, *arrays, place=place, **settings):
            y, residuals = run(self, *arrays, **settings)
            y = np.array(y)
            y[place] = value
            return y, residuals

        with monkeypatch.context() as patch:
            patch.setattr(Op, "run", spoiled)
            with tc.detect_anomaly(), pytest.raises(tc.AnomalyError) as caught:
                apply(op, *leaves, **sample.settings)
        said = str(caught.value)
        assert f"{name}: the result holds {value} at index {place}; 1 of {y.size}" in said
        assert "test_anomaly.py:" in said
        assert "already" not in said


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if not op.variadic])
def test_the_rule_that_makes_it_is_named_in_the_backward_pass(name):
    op = OPS[name]
    sample = next(iter(op.test.samples(np.random.default_rng(0))))
    k = next(i for i, a in enumerate(sample.args) if a is not None and a.dtype.kind == "f")

    def spoil(*args, **settings):
        x = op.rule(k)(*args, **settings)
        part = np.array(x if isinstance(x, np.ndarray) else Tensor.numpy(x))
        part[(0,) * part.ndim] = np.nan
        return part if isinstance(x, np.ndarray) else Tensor(part)

    leaves = [None if a is None else Tensor(a, requires_grad=i == k)
              for i, a in enumerate(sample.args)]
    y = apply(op, *leaves, **sample.settings)
    with tc.detect_anomaly():
        y = apply(op, *leaves, **sample.settings)
        object.__setattr__(y.node, "op", OtherRule(op, k, spoil))
        with pytest.raises(tc.AnomalyError) as caught:
            y.backward(gradient=np.ones(y.shape, y.dtype))
    said = str(caught.value)
    assert f"{name}: the backward rule for {op.input_name(k)!r} made nan at index" in said
    assert "test_anomaly.py:" in said
    assert "\n  ct " in said


class OtherRule:
    """An op with one other rule, without the checks of a declaration."""

    together = {}                           # each rule is called by itself

    def __init__(self, op, k, rule):
        self._op, self._k, self._rule = op, k, rule

    def __getattr__(self, name):
        return getattr(self._op, name)

    @property
    def backward(self):
        rules = [self._rule if i == self._k else self._op.rule(i)
                 for i in range(len(self._op.inputs))]
        return tuple(enumerate(rules)), not self._op.residuals, False


def test_the_ranges_of_the_inputs_and_the_line_are_told():
    x = Tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True, name="x")
    with tc.detect_anomaly(), pytest.raises(tc.AnomalyError) as caught, \
            np.errstate(invalid="ignore"):
        tc.log(x * 2)
    lines = str(caught.value).splitlines()
    assert lines[0] == ("log: the result holds nan at index (0, 1); 1 of 4 values is not finite")
    assert lines[1].strip().startswith("applied at ")
    assert lines[2] == "  x (2, 2): from -4 to 6"


@pytest.mark.parametrize(("make", "said"), [
    (lambda: Tensor([np.nan, 1.0], requires_grad=True, name="w"), "the leaf 'w' brought it in"),
    (lambda: Tensor([np.inf, 1.0]), "the constant brought it in"),
    (lambda: Tensor([np.nan, 1.0], requires_grad=True) * 1.0, "made by mul before the block"),
])
def test_an_input_that_held_it_already_is_named(make, said):
    given = make()
    with tc.detect_anomaly(), pytest.raises(tc.AnomalyError, match=said):
        tc.exp(given)


def test_a_cotangent_that_holds_it_is_told_from_a_rule():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with tc.detect_anomaly(), pytest.raises(tc.AnomalyError, match=r"given to backward\(gradient"):
        tc.exp(x).backward(gradient=np.array([np.nan, 1.0], np.float32))


def test_the_module_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[0].weight.data[...] = np.inf
    with tc.detect_anomaly(), pytest.raises(tc.AnomalyError, match=r"in Sequential\.0\n"):
        model(np.ones((1, 2), np.float32))


def test_large_values_are_no_anomaly_and_infinity_may_be_allowed():
    x = Tensor(np.array([1e30, -1e30], np.float32), requires_grad=True)
    with tc.detect_anomaly():
        (x * 2.0).sum().backward()
    with tc.detect_anomaly(infinity=False):
        masked = tc.where(np.array([True, False]), x, -np.inf)
        with pytest.raises(tc.AnomalyError, match="holds nan"), np.errstate(invalid="ignore"):
            masked - masked


def test_nothing_is_checked_outside_the_block():
    with tc.detect_anomaly():
        pass
    with np.errstate(divide="ignore"):
        assert np.isinf(tc.log(Tensor([0.0])).data).all()


def test_both_watchers_may_be_nested():
    x = Tensor([4.0, 0.0], requires_grad=True)
    with tc.check_mutation(), tc.detect_anomaly(), pytest.raises(tc.AnomalyError):
        tc.sqrt(x).sum().backward()
