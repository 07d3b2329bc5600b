"""What an op is: one frozen value that is complete when it is imported.

Whoever draws, tests, times or documents an op asks its ``Op``.  The contract, in four lines; arrays
go by position, settings by keyword and without defaults::

    shape  (*input_shapes, **settings)                  -> output shape; its signature is the op's
    kernel (*arrays, **settings)                        -> array, or (array, residuals)
    vjp[x] (ct, out, *inputs, **settings, **residuals)  -> Tensor: the cotangent of input x
    test   OpTest: calls that must work, calls that must fail, and what is exact

This file knows no tensor and no graph; ``tinygrad_cnn.ops`` fills ``OPS`` and ``FUNCTIONS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property, partial, wraps
from inspect import CO_VARARGS, CO_VARKEYWORDS
from os.path import isfile
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from tinygrad_cnn.contexts import block
from tinygrad_cnn.errors import DeclarationError, KernelFailed, SettingError
from tinygrad_cnn.names import accepting
from tinygrad_cnn.shapes import Shape, size
from tinygrad_cnn.types import Array, Function, Named, Settings, Value

__all__ = ["FAMILIES", "FUNCTIONS", "OPS", "SUBGRADIENTS", "ErrorInput", "Op", "OpTest", "Sample",
           "dyadic", "make_op", "register", "register_function", "use_kernels"]

_OWN_OPS = __name__.partition(".")[0] + ".ops."
F = TypeVar("F", bound=Function)
Rules: TypeAlias = Sequence[tuple[int, Function]]       # each with the place of its input

FAMILIES = ("conv", "linear", "activation", "pool", "norm", "elementwise", "reduction", "shape",
            "loss", "random")

SUBGRADIENTS = ("left", "right", "larger", "middle", "first", "even", "all")
"""What a rule may give at a kink; see ``OpTest.subgradient``."""


@dataclass(frozen=True)
class Sample:
    """One way to call an op: arrays by position, settings by name.

    Attributes
    ----------
    id : str
        A few words that tell this call from the others, e.g. ``"stride leaves a border"``.
    args : tuple of ndarray or None
        The inputs, in float64; None for an optional input that is left out.
    settings : mapping
        The settings in their normalized form.

    Examples
    --------
    >>> sample = Sample("both bounds", (np.array([-2.0, 0.5]),), {"min": -1.0, "max": 1.0})
    >>> OPS["clip"].run(*sample.args, **sample.settings)[0]
    array([-1. ,  0.5])
    """

    id: str
    args: tuple[Array | None, ...]
    settings: Named = field(default_factory=dict)

    def __post_init__(self) -> None:
        args: object = self.args
        if isinstance(args, np.ndarray):                # of an op with one input
            args = (args,)
        if not isinstance(args, (tuple, list)):
            raise DeclarationError(f"Sample {self.id!r}: args is {type(args).__name__}, expected a "
                                   "tuple of arrays")
        object.__setattr__(self, "args", tuple(None if a is None else np.asarray(a)
                                               for a in args))


@dataclass(frozen=True)
class ErrorInput:
    """One call that must fail, and words that its message must contain.

    Attributes
    ----------
    id : str
        A few words that tell this call from the others.
    shapes : tuple of tuple of int, or None
        The shapes of the inputs; None for an optional input that is left out.
    settings : mapping
        The settings.
    message : str
        Words of the error.

    Examples
    --------
    >>> ErrorInput("too many", ((2, 3),), {"shape": (7,)}, "cannot fill (7,)").message
    'cannot fill (7,)'
    """

    id: str
    shapes: tuple[Shape | None, ...]
    settings: Named
    message: str


def dyadic(rng: np.random.Generator, *shape: int) -> Array:
    """Odd eighths in (-2, 2): sums and products are exact, so a rule can be held to ``==``.

    >>> dyadic(np.random.default_rng(0), 3) * 8
    array([11.,  5.,  1.])
    """
    return np.asarray((2 * rng.integers(-8, 8, shape) + 1) / 8)


@dataclass(frozen=True, kw_only=True)
class OpTest:
    """What the tests are told about an op; nothing of it is used when the op runs.

    Attributes
    ----------
    samples : callable
        ``(rng)`` -> `Sample` after `Sample`: calls that must work.
    error_inputs : tuple of ErrorInput
        Calls that must fail.
    exact_in : tuple of str
        Inputs in which the op is linear plus a constant while the others are held; their rules are
        tested with ``==``.
    piecewise_linear : bool
        Whether the op is linear between kinks (relu, max_pool2d).
    subgradient : str or callable, optional
        What the rules give where the slopes to the two sides differ, one of `SUBGRADIENTS`, or
        ``(**settings)`` -> one of them: the slope to the ``"left"`` or ``"right"``, the one of
        ``"larger"`` size, their ``"middle"``; where inputs compete, all to the ``"first"`` in
        reading order, ``"even"`` shares, or the whole slope to ``"all"``.  None: any subgradient.
    singular : tuple of float
        Values of an input at which the derivative is infinite though the value is not: there is no
        slope to compare with, so derived samples keep away from them.

    Examples
    --------
    >>> OPS["matmul"].test.exact_in
    ('a', 'b')
    """

    samples: Callable[[np.random.Generator], Iterable[Sample]]
    error_inputs: tuple[ErrorInput, ...] = ()
    exact_in: tuple[str, ...] = ()
    piecewise_linear: bool = False
    subgradient: str | Callable[..., str] | None = None
    singular: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Op:
    """Everything the framework knows about one operation.

    The signature of ``shape`` is the signature of the op: ``(x, w, b=None, *, stride)`` has an
    optional input, ``(*xs, axis)`` takes any number of them.  Settings have no defaults here.

    Parameters
    ----------
    name : str
        Unique; what errors, drawings and tests call the op.
    shape : callable
        ``(*input_shapes, **settings)`` -> output shape.  Raises for inputs that do not fit.
    kernels : mapping of str to callable
        ``(*arrays, **settings)`` -> array, best first.  A kernel that does not take a case returns
        NotImplemented and the next is asked; the last one, ``"reference"`` where there is one, may
        not decline.
    vjp : mapping of str to callable
        For each input the rule ``(ct, out, *inputs, **settings, **residuals)`` -> its cotangent.  A
        tuple of names stands for inputs whose cotangents one rule gives together, as a tuple.
        First-order passes hand arrays to a rule, recorded ones tensors: operators, methods that
        both have and the functions of the package take either.  ``out`` is None and an input may
        be NaN if ``saved`` does not name it.
    test : OpTest
        Samples, and what else tests need.
    axes : str, optional
        ``"N I, I O -> N O"``: one letter, one size; errors are worded from it.
    saved : tuple of str, optional
        Inputs, and ``"out"``, whose values the rules read; None stands for all.  The others are not
        kept for the backward pass.
    couples : tuple of int or callable, optional
        Axes of the first input along which entries of a result depend on each other: () for an op
        that works entry by entry; or ``(*input_shapes, **settings)`` -> them.  Where all of the
        cotangents that an entry depends on are 0, its gradient is then 0, whatever the rule gives:
        a rule may multiply with a derivative that is infinite or NaN.  None (rules that select or
        move, and linear maps): what the rule gives is taken as it is.
    spoils : bool
        Whether a NaN in the gradient is one in all entries that are coupled to it, as in a norm
        whose statistics are NaN: a look at one of them is then enough to find it.
    broadcasts : bool
        Whether a cotangent may be summed to its input's shape, by the engine.
    residuals : tuple of str
        By-products that every kernel hands to the rules.
    constant_residuals : bool
        Whether a recorded pass may take floats among them for constants: their derivative is 0
        wherever it exists, or the rules pass them on as settings to ops that know where they come
        from.  Otherwise the pass is refused.  Integers and booleans are constants anyway.
    recomputed : bool
        Whether a backward pass calls the setting ``again`` with the node, instead of the rules, and
        goes on with the node that this returns: see `checkpoint`.
    choose : callable, optional
        ``(*arrays, **settings)`` -> names of kernels to try first.
    family : str
        One of `FAMILIES`: how drawings color the op.
    flops : callable, optional
        ``(*input_shapes, out_shape, **settings)`` -> floating-point operations of the forward pass;
        one for each output entry if not given.

    Raises
    ------
    DeclarationError
        If the signatures disagree, a rule is missing, or a field has an unknown name.

    Examples
    --------
    >>> test = OpTest(samples=lambda rng: [Sample("row", (rng.normal(size=3),))])
    >>> Op(name="double", shape=lambda x: x, kernels={"array": lambda x: x + x},
    ...    vjp={"x": lambda ct, out, x: ct + ct}, test=test).inputs
    ('x',)
    >>> Op(name="double", shape=lambda x: x, kernels={"array": lambda x: x + x}, vjp={}, test=test)
    Traceback (most recent call last):
        ...
    tinygrad_cnn.DeclarationError: double: inputs ('x',), vjp for ()
    """

    name: str
    shape: Callable[..., Shape]
    kernels: Mapping[str, Function]
    vjp: Mapping[str | tuple[str, ...], Function]
    test: OpTest
    axes: str | None = None
    saved: tuple[str, ...] | None = None
    couples: tuple[int, ...] | Callable[..., tuple[int, ...]] | None = None
    spoils: bool = False
    broadcasts: bool = False
    residuals: tuple[str, ...] = ()
    constant_residuals: bool = False
    recomputed: bool = False
    choose: Callable[..., tuple[str, ...]] | None = None
    family: str = "elementwise"
    flops: Callable[..., int] | None = None

    def __post_init__(self) -> None:
        arrays, settings, passes_on, defaults = _signature(self.shape)
        if passes_on or defaults:
            raise DeclarationError(f"{self.name}: shape must name its settings, without defaults")
        if not self.kernels:
            raise DeclarationError(f"{self.name}: an op needs at least one kernel")
        named = [n for names in self.vjp for n in ((names,) if isinstance(names, str) else names)]
        together = [names for names in self.vjp if not isinstance(names, str)]
        if sorted(named) != sorted(self.inputs) or (together and len(self.vjp) > 1):
            raise DeclarationError(f"{self.name}: inputs {self.inputs}, vjp for {tuple(self.vjp)}")
        kink = self.test.subgradient
        for what, names, known in (("exact_in", self.test.exact_in, self.inputs),
                                   ("saved", self.saved or (), (*self.inputs, "out")),
                                   ("subgradient", (kink,) if isinstance(kink, str) else (),
                                    SUBGRADIENTS),
                                   ("family", (self.family,), FAMILIES)):
            if unknown := set(names) - set(known):
                raise DeclarationError(f"{self.name}: {what} names {sorted(unknown)}, "
                                       f"choose from {known}")
        by_products = self.residuals + (("index",) if self.variadic else ())
        wanted = ("ct", "out", *arrays)
        for kernel, f in self.kernels.items():
            _agree(self.name, f"kernel {kernel!r}", f, arrays, settings)
        for name, f in self.vjp.items():
            _agree(self.name, f"vjp for {name!r}", f, wanted, settings + by_products)

    def __repr__(self) -> str:
        return f"Op({self.name}: {', '.join([*self.inputs, *(f'{s}=' for s in self.settings)])})"

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(a.strip("*").removesuffix("=None") for a in _signature(self.shape).arrays)

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """The names of the inputs that may be left out."""
        return tuple(a.removesuffix("=None") for a in _signature(self.shape).arrays
                     if a.endswith("=None"))

    @cached_property
    def variadic(self) -> bool:
        """Whether the op takes any number of inputs, through one parameter."""
        return bool(self.inputs) and _signature(self.shape).arrays[0].startswith("*")

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings."""
        return _signature(self.shape).settings

    @cached_property
    def rules(self) -> tuple[Function, ...]:
        """The backward rules in the order of the inputs; one may stand at several places."""
        found = {name: rule for names, rule in self.vjp.items()
                 for name in ((names,) if isinstance(names, str) else names)}
        return tuple(found[name] for name in self.inputs)

    @cached_property
    def together(self) -> dict[int, int]:
        """Position of an input -> its place in the tuple that one rule gives for several."""
        places = {name: k for names in self.vjp if not isinstance(names, str)
                  for k, name in enumerate(names)}
        return {i: places[name] for i, name in enumerate(self.inputs) if name in places}

    @cached_property
    def backward(self) -> tuple[Rules, bool, bool]:
        """What a backward pass asks of every node.

        The rules with their places; whether they are called as they are; whether they multiply.
        """
        direct = not (self.variadic or self.together or self.foreign or self.residuals)
        return (() if self.variadic else tuple(enumerate(self.rules)), direct,
                self.couples is not None)

    @cached_property
    def foreign(self) -> bool:
        """Whether a rule is not the package's own, of which tests show that they never write."""
        return not all(getattr(f, "__module__", "").startswith(_OWN_OPS)
                       for f in self.vjp.values())

    @cached_property
    def unsaved(self) -> frozenset[int]:
        """Positions of the inputs whose values no rule reads."""
        if self.saved is None or self.variadic:
            everything = self.saved is None or self.inputs[0] in self.saved
            return frozenset() if everything else frozenset(range(1 << 10))
        return frozenset(i for i, name in enumerate(self.inputs) if name not in self.saved)

    @cached_property
    def saves_out(self) -> bool:
        """Whether a rule reads the values of the output."""
        return self.saved is None or "out" in self.saved

    def coupled(self, *shapes: Shape | None, **settings: object) -> tuple[int, ...]:
        """The axes of the first input along which entries depend on each other."""
        assert self.couples is not None
        if isinstance(self.couples, tuple):
            return self.couples
        return self.couples(*shapes, **settings)

    @cached_property
    def _only(self) -> Function | None:
        kernels = tuple(self.kernels.values())
        return kernels[0] if len(kernels) == 1 and not self.choose else None

    def input_name(self, i: int) -> str:
        """What errors call the ``i``-th input: ``x``, or ``xs[2]`` of a variadic op."""
        return f"{self.inputs[0]}[{i}]" if self.variadic else self.inputs[i]

    def rule(self, i: int) -> Function:
        """The backward rule of the ``i``-th input; a variadic op has one, and tells it which."""
        if self.variadic:
            return partial(self.rules[0], index=i)
        rule, k = self.rules[i], self.together.get(i)
        if k is None:
            return rule

        @wraps(rule)
        def one(*args: object, **named: object) -> Value:
            return rule(*args, **named)[k]
        return one

    def run(self, *arrays: Array | None, **settings: object) -> tuple[Array, Settings]:
        """The answer of the first kernel that does not decline, and its residuals."""
        try:
            if self._only is not None:
                result = self._only(*arrays, **settings)
                if type(result) is np.ndarray and not self.residuals:
                    return result, {}
                if result is not NotImplemented:
                    return self._split(result)
            chosen = self.choose(*arrays, **settings) if self.choose else ()
            for name in dict.fromkeys((*_forced.get(), *chosen, *self.kernels)):
                if name not in self.kernels:
                    continue
                result = self.kernels[name](*arrays, **settings)
                if type(result) is np.ndarray and not self.residuals:
                    return result, {}
                if result is not NotImplemented:
                    return self._split(result)
        except KernelFailed:                    # it is not asked again
            return self.run(*arrays, **settings)
        raise SettingError(f"{self.name}: every kernel ({', '.join(self.kernels)}) declined "
                           f"{settings}; add one that takes this case")

    def _split(self, result: Any) -> tuple[Array, Settings]:
        """What a kernel gave, as the result and its residuals."""
        if isinstance(result, tuple) != bool(self.residuals) or (self.residuals and not (
                len(result) == 2 and isinstance(result[1], dict))):
            wanted = f"(array, dict of {', '.join(self.residuals)})" if self.residuals else \
                "an array; name what it gives besides in residuals="
            raise DeclarationError(f"{self.name}: the kernel returned {type(result).__name__}, "
                                   f"expected {wanted}")
        return result if self.residuals else (result, {})

    def label(self, settings: Mapping[str, object]) -> str:
        """The name and the plain settings, as drawings and reports show them."""
        plain = [f"{k} {v}" for k, v in settings.items() if not isinstance(v, np.ndarray)]
        return "\n".join([self.name, " · ".join(plain)]).strip()

    def count_flops(self, *shapes: Shape | None, out: Shape, **settings: object) -> int:
        """Floating-point operations of one forward pass."""
        if self.flops is None:
            return size(out)
        return int(self.flops(*shapes, out_shape=out, **settings))


