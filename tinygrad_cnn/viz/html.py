"""HTML: the self-contained interactive page, and the tables of tensors and modules in notebooks.

A page holds finished pictures of several fold states, a style and a script; its content security
policy allows nothing else.  Without a script the first picture still shows.  Each run of colors and
sizes in the pictures becomes a class, so that a page is half as large and follows the theme.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import linecache
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.op import FUNCTIONS, OPS
from tinygrad_cnn.types import Settings
from tinygrad_cnn.viz import svg
from tinygrad_cnn.viz.capture import Recording, entry_names, is_placeholder, statistics
from tinygrad_cnn.viz.diagnostics import problems
from tinygrad_cnn.viz.diagram import Card, Diagram, draw
from tinygrad_cnn.viz.labels import (
    DARK,
    LIGHT,
    binary_size,
    clean,
    count,
    escape,
    number,
    shape_text,
)
from tinygrad_cnn.viz.layout import layout

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["embedded", "module_html", "page", "tensor_html"]

_MOST_BYTES = 1_600_000                     # of pictures; the page stays below 2 MB
_MOST_OPEN = 24
_MOST_NAMES = 300                           # of one card, that a search finds
_MOST_DRAWN = 20_000                        # entries in all pictures with an opened module
_LEVELS = ("everything", "operators", "modules", "folded")
_LONGEST_RULE = 600                         # characters of a backward rule that is shown
_LOOK = re.compile(r'((?: (?:fill|fill-opacity|stroke|stroke-width|stroke-dasharray|font-size|'
                   r'font-weight|text-anchor|rx)="[^"]*")+)( class="g")?')
_EMBEDDED = re.compile(r'<script type="application/json" id="recording">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class _State:
    """One picture of the page."""

    name: str
    home: str                               # the level that it belongs to
    diagram: Diagram
    opened: str = ""


def page(recording: Recording, first: Diagram, carried: str, **settings: object) -> str:
    """The text of the page: a recording at every level that differs, and with each module open.

    ``first`` shows at the start; ``carried`` is the recording as JSON, for `load`, or empty.
    """
    frames, data, size, names = [], [], 0, entry_names(recording)
    for k, state in enumerate(_states(recording, first, settings)):
        figure = f"v{k}"
        drawn = svg.drawn(state.diagram, layout(state.diagram), figure=figure, theme="light")
        if k and size + len(drawn) > _MOST_BYTES:
            break
        size += len(drawn)
        picture = re.sub(r"<style>.*?</style>", "", drawn, count=1, flags=re.DOTALL)
        w, h = svg.size(drawn)              # of the picture where no script fits it
        picture = picture.replace('role="img"', f'role="group" width="{w:g}" height="{h:g}"', 1)
        hidden = " hidden" if k else ""
        frames.append(f'<div id="view-{figure}"{hidden}>{picture}</div>')
        data.append(_facts(state, figure, recording, names))
    if len(frames) == 1 and size > _MOST_BYTES // 2:        # large: its facts show in the panel
        frames = [re.sub(r"<title>.*?</title>", "", frame) for frame in frames]
        carried = ""
    data[0]["loose"] = [str(p) for p in problems(recording) if p.entry < 0]
    styled, rules = _classes("".join(frames))
    return _assembled(first, styled, rules, data, _ops(recording, data), carried)


def _classes(text: str) -> tuple[str, str]:
    """Pictures with a class for each run of colors and sizes, and what the classes mean."""
    names: dict[str, str] = {}
    styled = _LOOK.sub(lambda found: (
        f' class="{names.setdefault(found[1], f"s{len(names)}")}{" g" if found[2] else ""}"'), text)
    roles = {color: f"var(--{role})" for role, color in LIGHT.items()}
    rules = (f".{name}{{" + ";".join(
        f"{key}:{roles.get(value, value)}{'px' if key in ('font-size', 'rx') else ''}"
        for key, value in re.findall(r'([\w-]+)="([^"]*)"', look)) + "}"
        for look, name in names.items())
    return styled, "".join(rules)


# ---- what an op is -------------------------------------------------------------------------------

def explained(name: str) -> Settings:
    """What an op or function does: a line, its formula, and the backward rule of each input.

    >>> explained("matmul")["rules"]
    [['a', 'matmul(ct, _swap(b))'], ['b', 'matmul(_swap(a), ct)']]
    """
    op = OPS.get(name)
    words = (getattr(FUNCTIONS.get(name), "__doc__", "") or "").replace("`", "")
    paragraphs = inspect.cleandoc(words).split("\n\n")
    formula = paragraphs[1] if len(paragraphs) > 1 and "=" in paragraphs[1] \
        and not paragraphs[1].startswith((">>>", "Parameters\n")) else ""
    rules = () if op is None else op.vjp.items()
    return {"what": clean(paragraphs[0], 300), "formula": _lines(formula), "rules": [
        [key if isinstance(key, str) else ", ".join(key), _lines(_source(rule))]
        for key, rule in rules]}


def _lines(text: str) -> str:
    return "\n".join(clean(line, 160) for line in text.splitlines())


def _source(rule: Callable[..., object]) -> str:
    """The body of a function or a lambda, as it is written; empty where its file is not at hand."""
    if not inspect.isfunction(rule):
        return ""
    code, places = rule.__code__, []
    for line, last, column, stop in rule.__code__.co_positions():
        if line and last and column is not None and stop:
            places.append(((line, column), (last, stop)))
    if not places:
        return ""
    top, end = min(places)[0], max(p for _, p in places)
    lines = [linecache.getline(code.co_filename, n) for n in range(top[0], end[0] + 1)]
    if not all(lines):
        return ""
    lines[-1] = lines[-1].encode()[:end[1]].decode()
    lines[0] = " " * top[1] + lines[0].encode()[top[1]:].decode()
    text = textwrap.dedent("".join(lines)).removeprefix("return ")
    text = re.sub(r"\bapply\(\s*([A-Z][A-Z0-9_]*),\s*", lambda found: f"{found[1].lower()}(", text)
    if code.co_name == "<lambda>":
        text = " ".join(text.split())
    return text if len(text) <= _LONGEST_RULE else text[:_LONGEST_RULE].rpartition("\n")[0] + "\n…"


def _ops(recording: Recording, data: list[Settings]) -> Settings:
    """What is to be known of each op and function that a card names."""
    names = {c["op"] for state in data for c in state["cards"] if "op" in c}
    return {name: explained(name) for name in sorted(names)}


def _states(recording: Recording, first: Diagram, settings: Settings) -> Iterator[_State]:
    """The first picture, the other levels, then each folded module opened."""
    yield _State(first.level, first.level, first)
    seen = {_shown(first)}
    for level in _LEVELS:
        if level == first.level or (len(recording.entries) > 2000 and level != "folded"):
            continue
        diagram = draw(recording, level=level, **settings)
        if len(diagram.cards) <= 400 and diagram.level == level and _shown(diagram) not in seen:
            seen.add(_shown(diagram))
            yield _State(level, level, diagram)
    folded = dict.fromkeys(c.path for c in first.cards if c.path)
    most = min(_MOST_OPEN, _MOST_DRAWN // max(1, len(recording.entries)))
    for path in list(folded)[:most]:
        diagram = draw(recording, level=first.level, open=(*first.opened, path), **settings)
        if _shown(diagram) not in seen:
            seen.add(_shown(diagram))
            yield _State(f"open {clean(path, 150)}", first.level, diagram, path)


def _shown(diagram: Diagram) -> tuple[str, ...]:
    return tuple(c.title + c.tag for c in diagram.cards)


def _card_facts(c: Card, recording: Recording, names: list[str]) -> Settings:
    """What the script is told of a card; what is empty is left out."""
    op = recording.entries[c.entries[-1]].op if c.kind in ("op", "loss") else ""
    function = c.path.rpartition(".")[2].removesuffix("()") if c.path.endswith("()") else ""
    facts = {"id": c.id, "title": clean(c.title), "path": clean(c.path, 150), "op": function or op,
             "about": [clean(a, 160) for a in c.about],
             "inside": [clean(names[i], 150) for i in c.entries[:_MOST_NAMES]]
             if len(c.entries) > 1 else [],
             "warnings": [clean(w, 160) for w in c.warnings]}
    return {key: value for key, value in facts.items() if value}


def _facts(state: _State, figure: str, recording: Recording, names: list[str]) -> Settings:
    d = state.diagram
    return {
        "name": clean(state.name, 200), "home": state.home, "figure": figure,
        "opened": clean(state.opened, 150), "title": clean(d.title),
        "subtitle": clean(d.subtitle, 300),
        "cards": [_card_facts(c, recording, names) for c in d.cards],
        "edges": [[e.id, e.source, e.target, e.gradient, e.step] for e in d.edges]}


def _assembled(first: Diagram, frames: str, rules: str, data: list[Settings], ops: Settings,
               carried: str) -> str:
    title = escape(first.title)
    style, script = _style() + rules, _resource("page.js")
    names = {s["name"] for s in data}
    buttons = "".join(f'<button type="button" data-state="{name}" '
                      f'aria-pressed="{str(name == first.level).lower()}">{name}</button>'
                      for name in _LEVELS if name in names)
    pictures = "img-src data:; " if "<image " in frames else ""
    policy = (f"default-src 'none'; {pictures}style-src {_digest(style)}; "
              f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'")
    states = _json(json.dumps({"states": data, "ops": ops}, ensure_ascii=False,
                              separators=(",", ":")))
    kept = carried and (
        f'<script type="application/json" id="recording">{_json(carried)}</script>')
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1>
<input id="find" type="search" placeholder="search ( / )" aria-label="search cards">
<span id="hits" role="status"></span>
<span class="bar" role="group" aria-label="how much is folded">{buttons}</span>
<span class="bar"><button type="button" id="out" aria-label="zoom out">−</button>
<button type="button" id="fit">fit</button>
<button type="button" id="in" aria-label="zoom in">+</button></span>
<button type="button" id="theme">light / dark</button>
<button type="button" id="play">▶ backward</button>
<input id="step" type="range" min="0" value="0" aria-label="step of the backward pass">
<span id="where" role="status"></span></header>
<main>{frames}<svg id="map" aria-hidden="true" hidden><path/><rect/></svg></main>
<aside id="facts" aria-live="polite" aria-label="facts of the chosen card"></aside>
<script type="application/json" id="states">{states}</script>{kept}
<script>{script}</script></body></html>
"""


