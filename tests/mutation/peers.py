"""The mistakes of `public_bugs` given to the gradient checkers of other frameworks.

``python tests/mutation/peers.py`` prints how many each finds, with its own defaults; those that
are not installed are named.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from mutation.public_bugs import BUGS, Bug
from tinygrad_cnn import TinygradCnnError

__all__ = ["PEERS", "kills", "main"]

Arrays = Sequence[Any]


def _cotangents(bug: Bug, ct: Any, arrays: Arrays) -> list[Any]:
    """What the wrong rule gives, one for each array of floats, writable as it likes."""
    assert bug.pair is not None
    found = bug.pair[1](ct, *arrays)
    several = found if isinstance(found, tuple) else (found,)
    return [np.array(g, a.dtype) for g, a in zip(several, arrays, strict=True)
            if a.dtype.kind == "f"]


def _with_floats(floats: Arrays, arrays: Arrays) -> list[Any]:
    left = iter(floats)
    return [next(left) if a.dtype.kind == "f" else a for a in arrays]


def of_torch(bug: Bug, arrays: Arrays) -> None:
    """`torch.autograd.gradcheck`, slow mode."""
    import torch

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            ctx.save_for_backward(*xs)
            return torch.tensor(np.array(bug.pair[0](*_with_floats(      # type: ignore[index]
                [x.detach().numpy() for x in xs], arrays))))

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            given = _with_floats([x.detach().numpy() for x in ctx.saved_tensors], arrays)
            return tuple(map(torch.from_numpy, _cotangents(bug, ct.detach().numpy(), given)))

    torch.autograd.gradcheck(Wrong.apply, [torch.tensor(a, requires_grad=True) for a in arrays
                                           if a.dtype.kind == "f"])


def of_autograd(bug: Bug, arrays: Arrays) -> None:
    """`autograd.test_util.check_grads` of HIPS autograd, reverse mode, every argument."""
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    floats = [a for a in arrays if a.dtype.kind == "f"]
    wrong = primitive(lambda *xs: bug.pair[0](*_with_floats(xs, arrays)))  # type: ignore[index]
    defvjp(wrong, *((lambda out, *xs, i=i: lambda ct: _cotangents(
        bug, np.array(ct), _with_floats(xs, arrays))[i]) for i in range(len(floats))))
    np.random.seed(0)
    for i in range(len(floats)):
        check_grads(lambda x, i=i: wrong(*[x if j == i else a for j, a in enumerate(floats)]),
                    modes=["rev"], order=1)(floats[i])


def of_jax(bug: Bug, arrays: Arrays) -> None:
    """`jax.test_util.check_grads`, reverse mode, in float64."""
    import jax
    from jax.test_util import check_grads

    def outside(function: Callable[..., Any], like: Any, *xs: Any) -> Any:
        return jax.pure_callback(lambda *ys: jax.tree.map(np.asarray, function(
            *(np.array(y) for y in ys))), jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(np.shape(a), np.float64), like), *xs)

    floats = [a for a in arrays if a.dtype.kind == "f"]
    forward = bug.pair[0]                           # type: ignore[index]
    y = np.asarray(forward(*arrays))

    @jax.custom_vjp
    def wrong(*xs: Any) -> Any:
        return outside(lambda *ys: forward(*_with_floats(ys, arrays)), y, *xs)

    wrong.defvjp(lambda *xs: (wrong(*xs), xs), lambda xs, ct: tuple(outside(
        lambda c, *ys: _cotangents(bug, c, _with_floats(ys, arrays)), floats, ct, *xs)))
    with jax.enable_x64():
        check_grads(wrong, floats, order=1, modes=["rev"])


PEERS: dict[str, tuple[str, Callable[[Bug, Arrays], None]]] = {
    "torch.autograd.gradcheck": ("torch", of_torch),
    "HIPS autograd check_grads": ("autograd", of_autograd),
    "JAX check_grads": ("jax", of_jax),
}


def kills(check: Callable[[Bug, Arrays], None], bug: Bug, seed: int = 0) -> bool:
    """Whether a checker of others finds a mistake."""
    assert bug.pair is not None
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(draw(rng)) for draw in bug.pair[2]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(bug, arrays)
    except Exception:
        return True
    return False


def main() -> None:
    """Print the table."""
    pairs = [bug for bug in BUGS if bug.pair is not None]
    found = []
    for bug in pairs:
        try:
            bug.check(0)
        except TinygradCnnError:
            found.append(bug)
    print(f"{'tinygrad_cnn check_vjp_pair':28} {len(found)} of {len(pairs)}")
    for name, (package, check) in PEERS.items():
        try:
            __import__(package)
        except ModuleNotFoundError:
            print(f"{name:28} {package} is not installed")
            continue
        missed = [bug.name for bug in pairs if not kills(check, bug)]
        print(f"{name:28} {len(pairs) - len(missed)} of {len(pairs)}, missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