def _agree(op: str, what: str, f: Function, arrays: tuple[str, ...],
           settings: tuple[str, ...]) -> None:
    """Refuse a function whose signature is not the one that the op's shape rule implies."""
    if isinstance(f, np.ufunc):
        if f.nin != len(arrays) or settings:
            raise DeclarationError(f"{op}: {what} is {f!r} of {f.nin} inputs, expected "
                                   f"({_shown(arrays, settings)})")
        return
    has, names, passes_on, _ = _signature(f)
    missing, unknown = set(settings) - set(names), set(names) - set(settings)
    if has != arrays or unknown or (missing and not passes_on):
        more = ("**settings",) if passes_on else ()
        raise DeclarationError(f"{op}: {what} is declared ({_shown(has, (*names, *more))}), "
                               f"expected ({_shown(arrays, settings)})")


def _shown(arrays: Sequence[str], settings: Sequence[str]) -> str:
    return ", ".join((*arrays, *("*" for s in settings[:1] if s[0] != "*" and not any(
        a[0] == "*" for a in arrays)), *settings))


class _Signature(NamedTuple):
    arrays: tuple[str, ...]         # as they are spelled: "x", "b=None", "*xs"
    settings: tuple[str, ...]
    passes_on: bool                 # takes **settings
    defaults: bool                  # gives a setting a default


