"""Whatever is written between the forward and the backward pass: the gradient is right.

A tensor's values are its own, so a write is seen by what is computed afterwards, and by nothing
that was recorded before.  The registry is walked here: a new op is covered without a line.
"""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Parameter, Sample, Tensor, nn, optim
from tinygrad_cnn.core import apply
from tinygrad_cnn.core.graph import observing
from tinygrad_cnn.core.op import OPS, make_op
from tinygrad_cnn.debug import _Mutations


def samples(op):
    return list(op.test.samples(np.random.default_rng(0)))


def float_inputs(sample):
    return [i for i, a in enumerate(sample.args) if a is not None and a.dtype.kind == "f"]


def leaves_of(sample):
    return [None if a is None else Tensor(a, requires_grad=a.dtype.kind == "f")
            for a in sample.args]


def copied(settings):
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in settings.items()}


def seed_for(y):
    return np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)


def gradients(leaves, y, seed):
    y.backward(gradient=seed)
    return [None if t is None or t.grad is None else t.grad.numpy().copy() for t in leaves]


def expected(op, sample):
    leaves = leaves_of(sample)
    y = apply(op, *leaves, **copied(sample.settings))
    return gradients(leaves, y, seed_for(y)) if y.requires_grad else None


def assert_same(found, wanted, what):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if b is not None:
            np.testing.assert_array_equal(a, b, err_msg=f"{what}: the gradient of input {i}")


def spoil(array):
    """Write something else everywhere."""
    if array.dtype.kind == "b":
        array[...] = ~array
    elif array.dtype.kind in "iu":
        array[...] = array[::-1].copy() if array.ndim and len(array) > 1 else array * 0
    else:
        array[...] = array * -3 + 17


# What somebody holds before the forward pass, or takes after it, and writes to afterwards.
BEFORE = {
    "the array given": lambda leaf, array, owner: array,
    "the owner of the array given": lambda leaf, array, owner: owner,
    "its data, held before": lambda leaf, *_: leaf.data,
    "a view, held before": lambda leaf, *_: leaf.data[...].T.reshape(leaf.shape[::-1]),
    "a detached twin": lambda leaf, *_: leaf.detach().data,
}
AFTER = {"its data": lambda leaf, y: leaf.data, "the result": lambda leaf, y: y.data}
ASSIGNED = "another array is assigned"


def written(op, sample, i, where):
    """Leaves and result of the op, input ``i`` of which is written to after the forward pass."""
    owner = np.stack([sample.args[i]] * 2)
    array = owner[1] if "owner" in where else sample.args[i].copy()
    leaves = leaves_of(sample)
    leaves[i] = leaf = Tensor(array, requires_grad=True)
    held = BEFORE[where](leaf, array, owner) if where in BEFORE else None
    y = apply(op, *leaves, **sample.settings)
    if where == ASSIGNED:
        leaf.data = np.full_like(array, 5)
    else:
        spoil(AFTER[where](leaf, y) if held is None else held)
    return leaves, y


@pytest.mark.parametrize("name", OPS)
def test_no_write_after_the_forward_pass_changes_a_gradient(name):
    op = OPS[name]
    tried = 0
    for sample in samples(op)[:4]:
        wanted = expected(op, sample)
        if wanted is None:
            continue
        for where, i in itertools.product((*BEFORE, *AFTER, ASSIGNED), float_inputs(sample)):
            leaves, y = written(op, sample, i, where)
            assert_same(gradients(leaves, y, seed_for(y)), wanted,
                        f"{name}, {sample.id}, input {i}, written: {where}")
            tried += 1
    assert tried, f"{name} has no sample with a gradient"


@pytest.mark.parametrize("name", OPS)
def test_a_plain_array_among_the_inputs_may_be_used_again(name):
    """A batch buffer, say: it is an input, no tensor."""
    op = OPS[name]
    for sample in samples(op)[:4]:
        wanted = expected(op, sample)
        for i in float_inputs(sample):
            leaves, buffer = leaves_of(sample), sample.args[i].copy()
            y = apply(op, *[buffer if j == i else t for j, t in enumerate(leaves)],
                      **sample.settings)
            spoil(buffer)
            if not y.requires_grad:
                continue
            found = gradients(leaves, y, seed_for(y))
            assert_same([g for j, g in enumerate(found) if j != i],
                        [g for j, g in enumerate(wanted) if j != i], f"{name}, {sample.id}")


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if any(
    isinstance(v, np.ndarray) for s in samples(op) for v in s.settings.values())])
