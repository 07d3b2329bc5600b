"""Memory of large results comes back when the last view is gone, and is never lent twice."""

from __future__ import annotations

import gc
import io
import os
import threading

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core import _wrap
from tinygrad_cnn.kernels import memory
from tinygrad_cnn.kernels.memory import aligned, allocate, empty, held_memory, release_memory

MEGA = 1 << 20                          # bytes, as entries of uint8: well above the least size


@pytest.fixture(autouse=True)
def nothing_waits():
    """Begin with an empty pool, whatever other tests have left there."""
    gc.collect()
    release_memory()
    assert held_memory() == 0
    yield
    gc.collect()
    release_memory()


def filled(value, size=MEGA):
    a = empty((size,), np.uint8)
    a[...] = value
    return a


def address(a):
    return a.__array_interface__["data"][0]


def test_memory_is_used_again_once_its_array_is_gone():
    a = filled(1)
    where = address(a)
    assert held_memory() == 0
    del a
    assert held_memory() == MEGA
    assert address(empty((MEGA,), np.uint8)) == where


def test_memory_serves_another_shape_and_dtype_of_about_its_size():
    a = empty((512, 512), np.float32)
    where = address(a)
    del a
    b = empty((4, 250, 131), np.float64)            # 1,048,000 bytes, rounded up to the same size
    assert address(b) == where
    assert b.shape == (4, 250, 131) and b.dtype == np.float64
    b[...] = 1.5
    assert b.sum() == 1.5 * b.size


KEEPERS = {
    "a slice": lambda a: a[5:9],
    "a reshaped array": lambda a: a.reshape(-1, 4),
    "another dtype": lambda a: a.view(np.int16),
    "a transposed array": lambda a: a.reshape(1024, -1).T,
    "a view of a view": lambda a: a[10:].reshape(2, -1)[1, ::3],
    "a memoryview": memoryview,
    "a buffer of it": lambda a: np.frombuffer(a, np.uint8),
    "a broadcast array": lambda a: np.broadcast_to(a, (3, len(a))),
    "a detached tensor": lambda a: _wrap(a.view(np.float32), False, None).detach(),
}


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_memory_waits_for_the_last_view(keep):
    a = filled(7)
    kept = keep(a)
    del a
    assert held_memory() == 0, "memory came back while a view of it lives"
    other = filled(9)
    # Bytes of float32 in the tensor; the others show the bytes themselves.
    seen = kept.numpy().view(np.uint8) if isinstance(kept, tc.Tensor) else np.asarray(kept)
    wanted = 7 * 257 if seen.dtype == np.int16 else 7
    assert (seen == wanted).all()
    del kept, seen
    assert held_memory() == MEGA
    del other
    assert held_memory() == 2 * MEGA


