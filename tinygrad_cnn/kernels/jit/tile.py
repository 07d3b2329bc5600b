"""One tile of a matrix product in vector registers: all that the compiled convolutions are made of.

    Y[i, :] += Σ_k A[i, k] · B[k, :]            rows i of the tile, a few vectors of columns

The sum runs over two nested loops, and every step (from row to row, along either loop) is a number
of entries given at run time.  So A may be pixels as they lie under a window, the coefficients of a
transform, or pixels across a whole image; nothing is copied into patches first.

The tile's sums stay in registers throughout.  That needs vectors of a fixed length, which Python
has no word for: `tile` writes the loop in the compiler's own language (LLVM).

References
----------
Goto & van de Geijn, *Anatomy of high-performance matrix multiplication*, ACM TOMS 34(3), 2008;
Georganas et al., *Anatomy of high-performance deep learning convolutions on SIMD architectures*,
arXiv:1808.05567.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from llvmlite import binding, ir
from llvmlite.ir import Value
from numba import types
from numba.core import cgutils
from numba.core.types import Type
from numba.extending import intrinsic

from tinygrad_cnn.types import Function

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.typing import Signature

# mypy: disable-error-code="untyped-decorator"

__all__ = ["clear", "copy", "lanes", "tile", "tile_rows", "tile_vectors", "wide_vectors"]

_INT = ir.IntType(64)
_I32 = ir.IntType(32)
_HEIGHTS = (16, 14, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1)


@cache
def _registers() -> tuple[int, int]:
    """(bytes of a vector register, how many there are) of this CPU."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx"):
        return 32, 16
    return 16, 32 if features.get("neon") else 16


@cache
def lanes(itemsize: int) -> int:
    """Entries of a vector."""
    return _registers()[0] // itemsize


