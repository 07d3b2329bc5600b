"""Make functions.md, one line for each public function and class, from signatures and docstrings.

python docs/make_index.py            writes docs/functions.md
python docs/make_index.py --check    fails if it is not what the code says now
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

import tinygrad_cnn as tc

PAGE = Path(__file__).parent / "functions.md"
MODULES = {
    "": "Functions and tensors", "nn": "Modules", "nn.init": "First values",
    "optim": "Optimizers", "optim.lr_scheduler": "Schedules", "data": "Data", "train": "Training",
    "io": "Files", "transforms": "Derivatives of functions", "models": "Models",
    "testing": "Gradient tests", "viz": "Pictures of graphs", "viz.plots": "Plots",
    "viz.attribution": "Arrays behind the plots",
}
HEAD = """# All functions

Every public name, one line each, by the module that has it; the link leads to the source, and
`help(name)` shows formulas, errors and examples. This page is made by `python docs/make_index.py`.
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
    folder = (PAGE.parents[1] / place).is_dir()
    return f"| [`{call}`](../{place}{'/__init__' * folder}.py) | {says} |"


def table(rows) -> list[str]:
    return ["| call | does |", "|---|---|", *rows]


def page() -> str:
    """The whole page."""
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
    methods = sorted(n for n, kind in tc.Tensor.__annotations__.items() if kind.endswith("Method"))
    parts += ["## Methods of a tensor\n",
              "Each is the function of its name with the tensor in front: "
              + ", ".join(f"`{n}`" for n in methods) + ".", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/functions.md is not current; run python docs/make_index.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")
