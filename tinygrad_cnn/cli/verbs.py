"""The verbs of the command line and their options."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np

from tinygrad_cnn import __version__, data, start
from tinygrad_cnn.cli import draw
from tinygrad_cnn.cli.receipt import compared, read_receipt, sha256_of
from tinygrad_cnn.cli.recipes import (
    OPTIMIZERS,
    RECIPES,
    Job,
    Outcome,
    Recipe,
    recipe_for,
    run,
    test_batches,
)
from tinygrad_cnn.errors import (
    CheckpointError,
    TinygradCnnError,
    missing_extra,
)
from tinygrad_cnn.files import shown, words
from tinygrad_cnn.io import load_weights
from tinygrad_cnn.kernels.compiled import get_compiled, set_compiled
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.models import MODELS, build
from tinygrad_cnn.ops import cross_entropy, manual_seed
from tinygrad_cnn.optim import SGD
from tinygrad_cnn.parallel import world
from tinygrad_cnn.train import Trainer, confusion_matrix, profile, summarize

__all__ = ["main"]

DEMO_ACCURACY = 0.96              # what the demo must reach on the 397 test digits


def _demo(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    recipe = RECIPES["digits"]
    recipe = replace(recipe, epochs=args.epochs or recipe.epochs)
    outcome = run(Job("digits", recipe, seed=args.seed), args.out, resume="never")
    images, labels = outcome.sample
    picture = draw.step(outcome.trainer.model, images[:32], labels[:32], args.out / "graph")
    outcome.files.extend(picture)
    return _report(outcome, began, DEMO_ACCURACY)


def _train(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    if args.ranks and world().size == 1:
        return _start_ranks(args)
    outcome = run(_job(args), args.out, resume=args.resume, save_every=args.save_every)
    return _report(outcome, began, args.min_accuracy)


def _start_ranks(args: argparse.Namespace) -> int:
    """Run the same command on several ranks, again from the checkpoint when one has died."""
    start = shutil.which("mpiexec", path=os.pathsep.join([
        os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if start is None or importlib.util.find_spec("mpi4py") is None:
        raise missing_extra("mpi4py", extra="mpi", purpose="several ranks")
    words = [start, "-n", str(args.ranks), sys.executable, "-m", "mpi4py", "-m", "tinygrad_cnn",
             *args.words]
    for left in reversed(range(args.max_restarts + 1)):
        status = subprocess.call(words, stdin=subprocess.DEVNULL)
        if status in (0, 1, 2, 130) or not left:
            return status if status in (0, 1, 2, 130) else 2
        print(f"tinygrad-cnn: a rank has died (status {status}); going on from the checkpoint, "
              f"{left} more times at most", file=sys.stderr, flush=True)
        words += ["--resume=auto"]
    return 2


def _job(args: argparse.Namespace) -> Job:
    changes = {name: value for name in ("model", "epochs", "batch_size", "lr", "optimizer")
               if (value := getattr(args, name)) is not None}
    return Job(args.data, replace(recipe_for(args.data), **changes), args.root, args.seed,
               args.limit, args.validation, args.workers)


def _report(outcome: Outcome, began: float, least: float | None) -> int:
    below = least is not None and outcome.accuracy < least
    if world().rank:
        return int(below)
    print(f"test accuracy {100 * outcome.accuracy:.2f} % ({outcome.correct:,} of "
          f"{outcome.images:,} images; {outcome.split})")
    print(f"wrote {', '.join(map(str, outcome.files))}")
    print(f"SHA-256 of the weights: {outcome.receipt['weights']}")
    print(f"{time.perf_counter() - began:.1f} s in all")
    if below and least is not None:
        print(f"below the accuracy of {100 * least:g} %", file=sys.stderr)
        return 1
    return 0


def _verify(args: argparse.Namespace) -> int:
    receipt = read_receipt(args.folder / "run.json")
    if sha256_of(args.folder / "weights.safetensors") != receipt["weights"]:
        raise CheckpointError(f"{args.folder / 'weights.safetensors'} is not the file that the run "
                              "wrote: its SHA-256 is not the one of run.json")
    try:
        job = _job(parser().parse_args(["train", *receipt["arguments"]]))
    except SystemExit:
        raise CheckpointError(f"{args.folder / 'run.json'}: its arguments are none of train"
                              ) from None
    say = print if args.verbose else lambda text: None
    compiled = receipt["machine"].get("kernels") == "compiled" and get_compiled()
    with (tempfile.TemporaryDirectory() as folder, set_compiled(compiled),
          set_num_threads(args.threads or receipt["machine"]["threads"])):
        again = run(job, Path(folder), say=say).receipt
    same, lines = compared(receipt, again)
    print("\n".join(lines))
    print(f"{args.folder}: {'repeated' if same else 'not repeated'}")
    return 0 if same else 1


def _eval(args: argparse.Namespace) -> int:
    train, test = data.load(args.data, root=args.root)
    recipe = replace(recipe_for(args.data), **({"model": args.model} if args.model else {}))
    model = build(recipe.model, train.image_shape, len(train.classes))
    model.load_state_dict(load_weights(args.weights))
    trainer = Trainer(model, SGD(model.parameters(), 0.0), loss=cross_entropy)
    batches = test_batches(train, test, recipe)
    scores = trainer.evaluate(batches)
    print(f"{args.weights} on {test.name}: test accuracy {100 * scores['accuracy']:.2f} %, "
          f"loss {scores['loss']:.4f} ({len(test):,} images; {test.split})")
    if args.confusion:
        predicted = np.concatenate([trainer.predict(images) for images, _ in batches])
        print(_table(confusion_matrix(predicted, test.labels), test.classes))
    return 0


def _table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Rows are labels, columns predictions."""
    width = max(5, len(str(matrix.max())) + 1)
    side = max(map(len, classes))
    head = " " * side + "".join(str(i).rjust(width) for i in range(len(classes)))
    return "\n".join([head, *(name.rjust(side) + "".join(str(n).rjust(width) for n in row)
                              for name, row in zip(classes, matrix, strict=True))])


