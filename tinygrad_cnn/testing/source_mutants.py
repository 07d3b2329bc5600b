"""Mutants made from the source of a rule: what is one slip away from it.

Terms and factors are dropped, signs and axes swapped, ``+=`` becomes ``=``, slices move by one,
``sum`` becomes ``mean``, and a call that brings a cotangent back into shape is left out.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import inspect
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from tinygrad_cnn.core.op import Op
from tinygrad_cnn.types import Function, Settings

__all__ = ["SourceMutant", "source_mutants"]

_SWAPPED_CALLS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "exp": "log",
                  "zeros_like": "ones_like", "sin": "cos", "cos": "sin"}
_COMPARED = {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt}


@dataclass(frozen=True)
class SourceMutant:
    """One slip in a rule.

    Attributes
    ----------
    op : Op
        The op with the slip.
    input : str
        The input whose rule it is in.
    says : str
        The part of the rule as it was, and as it is.
    """

    op: Op
    input: str
    says: str


def source_mutants(op: Op) -> list[SourceMutant]:
    """Every slip that can be made in the rules of an op whose source is at hand."""
    found = []
    for k, rule in op.vjp.items():
        tree = _source(rule)
        if tree is None:
            continue
        for says, changed in _slips(tree):
            wrong = _rebuilt(rule, changed)
            if wrong is not None:
                vjp = {**op.vjp, k: wrong}
                name = k if isinstance(k, str) else ", ".join(k)
                found.append(SourceMutant(dataclasses.replace(op, vjp=vjp), name, says))
    return found


# ---- source and back

def _source(rule: Function) -> ast.FunctionDef | ast.Lambda | None:
    """The syntax tree of a rule; None if it cannot be had."""
    code: Any = getattr(rule, "__code__", None)
    try:
        lines, _ = inspect.findsource(rule)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            made = _compiled(rule, node)
            if made is not None and made.__code__.co_code == code.co_code \
                    and _constants(made.__code__) == _constants(code) \
                    and made.__code__.co_names == code.co_names:
                return node
        if isinstance(node, ast.FunctionDef) and node.name == rule.__name__ and (
                node.lineno == code.co_firstlineno or code.co_firstlineno in
                [d.lineno for d in node.decorator_list]):
            return node
    return None


def _constants(code: CodeType) -> list[object]:
    """The constants of a function; of functions inside of it, which know their place, the code."""
    return [c.co_code if isinstance(c, CodeType) else c for c in code.co_consts]


def _compiled(rule: Function, node: ast.FunctionDef | ast.Lambda) -> Any:
    """A function made of a tree, with the globals and the closure of the rule."""
    free = rule.__code__.co_freevars
    node = copy.deepcopy(node)
    arguments = ast.arguments(posonlyargs=[], args=[ast.arg(name) for name in free], kwonlyargs=[],
                              kw_defaults=[], defaults=[])
    if isinstance(node, ast.Lambda):
        body: list[ast.stmt] = [ast.Return(node)]
    else:
        node.decorator_list, node.returns = [], None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        body = [node, ast.Return(ast.Name(node.name, ast.Load()))]
    outer = ast.FunctionDef(name="_outer", args=arguments, body=body, decorator_list=[])
    # Python compiles calls of what a module has imported in another way.
    imports: list[ast.stmt] = [ast.Import([ast.alias(value.__name__, name)]) for name, value in
                               rule.__globals__.items() if isinstance(value, ModuleType)
                               and name in rule.__code__.co_names]
    module = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    scope: Settings = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            exec(compile(module, "<slip>", "exec"), rule.__globals__, scope)
        return scope["_outer"](*(cell.cell_contents for cell in rule.__closure__ or ()))
    except (SyntaxError, ValueError, TypeError):
        return None


def _rebuilt(rule: Function, tree: ast.FunctionDef | ast.Lambda) -> Any:
    made = _compiled(rule, tree)
    # Defaults of a lambda in a loop are part of the rule, not of its source.
    return None if made is None else functools.wraps(rule)(made)


# ---- slips

def _slips(tree: ast.FunctionDef | ast.Lambda) -> Iterator[tuple[str, Any]]:
    """Each slip as words and as a changed copy of the tree."""
    body = tree.body if isinstance(tree.body, list) else [tree.body]
    places = [node for part in body for node in ast.walk(part)]
    names = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args) if a.arg != "ct"]
    for position, node in enumerate(places):
        for other in _others(node, names):
            changed = copy.deepcopy(tree)
            again = changed.body if isinstance(changed.body, list) else [changed.body]
            target = [n for part in again for n in ast.walk(part)][position]
            swapped = _Swap(target, other).visit(changed)
            yield f"{ast.unparse(node)}  ->  {ast.unparse(other)}", swapped


class _Swap(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, target: ast.AST, other: ast.AST) -> None:
        self.target, self.other = target, other

    def visit(self, node: ast.AST) -> Any:
        """Swap the target, walk on from the rest."""
        return self.other if node is self.target else self.generic_visit(node)


def _others(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """What a node may have been written as by mistake."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield ast.Assign([node.target], node.value, lineno=node.lineno)
    elif isinstance(node, ast.BinOp):
        yield from _other_sums(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
        yield ast.Compare(node.left, [_COMPARED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Slice):
        yield from _other_slices(node)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield ast.Tuple(node.elts[::-1], node.ctx)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        yield from (ast.Name(name, node.ctx) for name in names if name != node.id)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)


def _other_sums(node: ast.BinOp) -> Iterator[ast.AST]:
    yield node.left
    if isinstance(node.op, (ast.Add, ast.Mult, ast.MatMult)):
        yield node.right
    swapped = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
    if type(node.op) in swapped:
        yield ast.BinOp(node.left, swapped[type(node.op)](), node.right)


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.id if isinstance(node.func, ast.Name) else \
        node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name in _SWAPPED_CALLS:
        other = _SWAPPED_CALLS[name]
        func: ast.expr = ast.Name(other, ast.Load()) if isinstance(node.func, ast.Name) else \
            ast.Attribute(node.func.value, other, ast.Load())  # type: ignore[attr-defined]
        yield ast.Call(func, node.args, node.keywords)
    if node.args and not isinstance(node.args[0], (ast.Starred, ast.Constant)):
        yield node.args[0]
    elif isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        yield node.func.value
    for i, keyword in enumerate(node.keywords):
        if keyword.arg in ("stride", "dilation", "padding") and keyword.value is not None:
            turned = ast.keyword(keyword.arg, ast.Subscript(
                keyword.value, ast.Slice(None, None, ast.Constant(-1)), ast.Load()))
            yield ast.Call(node.func, node.args, [*node.keywords[:i], turned,
                                                  *node.keywords[i + 1:]])


def _other_slices(node: ast.Slice) -> Iterator[ast.AST]:
    for bound in ("lower", "upper"):
        value = getattr(node, bound)
        if value is not None:
            moved = ast.BinOp(value, ast.Add(), ast.Constant(1))
            yield ast.Slice(moved if bound == "lower" else node.lower,
                            moved if bound == "upper" else node.upper, node.step)
    if node.step is not None:
        yield ast.Slice(node.lower, node.upper, None)


def _other_constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        yield ast.Constant(node.value * 2 if node.value else 1.0)
        yield ast.Constant(0.0 if node.value else -1.0)