@cache
def _signature(f: Function) -> _Signature:
    """The arguments of a plain function, from its code: `inspect` would double the import time."""
    code = getattr(f, "__code__", None)
    if code is None or hasattr(f, "__wrapped__"):
        return _inspected(f)
    names, count = code.co_varnames, code.co_argcount
    settings = names[count:count + code.co_kwonlyargcount]
    optional = count - len(f.__defaults__ or ())
    arrays = tuple(name + "=None" if i >= optional else name
                   for i, name in enumerate(names[:count]))
    if code.co_flags & CO_VARARGS:
        arrays += ("*" + names[count + len(settings)],)
    return _Signature(arrays, settings, bool(code.co_flags & CO_VARKEYWORDS),
                      bool(f.__kwdefaults__))


def _inspected(f: Function) -> _Signature:
    parameters = inspect.signature(f).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    arrays = tuple(("*" if p.kind is p.VAR_POSITIONAL else "") + p.name
                   + ("=None" if p.default is None else "")
                   for p in parameters if p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_OR_KEYWORD))
    return _Signature(arrays, tuple(p.name for p in keywords),
                      any(p.kind is p.VAR_KEYWORD for p in parameters),
                      any(p.default is not p.empty for p in keywords))


def make_op(**fields: Any) -> Op:
    """An `Op` from its fields and those of its `OpTest` in one list; it is not registered.

    ``samples`` may be a list, and ``vjp`` the one rule of an op with one input.

    Examples
    --------
    >>> make_op(name="double", shape=lambda x: x, kernels={"array": lambda x: x + x},
    ...         vjp={"x": lambda ct, out, x: ct + ct}, samples=lambda rng: [], exact_in=("x",)).test
    OpTest(samples=..., exact_in=('x',), ...)
    """
    tests = {name: fields.pop(name) for name in OpTest.__dataclass_fields__ if name in fields}
    if isinstance(tests.get("samples"), (list, tuple)):
        several = tuple(tests["samples"])
        tests["samples"] = lambda rng: several
    for name, what in (("samples", tests.get("samples")), ("shape", fields.get("shape"))):
        if not callable(what):
            raise DeclarationError(f"{fields.get('name')}: {name} is {type(what).__name__}, "
                                   "expected a function")
    if callable(fields.get("vjp")):
        inputs = _signature(fields["shape"]).arrays
        if len(inputs) != 1:
            raise DeclarationError(f"{fields.get('name')}: vjp is one function for the inputs "
                                   f"{inputs}; name the rule of each: vjp={{'{inputs[0]}': ...}}")
        fields["vjp"] = {inputs[0].strip("*").removesuffix("=None"): fields["vjp"]}
    return Op(test=OpTest(**tests), **fields)


