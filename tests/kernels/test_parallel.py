"""The worker pool: parts, errors, nesting, forks, and the limit on BLAS's own threads."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.kernels import parallel as threads
from tinygrad_cnn.kernels.memory import allocate, blocks, place, workspace
from tinygrad_cnn.kernels.parallel import get_num_threads, parallel, set_num_threads

MOST = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
several = pytest.mark.skipif(MOST < 2, reason="needs two CPUs")


def test_every_entry_is_worked_on_once_and_results_keep_their_order():
    seen = np.zeros(101, int)

    def work(low, high):
        seen[low:high] += 1
        return low, high

    parts = parallel(101, work)
    assert (seen == 1).all()
    assert parts[0][0] == 0 and parts[-1][1] == 101
    assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))


def test_an_empty_range_is_one_empty_part():
    assert parallel(0, lambda low, high: (low, high)) == [(0, 0)]


def test_parts_have_at_least_so_many_entries():
    assert parallel(10, lambda low, high: high - low, least=6) == [10]


def test_threads_are_set_for_a_block_and_put_back():
    before = get_num_threads()
    with set_num_threads(1):
        assert get_num_threads() == 1
        assert len(parallel(8, lambda low, high: None)) == 1
    assert get_num_threads() == before


@pytest.mark.parametrize("n, words", [
    (0, f"n must be from 1 to {MOST}, the CPUs that this process may use, got 0"),
    (-1, "got -1"), (MOST + 1, f"got {MOST + 1}"), (1.5, "must be an integer, got 1.5"),
    (True, "must be an integer, got True"), ("2", "must be an integer, got '2'"),
])
def test_impossible_numbers_of_threads_are_refused(n, words):
    with pytest.raises(SettingError, match=words):
        set_num_threads(n)


@several
def test_parts_run_side_by_side():
    meeting = threading.Barrier(2, timeout=20)          # passes only if both parts are there
    with set_num_threads(2):
        parallel(2, lambda low, high: meeting.wait())


@several
@pytest.mark.parametrize("part", [0, 1])
def test_an_error_of_a_part_rises_after_the_others_are_done(part):
    done = []
    meeting = threading.Barrier(2, timeout=20)

    def work(low, high):
        meeting.wait()                                  # both parts have begun
        if low == part:
            raise ValueError(f"part {part}")
        time.sleep(0.01)
        done.append(low)

    with set_num_threads(2):
        with pytest.raises(ValueError, match=f"part {part}"):
            parallel(2, work)
        assert done == [1 - part]
        assert parallel(2, lambda low, high: low) == [0, 1], "the pool still works"


@several
def test_a_call_from_inside_a_part_has_the_same_parts():
    with set_num_threads(2):
        inner = parallel(2, lambda low, high: parallel(10, lambda a, b: (a, b)))
    assert inner == [[(0, 5), (5, 10)]] * 2


@several
def test_calls_from_several_threads_at_once_are_all_served():
    results = {}

    def user(name):
        results[name] = [sum(parallel(1000, lambda low, high: high - low)) for _ in range(50)]

    users = [threading.Thread(target=user, args=(name,)) for name in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join(timeout=60)
    assert results == {name: [1000] * 50 for name in range(4)}


@several
def test_a_worker_sees_the_error_handling_of_the_caller():
    def work(low, high):
        return np.log(np.zeros(1))[0]                   # a warning is an error in these tests

    with set_num_threads(2), np.errstate(divide="ignore"):
        assert parallel(2, work) == [-np.inf, -np.inf]


@several
def test_blas_has_one_thread_inside_a_region_and_its_own_number_after_it():
    library = threads.numpy_library()
    getters = [getattr(library, name, None) for _, name in threads._BLAS_NAMES]
    getter = next((g for g in getters if g is not None), None)
    if getter is None:
        pytest.skip("NumPy's BLAS has no setting of threads that is known here")
    before = getter()
    with set_num_threads(2):
        inside = parallel(2, lambda low, high: getter())
    assert inside == [1, 1]
    assert getter() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_workers_of_its_own():
    parallel(2, lambda low, high: None)                 # the parent's workers exist
    child = os.fork()
    if child == 0:
        ok = sum(parallel(100, lambda low, high: high - low)) == 100
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_arrays_of_a_workspace_are_aligned_apart_and_not_given_twice():
    with workspace(np.float32, (3, 5), (7,)) as (a, b):
        a[...], b[...] = 1, 2
        with workspace(np.float64, (4,)) as (c,):
            c[...] = 3
            assert not np.shares_memory(a, c) and not np.shares_memory(b, c)
        assert not np.shares_memory(a, b)
        assert a.ctypes.data % 64 == 0 and b.ctypes.data % 64 == 0
        assert (a == 1).all() and (b == 2).all()


def test_a_buffer_of_a_workspace_comes_back_but_not_after_an_error():
    """A worker may still write there, if the call was interrupted twice."""
    with workspace(np.float32, (9,)) as (a,):
        address = a.ctypes.data
    kept = []

    def fail():
        with workspace(np.float32, (9,)) as (b,):
            assert b.ctypes.data == address
            kept.append(b)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    with workspace(np.float32, (9,)) as (c,):
        assert not np.shares_memory(c, kept[0])


@pytest.mark.parametrize("row, column, size", [
    (0, 0, (4, 5)), (-2, -1, (8, 9)), (1, 2, (2, 2)), (-3, 1, (5, 3)), (3, 4, (4, 4)),
    (-9, 0, (4, 5)), (7, 7, (2, 2)),
])
def test_place_crops_and_pads_on_every_side(row, column, size):
    x = np.arange(1.0, 41).reshape(1, 4, 5, 2)
    out = np.full((1, *size, 2), np.nan)
    place(out, x, row, column, fill=-1)
    for i in range(size[0]):
        for j in range(size[1]):
            inside = 0 <= row + i < 4 and 0 <= column + j < 5
            wanted = x[0, row + i, column + j] if inside else -1
            assert (out[0, i, j] == wanted).all()


@pytest.mark.parametrize("n", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("rows", [1, 5, 8])
@pytest.mark.parametrize("budget", [1, 10, 1000])
def test_blocks_cover_every_row_of_every_image_once(n, rows, budget):
    seen = np.zeros((n, rows), int)
    for images, first, last in blocks(n, rows, 3000, 1000 * budget, 2):
        seen[images, first:last] += 1
    assert (seen == 1).all()


def test_a_result_beyond_memory_is_refused_with_what_it_needs():
    with pytest.raises(MemoryError, match=r"conv2d: a result of shape \(1048576, 1024, 1024, 64\) "
                                          r"in float32 needs 262144.0 GiB"):
        allocate("conv2d", (1 << 20, 1024, 1024, 64), np.float32)


def test_little_work_is_one_block():
    assert blocks(4, 4, 4, 1, 2) == [(slice(0, 4), 0, 4)]