def test_an_array_among_the_settings_may_be_changed(name):
    op = OPS[name]
    for sample in samples(op):
        settings = copied(sample.settings)
        arrays = [v for v in settings.values() if isinstance(v, np.ndarray)]
        wanted = expected(op, sample)
        if not arrays or wanted is None:
            continue
        leaves = leaves_of(sample)
        y = apply(op, *leaves, **settings)
        for array in arrays:
            spoil(array)
        assert_same(gradients(leaves, y, seed_for(y)), wanted, f"{name}, {sample.id}")


@pytest.mark.parametrize("name", OPS)
def test_no_gradient_shares_memory_with_anything(name):
    """Writing to one gradient changes no other, not the cotangent, and not an input."""
    op = OPS[name]
    for sample in samples(op)[:4]:
        leaves = leaves_of(sample)
        y = apply(op, *leaves, **sample.settings)
        if not y.requires_grad:
            continue
        seed = seed_for(y)
        kept = seed.copy()
        given = Tensor(seed)
        y.backward(gradient=given)
        found = [t for leaf in leaves if leaf is not None
                 for t in (leaf, leaf.grad) if t is not None]
        before = [t.numpy().copy() for t in [*found, given, y]]
        for k, t in enumerate(found):
            spoil(t.data)
            for j, (other, values) in enumerate(zip([*found, given, y], before, strict=True)):
                if j > k:
                    np.testing.assert_array_equal(other.numpy(), values)
        np.testing.assert_array_equal(seed, kept)


# ---- named writers -------------------------------------------------------------------------------

def linear():
    layer = nn.Linear(3, 2, dtype=np.float64, rng=np.random.default_rng(0))
    return layer, np.random.default_rng(1).normal(size=(4, 3)), layer.weight


def conv():
    layer = nn.Conv2D(2, 3, 3, dtype=np.float64, rng=np.random.default_rng(0))
    return layer, np.random.default_rng(1).normal(size=(2, 5, 5, 2)), layer.weight


def net():
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2D(1, 2, 3, padding=1, dtype=np.float64, rng=rng),
        nn.BatchNorm2D(2, dtype=np.float64), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(),
        nn.Linear(8, 3, dtype=np.float64, rng=rng))
    return model, rng.normal(size=(3, 4, 4, 1)), model[0].weight


def step_with(make):
    def write(model, weight, batch, x):
        for p in model.parameters():
            p.grad = Tensor(np.ones(p.shape))
        make(model.parameters()).step()
        for p in model.parameters():
            p.grad = None
    return write


def load_another_state(model, weight, batch, x):
    model.load_state_dict({k: v * 2 + 1 for k, v in model.state_dict().items()})


def initialize_again(model, weight, batch, x):
    weight.data[...] = nn.init.normal(weight.shape, rng=np.random.default_rng(5))


def write_to_data(model, weight, batch, x):
    weight.data *= 3


def write_to_a_view(model, weight, batch, x):
    weight.data[:1][...] = 7


def step_by_hand(model, weight, batch, x):
    with tc.no_grad():
        for p in model.parameters():
            p -= 0.5 * Tensor(np.ones(p.shape))


def assign_data(model, weight, batch, x):
    weight.data = np.zeros(weight.shape)


def reuse_the_batch(model, weight, batch, x):
    batch += 10


def write_to_the_input(model, weight, batch, x):
    x.data[...] = 0


def run_again_in_training(model, weight, batch, x):
    model(batch * 4)


NAMED = {
    "SGD.step()": step_with(lambda ps: optim.SGD(ps, lr=1.0, momentum=0.9)),
    "Adam.step()": step_with(lambda ps: optim.Adam(ps, lr=0.1)),
    "AdamW.step()": step_with(lambda ps: optim.AdamW(ps, lr=0.1, weight_decay=0.5)),
    "RMSprop.step()": step_with(lambda ps: optim.RMSprop(ps, lr=0.1)),
    "load_state_dict()": load_another_state, "init": initialize_again, ".data *=": write_to_data,
    "a view of .data": write_to_a_view, "-= under no_grad()": step_by_hand,
    ".data = array": assign_data, "the batch buffer": reuse_the_batch,
    "the input's .data": write_to_the_input, "another forward pass": run_again_in_training,
}