class _Ops(dict[str, Op]):
    """Name -> op; the public function of an op stands for its name."""

    def __missing__(self, key: object) -> Op:
        op = getattr(key, "op", None)
        if isinstance(op, Op):
            return op
        raise KeyError(key)


OPS: dict[str, Op] = _Ops()
"""Name, or public function -> op: tests, drawings and docs/ops.md are generated from it."""

FUNCTIONS: dict[object, Function] = {}
"""Name, or NumPy function -> what answers: operators, methods and ``np.exp(x)`` look here."""

_forced: ContextVar[tuple[str, ...]] = ContextVar("forced", default=())


def register(op: Op, *, replace: bool = False) -> Op:
    """Make ``op`` known to tests, drawings and docs.

    A declaration that runs again, as in a cell of a notebook or a module that is reloaded, takes
    the place of the old one.

    Parameters
    ----------
    op : Op
    replace : bool, default False
        Whether it may take the place of an op of that name that is declared elsewhere.

    Returns
    -------
    Op
        The same.

    Raises
    ------
    DeclarationError
        If an op of that name is declared elsewhere.

    Examples
    --------
    >>> register(OPS["relu"])
    Traceback (most recent call last):
        ...
    tinygrad_cnn.DeclarationError: relu is already registered, by ...; choose another name, or ...
    """
    old = OPS.get(op.name)
    if old is not None and not replace and (old is op or _place(old) != _place(op)):
        raise DeclarationError(f"{op.name} is already registered, by {_place(old)[0]}; choose "
                               "another name, or pass replace=True")
    OPS[op.name] = op
    return op


