"""Imports go down the layers only, optional packages stay optional, and no file runs code."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from sources import nodes, tree

PACKAGE = Path(__file__).parents[1] / "tinygrad_cnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# Layer -> what it may import of ours; a name stands for the file or the folder, "*" for everything.
MAY_IMPORT = {
    "types": (), "errors": (), "contexts": (), "files": ("errors",), "names": (), "start": (),
    "version": (),
    "shapes": ("errors",),
    "checks": ("names", "shapes", "errors"), "settings": ("names", "checks"),
    "kernels": ("contexts", "files", "shapes", "errors", "kernels", "version"),
    "core": ("names", "contexts", "core", "checks", "shapes", "errors"),
    "debug": ("contexts", "core.graph", "errors"),
    "ops": ("names", "ops", "core", "kernels", "checks", "shapes", "errors"),
    "transforms": ("core", "ops", "errors"),
    "nn": ("names", "contexts", "nn", "ops", "core", "settings", "checks", "shapes", "errors"),
    "optim": ("names", "contexts", "optim", "core", "settings", "checks", "errors"),
    "data": ("names", "data", "files", "checks", "shapes", "errors"),
    "viz": ("names", "contexts", "files", "viz", "nn", "ops", "transforms", "core", "shapes",
            "errors"),
    "io": ("names", "io", "files", "nn", "core", "errors"),
    "stepwise": ("names", "stepwise", "kernels.reference", "checks", "shapes", "errors"),
    "parallel": ("data", "nn", "ops", "core", "kernels", "checks", "errors"),
    "train": ("names", "train", "parallel", "data", "io", "files", "nn", "optim", "ops",
              "transforms", "core", "checks", "shapes", "errors", "version"),
    "models": ("models", "nn", "ops", "core", "errors"),
    "testing": ("*",), "cli": ("*",), "__main__": ("*",), "__init__": ("*",),
}
# Files that may not know others of their layer, or of those below.
NEVER = {"kernels.reference": ("kernels.conv", "kernels.direct", "kernels.winograd", "kernels.pool",
                               "kernels.elementwise", "kernels.reduce", "kernels.norm",
                               "kernels.shape", "kernels.memory", "kernels.parallel"),
         "ops": ("core.backward",), "nn": ("core.backward",),
         "testing.check": ("testing.plugin",)}
# Folders whose files import earlier ones only.
ORDER = {"core": ["op", "graph", "cotangent", "backward", "tensor", "apply", "autograd",
                  "__init__"],
         "ops": ["declare", "elementwise", "activation", "math", "shape", "reduction", "statistics",
                 "rearrange", "linear", "einsum", "convolution", "pooling", "resample", "normalize",
                 "loss", "distance", "random", "creation", "numpy_functions", "hooks", "checkpoint",
                 "methods",
                 "__init__"]}
# The one import upwards: tensor.graph() and Module.graph() import viz when called.
EXCEPTIONS = {("core", "viz"), ("nn", "viz"), ("train", "viz")}
# The gradient tester runs a program that it has just written itself, a rule with a planted slip.
RUNS_ITS_OWN_CODE = {"testing.source_mutants"}
# Derives from the standard unpickler, in which it allows few instructions and no name.
MAY_UNPICKLE = {"data.safe_io"}
STANDARD = set(sys.stdlib_module_names)
CORE = {"graphviz", "numpy", "tinygrad_cnn"}
COMPILER = {"numba", "llvmlite"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def layer(name: str) -> str:
    return name.split(".")[0]


@functools.cache
def imports(path: Path):
    """(line, module, whether inside a function) of each import outside TYPE_CHECKING."""
    whole = tree(path)

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, alias.name, inside
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}:{child.lineno}: imports are absolute"
                module = child.module or ""
                if module == "tinygrad_cnn":
                    for alias in child.names:
                        below = PACKAGE / alias.name
                        known = below.is_dir() or below.with_suffix(".py").exists()
                        yield child.lineno, f"{module}.{alias.name}" if known else module, inside
                elif (PACKAGE.parent / module.replace(".", "/")).is_dir():
                    folder = PACKAGE.parent / module.replace(".", "/")
                    for alias in child.names:
                        known = (folder / alias.name).with_suffix(".py").exists() \
                            or (folder / alias.name).is_dir()
                        yield child.lineno, f"{module}.{alias.name}" if known else module, inside
                else:
                    yield child.lineno, module, inside
            else:
                deeper = inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                yield from visit(child, deeper)
    return list(visit(whole, False))


def ours():
    """(place, file, module of ours that it imports, whether inside a function)."""
    for path in FILES:
        for line, module, inside in imports(path):
            if module.startswith("tinygrad_cnn"):
                yield (f"{path}:{line}", module_name(path),
                       module.removeprefix("tinygrad_cnn").strip("."), inside)


def test_imports_go_down_the_layers_only():
    for place, name, target, inside in ours():
        allowed = MAY_IMPORT[layer(name)]
        if inside and (layer(name), layer(target)) in EXCEPTIONS:
            continue
        allowed = (*allowed, "types")
        ok = "*" in allowed or any(target == a or target.startswith(a + ".") for a in allowed)
        assert ok, f"{place}: {layer(name)} may not import {target}"
        for source, never in NEVER.items():
            known = name.startswith(source) and any(target.startswith(n) for n in never)
            assert not known, f"{place}: {source} may not know {target}"


@pytest.mark.parametrize("folder", ORDER)
def test_the_files_of_a_folder_import_only_earlier_ones(folder):
    order = ORDER[folder]
    assert sorted(order) == sorted(p.stem for p in (PACKAGE / folder).glob("*.py"))
    for place, name, target, _ in ours():
        if name.startswith(f"{folder}.") and target.startswith(f"{folder}."):
            one, other = name.split(".")[1], target.split(".")[1]
            assert order.index(other) < order.index(one), f"{place}: {one} comes before {other}"


def test_optional_packages_are_imported_inside_functions_only():
    for path in FILES:
        name = module_name(path)
        for line, module, inside in imports(path):
            top = module.split(".")[0]
            if top in STANDARD or top in CORE or (name == "testing.plugin" and top == "pytest"):
                continue
            if name.startswith("kernels.jit.") and top in COMPILER:
                continue                    # the folder itself is only imported where it is needed
            assert inside, f"{path}:{line}: {module} is optional; import it where it is needed"


def test_the_compiled_kernels_are_imported_by_one_file_only():
    for path in FILES:
        if path.parent.name == "jit":
            continue
        for line, module, _ in imports(path):
            assert module.split(".")[0] not in COMPILER, f"{path}:{line}: only kernels/jit compiles"
            assert not module.startswith("tinygrad_cnn.kernels.jit"), \
                f"{path}:{line}: kernels/compiled.py imports this when it is first asked for"
        named = "kernels.jit" in path.read_text(encoding="utf-8")
        assert named == (module_name(path) == "kernels.compiled"), f"{path} names kernels.jit"


def test_every_file_belongs_to_a_layer():
    assert {layer(module_name(path)) for path in FILES} == set(MAY_IMPORT)


def test_there_are_no_import_cycles():
    graph = {}
    for path in FILES:
        name = module_name(path).removesuffix(".__init__")
        graph[name] = {m.removeprefix("tinygrad_cnn").strip(".") for _, m, inside in imports(path)
                       if m.startswith("tinygrad_cnn.") and not inside}
    done, path_here = set(), []

    def visit(name):
        if name in done or name not in graph:
            return
        assert name not in path_here, f"cycle: {' -> '.join([*path_here, name])}"
        path_here.append(name)
        for other in sorted(graph[name]):
            # A folder's __init__ gathers its files; a file that names its own folder is a cycle.
            if other != name:
                visit(other)
        path_here.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


@functools.cache
def calls(path):
    return [(node.lineno, ast.unparse(node.func), node) for node in nodes(path)
            if isinstance(node, ast.Call)]


def test_no_file_can_run_code():
    for path in FILES:
        for line, module, _ in imports(path):
            refused = {"pickle", "marshal", "shelve", "dill"}
            if module_name(path) in MAY_UNPICKLE:
                refused -= {"pickle"}
            assert module.split(".")[0] not in refused, f"{path}:{line}"
        for line, name, node in calls(path):
            if module_name(path) not in RUNS_ITS_OWN_CODE:
                assert name not in {"eval", "exec", "compile", "os.system"}, \
                    f"{path}:{line}: {name}"
            assert name not in {"pickle.load", "pickle.loads", "pickle.Unpickler"}, f"{path}:{line}"
            for keyword in node.keywords:
                risky = keyword.arg in {"allow_pickle", "shell"}
                assert not (risky and ast.unparse(keyword.value) == "True"), f"{path}:{line}"


def test_booleans_are_told_from_numbers_in_one_module():
    for path in FILES:
        if layer(module_name(path)) not in {"nn", "optim", "data", "train", "io", "models"}:
            continue
        for line, name, node in calls(path):
            known = name == "isinstance" and "bool" in ast.unparse(node.args[1])
            assert not known, f"{path}:{line}: checks.py refuses booleans"


def test_importing_the_package_loads_nothing_but_numpy():
    code = ("import sys; before = set(sys.modules); import numpy; ours = set(sys.modules)\n"
            "import tinygrad_cnn\n"
            "new = {m.split('.')[0] for m in set(sys.modules) - ours}\n"
            "known = set(sys.stdlib_module_names) | {'tinygrad_cnn', 'numpy'}\n"
            "print([m for m in sorted(new - known) if 'cython' not in m])")   # NumPy's generators
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"


def test_the_first_compiled_kernel_loads_the_compiler_and_nothing_before_it_does():
    pytest.importorskip("numba", reason="the extra fast is not installed")
    code = ("import sys, warnings, numpy as np, tinygrad_cnn as tc\n"
            "def loaded(): return sorted({'numba', 'llvmlite'} & set(sys.modules))\n"
            "from tinygrad_cnn import nn, optim, train, viz, stepwise, testing, models\n"
            "print(loaded(), tc.get_compiled())\n"
            "x, w = (tc.Tensor(np.ones(s, np.float32)) for s in ((4, 16, 16, 4), (3, 3, 4, 4)))\n"
            "with tc.set_compiled(False): tc.conv2d(x, w)\n"
            "print(loaded())\n"
            "tc.conv2d(x, w)\n"
            "print(loaded())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=PACKAGE.parent)
    assert done.stdout.split("\n")[:3] == ["[] True", "[]", "['llvmlite', 'numba']"]