@pytest.mark.parametrize("make", [linear, conv, net])
@pytest.mark.parametrize("writer", NAMED)
def test_whoever_writes_the_gradient_is_that_of_the_forward_pass(make, writer):
    def run(write, twice):
        model, batch, weight = make()
        given = Tensor(batch, requires_grad=True)
        x = given if "input" in writer else batch        # the buffer itself, or a tensor
        y = model(x)
        first, second = (y * y).sum(), tc.tanh(y).sum()
        if twice:
            first.backward(retain_graph=True)
            model.zero_grad() if hasattr(model, "zero_grad") else None
            for p in model.parameters():
                p.grad = None
        write(model, weight, batch, given)
        second.backward()
        return [p.grad.numpy().copy() for p in model.parameters()]

    for twice in (False, True):
        right = run(lambda *_: None, twice)
        assert_same(run(NAMED[writer], twice), right, writer)


def test_the_two_losses_of_a_gan_may_be_computed_first():
    rng = np.random.default_rng(0)
    generator, critic = nn.Linear(2, 2, rng=rng), nn.Linear(2, 1, rng=rng)
    optimizer = optim.SGD(critic.parameters(), lr=1.0)
    fake = generator(np.ones((4, 2), np.float32))
    score = critic(fake)
    loss_g, loss_d = (score * score).sum(), critic(fake.detach()).sum()
    right, = tc.grad(loss_g, [generator.weight], retain_graph=True)
    loss_d.backward()
    optimizer.step()
    loss_g.backward()
    np.testing.assert_array_equal(generator.weight.grad.data, right.data)


def test_indices_masks_labels_and_weights_may_be_changed():
    x = Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    index, mask = np.array([0, 1]), np.ones(3, bool)
    factor, labels, weight = np.full(3, 5.0, np.float32), np.array([0, 2]), np.ones(3, np.float32)

    def forward():
        return (x[index].sum() + x[:, index].sum() + tc.where(mask, x, 0.0).sum()
                + (x * factor).sum() + tc.cross_entropy(x, labels, weight=weight)
                + tc.nll_loss(x, labels))

    forward().backward()
    right, x.grad = x.grad.numpy().copy(), None
    y = forward()
    for array in (index, mask, factor, labels, weight):
        spoil(array)
    y.backward()
    np.testing.assert_array_equal(x.grad.data, right)


def test_statistics_of_an_evaluated_batch_norm_may_move():
    layer = nn.BatchNorm1D(2, dtype=np.float64).eval()
    x = Tensor(np.random.default_rng(0).normal(size=(4, 2)), requires_grad=True)
    y = layer(x).sum()
    layer.running_var[...] = 100.0
    y.backward()
    np.testing.assert_allclose(x.grad.data, 1 / np.sqrt(1 + layer.eps), rtol=1e-12)


# ---- second order --------------------------------------------------------------------------------

def test_a_recorded_backward_pass_refuses_a_leaf_that_was_changed():
    w = Parameter([2.0, 3.0], name="w")
    y = (w * w * w).sum()
    optimizer = optim.SGD([w], lr=1.0)
    w.grad = Tensor([1.0, 1.0])
    optimizer.step()
    with pytest.raises(tc.GradientError, match=r"mul: . was changed after the forward pass.*"
                                               r"before optimizer\.step\(\)"):
        tc.grad(y, [w], create_graph=True)


def test_looking_at_values_is_no_change():
    w = Parameter([2.0, 3.0])
    y = (w * w * w).sum()
    assert w.data.tolist() == [2, 3]                # gives the user an array of his own
    first, = tc.grad(y, [w], create_graph=True)
    second, = tc.grad(first.sum(), [w])
    assert second.data.tolist() == [12, 18]


# ---- writing is possible at any time -------------------------------------------------------------