def test_what_is_alive_never_shares_memory():
    rng = np.random.default_rng(0)
    alive, sizes = {}, (MEGA, MEGA - 5, MEGA // 2, 3 * MEGA)
    for step in range(300):
        if len(alive) > 5 or (alive and rng.random() < 0.4):
            key = list(alive)[rng.integers(len(alive))]
            view = alive.pop(key)
            assert (view == key % 251).all(), "somebody else wrote here"
            del view
        alive[step] = filled(step % 251, sizes[rng.integers(len(sizes))])[::61]
    for key, view in alive.items():
        assert (view == key % 251).all()


def test_memory_comes_back_from_another_thread():
    held = [filled(1)]
    where = address(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert held_memory() == MEGA
    assert address(empty((MEGA,), np.uint8)) == where


def test_threads_that_take_and_return_at_once_never_meet():
    wrong = []

    def work(name):
        for step in range(60):
            a = filled((name * 60 + step) % 251, MEGA // 2)
            view = a[:: 97]
            del a
            if not (view == (name * 60 + step) % 251).all():
                wrong.append((name, step))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert held_memory() > 0 and memory._POOL.used == 0


def test_memory_comes_back_from_a_cycle_that_is_collected():
    cycle = [filled(1)]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle
        assert held_memory() == 0
    finally:
        gc.enable()
    gc.collect()
    assert held_memory() == MEGA


def test_the_pool_and_what_is_in_use_never_exceed_what_was_in_use_at_once():
    rng = np.random.default_rng(1)
    pool, alive, most = memory._POOL, [], 0
    for _ in range(200):
        alive = [a for a in alive if rng.random() < 0.6]
        alive.append(empty((int(rng.integers(1, 9)) * (MEGA // 3),), np.uint8))
        in_use = sum(len(a.base._memory) for a in alive)
        most = max(most, in_use)
        waiting = sum(len(m) for lot in pool.free.values() for m in lot)
        assert pool.used == in_use
        assert held_memory() == waiting
        assert in_use + waiting <= most
    del alive
    assert held_memory() <= most


def test_sizes_that_change_do_not_pile_up():
    for size in range(MEGA, 9 * MEGA, MEGA // 2):           # batches that grow, one at a time
        empty((size,), np.uint8)
    assert 0 < held_memory() <= 9 * MEGA


def test_release_memory_gives_back_what_waits_and_says_how_much():
    kept, gone = filled(1), filled(2)
    del gone
    assert tc.release_memory() == MEGA
    assert held_memory() == 0
    assert tc.release_memory() == 0
    assert (kept == 1).all()
    del kept
    assert tc.release_memory() == MEGA


def test_released_memory_is_really_gone():
    import tracemalloc
    tracemalloc.start()
    try:
        a = filled(1, 16 * MEGA)
        del a
        held, _ = tracemalloc.get_traced_memory()
        release_memory()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - left >= 16 * MEGA


@pytest.mark.parametrize("shape, dtype", [
    ((3, 5), np.float32), ((0,), np.float64), ((), np.float32), ((0, 1 << 20), np.float32),
    (((1 << 18) - 1,), np.uint8), ((1 << 16,), object)])
def test_small_arrays_and_objects_are_numpys_own(shape, dtype):
    a = empty(shape, dtype)
    assert a.flags.owndata and a.base is None
    assert a.shape == shape and a.dtype == dtype
    del a
    assert held_memory() == 0


@pytest.mark.parametrize("shape, dtype", [
    ((1 << 18,), np.uint8), ((300, 301, 7), np.float32), ((1 << 17, 3), np.float64),
    ((70_001,), np.complex128)])
def test_large_arrays_begin_with_a_line_of_the_cache(shape, dtype):
    for _ in range(2):                                      # fresh, and used before
        a = empty(shape, dtype)
        assert address(a) % 64 == 0
        assert a.flags.c_contiguous and a.flags.writeable
        assert a.shape == shape and a.dtype == dtype
        del a


def test_aligned_memory_has_its_size_and_begins_with_a_line_of_the_cache():
    for size in (0, 1, 7, 1000):
        a = aligned(size, np.float32)
        assert a.shape == (size,) and a.dtype == np.float32
        assert address(a) % 64 == 0 or not size


def test_memory_is_saved_and_copied_as_any_array_is():
    a = empty((512, 600), np.float32)
    a[...] = np.arange(a.size, dtype=np.float32).reshape(a.shape)
    file = io.BytesIO()
    np.save(file, a)
    copied = a.copy()
    del a
    filled(255, 1228800)                                    # the same memory, written over
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), copied)
    assert copied[-1, -1] == 512 * 600 - 1


def test_memory_that_the_system_refuses_is_not_counted(monkeypatch):
    waiting = filled(1)
    del waiting

    def refuses(size, dtype):
        raise MemoryError("on purpose")

    monkeypatch.setattr(memory, "aligned", refuses)
    with pytest.raises(MemoryError, match="on purpose"):
        empty((4 * MEGA,), np.uint8)
    monkeypatch.undo()
    assert memory._POOL.used == memory._POOL.most == 0
    assert held_memory() == 0, "what waits is given back before the system is asked again"


def test_a_second_try_follows_when_what_waits_is_given_back(monkeypatch):
    waiting = filled(1)
    del waiting
    asked = []

    def refuses_once(size, dtype):
        asked.append(held_memory())
        if len(asked) == 1:
            raise MemoryError("on purpose")
        return aligned(size, dtype)

    monkeypatch.setattr(memory, "aligned", refuses_once)
    b = empty((MEGA // 2,), np.uint8)
    assert len(asked) == 2 and asked[-1] == 0
    assert len(b) == memory._POOL.used == MEGA // 2


def test_a_result_beyond_memory_says_op_shape_need_and_what_is_free():
    with pytest.raises(MemoryError, match=r"relu: a result of shape \(1048576, 4194304\) in "
                                          r"float64 needs 32768\.0 GiB, and \d+\.\d GiB are free; "
                                          "use a smaller batch"):
        allocate("relu", (1 << 20, 1 << 22), np.float64)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_finds_an_open_pool_and_changes_nothing_of_its_parents():
    kept, gone = filled(5), filled(6)
    del gone
    with memory._POOL.lock:                                # as another thread might hold it
        child = os.fork()
        if child == 0:
            a = filled(8)
            ok = (kept == 5).all() and (a == 8).all() and memory._POOL.lock is not None
            del a
            os._exit(0 if ok and held_memory() == MEGA else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (kept == 5).all() and held_memory() == MEGA


def test_a_training_step_asks_for_no_more_memory_once_it_has_run():
    rng = np.random.default_rng(3)
    x = tc.Tensor(rng.standard_normal((8, 32, 32, 8)).astype(np.float32))
    w = tc.Parameter(rng.standard_normal((3, 3, 8, 16)).astype(np.float32))
    b = tc.Parameter(np.zeros(16, np.float32))

    def step():
        tc.relu(tc.conv2d(x, w, b, padding=1) * 0.5).sum().backward()
        w.grad = b.grad = None

    step()
    most = memory._POOL.most
    assert most > 0, "the results of this step are large enough to be used again"
    for _ in range(5):
        step()
    assert memory._POOL.most == most
    assert held_memory() > 0 and memory._POOL.used == 0
