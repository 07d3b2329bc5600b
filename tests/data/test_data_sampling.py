"""Parts, folds and draws by weight."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn.data import Dataset, WeightedRandomSampler, k_fold, load, random_split
from tinygrad_cnn.errors import SettingError

LABELS = np.repeat([0, 1, 2], [60, 30, 11])


def toy():
    return Dataset("toy", np.arange(101, dtype=np.float32).reshape(101, 1, 1, 1), LABELS,
                   ("a", "b", "c"), split="all")


# ---- parts of a data set -------------------------------------------------------------------------

@pytest.mark.parametrize("stratify", [False, True, LABELS % 2])
@pytest.mark.parametrize("lengths, sizes", [
    ([0.8, 0.2], [81, 20]), ([70, 20, 11], [70, 20, 11]), ([0.5, 0.25, 0.25], [50, 26, 25])])
def test_every_sample_is_in_one_part(lengths, sizes, stratify):
    parts = random_split(toy(), lengths, stratify=stratify, seed=4)
    assert [len(part) for part in parts] == sizes
    found = np.concatenate([part.images.ravel() for part in parts])
    assert sorted(found) == list(range(101))
    for part in parts:
        assert np.array_equal(part.labels, LABELS[part.images.ravel().astype(int)])
        assert (np.diff(part.images.ravel()) > 0).all()                 # in the order of the whole
        assert part.split.endswith(f"of {len(sizes)}, seed 4, of: all")


def test_a_stratified_split_gives_each_part_its_share_of_each_class():
    for seed in range(20):
        parts = random_split(toy(), [0.7, 0.2, 0.1], stratify=True, seed=seed)
        for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
            expected = share * np.bincount(LABELS)
            assert (np.abs(np.bincount(part.labels, minlength=3) - expected) < 2).all()
    plain = [random_split(toy(), [51, 50], seed=seed)[0].counts()["a"] for seed in range(20)]
    assert len(set(plain)) > 3


def test_folds_hold_out_each_sample_once_and_classes_evenly():
    for stratify in (False, True):
        held_out = []
        for train, test in k_fold(toy(), 5, stratify=stratify, seed=1):
            assert len(train) + len(test) == 101
            assert not np.isin(test.images, train.images).any()
            assert 20 <= len(test) <= 21
            if stratify:
                assert (np.abs(np.bincount(test.labels) - np.bincount(LABELS) / 5) < 1).all()
            held_out.extend(test.images.ravel())
        assert sorted(held_out) == list(range(101))
    assert len(list(k_fold(toy()))) == 5
    assert test.split == "fold 5 of 5, seed 1, of: all"
    assert train.split == "without fold 5 of 5, seed 1, of: all"


def test_parts_depend_on_the_seed_alone():
    first, again, other = ([part.images.tobytes() for part in random_split(toy(), [51, 50], seed=s)]
                           for s in (0, 0, 1))
    assert first == again != other
    assert first == [part.images.tobytes() for part in random_split(toy(), [51, 50])]
    assert ([test.images.tobytes() for _, test in k_fold(toy(), 2)]
            == [test.images.tobytes() for _, test in k_fold(toy(), 2, seed=0)])


def test_tuples_and_dicts_of_arrays_are_divided_alike():
    x, y = np.arange(10), np.arange(10) * 2.0
    for (a, rest), (b, _) in k_fold((x, {"y": y}), 3):
        assert np.array_equal(a * 2, rest["y"])
        assert sorted([*a, *b]) == list(range(10))
    first, second = random_split({"x": x}, [3, 7], stratify=x % 2)
    assert sorted([*first["x"], *second["x"]]) == list(range(10))


@pytest.mark.parametrize("make, words", [
    (lambda: random_split(toy(), [0.5, 0.4]), "do not divide 101 samples"),
    (lambda: random_split(toy(), [50, 50]), "do not divide 101 samples"),
    (lambda: random_split(toy(), [101, 0]), "parts that are not empty"),
    (lambda: random_split(toy(), [50.5, 50.5]), "give their sizes, or shares"),
    (lambda: random_split(toy(), [102, -1]), "lengths must be a finite number of at least 0"),
    (lambda: random_split(LABELS, [0.5, 0.5], stratify=True), "stratify=labels"),
    (lambda: k_fold(toy(), 1), "k must be an integer from 2 to 101"),
    (lambda: k_fold(toy(), seed=-1), "seed must be an integer of at least 0"),
])
def test_what_cannot_be_divided_is_refused(make, words):
    with pytest.raises(SettingError, match=words):
        make()


# ---- draws by weight -----------------------------------------------------------------------------

def test_samples_come_as_often_as_their_weights_say():
    weights = np.array([1.0, 0.0, 3.0])
    counts = np.bincount(WeightedRandomSampler(weights, 40_000).draw(np.random.default_rng(0)))
    assert counts[1] == 0
    assert abs(counts[2] - 30_000) < 400                # binomial: standard deviation 87
    assert len(WeightedRandomSampler(weights)) == 3


def test_balanced_classes_come_equally_often():
    drawn = LABELS[WeightedRandomSampler.balanced(LABELS, 30_000).draw(np.random.default_rng(1))]
    assert (np.abs(np.bincount(drawn) - 10_000) < 400).all()


def test_without_replacement_no_sample_comes_twice():
    sampler = WeightedRandomSampler([1, 2, 3, 0], 3, replacement=False)
    assert sorted(sampler.draw(np.random.default_rng(0))) == [0, 1, 2]


@pytest.mark.parametrize("make, words", [
    (lambda: WeightedRandomSampler([1, -1]), "weights must be a row of numbers"),
    (lambda: WeightedRandomSampler([0, 0]), "not all 0"),
    (lambda: WeightedRandomSampler([[1, 2]]), "a row"),
    (lambda: WeightedRandomSampler([1, np.nan]), "numbers"),
    (lambda: WeightedRandomSampler([1], 0), "num_samples must be an integer of at least 1"),
    (lambda: WeightedRandomSampler([1, 0], 2, False), "num_samples must be an integer from 1 to 1"),
    (lambda: WeightedRandomSampler([1], 1, "no"), "replacement must be True or False"),
])
def test_weights_that_cannot_be_are_refused(make, words):
    with pytest.raises(SettingError, match=words):
        make()


# ---- one sample, and parts by index --------------------------------------------------------------

def test_a_data_set_gives_samples_and_parts():
    train, _ = load("digits")
    image, label = train[3]
    assert image.shape == (8, 8, 1)
    assert type(label) is int
    assert (label, train[-1][1]) == (train.labels[3], train.labels[-1])
    assert np.array_equal(train[np.int64(3)][0], train.images[3])
    assert isinstance(train[2:5], Dataset)
    assert np.array_equal(train[2:5].images, train.images[2:5])
    assert train[train.labels == 7].counts()["7"] == len(train[train.labels == 7])
    assert [label for _, label in train[:6]] == train.labels[:6].tolist()
    with pytest.raises(IndexError):
        train[1400]