@pytest.mark.parametrize("end", ["backward", "dropped", "an error in the forward pass", "alive"])
def test_values_can_be_written_whatever_became_of_the_graph(end):
    w, array = Parameter([1.0, 2.0]), np.ones(2, np.float32)
    y = (w * array).sum()
    if end == "backward":
        y.backward()
    elif end == "dropped":
        del y
    elif end.startswith("an error"):
        with pytest.raises(tc.ShapeError):
            w * np.ones(3, np.float32)
    w.data[0] = 5
    array[0] = 7
    assert w.data.tolist() == [5, 2]
    assert array.tolist() == [7, 1]


def test_an_array_that_the_user_holds_stays_that_of_the_tensor():
    w = Parameter([1.0, 2.0])
    held = w.data
    for _ in range(3):
        (w * w).sum().backward()
        optim.SGD([w], lr=0.25).step()
        w.grad = None
    assert held.tolist() == w.data.tolist() == [0.125, 0.25]
    held[0] = 8
    assert w.data[0] == 8
    assert w.data is held


def test_what_was_read_does_not_change():
    w = Parameter([1.0, 2.0])
    seen = w.numpy()
    (w * w).sum().backward()
    optim.SGD([w], lr=0.5).step()
    assert seen.tolist() == [1, 2]
    assert w.data.tolist() == [0, 0]


def test_tensors_that_look_at_one_memory_are_written_apart():
    x = Tensor([1.0, 2.0, 3.0, 4.0])
    rows, twin, part = x.reshape(2, 2), x.detach(), x[1:3]
    rows.data[0, 0] = 10
    twin.data[1] = 20
    part.data[1] = 30
    assert x.data.tolist() == [1, 2, 3, 4]
    assert (rows.data[0, 0], twin.data[1], part.data[1]) == (10, 20, 30)
    x.data[...] = 0
    assert rows.data.tolist() == [[10, 2], [3, 4]]


# ---- leaves that change in place -----------------------------------------------------------------

@pytest.mark.parametrize("leaf", [lambda v: Parameter(v),
                                  lambda v: Tensor(v, requires_grad=True)])
def test_a_step_by_hand_trains(leaf):
    w = same = leaf([4.0, 2.0])
    for _ in range(3):
        (w * w).sum().backward()
        with tc.no_grad():
            w -= 0.25 * w.grad
        w.grad = None
    assert w is same
    assert w.data.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(("change", "sign"), [
    ("__iadd__", r"\+="), ("__isub__", "-="), ("__imul__", r"\*="), ("__itruediv__", "/="),
    ("__ipow__", r"\*\*=")])
def test_a_leaf_is_changed_in_place_only_where_nothing_is_recorded(change, sign):
    w = Parameter([4.0, 2.0])
    with pytest.raises(tc.GradientError, match=f"changed by {sign} while.*no_grad"):
        getattr(w, change)(2.0)
    with tc.no_grad():
        assert getattr(w, change)(2.0) is w
    plain = Tensor([1.0])
    assert getattr(plain, change)(2.0) is not plain
    result = w * 1.0
    assert getattr(result, change)(2.0).node is not None


def test_a_leaf_keeps_its_shape_and_dtype():
    w = Parameter([1.0, 2.0])
    with tc.no_grad(), pytest.raises(tc.ShapeError, match=r"has shape \(3, 2\), the leaf \(2,\)"):
        w += np.ones((3, 2), np.float32)
    with pytest.raises(tc.ShapeError, match=r"float32 \(2,\).*float64 \(3,\).*make a new one"):
        w.data = np.zeros(3)
    with pytest.raises(tc.GradientError, match=r"in-place assignment.*tensor\.data\[index\]"):
        w[0] = 1.0


# ---- rules must not write to what they are given -------------------------------------------------

def times_two(ct, out, x):
    ct *= 2
    return ct


def add_to_a_slice(ct, out, x):
    ct[:1] += 1
    return ct * 2


def write_with_out(ct, out, x):
    return np.multiply(ct, 2, out=ct)


def write_to_the_input_of_the_rule(ct, out, x):
    x *= 2
    return ct


def write_to_out(ct, out, x):
    out[...] = 0
    return ct


def times_two_of_the_data(ct, out, x):
    ct.data *= 2
    return ct


def fill_the_data(ct, out, x):
    ct.data[...] = 1
    return ct