def _place(op: Op) -> tuple[str, str, str]:
    """Where an op is declared: module, name and file, if it is one; cells of a notebook are not."""
    f = next((f for f in (*op.kernels.values(), *op.vjp.values()) if hasattr(f, "__code__")), None)
    file = "" if f is None else f.__code__.co_filename
    return (getattr(f, "__module__", "") or "", getattr(f, "__qualname__", op.name),
            file if isfile(file) else "")


def register_function(*ufuncs: np.ufunc) -> Callable[[F], F]:
    """Make a function known to operators and tensor methods, and to NumPy's ufuncs.

    It takes arguments by the names of other libraries as well; one with ``**settings`` does so by
    itself.
    """
    def note(function: F) -> F:
        if not function.__code__.co_flags & CO_VARKEYWORDS:
            function = accepting(function)
        FUNCTIONS[function.__name__] = function
        if function.__name__ in OPS:
            function.op = OPS[function.__name__]  # type: ignore[attr-defined]
        for f in ufuncs:
            FUNCTIONS[f] = function
        return function
    return note


@block
def use_kernels(*names: str) -> Iterator[None]:
    """Try these kernels first inside the block, for every op that has them.

    Parameters
    ----------
    *names : str
        Names of kernels, such as ``"reference"``, ``"blas"``, ``"winograd"``.

    Raises
    ------
    SettingError
        If no registered op has a kernel of that name.

    Examples
    --------
    >>> x, w = Tensor(np.ones((1, 3, 3, 1))), Tensor(np.ones((2, 2, 1, 1)))
    >>> with use_kernels("reference"):          # the textbook's four loops
    ...     conv2d(x, w).data[0, :, :, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    known = {kernel for op in OPS.values() for kernel in op.kernels}
    for name in names:
        if name not in known:
            raise SettingError(f"use_kernels: no op has a kernel {name!r}; "
                               f"choose from {', '.join(sorted(known))}")
    outer = _forced.get()
    try:
        _forced.set(names)
        yield
    finally:
        _forced.set(outer)
