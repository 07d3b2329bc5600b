"""One self-contained page: finished pictures of several fold states, a style, a script, no request.

The content security policy allows nothing but the style and the script in the file, each by its
hash.  Without a script the first picture still shows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tinygrad_cnn.viz import cards, paint, svg
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.palette import dark_css
from tinygrad_cnn.viz.plain import dumps
from tinygrad_cnn.viz.recording import Recording
from tinygrad_cnn.viz.text import clean, escape

__all__ = ["embedded", "page"]

_MOST_BYTES = 1_600_000                     # of pictures; the page stays below 2 MB
_MOST_OPEN = 24
_MOST_DRAWN = 20_000                        # entries in all pictures with an opened module
_MOST_EMBEDDED = 1000                       # entries of a recording that the page carries
_LEVELS = ("everything", "operators", "modules", "folded")
_DARK = ("color-scheme:dark;--page:#0f1720;--ink:#e6edf3;--muted:#a3b3c2;--card:#1b2733;"
         "--rule:#33414f;--focus:#3aa0dd;--soft:#15202b")
_EMBEDDED = re.compile(r'<script type="application/json" id="recording">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class _State:
    """One picture of the page."""

    name: str
    home: str                               # the level that it belongs to
    diagram: Diagram
    opened: str = ""


def page(recording: Recording, first: Diagram, **settings: Any) -> str:
    """The text of the page.

    Parameters
    ----------
    recording : Recording
        The run, drawn at every level that differs, and with each folded module open.
    first : Diagram
        What shows at the start.
    **settings
        ``color``, ``scale`` and ``title`` of `cards.draw`.
    """
    frames, data, size = [], [], 0
    for k, state in enumerate(_states(recording, first, settings)):
        figure = f"v{k}"
        drawn = svg.from_drawing(paint.paint(state.diagram), figure=figure, theme="light",
                                 label=f"{state.diagram.title}: {state.diagram.subtitle}")
        size += len(drawn.encode())
        if k and size > _MOST_BYTES:
            break
        picture = re.sub(r"<style>.*?</style>", "", drawn, count=1, flags=re.DOTALL)
        picture = picture.replace('role="img"', 'role="group"', 1)
        hidden = " hidden" if k else ""
        frames.append(f'<div id="view-{figure}"{hidden}>{picture}</div>')
        data.append(_facts(state, figure))
    return _assembled(recording, first, frames, data)


def _states(recording: Recording, first: Diagram, settings: dict[str, Any]) -> Iterator[_State]:
    """The first picture, the other levels, then each folded module opened."""
    yield _State(first.level, first.level, first)
    seen = {_shown(first)}
    for level in _LEVELS:
        if level == first.level or (len(recording.entries) > 2000 and level != "folded"):
            continue
        diagram = cards.draw(recording, level=level, **settings)
        if len(diagram.cards) <= 400 and diagram.level == level and _shown(diagram) not in seen:
            seen.add(_shown(diagram))
            yield _State(level, level, diagram)
    for path in _folded_modules(first)[:_MOST_DRAWN // max(1, len(recording.entries))]:
        diagram = cards.draw(recording, level=first.level, open=(*first.opened, path), **settings)
        if _shown(diagram) not in seen:
            seen.add(_shown(diagram))
            yield _State(f"open {clean(path, 150)}", first.level, diagram, path)


def _shown(diagram: Diagram) -> tuple[str, ...]:
    return tuple(c.title + c.tag for c in diagram.cards)


def _folded_modules(diagram: Diagram) -> list[str]:
    paths = dict.fromkeys(c.path for c in diagram.cards if c.path and c.kind in ("module", "stack"))
    return list(paths)[:_MOST_OPEN]


def _facts(state: _State, figure: str) -> dict[str, Any]:
    d = state.diagram
    return {
        "name": clean(state.name, 200), "home": state.home, "figure": figure,
        "opened": clean(state.opened, 150), "title": clean(d.title),
        "subtitle": clean(d.subtitle, 300),
        "cards": [{"id": c.id, "title": clean(c.title), "path": clean(c.path, 150),
                   "about": [clean(a, 160) for a in c.about],
                   "warnings": [clean(w, 160) for w in c.warnings]} for c in d.cards],
        "edges": [{"id": e.id, "source": e.source, "target": e.target, "gradient": e.gradient,
                   "step": e.step} for e in d.edges]}


def _assembled(recording: Recording, first: Diagram, frames: list[str],
               data: list[dict[str, Any]]) -> str:
    title = escape(first.title)
    style, script = _style(), _resource("page.js")
    names = {s["name"] for s in data}
    buttons = "".join(f'<button type="button" data-state="{name}" '
                      f'aria-pressed="{str(name == first.level).lower()}">{name}</button>'
                      for name in _LEVELS if name in names)
    policy = (f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
              "base-uri 'none'; form-action 'none'")
    states = _json(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    kept = "" if len(recording.entries) > _MOST_EMBEDDED else (
        f'<script type="application/json" id="recording">{_json(dumps(recording))}</script>')
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header>
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
<main>{"".join(frames)}</main>
<aside id="facts" aria-live="polite" aria-label="facts of the chosen card"></aside>
<script type="application/json" id="states">{states}</script>{kept}
<script>{script}</script></body></html>
"""


def _style() -> str:
    chosen, asked = ":root[data-theme=dark]", ":root:not([data-theme=light])"
    return (_resource("page.css")
            + f"@media (prefers-color-scheme:dark){{{asked}{{{_DARK}}}{dark_css(asked + ' ')}"
              f"{asked} aside .warn{{color:#ffb48a}}}}"
            + f"{chosen}{{{_DARK}}}{dark_css(chosen + ' ')}{chosen} aside .warn{{color:#ffb48a}}")


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