def _style() -> str:
    light, dark = (f"{{color-scheme:{name};" + "".join(f"--{k}:{v};" for k, v in colors.items())
                   + "}" for name, colors in (("light", LIGHT), ("dark", DARK)))
    return (f":root{light}@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){dark}}}"
            f":root[data-theme=dark]{dark}{_resource('page.css')}")


def _resource(name: str) -> str:
    return resources.files("tinygrad_cnn.viz").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(text: str) -> str:
    """JSON that cannot end the element that holds it."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def embedded(text: str) -> str | None:
    """The JSON text of the recording in a page, or None."""
    found = _EMBEDDED.search(text)
    return found.group(1) if found else None


# ---- notebooks -----------------------------------------------------------------------------------

_MOST_VALUES = 64


def tensor_html(x: Tensor) -> str:
    """Shape, dtype, op, gradient, figures, and the values if they are few; no script or link.

    >>> tensor_html(Tensor([1.0, 3.0], name="x")).count("<tr>")
    5
    """
    name = f"{type(x).__name__} {x.name}" if x.name else type(x).__name__
    rows = [("shape", shape_text(x.shape)), ("dtype", f"{x.dtype}, {binary_size(x._data.nbytes)}")]
    if x.node is not None:
        rows.append(("made by", x.node.op.name))
    rows.append(("gradient", _gradient(x)))
    if x.size and not is_placeholder(x._data):
        rows.append(("values", _figures(x)))
    table = _table((name,), rows)
    if 0 < x.size <= _MOST_VALUES:
        lines = np.array2string(x._data, precision=4, separator=", ").splitlines()
        text = "\n".join(escape(line, 200) for line in lines)
        table += f'<pre style="font-family:monospace">{text}</pre>'
    return table


def _gradient(x: Tensor) -> str:
    if not x.requires_grad:
        return "none wanted"
    return "not computed" if x._grad is None else \
        f"RMS {number(statistics(x._grad._data).rms)}"


def _figures(x: Tensor) -> str:
    s = statistics(x._data)
    bad = f", {s.bad} NaN or infinite" if s.bad else ""
    return f"{number(s.low)} … {number(s.high)}, RMS {number(s.rms)}{bad}"


def module_html(model: Module) -> str:
    """The parts of a network: path, class and settings, shapes and number of parameters.

    A layer whose size is not known before its first call shows no parameters.
    """
    rows: list[tuple[str, ...]] = []
    total = 0
    for path, part in model.named_modules():
        own = list(part._own_parameters())
        total += sum(p.size for _, p in own)
        if path:
            shapes = ", ".join(f"{name} {shape_text(p.shape)}" for name, p in own)
            size = count(sum(p.size for _, p in own)) if own else ""
            rows.append((path, f"{type(part).__name__}({part.extra_repr()})", shapes, size))
    rows.append(("", "together", "", count(total)))
    head = (type(model).__name__, "layer", "shapes", "parameters")
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    left = "text-align:left;white-space:normal"             # and cells that a phone can break
    top = "".join(f'<th style="{left}"{" colspan=2" if len(head) == 1 else ""}>{escape(h)}</th>'
                  for h in head)
    body = "".join("<tr>" + "".join(
        f'<td style="{left};overflow-wrap:anywhere">{escape(cell, 120)}</td>' for cell in row)
        + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
