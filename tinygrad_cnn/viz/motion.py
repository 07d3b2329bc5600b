"""The backward pass in motion: one SVG without a script, in the order of the engine.

The loss lights first, then each gradient appears on its line and in its card.  It plays inside an
``<img>``, so a README can hold it; a reader who asks for less motion sees the end state.
"""

from __future__ import annotations

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz import paint, svg
from tinygrad_cnn.viz.diagram import Diagram

__all__ = ["to_svg"]

_SECONDS, _LONGEST, _REST = 0.35, 12.0, 2.0


def to_svg(diagram: Diagram, *, figure: str, theme: str = "auto") -> str:
    """The animated picture.

    Parameters
    ----------
    diagram : Diagram
        One with gradients.
    figure : str
        Prefix of the ids.
    theme : str, default "auto"
        As in `svg.from_drawing`.

    Raises
    ------
    VizError
        If the diagram has no gradient that could move.
    """
    steps = diagram.backward()
    if not steps:
        raise VizError("animate: no gradient was recorded; draw a loss whose graph is alive, or "
                       "record the step with viz.watch()")
    moments: dict[str, int] = {steps[0].target: 0}
    for k, edge in enumerate(steps, start=1):
        moments[edge.id] = k
        moments[edge.source] = k            # a gradient read twice is whole when the last part came
    play = min(_LONGEST, _SECONDS * (len(steps) + 1))
    total = play + _REST
    rules = []
    for k in range(len(steps) + 1):
        ids = ",".join(f"#{figure}-{name} .g" for name, at in moments.items() if at == k)
        if not ids:
            continue
        begin = 100 * play * k / (len(steps) + 1) / total
        end = begin + 100 * min(0.25, play / (len(steps) + 1)) / total
        rules.append(f"@keyframes {figure}k{k}{{0%,{begin:.2f}%{{opacity:0}}"
                     f"{end:.2f}%,100%{{opacity:1}}}}"
                     f"{ids}{{animation:{figure}k{k} {total:.2f}s linear infinite}}")
    still = f"@media (prefers-reduced-motion:reduce){{#{figure} .g{{animation:none}}}}"
    return svg.from_drawing(paint.paint(diagram), figure=figure, theme=theme,
                            css="".join(rules) + still,
                            label=f"{diagram.title}: the backward pass, step by step")
