"""Find a layout engine and run it: a program, a module, or our own layout that is always here.

No shell is used, no program in the current folder is run, and standard output is the only way back.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tinygrad_cnn.errors import VizError

__all__ = ["Engine", "candidates", "engines", "run"]

VARIABLE = "TINYGRAD_CNN_ENGINE"
NAMES = ("pure", "dot", "pygraphviz", "spine", "text")
_SECONDS = 30
_CURES = {"pure": "pip install graphviz-pure",
          "dot": "apt install graphviz, or brew install graphviz",
          "pygraphviz": "pip install pygraphviz"}
_PURE_FORMATS = ("svg", "png", "jpg", "json")
_DOT_FORMATS = ("svg", "png", "jpg", "json", "pdf", "ps")


@dataclass(frozen=True)
class Engine:
    """Something that can lay out and draw a graph.

    Attributes
    ----------
    name : str
        ``pure``, ``dot``, ``pygraphviz``, ``spine``, ``text``, or ``path`` for a program given by
        its path.
    where : str
        Absolute path of a program, or a few words.
    formats : tuple of str
        What it writes.
    """

    name: str
    where: str
    formats: tuple[str, ...]

    @property
    def is_program(self) -> bool:
        """Whether it runs as a process of its own."""
        return self.name in ("pure", "dot", "path")


_SPINE = Engine("spine", "the layout of tinygrad_cnn", ("svg", "png", "pdf"))
_TEXT = Engine("text", "a tree of words", ("txt",))


def engines() -> tuple[Engine, ...]:
    """What was found on this machine, in the order in which a picture tries it.

    Returns
    -------
    tuple of Engine
        ``spine`` and ``text`` are always among them.

    Examples
    --------
    >>> [e.name for e in engines()][-2:]
    ['spine', 'text']
    """
    return _found(os.environ.get("PATH", os.defpath), os.getcwd())


@lru_cache(maxsize=8)
def _found(path: str, folder: str) -> tuple[Engine, ...]:
    found = []
    pure = _pure(path)
    if pure and _trusted(pure, folder):
        found.append(Engine("pure", pure, _PURE_FORMATS))
    dot = shutil.which("dot", path=path)
    if dot and _trusted(dot, folder):
        found.append(Engine("dot", dot, _DOT_FORMATS))
    if importlib.util.find_spec("pygraphviz") is not None:
        found.append(Engine("pygraphviz", "in process", ("svg", "png", "pdf")))
    return (*found, _SPINE, _TEXT)


def _pure(path: str) -> str | None:
    """The program of the package graphviz-pure, even where its folder is not on PATH."""
    program = "graphviz-pure" + (".exe" if os.name == "nt" else "")
    try:
        files = importlib.metadata.files("graphviz-pure") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    places = [Path(str(f.locate())) for f in files if f.name == program]
    places.append(Path(sysconfig.get_path("scripts")) / program)
    for place in places:
        if place.is_file():
            return str(place.resolve())
    return shutil.which("graphviz-pure", path=path)


def _trusted(program: str, folder: str) -> bool:
    """Whether the program is named absolutely and does not lie in the current folder."""
    return os.path.isabs(program) and Path(program).resolve().parent != Path(folder).resolve()


def candidates(form: str, engine: str | None = None) -> tuple[Engine, ...]:
    """The engines to try for a format, best first; one alone if it was named.

    Parameters
    ----------
    form : str
        ``svg``, ``png`` or ``pdf``.
    engine : str, optional
        A name of `Engine`, or the path of a program that understands ``-Tsvg``; the environment
        variable ``TINYGRAD_CNN_ENGINE`` stands in for it.

    Raises
    ------
    VizError
        If the named engine is unknown, not installed, or does not write that format.
    """
    wanted = engine or os.environ.get(VARIABLE) or None
    found = engines()
    if wanted is None:
        able = tuple(e for e in found if form in e.formats)
        if form in ("pdf", "ps"):           # C Graphviz embeds the fonts
            able = tuple(sorted(able, key=lambda e: e.name != "dot"))
        return able
    if wanted == "graphviz-pure":
        wanted = "pure"
    if wanted in NAMES:
        hit = next((e for e in found if e.name == wanted), None)
        if hit is None:
            raise VizError(f"graph: engine {wanted!r} is not installed; {_CURES[wanted]}, "
                           "or leave engine= out")
    elif os.path.isabs(wanted) and os.access(wanted, os.X_OK) and Path(wanted).is_file():
        hit = Engine("path", wanted, _DOT_FORMATS)
    else:
        raise VizError(f"graph: engine {wanted!r} is unknown; choose from {', '.join(NAMES)}, "
                       "or give the absolute path of a program")
    if form not in hit.formats:
        raise VizError(f"graph: engine {hit.name!r} writes {', '.join(hit.formats)}, not {form}; "
                       "leave engine= out, or save as .svg")
    return (hit,)


def run(engine: Engine, dot: str, form: str, *extra: str) -> bytes:
    """The drawing of DOT text by a program or by pygraphviz.

    Raises
    ------
    VizError
        If the engine fails, takes longer than 30 seconds, or loses a label.
    """
    if engine.name == "pygraphviz":
        return _in_process(dot, form)
    command = [engine.where, "-Kdot", f"-T{form}", *extra]
    try:
        done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=_SECONDS,
                              check=False)
    except subprocess.TimeoutExpired:
        raise VizError(f"graph: {engine.where} took more than {_SECONDS} s; "
                       "fold harder with level='folded', or use engine='spine'") from None
    except OSError as error:
        raise VizError(f"graph: {engine.where} cannot be run: {error.strerror}; "
                       "leave engine= out to use another") from None
    words = done.stderr.decode(errors="replace").strip()
    # Engines go on after a syntax error in a label, with the label lost.
    if done.returncode or not done.stdout or "syntax error" in words or "not well-formed" in words:
        last = words.splitlines()[-1][-200:] if words else f"exit code {done.returncode}"
        raise VizError(f"graph: {engine.where} failed: {last}; engine='spine' needs no program")
    return done.stdout


def _in_process(dot: str, form: str) -> bytes:
    import pygraphviz

    try:
        drawn = pygraphviz.AGraph(string=dot).draw(prog="dot", format=form)
    except Exception as error:              # pygraphviz raises whatever its C library says
        raise VizError(f"graph: pygraphviz failed: {error}; engine='spine' needs none") from None
    return bytes(drawn)