def fill_the_data_of_x(ct, out, x):
    x.data[...] = 1
    return ct


def assign_the_data(ct, out, x):
    ct.data = np.ones(2)
    return ct


# First-order passes hand arrays to a rule, recorded ones tensors, where ct *= 2 makes a new one.
WRITERS = [(f, False) for f in (times_two, add_to_a_slice, write_with_out, write_to_out,
                                write_to_the_input_of_the_rule)]
WRITERS += [(f, recorded) for f in (times_two_of_the_data, fill_the_data, fill_the_data_of_x)
            for recorded in (False, True)]
WRITERS += [(assign_the_data, True)]


@pytest.mark.parametrize(("rule", "create_graph"), WRITERS)
def test_a_rule_that_writes_is_refused_and_does_no_harm(rule, create_graph):
    op = make_op(name="writes", shape=lambda x: x, vjp={"x": rule},
               kernels={"array": lambda x: x * 1.0}, samples=lambda rng: iter([]))
    a, b = Parameter(np.ones(2)), Parameter(np.full(2, 3.0))
    seed = np.ones(2)
    given = Tensor(seed)
    with pytest.raises((ValueError, TypeError, tc.GradientError)) as caught:
        (apply(op, a) + b * 1.0).backward(gradient=given, create_graph=create_graph)
    assert "backward rule of writes for 'x'" in "".join(caught.value.__notes__)
    assert a.data.tolist() == [1, 1]
    assert seed.tolist() == given.data.tolist() == [1, 1]


@pytest.mark.parametrize("what", ["ct", "x", "out", "mask"])
def test_a_rule_that_forces_its_way_is_found_by_check_mutation(what):
    def rule(ct, out, x, *, mask):
        array = {"ct": ct, "x": x, "out": out, "mask": mask}[what]
        while array.base is not None:
            array = array.base
        array.flags.writeable = True
        array[...] = 5
        return ct * 2

    op = make_op(name="forces", shape=lambda x, *, mask: x, vjp={"x": rule},
               kernels={"array": lambda x, *, mask: x * 1.0}, samples=lambda rng: iter([]))
    a = Parameter(np.ones(2))
    with tc.check_mutation(), pytest.raises(
            tc.GradientError, match=r"changed by a backward rule.*is 5.0.*was 1.0"):
        (apply(op, a, mask=np.ones(2)) * 1.0).sum().backward()


@pytest.mark.parametrize("name", OPS)
def test_no_rule_of_the_package_writes_to_what_it_is_given(name):
    op = OPS[name]
    for sample in samples(op):
        leaves = leaves_of(sample)
        with observing(_Mutations(trust=False)):
            y = apply(op, *leaves, **sample.settings)
            if y.requires_grad:
                y.backward(gradient=seed_for(y))


def test_check_mutation_finds_a_write_past_the_tensor():
    x = Tensor([2.0, 3.0], requires_grad=True, name="x")
    with tc.check_mutation():
        y = (x * x).sum()
        view = x.numpy()
        view.flags.writeable = True
        view[1] = 30
        with pytest.raises(tc.GradientError, match=r"mul: a was changed after the forward pass, "
                           r"past its tensor: at index \(1,\) it is 30.0 and was 3.0"):
            y.backward()


# ---- copies --------------------------------------------------------------------------------------

COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy,
          "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("held", [False, True])
def test_the_values_of_a_copy_are_its_own(make, held):
    w = Parameter([1.0, 2.0], name="w")
    array = w.data if held else None
    loss = (w * w * w).sum()
    other = make(w)
    assert (type(other), other.name, other.requires_grad) == (Parameter, "w", True)
    (array if held else w.data)[...] = 7.0
    assert other.data.tolist() == [1.0, 2.0]
    other.data[...] = 9.0
    assert w.data.tolist() == [7.0, 7.0]
    loss.backward()
    assert w.grad.data.tolist() == [3.0, 12.0]
    assert other.grad is None


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_graph_is_not_copied(make):
    """The gradients of a copied graph would go to leaves that nobody holds."""
    w = Parameter([1.0, 2.0])
    y = w * w
    with pytest.raises(tc.GradientError, match=r"the op mul made this tensor.*copy tensor.detach"):
        make(y)
    assert make(y.detach()).data.tolist() == [1.0, 4.0]


