"""Figures as SVG inside a page: text stays text, colours follow the page's light or dark scheme."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from odenets.report.style import COLOURS

INK, FAINT = "#010203", "#040506"  # stand for the page's text and grid colours until the SVG is made
DASHES: tuple[tuple[float, ...] | None, ...] = (None, (5, 2), (1.5, 1.5), (5, 1.5, 1.5, 1.5), (8, 2), (3, 3))
MARKERS = ("o", "s", "^", "D", "v", "P")
OUTLINES = (  # the same markers as paths around (15, 6.5)
    "M11 6.5a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M11.5 3h7v7h-7z", "M15 2l4.5 8h-9z", "M15 2l4.5 4.5L15 11l-4.5-4.5z",
    "M15 11l4.5-8h-9z", "M13.5 2h3v3h3v3h-3v3h-3V8h-3V5h3z",
)  # fmt: skip
STYLE: dict[Any, Any] = {
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "grid.color": FAINT, "font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "odenets", "lines.linewidth": 1.6,
}  # fmt: skip


def panel(width: float = 4.5, height: float = 3.1) -> Figure:
    """A figure of one panel, small enough to be read at full width on a phone; draw it inside `styled()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def styled() -> contextlib.AbstractContextManager[None]:
    """The context in which figures are drawn and written."""
    return matplotlib.rc_context(STYLE)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element with a text alternative; the same bytes for the same figure."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--grid)")
    for i, colour in enumerate(COLOURS):
        text = text.replace(colour.lower(), f"var(--c{i})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    # Ids are the figure's own: two figures of a page must not share a clip path.
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    attributes = f'<svg role="img" aria-label="{description}" data-figure="{name}" '
    return text.replace("<svg ", attributes, 1)


class Styles:
    """Colour by the first swept key, dashes and markers by the rest: the same in every figure of a page."""

    def __init__(self, choices: Sequence[dict[str, str]]) -> None:
        keys = list(choices[0]) if choices else []
        firsts = list(dict.fromkeys(choice[keys[0]] for choice in choices)) if keys else [""]
        by_second = len(firsts) <= len(COLOURS) and len(keys) > 1
        self.colours: list[int] = []
        self.kinds: list[int] = []
        rests: dict[tuple[str, ...], int] = {}
        for number, choice in enumerate(choices):
            values = list(choice.values())
            if by_second:
                self.colours.append(firsts.index(values[0]))
                self.kinds.append(rests.setdefault(tuple(values[1:]), len(rests)) % len(MARKERS))
            else:
                self.colours.append(number % len(COLOURS))
                self.kinds.append(number // len(COLOURS) % len(MARKERS))

    def line(self, row: int) -> dict:
        """Keywords of matplotlib's plot for a row."""
        dash = DASHES[self.kinds[row]]
        return {"color": COLOURS[self.colours[row]]} | ({"dashes": dash} if dash else {})

    def marker(self, row: int) -> dict:
        """Keywords for points of a row."""
        return {"color": COLOURS[self.colours[row]], "marker": MARKERS[self.kinds[row]]}

    def swatch(self, row: int) -> str:
        """A small SVG of the row's line and marker, for a legend in HTML."""
        colour, dash = f"var(--c{self.colours[row]})", DASHES[self.kinds[row]]
        dashes = f' stroke-dasharray="{" ".join(f"{1.6 * length:g}" for length in dash)}"' if dash else ""
        return (
            '<svg viewBox="0 0 30 13" aria-hidden="true">'
            f'<path d="M1 6.5H29" stroke="{colour}" stroke-width="1.8"{dashes}/>'
            f'<path d="{OUTLINES[self.kinds[row]]}" fill="{colour}"/></svg>'
        )
