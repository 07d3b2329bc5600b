"""Workers that wait in compiled code: every part is done once, whoever asks, forks or sleeps."""

import os
import threading
import time

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.kernels import parallel

pytest.importorskip("numba")
workers = pytest.importorskip("tinygrad_cnn.kernels.jit.workers")


@workers.shared
def count_visits(part, low, high, visits, of_part):
    for i in range(low, high):
        visits[i] += 1
        of_part[part] += 1


@workers.shared
def asks_for_too_much(part, low, high, sizes):
    sizes[part] = len(np.empty((sizes[part], 1 << 20), np.float64))


@pytest.fixture
def many(monkeypatch):
    """More workers than CPUs, as on another machine."""
    monkeypatch.setattr(parallel, "_available", lambda: 5)
    with tc.set_num_threads(5):
        yield


def check(repeats=200):
    for count in range(1, repeats):
        visits, of_part = np.zeros(count, np.int64), np.zeros(8, np.int64)
        count_visits(count, visits, of_part)
        assert (visits == 1).all()
        cuts = [count * i // parallel.parts(count) for i in range(parallel.parts(count) + 1)]
        assert of_part[:len(cuts) - 1].tolist() == np.diff(cuts).tolist()


def test_every_part_is_done_once_by_any_number_of_workers(many):
    for n in (1, 2, 3, 5):
        with tc.set_num_threads(n):
            check()


def test_threads_that_ask_at_once_get_what_is_theirs(many):
    failed = []

    def ask():
        try:
            check(120)
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_workers_wake_from_sleep_and_take_no_cpu_while_they_sleep(many):
    check(20)
    for _ in range(5):
        time.sleep(0.02)                                # far longer than they look for work
        began = time.process_time()
        time.sleep(0.05)
        assert time.process_time() - began < 0.02
        check(20)


def test_a_part_that_fails_is_told_and_the_next_region_is_whole(many):
    with pytest.raises(MemoryError, match="could not allocate"):
        asks_for_too_much(5, np.full(5, 1 << 40))
    check(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")           # fork with threads
def test_a_forked_child_has_workers_of_its_own(many):
    check(20)
    child = os.fork()
    if not child:
        status = 1
        try:
            check(60)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check(20)