@cache
def tile_vectors(columns: int, itemsize: int) -> int:
    """Vectors of a tile, so that whole tiles cover the columns: at most 3."""
    needed = max(1, -(-columns // lanes(itemsize)))
    return next(v for v in (2, 3, 1) if needed % v == 0)


@cache
def tile_rows(count: int, vectors: int) -> int:
    """Rows of a tile that cover ``count`` rows with the least work; never more than ``count``.

    The sums, a row of B and one entry of A must fit the registers; starting a tile costs about as
    much as one and a half rows.
    """
    most = (_registers()[1] - 2 - vectors) // vectors
    fitting = [rows for rows in _HEIGHTS if rows <= min(most, max(1, count))]
    return min(fitting, key=lambda rows: -(-count // rows) * (rows + 1.5))


@cache
def wide_vectors(rows: int) -> int:
    """Vectors of a tile of few rows: as many as fit, at most 4."""
    most = _registers()[1] - 2
    return max(1, min(4, most // (rows + 1)))


@intrinsic(prefer_literal=True)
def tile(context: object, rows: Type, vectors: Type, width: Type, tail: Type, share: Type, y: Type,
         y_at: Type, y_row: Type, a: Type, a_at: Type, a_row: Type, a_outer: Type, a_inner: Type,
         b: Type, b_at: Type, b_outer: Type, b_inner: Type, outer: Type, inner: Type, start: Type,
         start_at: Type, start_row: Type, valid: Type) -> tuple[Signature, Function]:
    """Compute one tile.

    ``rows``, ``vectors``, ``width`` (entries of a vector), ``tail`` and ``share`` are constants;
    with ``tail``, the last vector has ``valid`` entries only.  With a ``share`` of groups of so
    many columns, A has columns like B, and a column sees those of its group: each step adds Σ_j
    A[i, j-th of the group] · B[k · share + j, :]; or, with a negative share, adds A[i, j-th of the
    group] · B[k, :] to Y[i · |share| + j, :].  A share of 1 is one column each.

    Everything else is decided at run time: arrays, each with the entry at which it begins (``_at``)
    and the entries from row to row (``_row``) or along the loops (``_outer``, ``_inner``).  Sums
    begin with ``start``, which may be ``y`` itself.
    """
    integers = (types.intp,)
    signature = types.void(rows, vectors, width, tail, share, y, *integers * 2, a, *integers * 4, b,
                           *integers * 5, start, *integers * 3)

    def generate(target: BaseContext, builder: ir.IRBuilder, sig: Signature,
                 args: Sequence[Value]) -> Value:
        constants = [t.literal_value for t in sig.args[:5]]
        writer = _Writer(target, builder, sig.args[5].dtype.bitwidth, *constants)
        writer.write(sig.args[5:], args[5:])
        return target.get_dummy_value()

    return signature, generate


class _Writer:
    """Writes the instructions of a tile."""

    def __init__(self, target: BaseContext, builder: ir.IRBuilder, bits: int, rows: int,
                 vectors: int, width: int, tail: bool, share: int) -> None:
        self.target, self.builder = target, builder
        self.rows, self.vectors, self.tail, self.share = rows, vectors, bool(tail), share
        self.results = rows * max(1, -share)            # rows of Y
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, width)
        self.width, self.bytes = width, bits // 8
        self.suffix = f"v{width}f{bits}"
        self.mask: Value = None

    def write(self, types_: Sequence[Type], args: Sequence[Value]) -> None:
        """The whole tile; the arguments are those of `tile` from ``y`` on."""
        (y, y_at, y_row, a, a_at, a_row, a_outer, a_inner, b, b_at, b_outer, b_inner, outer,
         inner, start, start_at, start_row, valid) = args
        build = self.builder
        if self.tail:
            self.mask = self._first(valid)
        results = self._lines(types_[0], y, y_at, y_row)
        begin = self._lines(types_[14], start, start_at, start_row)
        sums = [[cgutils.alloca_once(build, self.vector) for _ in range(self.vectors)]
                for _ in range(self.results)]
        for line, row in zip(begin, sums, strict=True):
            for v, cell in enumerate(row):
                build.store(self._load(line, v), cell)
        at_a = cgutils.alloca_once_value(build, self._point(types_[3], a, a_at))
        at_b = cgutils.alloca_once_value(build, self._point(types_[8], b, b_at))
        with cgutils.for_range(build, outer, intp=_INT):
            from_a = cgutils.alloca_once(build, self.scalar.as_pointer())
            from_b = cgutils.alloca_once(build, self.scalar.as_pointer())
            build.store(build.load(at_a), from_a)
            build.store(build.load(at_b), from_b)
            with cgutils.for_range(build, inner, intp=_INT):
                self._step(build.load(from_a), a_row, build.load(from_b), b_inner, sums)
                self._advance(from_a, a_inner)
                self._advance(from_b, build.mul(b_inner, ir.Constant(_INT, max(1, self.share))))
            self._advance(at_a, a_outer)
            self._advance(at_b, b_outer)
        for line, row in zip(results, sums, strict=True):
            for v, cell in enumerate(row):
                self._store(build.load(cell), line, v)

    def _step(self, a: Value, a_row: Value, b: Value, b_inner: Value,
              sums: list[list[Value]]) -> None:
        """Add A[:, k] times B[k, :]."""
        build = self.builder
        members = range(max(1, abs(self.share)))
        columns = []
        for j in members if self.share > 0 else (0,):
            line = build.gep(b, [build.mul(b_inner, ir.Constant(_INT, j))])
            columns.append([self._load(line, v) for v in range(self.vectors)])
        for i in range(self.rows):
            place = build.gep(a, [build.mul(a_row, ir.Constant(_INT, i))])
            if not self.share:
                self._add([self._repeat(build.load(place))] * self.vectors, columns[0], sums[i])
                continue
            seen = [self._load(place, v) for v in range(self.vectors)]
            for j in members:
                entries = [self._of_group(x, j) for x in seen]
                if self.share > 0:
                    self._add(entries, columns[j], sums[i])
                else:
                    self._add(entries, columns[0], sums[i * len(members) + j])

    def _add(self, entries: list[Value], columns: list[Value], cells: list[Value]) -> None:
        build = self.builder
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        multiply_add = cgutils.get_or_insert_function(build.module, kind, f"llvm.fma.{self.suffix}")
        for entry, column, cell in zip(entries, columns, cells, strict=True):
            build.store(build.call(multiply_add, [entry, column, build.load(cell)]), cell)

    def _of_group(self, x: Value, j: int) -> Value:
        """In each lane, the ``j``-th entry of its group."""
        size = abs(self.share)
        if size == 1:
            return x
        return self.builder.shuffle_vector(
            x, ir.Constant(self.vector, ir.Undefined),
            ir.Constant(ir.VectorType(_I32, self.width),
                        [lane // size * size + j for lane in range(self.width)]))

    def _advance(self, cell: Value, by: Value) -> None:
        self.builder.store(self.builder.gep(self.builder.load(cell), [by]), cell)

    def _point(self, kind: Type, array: Value, at: Value) -> Value:
        data = self.target.make_array(kind)(self.target, self.builder, array).data
        return self.builder.gep(data, [at])

    def _lines(self, kind: Type, array: Value, at: Value, row: Value) -> list[Value]:
        first = self._point(kind, array, at)
        return [self.builder.gep(first, [self.builder.mul(row, ir.Constant(_INT, i))])
                for i in range(self.results)]

    def _repeat(self, scalar: Value) -> Value:
        single = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), scalar,
                                             ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(
            single, ir.Constant(self.vector, ir.Undefined),
            ir.Constant(ir.VectorType(_I32, self.width), [0] * self.width))

    def _first(self, valid: Value) -> Value:
        """True in the first ``valid`` lanes."""
        kind = ir.VectorType(_INT, self.width)
        index = ir.Constant(kind, list(range(self.width)))
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), valid,
                                             ir.Constant(_I32, 0))
        limit = self.builder.shuffle_vector(
            single, ir.Constant(kind, ir.Undefined),
            ir.Constant(ir.VectorType(_I32, self.width), [0] * self.width))
        return self.builder.icmp_signed("<", index, limit)

    def _place(self, line: Value, v: int) -> Value:
        place = self.builder.gep(line, [ir.Constant(_INT, v * self.width)])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def _masked(self, v: int) -> bool:
        return self.tail and v == self.vectors - 1

    def _load(self, line: Value, v: int) -> Value:
        place = self._place(line, v)
        if not self._masked(v):
            loaded = self.builder.load(place)
            loaded.align = self.bytes
            return loaded
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.vector, [place.type, _I32, self.mask.type, self.vector]),
            f"llvm.masked.load.{self.suffix}.p0")
        return self.builder.call(function, [place, ir.Constant(_I32, self.bytes), self.mask,
                                            ir.Constant(self.vector, [0.0] * self.width)])

    def _store(self, value: Value, line: Value, v: int) -> None:
        place = self._place(line, v)
        if not self._masked(v):
            self.builder.store(value, place).align = self.bytes
            return
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [self.vector, place.type, _I32, self.mask.type]),
            f"llvm.masked.store.{self.suffix}.p0")
        self.builder.call(function, [value, place, ir.Constant(_I32, self.bytes), self.mask])


# ---- copying and clearing runs of entries, which the system's own routines do best

def _data(target: BaseContext, builder: ir.IRBuilder, kind: Type, array: Value, at: Value) -> Value:
    data = target.make_array(kind)(target, builder, array).data
    return builder.gep(data, [at])


@intrinsic
def copy(context: object, out: Type, out_at: Type, x: Type, at: Type, count: Type
         ) -> tuple[Signature, Function]:
    """``out[out_at:out_at + count] = x[at:at + count]``, of arrays that share no memory."""
    def generate(target: BaseContext, builder: ir.IRBuilder, sig: Signature,
                 args: Sequence[Value]) -> Value:
        to = _data(target, builder, sig.args[0], args[0], args[1])
        source = _data(target, builder, sig.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, to, source, args[4], sig.args[0].dtype.bitwidth // 8)
        return target.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.intp), generate


@intrinsic
def clear(context: object, out: Type, at: Type, count: Type) -> tuple[Signature, Function]:
    """``out[at:at + count] = 0``."""
    def generate(target: BaseContext, builder: ir.IRBuilder, sig: Signature,
                 args: Sequence[Value]) -> Value:
        to = _data(target, builder, sig.args[0], args[0], args[1])
        size = builder.mul(args[2], ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8))
        cgutils.memset(builder, to, size, 0)
        return target.get_dummy_value()

    return types.void(out, types.intp, types.intp), generate