def _summary(args: argparse.Namespace) -> int:
    print(summarize(build(args.model, args.image_shape, args.classes), args.image_shape))
    return 0


def _profile(args: argparse.Namespace) -> int:
    rng = manual_seed(args.seed)
    model = draw.loaded(args.model) if ":" in args.model else \
        build(args.model, args.image_shape, args.classes, rng=rng)
    images, labels = draw.made_up(args, rng)
    with set_compiled(get_compiled() if args.compiled is None else args.compiled):
        print(f"{args.model}, batch {args.batch_size}, "
              f"{'compiled kernels' if get_compiled() else 'pure NumPy'}: "
              f"{profile(model, images, labels, steps=args.steps)}")
    return 0


def _data(args: argparse.Namespace) -> int:
    for name in [args.name] if args.name else data.NAMES:
        try:
            train, test = data.load(name, root=args.root)
        except TinygradCnnError as error:
            if args.name:
                raise
            print(f"{name}: {str(error).splitlines()[0]}")
            continue
        shape = "×".join(map(str, train.image_shape))
        print(f"{train.name}: {len(train):,} + {len(test):,} images of {shape}, "
              f"{len(train.classes)} classes ({test.split})")
    return 0


def _integer(minimum: int) -> Callable[[str], int]:
    """A type of argparse: integers of at least ``minimum``."""
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return number
    return parse


