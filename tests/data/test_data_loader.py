"""Batches: complete, repeatable, resumable, and no thread left behind."""

from __future__ import annotations

import contextvars
import gc
import json
import threading
import time
import traceback

import numpy as np
import pytest

from tinygrad_cnn.data import (
    Compose,
    DataLoader,
    Dataset,
    RandomFlip,
    RandomShift,
    ToFloat,
    WeightedRandomSampler,
    load,
)
from tinygrad_cnn.errors import DataError, SettingError

IMAGES = np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1)
LABELS = np.arange(11)


def loader(**settings):
    return DataLoader(IMAGES, LABELS, **{"batch_size": 4, **settings})


def seen(batches):
    """The labels of some batches, which name the images."""
    return [y.tolist() for _, y in batches]


def flat(batches):
    """The labels of some batches in one list."""
    return [label for labels in seen(batches) for label in labels]


def prefetchers():
    return [t for t in threading.enumerate() if t.name == "tinygrad_cnn prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert prefetchers() == []


# ---- one epoch ----------------------------------------------------------------------------------

@pytest.mark.parametrize("prefetch", [0, 1, 3, 50])
def test_an_epoch_holds_each_image_once(prefetch):
    for settings in ({}, {"shuffle": True, "seed": 3}):
        batches = list(loader(prefetch=prefetch, **settings))
        assert [len(y) for _, y in batches] == [4, 4, 3]
        assert sorted(flat(batches)) == list(range(11))
        for x, y in batches:
            assert x.dtype == np.uint8
            assert y.dtype == np.int64
            assert np.array_equal(x.ravel(), y)


def test_without_shuffle_the_order_is_that_of_the_images():
    assert seen(loader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert seen(loader(drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("batch_size, drop_last, length", [
    (4, False, 3), (4, True, 2), (11, True, 1), (11, False, 1), (12, False, 1), (1, False, 11)])
def test_len_counts_the_batches(batch_size, drop_last, length):
    made = loader(batch_size=batch_size, drop_last=drop_last)
    assert len(made) == length == len(list(made))


def test_batches_are_copies():
    images, labels = IMAGES.copy(), LABELS.copy()
    for x, y in DataLoader(images, labels, batch_size=4):
        x[...] = 99
        y[...] = 99
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_a_dataset_brings_its_labels():
    train, _ = load("digits")
    x, y = next(iter(DataLoader(train, batch_size=32)))
    assert np.array_equal(x, train.images[:32])
    assert np.array_equal(y, train.labels[:32])


def test_soft_labels_pass_as_they_are():
    soft = np.full((11, 3), 1 / 3, np.float32)
    _, y = next(iter(DataLoader(IMAGES, soft, batch_size=2)))
    assert y.dtype == np.float32
    assert y.shape == (2, 3)


@pytest.mark.parametrize("targets", [
    LABELS / 10, LABELS[:, None] / 10, -LABELS, LABELS > 4, IMAGES[..., 0],
    np.arange(11 * 6.0).reshape(11, 2, 3, 1), np.arange(11) * 1j,
], ids=["numbers", "a column", "negative", "booleans", "masks", "images", "complex"])
@pytest.mark.parametrize("data", [np.arange(11), np.arange(22.0).reshape(11, 2),
                                  np.arange(66).reshape(11, 2, 3), IMAGES[..., None]])
def test_inputs_and_targets_of_any_rank_and_dtype_pass_as_they_are(data, targets):
    batches = list(DataLoader(data, targets, batch_size=4))
    for given, made in zip((data, targets), zip(*batches, strict=True), strict=True):
        assert made[0].dtype == given.dtype
        assert np.array_equal(np.concatenate(made), given)


def test_pairs_and_dicts_come_out_as_they_went_in():
    data, targets = (IMAGES, {"row": LABELS}), {"mask": IMAGES[..., 0], "both": (LABELS, -LABELS)}
    for x, y in DataLoader(data, targets, batch_size=3, shuffle=True, seed=1):
        names = x[1]["row"]
        assert np.array_equal(x[0].ravel(), names)
        assert y.keys() == targets.keys()
        assert np.array_equal(y["mask"].ravel(), names)
        assert np.array_equal(y["both"], (names, -names))


def test_without_targets_a_batch_is_the_inputs():
    made = list(DataLoader(IMAGES, batch_size=6))
    assert np.array_equal(np.concatenate(made), IMAGES)
    assert [x.tolist() for x in DataLoader([5, 6, 7], 2, transform=lambda x, rng: -x)] == [
        [-5, -6], [-7]]


def test_batch_size_and_shuffle_go_by_position_with_and_without_targets():
    toy = Dataset("toy", IMAGES, LABELS, tuple("abcdefghijk"), split="all")
    for made in (DataLoader(toy, 4, True, seed=1), DataLoader(IMAGES, LABELS, 4, True, seed=1),
                 DataLoader(toy, 4, shuffle=True, seed=1)):
        assert seen(made) == seen(loader(shuffle=True, seed=1))
    assert DataLoader(toy).batch_size == 1
    with pytest.raises(SettingError, match="shuffle must be True or False, got 5"):
        DataLoader(toy, 4, batch_size=5)


def test_a_transform_of_ours_takes_the_masks_along_and_a_function_does_not():
    images = np.arange(11 * 4, dtype=np.uint8).reshape(11, 2, 2, 1)
    masks = {"mask": images[..., 0].astype(np.int64), "label": LABELS}
    flip = Compose([RandomFlip(), lambda images, rng: images + 1])
    for x, y in DataLoader(images, masks, batch_size=4, seed=3, transform=flip):
        assert np.array_equal(x[..., 0] - 1, y["mask"])
        assert np.array_equal(y["mask"].min((1, 2)) // 4, y["label"])
    changed = [x for x, _ in DataLoader(images, masks, batch_size=11, seed=3, transform=flip)]
    assert not np.array_equal(changed[0] - 1, images)
    alone = DataLoader(images, images, batch_size=11, seed=3,
                       transform=lambda x, rng: RandomFlip(1.0)(x, rng))
    x, y = next(iter(alone))
    assert np.array_equal(x, images[:, :, ::-1])
    assert np.array_equal(y, images)


def test_a_sampler_decides_which_samples_come_and_how_many():
    weights = np.where(LABELS == 7, 1.0, 0.0)
    made = loader(sampler=WeightedRandomSampler(weights, 6), seed=0)
    assert (len(made), len(loader(sampler=WeightedRandomSampler(weights, 6), drop_last=True))) == (
        2, 1)
    assert seen(made) == [[7] * 4, [7] * 2]
    some = [flat(loader(sampler=WeightedRandomSampler(LABELS), seed=seed)) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert 0 not in some[0]
    assert set(flat(loader(sampler=WeightedRandomSampler(LABELS < 1, 50), seed=0))) == {0}
    state = made.state_dict()
    with pytest.raises(SettingError, match=r"sampler is WeightedRandomSampler.*6, rep"):
        loader(sampler=WeightedRandomSampler(LABELS, 6)).load_state_dict(state)
    with pytest.raises(SettingError, match="must draw 20 indices from 0 to 10; is it for other"):
        next(iter(loader(sampler=WeightedRandomSampler(np.ones(20)))))


def test_a_transform_makes_the_images():
    x, _ = next(iter(loader(transform=ToFloat(1 / 10))))
    assert x.dtype == np.float32
    assert np.allclose(x.ravel(), [0, 0.1, 0.2, 0.3])


# ---- order --------------------------------------------------------------------------------------

def test_the_order_depends_on_seed_and_epoch_alone():
    orders = [seen(loader(shuffle=True, seed=seed, prefetch=p)) for seed in (0, 1) for p in (0, 2)]
    assert orders[0] == orders[1] != orders[2] == orders[3]
    long = loader(shuffle=True, seed=0)
    epochs = [seen(long) for _ in range(5)]
    assert len({json.dumps(e) for e in epochs}) == 5
    late = loader(shuffle=True, seed=0)
    late.set_epoch(3)
    assert seen(late) == epochs[3]
    assert late.epoch == 4
    assert np.array_equal(late.order(2), np.concatenate([np.array(b) for b in epochs[2]]))


def test_the_order_of_a_seed_is_pinned():
    # A change here is a change of every recorded run.
    assert loader(shuffle=True, seed=0).order(0).tolist() == PINNED[0]
    assert loader(shuffle=True, seed=0).order(1).tolist() == PINNED[1]


def test_what_a_transform_draws_for_a_seed_is_pinned():
    drawn = []
    list(loader(seed=0, transform=lambda x, rng: drawn.append(int(rng.integers(1000))) or x))
    assert drawn == DRAWN


DRAWN = [616, 878, 924]
PINNED = ([5, 6, 10, 1, 9, 7, 0, 8, 4, 2, 3],
          [9, 3, 0, 5, 1, 7, 6, 10, 2, 8, 4])


def test_batch_size_does_not_change_the_order():
    small, large = (loader(shuffle=True, seed=5, batch_size=b) for b in (2, 11))
    assert flat(small) == flat(large)


def test_orders_are_spread_evenly():
    firsts = np.bincount([loader(shuffle=True, seed=s).order(0)[0] for s in range(2200)])
    # expected 200 each, standard deviation 13.5
    assert (np.abs(firsts - 200) < 70).all()


def test_without_a_seed_orders_differ_and_the_seed_can_be_read():
    first, second = loader(shuffle=True), loader(shuffle=True)
    assert first.seed != second.seed
    assert seen(first) == seen(loader(shuffle=True, seed=first.seed))


def test_transforms_draw_the_same_whatever_came_before():
    def noise(images, rng):
        return images + rng.random(images.shape)
    runs = []
    for prefetch in (0, 2):
        made = loader(seed=1, transform=noise, prefetch=prefetch)
        runs.append([[x for x, _ in made] for _ in range(3)])
    late = loader(seed=1, transform=noise)
    late.set_epoch(2)
    runs.append([None, None, [x for x, _ in late]])
    for x, y, z in zip(runs[0][2], runs[1][2], runs[2][2], strict=True):
        assert np.array_equal(x, y)
        assert np.array_equal(x, z)
    assert not np.array_equal(runs[0][0][0] - IMAGES[:4], runs[0][1][0] - IMAGES[:4])
    assert not np.array_equal(runs[0][0][0] - IMAGES[:4], runs[0][0][1] - IMAGES[4:8])


def test_leaving_an_epoch_early_ends_it():
    whole = loader(shuffle=True, seed=2)
    expected = [seen(whole) for _ in range(3)]
    broken = loader(shuffle=True, seed=2)
    for _ in broken:
        break
    assert broken.epoch == 0
    assert seen(broken) == expected[1]
    assert seen(broken) == expected[2]


def test_two_iterations_at_once_are_two_epochs():
    made = loader(shuffle=True, seed=2)
    pairs = list(zip(made, made, strict=True))
    again = loader(shuffle=True, seed=2)
    assert seen(a for a, _ in pairs) == seen(again)
    assert seen(b for _, b in pairs) == seen(again)


def test_the_state_follows_the_newest_iteration():
    made = loader()
    old = iter(made)
    next(old)
    new = iter(made)
    next(new)
    next(old)
    next(old)
    assert next(old, None) is None
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (1, 1)


# ---- exact resume -------------------------------------------------------------------------------

@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("stop", range(8))
def test_a_loader_resumes_where_another_stopped(stop, prefetch):
    transform = Compose([RandomShift(1), ToFloat()])
    settings = {"batch_size": 16, "shuffle": True, "transform": transform, "prefetch": prefetch}
    train = load("digits").train.subset(slice(60))              # 4 batches an epoch

    def run(made, count):
        while count:
            for x, y in made:
                yield x.tobytes() + y.tobytes(), made.state_dict()
                count -= 1
                if not count:
                    return

    whole = list(run(DataLoader(train, seed=9, **settings), 12))
    state = (whole[stop - 1][1] if stop else DataLoader(train, seed=9, **settings).state_dict())
    resumed = DataLoader(train, **settings)                     # without a seed: takes it over
    resumed.load_state_dict(json.loads(json.dumps(state)))
    rest = list(run(resumed, 12 - stop))
    assert [item for item, _ in rest] == [item for item, _ in whole[stop:]]
    assert [at for _, at in rest] == [at for _, at in whole[stop:]]


def test_state_counts_batches_handed_out_not_prefetched():
    made = loader(prefetch=3)
    batches = iter(made)
    assert made.state_dict()["position"] == 0
    next(batches)
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (0, 1)
    next(batches)
    next(batches)
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (0, 3)
    assert next(batches, None) is None
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (1, 0)


def test_resumed_after_the_last_batch_an_epoch_has_none_left():
    made = loader()
    for _ in made:
        state = made.state_dict()
    resumed = loader(seed=made.seed)
    resumed.load_state_dict(state)
    assert list(resumed) == []
    assert resumed.epoch == 1
    assert len(list(resumed)) == 3


@pytest.mark.parametrize("change, words", [
    ({"seed": 8}, "seed is 7 here but 8 in the state"),
    ({"samples": 12}, "samples is 11 here but 12"),
    ({"sampler": "x"}, "sampler is None here but x"),
    ({"batch_size": 5}, "batch_size is 4 here but 5"),
    ({"shuffle": False}, "shuffle is True here but False"),
    ({"drop_last": True}, "drop_last is False here but True"),
    ({"epoch": -1}, "epoch must be an integer of at least 0"),
    ({"epoch": 1.5}, "epoch must be an integer"),
    ({"position": 4}, "position 4 is past the 3 batches"),
    ({"position": True}, "position must be an integer"),
])
def test_a_state_of_another_loader_is_refused(change, words):
    made = loader(shuffle=True, seed=7)
    with pytest.raises(SettingError, match=words):
        made.load_state_dict({**made.state_dict(), **change})


def test_a_state_that_lacks_keys_is_refused():
    with pytest.raises(SettingError, match="lacks batch_size, data, drop_last, position"):
        loader().load_state_dict({"epoch": 1})


# ---- prefetching --------------------------------------------------------------------------------

def wait_until(condition):
    """Poll for at most five seconds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_thread_runs_ahead_by_so_many_batches_and_no_more(depth):
    made = []

    def count(images, rng):
        made.append(threading.current_thread().name)
        return images
    batches = iter(loader(batch_size=1, prefetch=depth, transform=count))
    next(batches)
    wait_until(lambda: len(made) == 1 + depth)
    time.sleep(0.05)
    assert len(made) == 1 + depth
    assert set(made) == {"tinygrad_cnn prefetch"}
    batches.close()


def test_without_prefetch_no_thread_is_started():
    for _ in loader():
        assert prefetchers() == []


def test_the_thread_ends_with_a_break():
    for _ in loader(batch_size=1, prefetch=2):
        assert len(prefetchers()) == 1
        break
    assert prefetchers() == []


def test_the_thread_ends_with_an_exception_in_the_loop():
    def train():
        for _ in loader(batch_size=1, prefetch=2):
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train()
    assert prefetchers() == []


def test_the_thread_ends_when_the_iteration_is_dropped():
    gc.disable()
    try:
        batches = iter(loader(batch_size=1, prefetch=2))
        next(batches)
        assert len(prefetchers()) == 1
        del batches
        assert prefetchers() == []
    finally:
        gc.enable()


def test_the_thread_ends_while_it_waits_inside_a_transform():
    go = threading.Event()

    def slow(images, rng):
        if rng.random() < 2 and images.ravel()[0] == 1:
            go.wait(5)
        return images
    batches = iter(loader(batch_size=1, prefetch=2, transform=slow))
    next(batches)
    threading.Timer(0.02, go.set).start()
    batches.close()
    assert prefetchers() == []


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_of_a_transform_comes_out_where_it_happened(prefetch):
    class UnluckyError(Exception):
        pass

    def fail_at_the_third(images, rng):
        if images.ravel()[0] == 2:
            raise UnluckyError("third")
        return images

    batches = iter(loader(batch_size=1, prefetch=prefetch, transform=fail_at_the_third))
    assert [next(batches)[1].item() for _ in range(2)] == [0, 1]
    with pytest.raises(UnluckyError, match="third") as caught:
        next(batches)
    assert "fail_at_the_third" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_a_stop_iteration_of_a_transform_does_not_end_the_epoch_silently():
    def stop(images, rng):
        raise StopIteration
    for prefetch in (0, 2):
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(loader(prefetch=prefetch, transform=stop))


def test_the_thread_sees_the_callers_context():
    flag = contextvars.ContextVar("flag", default="outside")
    found = []

    def look(images, rng):
        found.append(flag.get())
        return images
    token = flag.set("inside")
    try:
        list(loader(prefetch=2, transform=look))
    finally:
        flag.reset(token)
    assert found == ["inside"] * 3


def test_many_loaders_prefetch_at_once():
    made = [loader(batch_size=1, prefetch=2, shuffle=True, seed=s) for s in range(8)]
    together = list(zip(*made, strict=True))
    for i, one in enumerate(made):
        one.set_epoch(0)
        assert seen(row[i] for row in together) == seen(one)


def test_batches_are_freed_without_the_collector():
    class Counted(np.ndarray):
        alive = 0

        def __del__(self):
            Counted.alive -= 1

    def counted(images, rng):
        Counted.alive += 1
        return images.view(Counted)
    gc.disable()
    try:
        for prefetch in (0, 2):
            for _ in loader(prefetch=prefetch, transform=counted):
                pass
            del _
            assert Counted.alive == 0
    finally:
        gc.enable()


# ---- bad input ----------------------------------------------------------------------------------

@pytest.mark.parametrize("change, error, words", [
    ({"data": IMAGES[:0], "targets": LABELS[:0]}, DataError, "there are no samples in data"),
    ({"data": np.array([["a"]] * 11)}, DataError, "data must be numbers, got dtype <U1"),
    ({"data": (IMAGES, 3)}, DataError, "data must have an axis of samples, got the number 3"),
    ({"data": (IMAGES, LABELS[:10])}, DataError, "11 samples but 10 in data"),
    ({"data": ()}, DataError, "there are no samples in data"),
    ({"data": np.full((11, 1, 1, 1), np.nan)}, DataError, "data: sample 0 holds NaN"),
    ({"targets": LABELS[:10]}, DataError, "11 samples but 10 in targets"),
    ({"targets": {"mask": IMAGES, "label": LABELS[:10]}}, DataError, "but 10 in targets"),
    ({"targets": np.full(11, np.nan)}, DataError, "targets: sample 0 holds NaN"),
    ({"targets": np.where(np.arange(22).reshape(11, 2) == 9, np.inf, 0)}, DataError, "sample 4"),
    ({"batch_size": 0}, SettingError, "batch_size must be an integer of at least 1, got 0"),
    ({"batch_size": 2.5}, SettingError, "batch_size must be an integer"),
    ({"batch_size": True}, SettingError, "batch_size must be an integer"),
    ({"batch_size": 12, "drop_last": True}, SettingError, "leaves no batch: 11 samples"),
    ({"prefetch": -1}, SettingError, "prefetch must be an integer of at least 0"),
    ({"seed": -1}, SettingError, "seed must be an integer of at least 0"),
    ({"seed": 0.5}, SettingError, "seed must be an integer"),
    ({"shuffle": 32}, SettingError, "shuffle must be True or False, got 32"),
    ({"transform": 3}, SettingError, "transform must be callable"),
    ({"sampler": WeightedRandomSampler(LABELS), "shuffle": True}, SettingError, "leave shuffle"),
])
def test_what_cannot_be_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        DataLoader(**{"data": IMAGES, "targets": LABELS, "batch_size": 4, **change})


def test_a_dataset_with_labels_beside_it_is_refused():
    toy = Dataset("toy", IMAGES, LABELS, tuple("abcdefghijk"), split="all")
    with pytest.raises(SettingError, match="labels of its own"):
        DataLoader(toy, LABELS, batch_size=2)


@pytest.mark.parametrize("made, words", [
    (lambda x: x[:-1], r"given 4 samples and returned shape \(3, 1, 1, 1\)"),
    (lambda x: x.tolist(), "returned list"),
    (lambda x: None, "returned NoneType"),
])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_transform_that_returns_something_else_is_refused(made, words, prefetch):
    with pytest.raises(DataError, match=words):
        list(loader(transform=lambda images, rng: made(images), prefetch=prefetch))


def test_set_epoch_takes_whole_numbers_from_zero():
    for epoch, words in ((-1, "at least 0"), (1.0, "an integer"), (None, "an integer")):
        with pytest.raises(SettingError, match=words):
            loader().set_epoch(epoch)


def test_the_repr_says_what_is_loaded():
    assert repr(loader(seed=4)) == (
        "DataLoader(11 samples, 3 batches of 4, shuffle=False, seed=4, epoch=0)")
