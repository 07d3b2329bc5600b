"""Everything shown is run: README, every page of the docs, every docstring.  Warnings are errors.

A page has one namespace and is run from top to bottom, in an empty folder in which ``tests`` is the
one of the repository.  A ``python`` fence is either a session with ``>>>``, which doctest compares,
or a script; what a script prints must stand in the ``text`` fence that comes next, or in comments
of the script.  ``...`` stands for anything, runs of blanks are alike, and a number with a point is
compared to the decimals that are shown.  Fences in any other language, or in none, are prose.
There is no way to mark Python as not to be run.
"""

from __future__ import annotations

import builtins
import contextlib
import doctest
import importlib
import inspect
import io
import itertools
import pkgutil
import re
import runpy
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if path.exists())

OPTIONAL = {"PIL", "matplotlib", "torch", "tqdm"}       # what the extras bring
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """One fence: its language, its text, and the line on which the text begins, counted from 1."""

    language: str
    text: str
    line: int

    @property
    def is_session(self) -> bool:
        return any(line.startswith(">>>") for line in self.text.splitlines())


class Checker(doctest.OutputChecker):
    """doctest's, but for the last digits of numbers, which differ between machines."""

    def check_output(self, want, got, optionflags=FLAGS):
        if super().check_output(want, got, optionflags):
            return True
        shown, found = _NUMBER.findall(want), _NUMBER.findall(got)
        return (len(shown) == len(found) and all(map(_alike, shown, found))
                and super().check_output(_NUMBER.sub("0.0", want), _NUMBER.sub("0.0", got),
                                         optionflags))


def _alike(shown, found):
    mantissa, _, power = shown.partition("e")
    last_digit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(float(shown) - float(found)) <= last_digit * 1.000001


# ---- pages ---------------------------------------------------------------------------------------

def blocks(markdown):
    """The fences of a page, in order.  A language is one word: there are no options."""
    found, opened = [], None
    for number, line in enumerate(markdown.splitlines(keepends=True), start=1):
        fence = _FENCE.match(line.rstrip())
        if opened is None and fence:
            indent, ticks, language = fence.groups()
            opened, inside = (len(indent), ticks, language.strip(), number + 1), []
        elif opened is not None and fence and fence[2].startswith(opened[1]) and not fence[3]:
            found.append(Block(opened[2], "".join(inside), opened[3]))
            opened = None
        elif opened is not None:
            inside.append(line[opened[0]:] if line[:opened[0]].isspace() else line)
    assert opened is None, f"the fence opened above line {opened[3]} is never closed"
    return found


def run_session(text, names, name, line=1, filename=None):
    """Run the examples of ``text``, which see and may add to ``names``; how many there were."""
    examples = doctest.DocTestParser().get_doctest(text, names, name, filename or name, line - 1)
    examples.globs = names                              # doctest would run them in a copy
    report = io.StringIO()
    runner = doctest.DocTestRunner(Checker(), optionflags=FLAGS)
    runner.run(examples, out=report.write, clear_globs=False)
    if "MissingExtraError: " in report.getvalue():
        pytest.skip(re.search(r"MissingExtraError: (.*)", report.getvalue())[1])
    if report.getvalue():
        pytest.fail(report.getvalue(), pytrace=False)
    return len(examples.examples)


def run_script(block, names, name):
    """Run a fence without ``>>>``; what it printed."""
    printed = io.StringIO()
    # Blank lines in front make tracebacks point into the page.
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def run_page(markdown, name):
    """Run every Python fence of a page; how many there were."""
    count = 0
    module = types.ModuleType("page_of_the_docs")        # dataclasses look their module up by name
    names = vars(module)
    page = blocks(markdown)
    for block, following in itertools.pairwise([*page, None]):
        place = f"{name}:{block.line}"
        assert not block.language.startswith("python") or block.language == "python", (
            f"{place}: every Python fence is run, so {block.language!r} has no meaning")
        if block.language != "python":
            continue
        count += 1
        if block.is_session:
            run_session(block.text, names, name, block.line)
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            printed = run_script(block, names, name)
        if following is None or following.language != "text":
            shown = _said_in_comments(block.text, printed)
        else:
            shown = following.text
        if not Checker().check_output(shown, printed):
            pytest.fail(f"{place} printed\n{printed}\nbut shows\n{shown}",
                        pytrace=False)
    return count


def _said_in_comments(script, printed):
    """The lines of ``printed`` that stand, in order, in comments."""
    comments = iter(re.findall(r"#(.*)$", script, re.MULTILINE))
    return "".join(f"{line}\n" for line in printed.splitlines()
                   if any(Checker().check_output(said.strip(), line.strip()) for said in comments))


# ---- docstrings ----------------------------------------------------------------------------------

def modules():
    """The name of every module of the package, but for the one that is a command."""
    found = pkgutil.walk_packages(tc.__path__, f"{tc.__name__}.")
    return [tc.__name__, *(module.name for module in found if not module.name.endswith("__main__"))]


