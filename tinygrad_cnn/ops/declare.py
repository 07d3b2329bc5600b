"""What declarations share: `elementwise`, which declares an op and its function, and samples."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, apply, as_tensors, binary, unary
from tinygrad_cnn.core.apply import Inputs
from tinygrad_cnn.core.op import (
    FUNCTIONS,
    OPS,
    Op,
    Sample,
    dyadic,
    make_op,
    register,
    register_function,
)
from tinygrad_cnn.errors import DTypeError, TinygradCnnError
from tinygrad_cnn.names import own_names
from tinygrad_cnn.shapes import Shape, broadcast
from tinygrad_cnn.types import Function, Named, Settings

__all__ = ["broadcasting", "composed", "each", "elementwise", "geometry", "matrices",
           "smooth_matrices"]

F = TypeVar("F", bound=Function)
Interval = tuple[float, float]
Domain = Interval | tuple[Interval | None, Interval | None]
Samples: TypeAlias = "Callable[[np.random.Generator], Iterator[Sample]]"

_PAIRS = (
    ("same shape", (2, 3), (2, 3)),
    ("both operands stretched", (3, 1), (1, 2)),
    ("missing axes", (2, 3, 2), (3, 1)),
    ("no axes", (), (2, 3)),
    ("a row in a square", (3,), (3, 3)),
    ("a column in a square", (3, 1), (3, 3)),
    ("a square and a column", (3, 3), (3, 1)),
)


def matrices(rng: np.random.Generator) -> Iterator[Sample]:
    """Exactly representable entries, none of them 0, of both signs."""
    yield Sample("matrix", (dyadic(rng, 2, 3),))
    yield Sample("no axes", (dyadic(rng),))
    yield Sample("empty", (dyadic(rng, 0, 3),))


def smooth_matrices(low: float, high: float) -> Samples:
    """Entries drawn evenly from an interval in which the op is smooth; images between −2 and 2."""
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample("matrix", (rng.uniform(low, high, (3, 4)),))
        yield Sample("images", (rng.uniform(max(low, -2.0), min(high, 2.0), (2, 3, 2, 3)),))
        yield Sample("no axes", (np.asarray(rng.uniform(low, high)),))
    return samples


def each(cases: Callable[[np.random.Generator], Iterable[Any]],
         make: Callable[..., tuple[Any, Named]]) -> Samples:
    """A sample of each case ``(id, *facts)``: ``make(rng, *facts)`` gives its inputs and settings.

    >>> rows = each(lambda rng: [("two", 2), ("three", 3)],
    ...             lambda rng, n: ((dyadic(rng, n),), {"axis": 0}))
    >>> [sample.id for sample in rows(np.random.default_rng(0))]
    ['two', 'three']
    """
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name, *facts in cases(rng):
            args, settings = make(rng, *facts)
            yield Sample(name, args, settings)
    return samples


def geometry(rng: np.random.Generator, *, groups: int = 1) -> tuple[Shape, Shape, Settings]:
    """Images, filters and settings of a convolution, drawn small; no setting at its default."""
    kernel, stride, dilation = (tuple(int(i) for i in rng.integers(1, 4, 2)) for _ in range(3))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (2, 2)))
    spare = rng.integers(0, 4, 2)
    image = tuple(max(1, (k - 1) * d + 1 - sum(p) + int(more))
                  for k, d, p, more in zip(kernel, dilation, padding, spare, strict=True))
    channels, filters = (int(i) for i in rng.integers(1, 3, 2))
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return ((int(rng.integers(1, 3)), *image, channels * groups),
            (*kernel, channels, filters * groups), settings)


def broadcasting(a: Interval | None = None, b: Interval | None = None) -> Samples:
    """Two operands that broadcast in every way; drawn from intervals if given, dyadic otherwise."""
    def draw(rng: np.random.Generator, interval: Interval | None, shape: Shape) -> np.ndarray:
        if interval is None:
            return dyadic(rng, *shape)
        return np.asarray(rng.uniform(*interval, shape))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name, first, second in _PAIRS:
            yield Sample(name, (draw(rng, a, first), draw(rng, b, second)))
    return samples


def _with(settings: Sequence[Mapping[str, float]], draw: Samples) -> Samples:
    """Calls with these settings in turn, and at least one for each."""
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        drawn = list(draw(rng))
        for i, given in zip(range(max(len(drawn), len(settings))), itertools.cycle(settings)):
            sample = drawn[i % len(drawn)]
            words = ", ".join(f"{name} {value}" for name, value in given.items())
            yield Sample(f"{sample.id}, {words}", sample.args, given)
    return samples


def composed(function: F) -> F:
    """Make a function that is composed of ops public: its tensors are converted in its own name."""
    code = inspect.unwrap(function).__code__
    names = code.co_varnames[:code.co_argcount]
    arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    known = frozenset(arguments)
    kinds = {name: kind for name in names
             if (kind := function.__annotations__[name]).startswith("TensorLike")}
    optional = tuple(name for name, kind in kinds.items() if kind.endswith("None"))
    takes = Inputs(function.__name__, tuple(kinds), optional)
    places = {name: names.index(name) for name in kinds}
    needed = {name: i for name, i in places.items() if name not in optional}

    @functools.wraps(function)
    def call(*args: object, **settings: object) -> object:
        if not known.issuperset(settings):
            settings = own_names(takes.name, arguments, settings)
        if any(i >= len(args) and name not in settings for name, i in needed.items()):
            return function(*args, **settings)      # one is missing, as Python will say
        inputs = tuple(args[i] if i < len(args) else settings.get(name)
                       for name, i in places.items())
        given = list(args)
        for name, x in zip(takes.inputs, as_tensors(takes, inputs), strict=True):
            if places[name] < len(args):
                given[places[name]] = x
            elif x is not None:
                settings[name] = x
        try:
            return function(*given, **settings)
        except TinygradCnnError as error:
            raise _in_the_name_of(takes, inputs, error) from None
    return cast(F, register_function()(call))


def _in_the_name_of(takes: Inputs, inputs: tuple[object, ...],
                    error: TinygradCnnError) -> TinygradCnnError:
    """The error of a function within, in words of the function that was called."""
    owner, colon, rest = str(error).partition(": ")
    if owner == takes.name or not colon or not (owner in FUNCTIONS or owner in OPS):
        return error
    kinds = [(name, x.dtype) for name, x in zip(takes.inputs, inputs, strict=True)
             if isinstance(x, Tensor)]
    if isinstance(error, DTypeError) and kinds and all(dtype.kind in "iub" for _, dtype in kinds):
        name, dtype = kinds[0]
        rest = (f"{name} is {dtype}, and {takes.name} needs floats; cast it: "
                f"{name}.astype(np.float32)")
    return type(error)(f"{takes.name}: {rest}")


# ---- elementwise ops -----------------------------------------------------------------------------

def elementwise(kernel: Function, *rules: Function, domain: Domain | None = None,
                ufunc: np.ufunc | None = None, settings: Sequence[Mapping[str, float]] = (),
                couples: tuple[int, ...] | None = (), **fields: object) -> Callable[[F], F]:
    """Declare an elementwise op of one or two inputs, and make its public function.

    The decorated function gives name, signature and docstring and is never called: its body is the
    docstring alone.  Inputs are called x, or a and b.  An op of one input may have settings, which
    are finite floats with defaults.

    Parameters
    ----------
    kernel : callable
        A ufunc of NumPy, which then answers for tensors, too; or a function of arrays.
    *rules : callable
        For each input ``(ct, out, *inputs, **settings)`` -> its cotangent.
    domain : (low, high), or one such or None for each of two inputs, optional
        From where samples are drawn.  None: exactly representable numbers of both signs, for ops
        that are linear between kinks.
    ufunc : numpy.ufunc, optional
        What the kernel computes where that is a ufunc; small arrays are handed to it directly.
    settings : sequence of mapping
        The settings to test with, if the op has any.
    couples
        As in `Op`: None for a rule that selects or is constant, and never multiplies with a
        derivative that may be infinite.
    **fields
        Other fields of `Op` and `OpTest`: ``saved``, ``subgradient``, ``family`` ...

    Examples
    --------
    >>> @elementwise(np.arctan, lambda ct, out, x: ct / (x * x + 1.0), saved=("x",), domain=(-3, 3))
    ... def arctan_for_the_docs(x):
    ...     "The angle whose tangent is x."
    >>> arctan_for_the_docs(Tensor([1.0])).data
    array([0.7854], dtype=float32)
    """
    ufunc = ufunc or (kernel if isinstance(kernel, np.ufunc) else None)

    def declare(declared: F) -> F:
        code, name = declared.__code__, declared.__name__
        names = code.co_varnames[:code.co_argcount]
        inputs = names[:len(rules)]
        defaults: dict[str, float] = {
            **dict(zip(names[len(rules):], declared.__defaults__ or (), strict=True)),
            **(declared.__kwdefaults__ or {})}
        two = len(inputs) == 2
        samples = (broadcasting(*(domain or ())) if two else
                   smooth_matrices(*domain) if domain else matrices)
        op = register(make_op(**{
            "name": name, "kernels": {"array": kernel},
            "shape": (functools.wraps(kernel)(lambda x, **settings: x) if defaults else
                      (lambda a, b: broadcast(name, a=a, b=b)) if two else _same),
            "vjp": dict(zip(inputs, rules, strict=True)), "couples": couples, "broadcasts": two,
            "samples": _with(settings, samples) if defaults else samples, **fields}))
        function = (_with_settings(op, defaults) if defaults else
                    binary(op, ufunc or kernel) if two else unary(op, kernel))
        functools.update_wrapper(function, declared)
        return cast(F, register_function(*(() if ufunc is None else (ufunc,)))(function))
    return declare


def _same(x: Shape) -> Shape:
    return x


def _with_settings(op: Op, defaults: Mapping[str, float]) -> Callable[..., Tensor]:
    """The function of an op of one input whose settings are finite numbers."""
    known = ("x", *defaults)

    def function(x: Any = None, *placed: float, **given: Any) -> Tensor:
        if not defaults.keys() >= given.keys():
            given = own_names(op.name, known, given)
            x = given.pop("x", x)
        if len(placed) > len(defaults):
            raise TypeError(f"{op.name}() takes x and {', '.join(defaults)}, but "
                            f"{len(placed) + 1} arguments were given")
        for name, value in zip(defaults, placed, strict=False):
            if name in given:
                raise TypeError(f"{op.name}() got {name} by position and by name")
            given[name] = value
        settings: Settings = {name: checks.number(op.name, name, given.get(name, default))
                                    for name, default in defaults.items()}
        return apply(op, x, **settings)
    return function
