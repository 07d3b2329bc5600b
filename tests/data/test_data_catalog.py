"""Names and paths: what is found where, and what is said when nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinygrad_cnn.data import catalog, find, load
from tinygrad_cnn.data.safe_io import PUBLISHED
from tinygrad_cnn.errors import DataError, SettingError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Three places to look in, none of them of this machine."""
    made = {name: tmp_path / name for name in ("variable", "home", "system")}
    for path in made.values():
        path.mkdir()
    monkeypatch.setenv("TINYGRAD_CNN_DATA", str(made["variable"]))
    monkeypatch.setenv("HOME", str(made["home"]))
    monkeypatch.setenv("USERPROFILE", str(made["home"]))
    monkeypatch.setattr(catalog, "_SYSTEM", made["system"])
    made["cache"] = made["home"] / ".cache" / "tinygrad_cnn"
    return made


def test_find_asks_variable_cache_and_system_in_this_order(formats, places):
    for place in ("system", "cache", "variable"):
        formats.write_idx_set(places[place] / "fashion-mnist")
        assert find("fashion-mnist") == places[place] / "fashion-mnist"


def test_find_without_the_variable(formats, places, monkeypatch):
    formats.write_idx_set(places["variable"] / "mnist")
    formats.write_idx_set(places["cache"] / "mnist")
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("TINYGRAD_CNN_DATA")
        else:
            monkeypatch.setenv("TINYGRAD_CNN_DATA", value)
        assert find("mnist") == places["cache"] / "mnist"


def test_root_is_the_only_place_when_it_is_given(formats, places, tmp_path):
    formats.write_idx_set(places["cache"] / "mnist")
    with pytest.raises(DataError, match=r"not found; searched\n  .*empty \(does not exist\)"):
        find("mnist", root=tmp_path / "empty")
    formats.write_idx_set(tmp_path / "mine")
    assert find("mnist", root=tmp_path / "mine") == tmp_path / "mine"


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_find_knows_the_folders_of_other_libraries(formats, places, folder):
    formats.write_idx_set(places["variable"] / folder)
    assert find("mnist") == places["variable"] / folder


@pytest.mark.parametrize("incomplete", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_an_incomplete_set_is_passed_over(formats, places, incomplete):
    formats.write_idx_set(places["variable"] / "mnist")
    (places["variable"] / "mnist" / incomplete).unlink()
    formats.write_idx_set(places["system"] / "mnist", compress=True)
    assert find("mnist") == places["system"] / "mnist"


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar10", "."])
def test_find_knows_cifar10_as_folder(formats, places, folder):
    formats.write_cifar(places["cache"] / folder, formats.cifar_binary, ".bin", count=1)
    assert find("cifar10") == places["cache"] / folder


def test_find_knows_cifar10_as_archive(formats, places, tmp_path):
    formats.write_cifar(tmp_path / "files", formats.cifar_binary, ".bin", count=1)
    raw = formats.tar_gz({f"cifar-10-batches-bin/{path.name}": path.read_bytes()
                          for path in (tmp_path / "files").iterdir()})
    archive = places["variable"] / "cifar-10-binary.tar.gz"
    archive.write_bytes(raw)
    assert find("cifar10") == archive
    assert find("cifar10", root=archive) == archive
    assert len(load(archive).train) == 5


def test_what_is_not_found_lists_the_places_and_the_ways(places):
    with pytest.raises(DataError) as caught:
        find("fashion-mnist")
    text = str(caught.value)
    for words in (str(places["variable"]), str(places["cache"]), str(places["system"]),
                  "(does not exist)", "apt install dataset-fashion-mnist",
                  "https://github.com/zalandoresearch/fashion-mnist", "TINYGRAD_CNN_DATA", "root="):
        assert words in text
    with pytest.raises(DataError, match=r"storage\.googleapis\.com/cvdf-datasets/mnist"):
        find("mnist")
    with pytest.raises(DataError, match=r"www\.cs.toronto\.edu/~kriz/cifar\.html"):
        find("cifar10")


@pytest.mark.parametrize("name", ["fashion-mnist", "Fashion_MNIST", "FashionMNIST", "fashion"])
def test_names_may_be_spelled_in_several_ways(formats, places, name):
    formats.write_idx_set(places["cache"] / "fashion-mnist")
    assert find(name) == places["cache"] / "fashion-mnist"


@pytest.mark.parametrize("name, words", [
    ("mnits", "did you mean 'mnist'"),
    ("imagenet", "choose from digits, mnist, fashion-mnist, cifar10$"),
    ("digits", "part of the package"),
])
def test_unknown_names_are_refused(name, words):
    with pytest.raises(SettingError, match=words):
        find(name)


def test_what_is_neither_name_nor_path_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"neither a data set \(digits, .*\) nor an existing "
                                           "path; did you mean 'digits'"):
        load("digit")
    with pytest.raises(SettingError, match="nor an existing path"):
        load(tmp_path / "absent")


