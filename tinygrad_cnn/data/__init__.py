"""Data sets, loaders and transforms: arrays, never tensors.

>>> from tinygrad_cnn.data import DataLoader, load
>>> train, test = load("digits")
>>> for images, labels in DataLoader(train, batch_size=32, shuffle=True, seed=0):
...     pass

Nothing here downloads, and no file is believed before it is checked; ``docs/data.md`` tells which
sets are read and how each file is guarded.
"""

from tinygrad_cnn.data.catalog import NAMES, find, load
from tinygrad_cnn.data.dataset import Dataset, Splits, check_labels
from tinygrad_cnn.data.digits import load_digits
from tinygrad_cnn.data.formats import (
    load_cifar10,
    load_idx,
    load_image_folder,
    read_cifar_binary,
    read_cifar_python,
    read_idx,
)
from tinygrad_cnn.data.geometry import (
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
)
from tinygrad_cnn.data.loader import DataLoader
from tinygrad_cnn.data.sampling import WeightedRandomSampler, k_fold, random_split
from tinygrad_cnn.data.transforms import (
    ColorJitter,
    Compose,
    CutMix,
    Cutout,
    MixUp,
    Normalize,
    RandomErasing,
    ToFloat,
    Transform,
    channel_statistics,
)
from tinygrad_cnn.names import on_first_use

__all__ = [
    "NAMES", "ColorJitter", "Compose", "CutMix", "Cutout", "DataLoader", "Dataset", "MixUp",
    "Normalize", "RandomAffine", "RandomCrop", "RandomErasing", "RandomFlip", "RandomResizedCrop",
    "RandomRotation", "RandomShift", "Splits", "ToFloat", "Transform", "WeightedRandomSampler",
    "channel_statistics", "check_labels", "find", "k_fold", "load", "load_cifar10", "load_digits",
    "load_idx", "load_image_folder", "random_split", "read_cifar_binary", "read_cifar_python",
    "read_idx",
]

on_first_use(__name__)