@pytest.mark.parametrize("look", [Tensor.numpy, np.asarray], ids=["numpy()", "np.asarray"])
def test_a_look_at_values_that_the_user_holds_shows_those_of_its_time(look):
    w = Parameter([1.0, 2.0])
    array = w.data
    before = look(w)
    array[...] = 7.0
    assert (before.tolist(), look(w).tolist()) == ([1.0, 2.0], [7.0, 7.0])


# ---- kernels of others ---------------------------------------------------------------------------

def _square(x):
    return np.multiply(x, x, out=x)


def test_a_kernel_cannot_write_to_what_it_is_given():
    op = make_op(name="square_for_a_test", shape=lambda x: x, kernels={"array": _square},
            vjp={"x": lambda ct, out, x: ct * 2.0 * x},
            samples=lambda rng: [Sample("row", (rng.normal(size=3),))])
    x = Tensor([2.0, 3.0], requires_grad=True)
    with pytest.raises(ValueError, match="read-only"):
        apply(op, x)
    assert x.data.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("residuals, given", [
    ((), lambda x: (x, {"slope": x})), ((), lambda x: (x, x)), (("slope",), lambda x: x),
    (("slope",), lambda x: (x, x)), (("slope",), lambda x: (x, {"slope": x}, x))])
def test_a_kernel_gives_the_residuals_that_it_declares(residuals, given):
    rule = (lambda ct, out, x, *, slope: ct) if residuals else (lambda ct, out, x: ct)
    op = make_op(name="pair_for_a_test", shape=lambda x: x, kernels={"array": given},
                 vjp={"x": rule}, residuals=residuals,
                 samples=lambda rng: [Sample("row", (rng.normal(size=2),))])
    with pytest.raises(tc.DeclarationError, match="the kernel returned"):
        apply(op, Tensor(np.ones((2, 2))))


def test_a_rule_that_asks_an_array_for_what_tensors_have_is_told():
    op = make_op(name="rule_for_a_test", shape=lambda x: x, kernels={"array": lambda x: x * x},
            vjp={"x": lambda ct, out, x: ct * 2.0 * x.detach()},
            samples=lambda rng: [Sample("row", (rng.normal(size=2),))])
    with pytest.raises(AttributeError) as caught:
        apply(op, Tensor([1.0], requires_grad=True)).backward()
    assert "which is given arrays, or tensors under create_graph" in caught.value.__notes__[0]


# ---- writes while an op reads, as another thread may do

def interrupted(function):
    """A square whose kernel is overtaken by ``function``, between its two looks at ``x``."""
    def square(x):
        first = x * 1.0
        function()
        return first * x

    return make_op(name="square_for_a_test", shape=lambda x: x, kernels={"array": square},
                   vjp={"x": lambda ct, out, x: ct * 2.0 * x},
                   samples=lambda rng: [Sample("row", (rng.normal(size=2),))])


@pytest.mark.parametrize("early", [True, False])
def test_what_is_written_while_an_op_reads_reaches_neither_its_result_nor_its_gradient(
        early):
    x = Tensor([2.0, 3.0], requires_grad=True)
    array = x.data if early else None

    def write():
        (x.data if array is None else array)[...] = 100.0

    y = apply(interrupted(write), x)
    assert y.data.tolist() == [4.0, 9.0]
    y.sum().backward()
    assert x.grad.data.tolist() == [4.0, 6.0]
    assert x.data.tolist() == [100.0, 100.0]


def test_values_are_copied_only_while_the_user_holds_them():
    for op in (lambda x: x * x, tc.exp, lambda x: tc.clip(x, 0.0, 9.0)):
        x = Tensor([2.0, 3.0], requires_grad=True)
        array = x.data
        y = op(x)
        assert y.node.values[0] is not x._data
        del array, y
        assert op(x).node.values[0] is x._data


def test_a_training_loop_under_check_mutation_is_no_mutation():
    w = tc.Parameter(np.ones(3))
    optimizer = tc.optim.SGD([w], 0.25)
    with tc.check_mutation():
        for _ in range(3):
            optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
    assert w.data.tolist() == [0.125] * 3