def docstrings(module):
    """(name, docstring) of the module and of everything made in it."""
    found = {module.__name__: module.__doc__}
    for name, thing in vars(module).items():
        if not _is_made_in(module, name, thing):
            continue
        found[f"{module.__name__}.{name}"] = thing.__doc__
        if inspect.isclass(thing):
            for inner, part in vars(thing).items():
                made_here = getattr(part, "__module__", module.__name__) == module.__name__
                if made_here and (inspect.isroutine(part)
                                  or isinstance(part, (property, staticmethod))):
                    found[f"{module.__name__}.{name}.{inner}"] = part.__doc__
    return {name: text for name, text in found.items() if text}


def _is_made_in(module, name, thing):
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return False
    # Functions made from a declaration come from ``tensor``, and errors name the package.
    exported = name in getattr(module, "__all__", ()) and not hasattr(module, "__path__")
    return thing.__module__ == module.__name__ or (exported and thing.__module__.startswith("tiny"))


def names_seen_by(module):
    """What examples need not import: NumPy, the public names, those of their room and module."""
    names = {"np": np, **{word: getattr(tc, word) for word in tc.__all__
                          if not hasattr(builtins, word)}}
    for word in ("nn", "optim", "transforms"):
        names[word] = importlib.import_module(f"{tc.__name__}.{word}")
    room = module.__name__.rpartition(".")[0]
    if room != tc.__name__:
        names |= vars(importlib.import_module(room or module.__name__))
    return {**names, **vars(module)}


# ---- tests ---------------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_runs_and_shows_what_it_prints(page):
    try:
        with warnings.catch_warnings():             # PyTorch adds to the filters on first use
            run_page(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())
    except tc.MissingExtraError as error:
        pytest.skip(str(error))
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"the page needs {error.name}")


@pytest.mark.parametrize("name", modules())
def test_every_example_in_the_docstrings_of_a_module_gives_what_it_shows(name):
    if "kernels.jit" in name:
        pytest.importorskip("numba", reason="the extra fast is not installed")
    module = importlib.import_module(name)
    for place, text in docstrings(module).items():
        run_session(inspect.cleandoc(text), names_seen_by(module), place)


def test_every_public_name_shows_an_example():
    named = {word: getattr(tc, word) for word in tc.__all__}
    silent = [word for word, thing in named.items() if callable(thing)
              and not (isinstance(thing, type) and issubclass(thing, Exception))
              and ">>>" not in (thing.__doc__ or "")]
    assert not silent


def test_the_indices_of_functions_and_ops_are_current():
    for page, make in runpy.run_path(str(ROOT / "docs" / "make_index.py"))["PAGES"].items():
        shown = page.read_text(encoding="utf-8")
        assert shown == make(), "run python docs/make_index.py"
        for path in set(re.findall(r"\]\(\.\./(.+?)\)", shown)):
            assert (ROOT / path).exists()


def test_the_pictures_of_the_docs_are_current(monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_pictures.py", "--check"])
    assert runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["main"]() == 0


def test_the_page_of_errors_has_a_heading_for_every_class():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    classes = {name for name in tc.errors.__all__ if name[0].isupper()}
    assert set(re.findall(r"^## (\w+Error|\w+Mismatch)$", page, re.MULTILINE)) == classes
    # ... and shows it: raised, or caught and printed
    assert {name for name in classes if re.search(rf"^(tinygrad_cnn\.)?{name}:", page, re.MULTILINE)
            } == classes - {"TinygradCnnError"}


@pytest.mark.parametrize("page, words", [
    ("```python\n1 / 0\n```\n", "division by zero"),
    ("```python\n>>> 1 + 1\n3\n```\n", "Expected"),
    ("```python\n>>> 1 + 1\n2\n```\n```python\n>>> 3\n4\n```\n", "Expected"),
    ("```python\nprint(1)\n```\n```text\n2\n```\n", "printed"),
    ("```python\nprint(1)\n```\n", "printed"),
    ("```python\n>>> 1 / 3\n0.335\n```\n", "Expected"),
    ("```python\n>>> 1 / 3, 1\n(0.333, 2)\n```\n", "Expected"),
    ("```python\nx = 1\n```\n```text\n1\n```\n", "printed"),
    ("```python\nprint(1)    # 2\n```\n", "printed"),
    ("```python\nprint(1, 2, sep='\\n')    # 1\n```\n", "printed"),
    ("```python no-run\n1 / 0\n```\n", "has no meaning"),
    ("```python\nx = 1\n", "never closed"),
    ("1. a list\n\n   ```python\n   assert False, 'indented'\n   ```\n", "indented"),
    ("```python\nimport warnings\nwarnings.warn('old')\n```\n", "old"),
])
def test_a_page_that_is_not_true_is_found(page, words):
    errors = (pytest.fail.Exception, AssertionError, ArithmeticError, UserWarning)
    with pytest.raises(errors, match=words):
        run_page(page, "page.md")


def test_a_page_that_is_true_passes():
    page = """
```python
x = 2
print(x * 21, "in 0.1 s")
```

```text
42 in ... s
```

```python
>>> x + 1                               # names last for the whole page
3
>>> x / 3, 1e-5 * x / 3
(0.667, 6.67e-06)
>>> tensor = undefined
Traceback (most recent call last):
    ...
NameError: name 'undefined' is not defined
```

~~~sh
exit 1
~~~

```python
from dataclasses import dataclass

@dataclass
class Pair:
    a: "float"

print(Pair(2 / 3))
# Pair(a=0.67)
```
"""
    assert run_page(page, "page.md") == 3
