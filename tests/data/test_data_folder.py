"""Folders of pictures, one subfolder a class."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from tinygrad_cnn.data import load, load_image_folder
from tinygrad_cnn.errors import DataError, MissingExtraError, SettingError

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (extra train)")


def picture(value, size=(4, 6), channels=3):
    """An image H W C of one value, with a gradient down the first channel."""
    pixels = np.full((*size, channels), value, np.uint8)
    pixels[:, :, 0] += np.arange(size[0], dtype=np.uint8)[:, None]
    return pixels


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, **options)


def save_text(folder, count):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.png").write_bytes(b"<html>")


def make(root, classes, count, **options):
    for label, name in enumerate(classes):
        for i in range(count):
            save(root / name / f"{i:02}.png", picture(10 * label + 100 + i, **options))


def test_train_and_test_folders_are_the_two_parts(tmp_path):
    make(tmp_path / "train", ["dog", "cat"], 3)
    make(tmp_path / "test", ["dog", "cat"], 2)
    train, test = load_image_folder(tmp_path)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.images.shape == (6, 4, 6, 3)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    # saved as dog = 0, cat = 1; read in the order cat, dog
    assert np.array_equal(train.images[0], picture(110))
    assert np.array_equal(train.images[4], picture(101))
    assert np.array_equal(test.images[3], picture(101))
    assert test.split == f"folder {tmp_path.name}/test"


def test_without_them_the_last_fifth_of_each_class_is_the_test_set(tmp_path):
    make(tmp_path, ["a"], 10)
    make(tmp_path, ["b"], 2)
    train, test = load_image_folder(tmp_path)
    assert train.counts() == {"a": 8, "b": 1}
    assert test.counts() == {"a": 2, "b": 1}
    assert np.array_equal(test.images[0], picture(108))
    assert test.split.startswith("last fifth of each class")


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_mode_sets_the_channels(tmp_path, mode, channels):
    make(tmp_path, ["a", "b"], 2)
    train, _ = load_image_folder(tmp_path, mode=mode)
    assert train.images.shape == (2, 4, 6, channels)


def test_grey_pictures_keep_their_values(tmp_path):
    make(tmp_path, ["a", "b"], 2, channels=1)
    train, _ = load_image_folder(tmp_path, mode="L")
    assert np.array_equal(train.images[0], picture(100, channels=1))
    color, _ = load_image_folder(tmp_path)
    assert np.array_equal(color.images, np.repeat(train.images, 3, axis=3))


def test_size_resizes_height_first(tmp_path):
    make(tmp_path, ["a"], 2)
    make(tmp_path, ["b"], 2, size=(9, 5))
    with pytest.raises(DataError, match=r"is \(9, 5\) pixels \(H, W\), but .* is \(4, 6\); give"):
        load_image_folder(tmp_path)
    train, _ = load_image_folder(tmp_path, size=(8, 3))
    assert train.images.shape == (2, 8, 3, 3)


def test_a_picture_lying_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                             # the camera was turned: rotate by 270 degrees
    pixels = picture(0, size=(8, 16))
    pixels[:, :8] = 255
    for i in range(2):
        save(tmp_path / "a" / f"{i}.png", pixels, exif=exif)
    train, _ = load_image_folder(tmp_path)
    assert train.images.shape == (1, 16, 8, 3)
    assert train.images[0, 0].min() == 255
    assert train.images[0, -1].max() < 10


def test_hidden_and_other_files_are_passed_over(tmp_path):
    make(tmp_path, ["a", "b"], 2)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("no class")
    assert load_image_folder(tmp_path)[0].counts() == {"a": 1, "b": 1}


def test_formats_of_photographs_are_read(tmp_path):
    for i, suffix in enumerate((".jpg", ".bmp", ".gif", ".ppm", ".tif", ".webp")):
        save(tmp_path / "a" / f"{i}{suffix}", picture(100))
    train, test = load_image_folder(tmp_path)
    assert len(train) + len(test) == 6
    assert np.abs(train.images.astype(int) - picture(100)).max() < 30


@pytest.mark.parametrize("prepare, words", [
    (lambda root: None, "has no subfolders; each class needs one"),
    (lambda root: (root / "a").mkdir(), r"a: holds no pictures \(\.bmp"),
    (lambda root: make(root, ["a"], 1), "class 'a' has one picture"),
    (lambda root: (make(root / "train", ["a", "b"], 1), make(root / "test", ["a"], 1)),
     "must have the same classes; only one has b"),
    (lambda root: save_text(root / "a", 2), "is not a picture that can be read"),
])
def test_folders_that_cannot_be_read_are_refused(tmp_path, prepare, words):
    prepare(tmp_path)
    with pytest.raises(DataError, match=words):
        load_image_folder(tmp_path)


def test_every_truncation_of_a_picture_is_refused_or_read_whole(tmp_path):
    make(tmp_path, ["a"], 2)
    path = tmp_path / "a" / "00.png"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            train, _ = load_image_folder(tmp_path)
        except DataError as error:
            named = "00.png" in str(error)
        else:
            named = np.array_equal(train.images[0], picture(100))
        assert named, f"cut after {length} bytes"


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path):
    for i in range(2):
        save(tmp_path / "a" / f"{i}.png", np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(DataError, match="more than 8 bits each"):
        load_image_folder(tmp_path)


def test_a_picture_that_claims_too_many_pixels_is_refused_unread(tmp_path):
    for i in range(2):
        path = tmp_path / "a" / f"{i}.pgm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"P5 9000 9000 255\n")
    with pytest.raises(DataError, match="has 9000 × 9000 pixels, more than 64,000,000"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("settings, words", [
    ({"mode": "CMYK"}, "mode must be one of L, RGB, RGBA"),
    ({"size": (0, 3)}, "size must be"),
    ({"size": (3,)}, "size must be"),
    ({"size": (3.5, 2)}, "size must be"),
])
def test_settings_that_cannot_be_are_refused(tmp_path, settings, words):
    make(tmp_path, ["a"], 2)
    with pytest.raises(SettingError, match=words):
        load_image_folder(tmp_path, **settings)


def test_load_finds_out_that_a_folder_holds_pictures(tmp_path):
    make(tmp_path / "train", ["a", "b"], 2)
    make(tmp_path / "val", ["a", "b"], 1)
    train, test = load(tmp_path, size=(2, 2), mode="L")
    assert train.images.shape == (4, 2, 2, 1)
    assert test.split.endswith("/val")


def test_without_pillow_the_message_has_the_pip_line(tmp_path, monkeypatch):
    make(tmp_path, ["a"], 2)
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *rest)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "tinygrad-cnn\[train\]"'):
        load_image_folder(tmp_path)
