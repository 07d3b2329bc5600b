"""The verb ``graph``: a picture of a model, with gradients if there are labels."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinygrad_cnn import data, viz
from tinygrad_cnn.cli.recipes import Recipe, recipe_for, test_batches
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.io import load_weights
from tinygrad_cnn.models import MODELS, build
from tinygrad_cnn.nn import Module
from tinygrad_cnn.ops import manual_seed

__all__ = ["add_options", "image_shape", "loaded", "made_up", "run", "step"]

_MOST = 1 << 24                     # values of an image; 4096 × 4096 gray pixels


def add_options(sub: argparse.ArgumentParser,
                with_data: Callable[[argparse.ArgumentParser], None]) -> None:
    """The options of the verb."""
    sub.add_argument("place", nargs="?", metavar="MODULE:NAME|FILE.py:NAME",
                     help="a module, class or function of your own")
    sub.add_argument("--model", default="lenet", metavar="NAME",
                     help=f"{', '.join(MODELS)}, or a place as above; default lenet")
    sub.add_argument("--data", metavar="NAME|PATH",
                     help=f"take the batch from {', '.join(data.NAMES)}, or a folder; "
                          "made-up images if not given")
    sub.add_argument("--root", type=Path, help="folder in which a named set is looked for")
    sub.add_argument("--image-shape", type=image_shape, default=(28, 28, 1), metavar="HxWxC",
                     help="of made-up images, default 28x28x1")
    sub.add_argument("--classes", type=int, default=10, help="with made-up images, default 10")
    sub.add_argument("--batch-size", type=int, default=8, help="default 8")
    sub.add_argument("--weights", type=Path, help="a .safetensors file of weights")
    sub.add_argument("--backward", action="store_true", help="draw the loss and all gradients too")
    sub.add_argument("--level", default="auto",
                     help="auto, everything, operators, modules or folded; default auto")
    sub.add_argument("--open", nargs="*", default=(), help="modules to keep open")
    sub.add_argument("--theme", default="auto", help="auto, light or dark; default auto")
    sub.add_argument("--style", default="auto", help="cards, textbook or blocks; default auto")
    sub.add_argument("--direction", default="TB", help="TB or LR; default TB")
    sub.add_argument("--for", dest="for_", help="slide, paper or readme")
    sub.add_argument("--color", default="grad", help="grad, time, memory or flop; default grad")
    sub.add_argument("--scale", default="decades", help="decades or fit; default decades")
    sub.add_argument("--limit", type=int, default=40, help="most cards; default 40")
    sub.add_argument("--title", help="instead of the name of the model")
    sub.add_argument("--dpi", type=int, default=144, help="of a .png; default 144")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", type=Path,
                     help="by suffix: .svg .png .pdf .dot .mmd .json .html .txt .tex; "
                     "text on the terminal if not given")


def run(args: argparse.Namespace) -> int:
    """Draw, save, and say where."""
    rng, name = manual_seed(args.seed), args.place or args.model
    if args.batch_size < 2 or args.classes < 1:
        raise SettingError(f"graph: needs a batch of at least 2 and a class, got {args.batch_size} "
                           f"and {args.classes}")
    if args.data is not None:
        train, test = data.load(args.data, root=args.root)
        recipe = replace(recipe_for(args.data), batch_size=args.batch_size)
        images, labels = _first(train, test, recipe, args.batch_size)
        classes = len(train.classes)
    else:
        (images, labels), classes = made_up(args, rng), args.classes
    model = build(name, images.shape[1:], classes, rng=rng) if name in MODELS else loaded(name)
    if args.weights is not None:
        model.load_state_dict(load_weights(args.weights))
    figure = viz.graph_of_module(model, images, labels=labels if args.backward else None,
                                 level=args.level, open=args.open, theme=args.theme,
                                 style=args.style, direction=args.direction, for_=args.for_,
                                 color=args.color, scale=args.scale, limit=args.limit,
                                 title=args.title or name.split(":")[-1]
                                 + (f" on {args.data}" if args.data else ""))
    if args.out is None:
        print(figure.text())
    else:
        print(f"wrote {figure.save(args.out, dpi=args.dpi)}")
    return 0


def loaded(place: str) -> Module:
    """The model at ``module:name`` or ``file.py:name``; a class or function is called for it."""
    source, _, name = place.rpartition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(source).stem, source)
            assert spec is not None and spec.loader is not None, "a path of a .py file has a loader"
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        made = getattr(module, name)
    except (ImportError, ValueError, AttributeError, OSError) as error:
        raise SettingError(f"model {place!r} cannot be loaded: {error}; choose from "
                           f"{', '.join(MODELS)}, or give module:name or file.py:name") from None
    model = made() if callable(made) and not isinstance(made, Module) else made
    if not isinstance(model, Module):
        raise SettingError(f"model {place!r} gave {type(model).__name__}, not a Module")
    return model


def _first(train: data.Dataset, test: data.Dataset, recipe: Recipe,
           count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = next(iter(test_batches(train, test, recipe)))
    return images[:count], labels[:count]


def image_shape(text: str) -> tuple[int, int, int]:
    """A type of argparse: the sizes of an image."""
    try:
        h, w, c = (int(n) for n in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxWxC, such as 28x28x1") from None
    if min(h, w, c) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: each size must be at least 1")
    if h * w * c > _MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: an image of more than {_MOST:,} values")
    return h, w, c


def made_up(args: argparse.Namespace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch, drawn at random."""
    shape = (args.batch_size, *args.image_shape)
    if math.prod(shape) > 16 * _MOST:
        raise SettingError(f"--batch-size {args.batch_size}: {math.prod(shape):,} values are more "
                           f"than the {16 * _MOST:,} of the largest batch that is made up")
    return rng.normal(size=shape).astype(np.float32), rng.integers(0, args.classes, args.batch_size)


def step(model: Module, images: np.ndarray, labels: np.ndarray, stem: Path) -> Iterable[Path]:
    """One training step drawn beside ``stem``: as DOT text, and as a picture."""
    figure = viz.graph_of_module(model, images, labels=labels, title="one training step")
    return [figure.save(stem.with_suffix(suffix)) for suffix in (".dot", ".svg")]
