"""Workers that wait in compiled code: a region of all threads in a microsecond or two.

A Python thread that sleeps needs some 100 µs to begin, and the interpreter lock to go on.  These
workers hold no lock.  After the last part of a region they look for the next one for some 50 µs,
and then sleep in a read of a pipe, into which the next region writes.

A region is cut into parts, always at the same places; who is free takes the next part, and the
caller takes part.  So no region waits for a worker that is asleep, or has no CPU: the caller then
does all of it.  One region runs at a time: a second one, of another thread, is done by its caller.

What is shared are the cells of ``control``.  A part is taken by adding one to the ticket, which
holds the number of the region and that of the next part: whoever has read a ticket of an earlier
region fails to take a part of this one.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinygrad_cnn.kernels.jit import compiled, prepare
from tinygrad_cnn.kernels.parallel import parts
from tinygrad_cnn.types import Array, Function

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

__all__ = ["Shared", "shared"]

# Cells, each in a cache line of its own where several threads write.
TICKET, DONE, JOB, SLEEPING, BUSY, FAILED, PIPE = 0, 16, 32, 48, 64, 80, 96
_CLOSED = 0xFFFF            # number of a part that no region has
_SPIN = 50e-6               # seconds for which a worker looks for the next region
_PATIENCE = 1 << 14         # looks at the end of a region before the CPU is left to others

_INT, _I32, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()


# ---- instructions that Python has no word for

def _cell(target: Any, builder: Any, sig: Any, args: Any) -> Any:
    data = target.make_array(sig.args[0])(target, builder, args[0]).data
    return builder.gep(data, [args[1]])


@intrinsic
def load(context, control, at):
    def generate(target, builder, sig, args):
        return builder.load_atomic(_cell(target, builder, sig, args), "seq_cst", 8)
    return types.intp(control, types.intp), generate


@intrinsic
def store(context, control, at, value):
    def generate(target, builder, sig, args):
        builder.store_atomic(args[2], _cell(target, builder, sig, args), "seq_cst", 8)
        return target.get_dummy_value()
    return types.void(control, types.intp, types.intp), generate


@intrinsic
def add(context, control, at, value):
    """What the cell held before."""
    def generate(target, builder, sig, args):
        return builder.atomic_rmw("add", _cell(target, builder, sig, args), args[2], "seq_cst")
    return types.intp(control, types.intp, types.intp), generate


@intrinsic
def swap(context, control, at, old, new):
    """Write ``new`` if the cell holds ``old``; whether it did."""
    def generate(target, builder, sig, args):
        found = builder.cmpxchg(_cell(target, builder, sig, args), args[2], args[3], "seq_cst",
                                "seq_cst")
        return builder.extract_value(found, 1)
    return types.boolean(control, types.intp, types.intp, types.intp), generate


_PAUSES = {"x86_64": "llvm.x86.sse2.pause", "AMD64": "llvm.x86.sse2.pause"}


@intrinsic
def pause(context):
    """Tell the CPU that this thread waits."""
    def generate(target, builder, sig, args):
        name = _PAUSES.get(platform.machine())
        if name is None:
            builder.fence("seq_cst")
        else:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return target.get_dummy_value()
    return types.void(), generate


def _system(name: str, *kinds: Any) -> Any:
    """A function of the C library, of integers and one pointer to some spare bytes."""
    @intrinsic
    def call(context, file, count):
        def generate(target, builder, sig, args):
            kind = ir.FunctionType(_INT, kinds)
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            spare = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), 64))
            values = [builder.trunc(args[0], _I32), builder.bitcast(spare, _BYTE), args[1]]
            return builder.call(function, values[:len(kinds)])
        return types.intp(types.intp, types.intp), generate
    return call


read, write = (_system(name, _I32, _BYTE, _INT) for name in ("read", "write"))
let_others_run = _system("sched_yield")


@intrinsic
def call(context, function, data, part, low, high):
    """Call what `packed` has made; 0 if all is well."""
    def generate(target, builder, sig, args):
        kind = ir.FunctionType(_INT, [_INT, _INT, _INT, _INT])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
    return types.intp(*(types.intp,) * 5), generate


@intrinsic
def packed(context, kernel, args):
    """Addresses of a function of (data, part, low, high) and of its data, the other arguments."""
    kinds = (types.intp,) * 3 + tuple(args.types)
    signature = kernel.get_call_type(context, kinds, {})

    def generate(target, builder, sig, values):
        made = kernel.dispatcher.get_compile_result(signature)
        target.add_linking_libs([made.library])
        module = builder.module
        inner = target.declare_function(module, made.fndesc)
        kind = ir.FunctionType(_INT, [_INT, _INT, _INT, _INT])
        outer = ir.Function(module, kind, name=module.get_unique_name("part"))
        outer.linkage = "internal"
        build = ir.IRBuilder(outer.append_basic_block("entry"))
        data, *numbers = outer.args
        held = build.load(build.inttoptr(data, values[1].type.as_pointer()))
        others = cgutils.unpack_tuple(build, held, len(sig.args[1].types))
        status, _ = target.call_conv.call_function(
            build, inner, signature.return_type, signature.args, [*numbers, *others])
        build.ret(build.zext(status.is_error, _INT))
        place = cgutils.alloca_once_value(builder, values[1])
        return target.make_tuple(builder, sig.return_type, [
            builder.ptrtoint(outer, _INT), builder.ptrtoint(place, _INT)])
    return types.UniTuple(types.intp, 2)(kernel, args), generate


# ---- what runs

@compiled
def take(control):
    """Take a part of the region that runs, if there is one left, and do it."""
    ticket = load(control, TICKET)
    part, count, several = ticket & 0xFFFF, load(control, JOB + 2), load(control, JOB + 3)
    if part >= several:
        return False
    function, data = load(control, JOB), load(control, JOB + 1)
    if swap(control, TICKET, ticket, ticket + 1):
        if call(function, data, part, count * part // several, count * (part + 1) // several):
            store(control, FAILED, 1)
        add(control, DONE, 1)
    return True


@compiled
def serve(control, looks):
    """What a worker does, until its pipe is closed."""
    idle = 0
    while True:
        if take(control):
            idle = 0
            continue
        idle += 1
        if idle < looks:
            pause()
            continue
        idle = 0
        add(control, SLEEPING, 1)
        waits = True
        if load(control, TICKET) & 0xFFFF < load(control, JOB + 3):     # it came meanwhile
            asleep = load(control, SLEEPING)
            waits = asleep == 0 or not swap(control, SLEEPING, asleep, asleep - 1)
        if waits and read(load(control, PIPE), 1) == 0:
            return


@compiled
def region(control, count, several, function, data):
    """Do all parts, with those workers that are free; whether one has failed."""
    if several == 1 or not swap(control, BUSY, 0, 1):
        failed = 0
        for part in range(several):
            failed |= call(function, data, part, count * part // several,
                           count * (part + 1) // several)
        return failed != 0
    number = (load(control, TICKET) >> 16) + 1
    store(control, TICKET, (number - 1) << 16 | _CLOSED)
    store(control, JOB, function)
    store(control, JOB + 1, data)
    store(control, JOB + 2, count)
    store(control, JOB + 3, several)
    store(control, DONE, 0)
    store(control, FAILED, 0)
    store(control, TICKET, number << 16)
    asleep = load(control, SLEEPING)
    wanted = min(asleep, several - 1)
    if wanted > 0 and swap(control, SLEEPING, asleep, asleep - wanted):
        write(load(control, PIPE + 1), wanted)
    while take(control):
        pass
    looks = 0
    while load(control, DONE) < several:
        looks += 1
        if looks < _PATIENCE:
            pause()
        else:
            let_others_run(0, 0)
    failed = load(control, FAILED)
    store(control, BUSY, 0)
    return failed != 0


@compiled
def wait(looks):
    for _ in range(looks):
        pause()


# ---- from Python

class _Workers:
    """The workers of this process; a forked child has none, and makes its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.started = 0
        self.control: Array = np.zeros(128, np.int64)

    def start(self, wanted: int) -> None:
        """As many workers as are wanted, or as the system gives."""
        with self._lock:
            if not self.started:
                self.control[PIPE:PIPE + 2] = os.pipe()
            prepare(serve, (types.int64[::1], types.intp))
            wait(1)
            began = time.perf_counter()
            wait(1000)
            looks = int(1000 * _SPIN / (time.perf_counter() - began)) + 1
            while self.started < wanted:
                worker = threading.Thread(target=serve, args=(self.control, looks), daemon=True,
                                          name=f"tinygrad_cnn compiled {self.started + 1}")
                try:
                    worker.start()
                except RuntimeError:                # the caller does the rest
                    break
                self.started += 1


_workers = _Workers()


def _forget() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Shared:
    """A compiled function ``(part, low, high, *args)``, called for all parts of a range."""

    def __init__(self, function: Function, **options: Any) -> None:
        kernel = compiled(function, **options)

        def run(control, count, several, *args):
            function, data = packed(kernel, args)
            return region(control, count, several, function, data)

        self._run = compiled(run, cached_as=function)

    def __call__(self, count: int, *args: Any, least: int = 1) -> None:
        """Call it for ``range(count)``, cut at the same places for a given number of threads."""
        several = parts(count, least)
        if _workers.started < several - 1:
            _workers.start(several - 1)
        if self._run(_workers.control, count, several, *args):
            raise MemoryError("a compiled kernel could not allocate its buffers")


def shared(function: Any = None, **options: Any) -> Any:
    """Compile a function of parts for all threads."""
    return partial(shared, **options) if function is None else Shared(function, **options)
