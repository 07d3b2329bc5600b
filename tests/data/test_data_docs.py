"""The page on data is complete; that its blocks run is tested for every page, in test_docs.py."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_page_names_every_public_name_of_the_loaders_and_transforms():
    import tinygrad_cnn.data as room
    text = PAGE.read_text(encoding="utf-8")
    internal = {"Splits", "Transform", "NAMES", "check_labels", "load_digits", "load_idx",
                "load_cifar10", "load_image_folder", "read_cifar_binary", "read_cifar_python"}
    assert [name for name in sorted(set(room.__all__) - internal) if name not in text] == []
