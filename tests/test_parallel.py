"""Several processes compute what one does, and stop together."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim, parallel, train
from tinygrad_cnn.errors import GradientError, ParallelError, SettingError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"),
                                reason="workers are forked, which needs Linux")
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(26, 8, 8, 2)), np.arange(26) % 4


def network(*more):
    rng = np.random.default_rng(1)
    return nn.Sequential(nn.Conv2D(2, 4, 3, padding=1, rng=rng), nn.BatchNorm2D(4), nn.ReLU(),
                         nn.MaxPool2D(2), nn.Flatten(), nn.Linear(64, 4, rng=rng), *more
                         ).astype(np.float64)


def digest(model):
    return hashlib.sha256(b"".join(a.tobytes() for a in model.state_dict().values())).hexdigest()


def fitted(workers, *, model=network, batch_size=5, loss=None, callbacks=(), epochs=2,
           schedule=None, **settings):
    model = model()
    optimizer = optim.SGD([*model.parameters(), *(loss.parameters() if loss else ())], 0.05,
                          momentum=0.9)
    trainer = train.Trainer(model, optimizer, loss=loss, workers=workers, callbacks=callbacks,
                            schedule=schedule and schedule(optimizer), **settings)
    trainer.fit(data.DataLoader(IMAGES, LABELS, batch_size=batch_size, shuffle=True, seed=2),
                epochs, validation=data.DataLoader(IMAGES, LABELS, batch_size=9))
    return trainer


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        self.scale = tc.Parameter(np.array([0.5]))

    def forward(self, scores, labels):
        return tc.cross_entropy(scores * self.scale, labels)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("settings", [
    {}, {"batch_size": 26}, {"loss": Scaled}, {"clip": 0.1},
    {"schedule": partial(optim.lr_scheduler.ReduceLROnPlateau, patience=0)}],
    ids=["uneven parts", "one batch", "loss with parameters", "clip", "schedule of the loss"])
def test_workers_train_like_one_process(workers, settings):
    """Batches of 5 end with one of 1 image, which every worker takes."""
    def trained(count):
        made = {name: value() if name == "loss" else value for name, value in settings.items()}
        return fitted(count, **made)
    one, several = trained(1), trained(workers)
    for name, array in one.model.state_dict().items():
        np.testing.assert_allclose(several.model.state_dict()[name], array, rtol=1e-10, atol=1e-12,
                                   err_msg=name)
    for a, b in zip(one.history.rows, several.history.rows, strict=True):
        assert set(a) == set(b)
        for name in set(a) - {"seconds"}:
            assert b[name] == pytest.approx(a[name], rel=1e-10), name
    if settings.get("loss"):
        assert several.loss.scale.data[0] == pytest.approx(one.loss.scale.data[0], rel=1e-10)


def test_the_same_number_of_workers_gives_the_same_bits():
    assert digest(fitted(2).model) == digest(fitted(2).model)


def test_every_layer_with_statistics_of_a_batch_sees_the_whole_batch():
    """Gradients and running statistics, in parts of unlike size, in both sizes of kernels."""
    for shape in ((7, 3), (7, 3, 3), (7, 5, 4, 3), (9, 40, 40, 3)):
        layer = (nn.BatchNorm2D if len(shape) == 4 else nn.BatchNorm1D)
        for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-4)):
            x = np.random.default_rng(3).normal(size=shape).astype(dtype) + 2
            target = np.random.default_rng(4).normal(size=shape).astype(dtype)

            def passed(group, layer=layer, dtype=dtype, x=x, target=target):
                norm = layer(3).astype(dtype)
                norm.weight.data[:] = [1, 2, 3]
                model = parallel.DataParallel(norm, group)
                part, of = parallel.share((x, target), group)
                given = tc.Tensor(part, requires_grad=True)
                ((model(given) - of) ** 2).mean().backward()
                whole = np.zeros_like(x)
                low = len(x) * group.rank // group.size
                whole[low:low + len(part)] = given.grad.data * (len(part) / len(x))
                return [norm.weight.grad.data, norm.bias.grad.data, norm.running_mean,
                        norm.running_var, norm.num_batches_tracked, group.add_up(whole)]
            for one, two in zip(passed(parallel.Group()), parallel.run(2, passed), strict=True):
                np.testing.assert_allclose(two, one, rtol=tolerance, atol=tolerance)


def test_workers_draw_numbers_of_their_own_and_begin_with_those_of_rank_0():
    def drawn(group):
        model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5, rng=np.random.default_rng(0)))
        parallel.DataParallel(model, group)
        masks = [model[1](np.ones(64, np.float32)).data.tobytes(),
                 tc.dropout(np.ones(64, np.float32), 0.5).data.tobytes()]
        numbers = [np.frombuffer(hashlib.sha256(m).digest()[:8], np.int64)[0] for m in masks]
        return (group.gather(np.array(numbers)),
                group.gather(model[0].weight.data))
    masks, weights = parallel.run(3, drawn)
    assert len(np.unique(masks[:, 0])) == len(np.unique(masks[:, 1])) == 3
    assert np.ptp(weights, axis=0).max() == 0


def test_sums_are_of_all_ranks_whatever_the_array():
    def sums(group):
        return [group.add_up((np.ones(shape, dtype) * (group.rank + 1))[index])
                for shape in ((), (0,), (3,), (2, 600_000)) for dtype in ("f4", "f8", "i8")
                for index in (..., *([np.s_[::2]] if shape and shape[0] else []))]
    for found in parallel.run(3, sums):
        assert np.all(found == 6)
    assert parallel.run(2, lambda group: group.gather_text("ü" * group.rank)) == ["", "ü"]


def test_callbacks_and_the_log_belong_to_rank_0_which_can_stop_all():
    seen, lines = [], []

    class Stops(train.Callback):
        def on_epoch_end(self, trainer, row):
            seen.append(os.getpid())
            return row["epoch"] == 2

    trainer = fitted(2, callbacks=[Stops()], log=lines.append, epochs=5)
    assert seen == [os.getpid()] * 2 and len(lines) == 2 == len(trainer.history)


def children():
    """Processes that this one has started, ended ones that nobody has asked for among them."""
    return {word for thread in Path("/proc/self/task").iterdir()
            for word in (thread / "children").read_text().split()}


def broken(how):
    def function(group):
        group.add_up(np.ones(3))
        if group.rank == group.size - 1:
            how()
        group.add_up(np.ones(3))
    return function


@pytest.mark.parametrize(("how", "says"), [
    (lambda: 1 / 0, "worker 2 of 3 failed:(.|\n)*ZeroDivisionError: division by zero"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "worker 2 of 3 .* was ended by SIGKILL"),
    (lambda: os._exit(3), "worker 2 of 3 .* ended with code 3")])
def test_a_worker_that_fails_ends_the_run_and_is_named(how, says):
    before = children()
    with pytest.raises(ParallelError, match=says):
        parallel.run(3, broken(how))
    assert children() == before                         # none is left, not even as a zombie


def test_what_stops_this_process_stops_the_workers():
    for error in (KeyboardInterrupt, ValueError):
        def fails(group, error=error):
            if not group.rank:
                raise error
            time.sleep(60)
        before = children()
        with pytest.raises(error):
            parallel.run(2, fails)
        assert children() == before
    assert parallel.world().size == 1


def test_what_differs_between_ranks_is_named():
    def other_model(group):
        parallel.DataParallel(nn.Linear(3, 2 + group.rank), group)

    def other_order(group):
        list(parallel.shard(data.DataLoader(IMAGES, LABELS, seed=group.rank), group))

    def other_step(group):
        model = nn.Linear(3, 2)
        step = parallel.DataParallel(model, group, check_every=1)
        if group.rank:
            model.weight.data[0, 0] = 7
        step(np.ones((2, 3), np.float32)).sum().backward()
    def other_settings(group):
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).astype(np.float64)
        trainer = train.Trainer(model, optim.SGD(model.parameters(), 0.1 + group.rank))
        trainer.fit(data.DataLoader(IMAGES, LABELS, batch_size=9, seed=0), 1)
    for function, says in ((other_settings, "the run of rank 1 differs(.|\n)*lr=1.1"),
                           (other_model, r"\(3, 2\)\n  rank 1: weight float32 \(3, 3\)"),
                           (other_order, "the DataLoader of rank 1 differs(.|\n)*same seed="),
                           (other_step, "after 1 backward passes the model(.|\n)*rank 1: weight")):
        with pytest.raises(ParallelError, match=says):
            parallel.run(2, function)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(SettingError, match="no parameters yet"):
        parallel.DataParallel(nn.Linear(None, 2))

    def twice(group):
        model = nn.Linear(3, 2)
        first = parallel.DataParallel(model, group)
        with pytest.raises(SettingError, match="is in another DataParallel"):
            parallel.DataParallel(model, group)
        first.close()
        parallel.DataParallel(model, group)

    def second_order(group):
        step = parallel.DataParallel(nn.Linear(3, 2), group)
        with pytest.raises(GradientError, match="create_graph"):
            (step(np.ones((2, 3), np.float32)) ** 2).sum().backward(create_graph=True)
    parallel.run(2, twice)
    parallel.run(2, second_order)
    with pytest.raises(SettingError, match="batch_size 2 is below the 3 workers"):
        fitted(3, batch_size=2)
    for workers in (0, 1.5, "2"):
        with pytest.raises(SettingError, match="workers must be"):
            fitted(workers)


SCRIPT = """
import hashlib, numpy as np, tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim, parallel
tc.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1D(5), nn.ReLU(), nn.Linear(5, 3)).astype(float)
step = parallel.DataParallel(model)
optimizer = optim.SGD(model.parameters(), 0.1)
images = np.random.default_rng(1).normal(size=(30, 6))
loader = data.DataLoader(images, np.arange(30) % 3, 8, shuffle=True, seed=0)
for epoch in range(3):
    for x, y in parallel.shard(loader):
        loss = tc.cross_entropy(step(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if FAIL and step.group.rank == 1: 1 / 0
numbers = b"".join(a.tobytes() for a in model.state_dict().values())
digest = hashlib.sha256(numbers).hexdigest()
print(f"rank {step.group.rank} of {step.group.size} {digest}\\n", end="")
"""


def mpiexec(folder, *words, fail=False, before=(), **environment):
    """What a program of two ranks printed, or what it said when it failed."""
    pytest.importorskip("mpi4py", reason="needs the extra mpi")
    start = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(start):
        pytest.skip("mpiexec comes with the wheel mpich, which is not installed")
    program = folder / "program.py"
    program.write_text(SCRIPT.replace("FAIL", str(fail)))
    found = subprocess.run([*before, start, *words, "-n", "2", sys.executable, str(program)],
                           capture_output=True, text=True, timeout=100, check=False,
                           env=os.environ | environment)
    assert bool(found.returncode) == fail, found.stderr
    return found.stderr if fail else sorted(found.stdout.split("\n"))[1:]


def test_a_program_under_mpiexec_trains_on_all_ranks(tmp_path):
    lines = mpiexec(tmp_path)
    assert [line[:11] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
    assert lines[0][11:] == lines[1][11:]
    assert "rank 1 of 2 failed" in mpiexec(tmp_path, fail=True)


@pytest.fixture
def two_hosts(tmp_path):
    """Two hosts with a network of their own on this machine, and what starts a program on them."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root may make network namespaces, with the command ip")
    name, address = f"tc{os.getpid()}", "10.213.7"
    made = subprocess.run(
        f"""set -e
        for i in 1 2; do ip netns add {name}-$i; done
        ip link add {name} netns {name}-1 type veth peer name {name} netns {name}-2
        for i in 1 2; do
            ip -n {name}-$i addr add {address}.$i/24 dev {name}
            for link in lo {name}; do ip -n {name}-$i link set $link up; done
        done
        for i in 1 2; do
            until ip netns exec {name}-$i grep -q up /sys/class/net/{name}/operstate; do :; done
        done""",
        shell=True, capture_output=True, text=True, check=False, timeout=30)
    login = tmp_path / "login"                          # instead of ssh
    login.write_text("#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\n"
                     f"host={name}-${{1##*.}}; shift; exec ip netns exec $host sh -c \"$*\"\n")
    login.chmod(0o700)
    try:
        if made.returncode:
            pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        yield name, ["-launcher", "ssh", "-launcher-exec", str(login),
                     "-hosts", f"{address}.1,{address}.2"]
    finally:
        for i in (1, 2):
            subprocess.run(["ip", "netns", "del", f"{name}-{i}"], capture_output=True, check=False)


def test_two_hosts_train_what_two_ranks_of_one_do(tmp_path, two_hosts):
    """By TCP, whose bytes are counted: ranks on one machine would find its shared memory."""
    name, words = two_hosts
    inside = ("ip", "netns", "exec", f"{name}-1")
    assert mpiexec(tmp_path, *words, before=inside, UCX_TLS="tcp", UCX_NET_DEVICES=name) == \
        mpiexec(tmp_path)
    sent = subprocess.run([*inside, "cat", f"/sys/class/net/{name}/statistics/tx_bytes"],
                          capture_output=True, text=True, check=True)
    assert int(sent.stdout) > 10_000