def test_a_name_means_the_published_pixels(formats, places):
    formats.write_idx_set(places["cache"] / "mnist")
    with pytest.raises(DataError, match=r"its SHA256 differs.*give the path of the folder instead"):
        load("mnist")
    assert len(load(places["cache"] / "mnist").train) == 6
    formats.write_cifar(places["cache"] / "cifar10", formats.cifar_binary, ".bin", count=1)
    with pytest.raises(DataError, match="is not the published file of CIFAR-10"):
        load("cifar10")
    assert len(load(places["cache"] / "cifar10").test) == 1


def test_a_path_may_be_text_or_path(formats, tmp_path):
    formats.write_idx_set(tmp_path)
    assert load(str(tmp_path)).train.digest() == load(tmp_path).train.digest()


@pytest.mark.parametrize("protocol", [0, 2])
def test_load_finds_out_that_a_folder_holds_the_python_version(formats, tmp_path, protocol):
    formats.write_cifar(tmp_path, lambda x, y: formats.python2_pickle(x, y, protocol=protocol))
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (10, 2)


def test_what_holds_no_data_set_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no data set: neither IDX files"):
        load(tmp_path)
    file = tmp_path / "images.npy"
    file.write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"is a file; .*DataLoader\(images, labels\)"):
        load(file)


def test_settings_that_do_not_apply_are_refused(formats, tmp_path):
    formats.write_idx_set(tmp_path)
    with pytest.raises(SettingError, match="root goes with a name"):
        load(tmp_path, root=tmp_path)
    with pytest.raises(SettingError, match="size and mode are for folders of pictures"):
        load(tmp_path, size=(8, 8))
    with pytest.raises(SettingError, match="size and mode are for folders of pictures"):
        load("digits", mode="L")


def test_digits_need_no_place_at_all(places):
    assert [len(part) for part in load("digits")] == [1400, 397]


def test_published_checksums_are_of_the_right_form():
    for name, files in PUBLISHED.items():
        for file, text in files.items():
            kind, digits = text.split(":")
            assert len(digits) == {"sha256": 64, "md5": 32}[kind], (name, file)
            int(digits, 16)
    assert len({text for files in PUBLISHED.values() for text in files.values()}) == 20


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_found_and_is_the_published_one(monkeypatch, tmp_path):
    monkeypatch.delenv("TINYGRAD_CNN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("fashion-mnist") == DEBIAN
    train, test = load("fashion-mnist")                 # checks four SHA-256
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert set(train.counts().values()) == {6_000}
    assert set(test.counts().values()) == {1_000}
    assert train.classes[train.labels[0]] == "ankle boot"
    with pytest.raises(DataError, match="is not the published file"):
        load("mnist", root=DEBIAN)                      # same file names, other pixels
    assert load(DEBIAN).train.name == "fashion-mnist"   # recognized by its labels
