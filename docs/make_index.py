"""Make functions.md, a line for each public function and class, and ops.md, a line for each op.

python docs/make_index.py            writes both from signatures, docstrings and declarations
python docs/make_index.py --check    fails if they are not what the code says now
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn.core.op import FAMILIES
from tinygrad_cnn.ops.methods import METHODS

HERE = Path(__file__).parent
MODULES = {
    "": "Functions and tensors", "nn": "Modules", "nn.init": "First values",
    "optim": "Optimizers", "optim.lr_scheduler": "Schedules", "data": "Data", "train": "Training",
    "io": "Files", "transforms": "Derivatives of functions", "models": "Models",
    "parallel": "Several processes",
    "testing": "Gradient tests", "viz": "Pictures of graphs", "viz.plots": "Plots",
    "viz.attribution": "Arrays behind the plots",
}
HEAD = """# All functions

Every public name, one line each, by the module that has it; the link leads to the source, and
`help(name)` shows formulas, errors and examples. This page is made by `python docs/make_index.py`.
"""
OPS_HEAD = """# All ops

What each op declares (see [adding an op](adding_an_op.md)): its inputs and settings; its axes; its
kernels, best first; which values its rules read, so that they are kept for the backward pass; in
which inputs it is linear plus a constant, so that its rules are tested with `==`; what a rule gives
where the slopes to both sides differ, or where inputs compete; and how many samples and refused
calls it brings for the tests. This page is made from `OPS` by `python docs/make_index.py`.
"""


class Named:
    """A default that is a function, shown without its address."""

    def __init__(self, function) -> None:
        self.function = function

    def __repr__(self) -> str:
        return self.function.__name__


def signature(thing) -> str:
    """The arguments, without types."""
    try:
        found = inspect.signature(thing)
    except ValueError:
        return "(...)"
    plain = [p.replace(annotation=p.empty,
                       default=Named(p.default) if inspect.isroutine(p.default) else p.default)
             for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def line(name: str, thing) -> str:
    """The row of a function or class."""
    says = inspect.getdoc(thing).partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    call = f"{name}{signature(thing)}".replace("|", "\\|")
    place = thing.__module__.replace(".", "/")
    folder = (HERE.parent / place).is_dir()
    return f"| [`{call}`](../{place}{'/__init__' * folder}.py) | {says} |"


def table(rows, columns=("call", "does")) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows]


def op_line(op) -> str:
    """The row of an op."""
    arrays = [f"*{n}" if op.variadic else f"{n}=None" if n in op.optional else n for n in op.inputs]
    star = ["*"] if op.settings and not op.variadic else []
    call = f"{op.name}({', '.join([*arrays, *star, *op.settings])})"
    saved = "all" if op.saved is None else ", ".join(op.saved) or "none"
    kink = op.test.subgradient
    samples = len(list(op.test.samples(np.random.default_rng(0))))
    cells = (f"`{call}`", f"`{op.axes}`" if op.axes else "", ", ".join(op.kernels), saved,
             ", ".join(op.test.exact_in),
             "by setting" if callable(kink) else kink or "",
             f"{samples}, {len(op.test.error_inputs)}")
    return f"| {' | '.join(cells)} |"


def ops_page() -> str:
    """The table of ops, by family."""
    parts = [OPS_HEAD]
    columns = ("op", "axes", "kernels", "saved", "exact in", "at kinks", "samples, refusals")
    for family in FAMILIES:
        rows = [op_line(op) for op in tc.OPS.values() if op.family == family and not op.foreign]
        if rows:
            parts += [f"## {family}\n", *table(sorted(rows), columns), ""]
    return "\n".join(parts)


def functions_page() -> str:
    """The index of functions and classes."""
    parts = [HEAD]
    for place, title in MODULES.items():
        module = import_module(f"tinygrad_cnn.{place}".rstrip("."))
        rows, seen = [], set()
        for name in sorted(module.__all__, key=str.lower):
            thing = getattr(module, name)
            fault = isinstance(thing, type) and issubclass(thing, Exception)
            if callable(thing) and not fault and id(thing) not in seen:     # Conv2d is Conv2D
                seen.add(id(thing))
                rows.append(line(name, thing))
        parts += [f"## {title}: `tc{'.' * bool(place)}{place}`\n", *table(rows), ""]
    parts += ["## Methods of a tensor\n",
              "Each is the function of its name with the tensor in front: "
              + ", ".join(f"`{n}`" for n in sorted(METHODS)) + ".", ""]
    return "\n".join(parts)


PAGES = {HERE / "functions.md": functions_page, HERE / "ops.md": ops_page}

if __name__ == "__main__":
    for path, make in PAGES.items():
        if "--check" not in sys.argv:
            path.write_text(make(), encoding="utf-8")
        elif path.read_text(encoding="utf-8") != make():
            sys.exit(f"docs/{path.name} is not current; run python docs/make_index.py")