def _number(text: str) -> float:
    """A type of argparse: finite numbers."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = argparse.ArgumentParser(
        prog="tinygrad-cnn", description="Convolutional networks in NumPy: train, test gradients, "
        "draw the graph, profile.")
    top.add_argument("--version", action="version", version=f"tinygrad-cnn {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: object, help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        sub.add_argument("--threads", type=_integer(1), help="threads that kernels use")
        return sub

    def with_data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", required=True, metavar="NAME|PATH",
                         help=f"{', '.join(data.NAMES)}, or a folder")
        sub.add_argument("--root", type=Path, help="folder in which a named set is looked for")

    demo = verb("demo", _demo, "train a small CNN on the handwritten digits that are built in")
    demo.add_argument("--epochs", type=_integer(1), help=f"default {RECIPES['digits'].epochs}")
    demo.add_argument("--seed", type=_integer(0), default=0)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default runs/demo")

    train = verb("train", _train, "train a model on a data set")
    with_data(train)
    defaults = Recipe("")
    train.add_argument("--model", choices=MODELS)
    train.add_argument("--epochs", type=_integer(1))
    train.add_argument("--batch-size", type=_integer(1), help=f"default {defaults.batch_size}")
    train.add_argument("--lr", type=_number, help=f"highest learning rate, default {defaults.lr}")
    train.add_argument("--optimizer", choices=OPTIMIZERS, help=f"default {defaults.optimizer}")
    train.add_argument("--seed", type=_integer(0), default=0)
    train.add_argument("--limit", type=_integer(1), help="use only so many images of each split")
    train.add_argument("--validation", type=int, default=0, metavar="N",
                       help="hold out the last N training images and keep the best weights")
    train.add_argument("--min-accuracy", type=_number,
                       help="exit with 1 below this test accuracy (0 to 1)")
    train.add_argument("--out", type=Path, help="default runs/DATA-MODEL")
    several = train.add_mutually_exclusive_group()
    several.add_argument("--workers", type=_integer(1), default=1, metavar="N",
                         help="processes of this machine that train together")
    several.add_argument("--ranks", type=_integer(1), metavar="N",
                         help="start N processes by mpiexec (extra mpi)")
    train.add_argument("--max-restarts", type=_integer(0), default=0, metavar="N",
                       help="how often ranks go on from the checkpoint when one has died")
    train.add_argument("--save-every", type=_integer(1), metavar="STEPS",
                       help="write the checkpoint after so many steps too, not only each epoch")
    train.add_argument("--resume", choices=("auto", "never"),
                       help="auto: go on with the run that was cut in the folder, if there is one; "
                       "never: start again; without it such a run is not touched")

    again = verb("verify", _verify, "repeat a run and compare, to the bit where that must be equal")
    again.add_argument("folder", type=Path, help="of the run: holds run.json")
    again.add_argument("--verbose", action="store_true", help="show how the repetition goes")

    judge = verb("eval", _eval, "judge saved weights on the test images of a data set")
    with_data(judge)
    judge.add_argument("--weights", type=Path, required=True, help="the .safetensors file")
    judge.add_argument("--model", choices=MODELS)
    judge.add_argument("--confusion", action="store_true", help="print the confusion matrix")

    summary = verb("summary", _summary, "list the layers of a model")
    summary.add_argument("--model", choices=MODELS, default="lenet")
    summary.add_argument("--image-shape", type=draw.image_shape, default=(28, 28, 1),
                         metavar="HxWxC")
    summary.add_argument("--classes", type=_integer(1), default=10)

    cost = verb("profile", _profile, "tell where the time of a training step goes, op by op")
    cost.add_argument("--model", default="lenet", metavar="NAME|MODULE:CALLABLE",
                      help=f"{', '.join(MODELS)}, or what makes your model; default lenet")
    cost.add_argument("--image-shape", type=draw.image_shape, default=(28, 28, 1), metavar="HxWxC",
                      help="of made-up images, default 28x28x1")
    cost.add_argument("--classes", type=_integer(1), default=10)
    cost.add_argument("--batch-size", type=_integer(1), default=64, help="default 64")
    cost.add_argument("--steps", type=_integer(1), default=10,
                      help="steps of which the quickest is shown, default 10")
    cost.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=None,
                      help="with compiled kernels or in pure NumPy; default: where installed")
    cost.add_argument("--seed", type=_integer(0), default=0)

    sets = verb("data", _data, "say which data sets are found, and what they hold")
    sets.add_argument("name", nargs="?")
    sets.add_argument("--root", type=Path)

    draw.add_options(verb("graph", draw.run, "draw the graph of a model"), with_data)
    verbs.add_parser("gradtest", help="test the gradients of ops (see gradtest --help)",
                     add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Returns
    -------
    int
        0 if all went well, 1 if a result is below its minimum or not repeated, 2 for a call or a
        file that cannot be used, 130 if it was interrupted, 141 if nobody reads its output any
        more.
    """
    with _printable(sys.stdout), _printable(sys.stderr):
        try:
            start.interrupts_raise()
            try:
                return _status(list(sys.argv[1:] if argv is None else argv))
            finally:
                if sys.stdout is not None:              # it was closed before the program began
                    sys.stdout.flush()
        except KeyboardInterrupt:
            status, why = 130, "interrupted"
        except TinygradCnnError as error:
            status, why = 2, str(error)
        except MemoryError as error:
            status, why = 2, f"there is not enough memory: {error}"
        except OSError as error:
            status, why = (141, "") if isinstance(error, BrokenPipeError) else (
                2, f"{shown(error.filename or 'the output cannot be written')}: {words(error)}")
            _give_up_output()
        # In code of the user's, mostly: a model of graph and profile, an op of gradtest.
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            status, why = 2, (f"{type(error).__name__}: {error} ({shown(place.filename)}, line "
                              f"{place.lineno})")
        finally:
            start.interrupts_end_quietly()
        with contextlib.suppress(OSError, AttributeError):
            print(*["tinygrad-cnn: " + why] if why else [], end="\n" if why else "",
                  file=sys.stderr, flush=True)
        return status


def _status(words: list[str]) -> int:
    if words[:1] == ["gradtest"]:
        from tinygrad_cnn.testing.cli import main as gradtest
        return gradtest(words[1:])
    args = parser().parse_args(words)
    args.words = words
    if args.threads is not None:
        set_num_threads(args.threads)
    status: int = args.run(args)
    return status


@contextlib.contextmanager
def _printable(stream: TextIO) -> Iterator[None]:
    """Let the stream print "?" for what its encoding lacks, as × in ASCII."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.reconfigure(errors="strict")


def _give_up_output() -> None:
    """Send the rest of the output nowhere, so that the interpreter's end does not complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
