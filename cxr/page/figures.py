"""The style of all figures, and their encoding as SVG and pixels."""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of labels and curves, in this order; distinguishable with any colour vision (Okabe and Ito, 2008)."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
MUTED = "#8a8f98"
WIDTH = 4.4
"""Inches; about 420 px in a browser: two fit side by side, one fits a telephone."""
PNG_DPI = 200

STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bdc4",
    "axes.labelcolor": "#33383f",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7e9ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#33383f",
    "ytick.color": "#33383f",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr",
}

styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw or render a figure."""


def line_style(number: int, curves: int = 1) -> dict[str, Any]:
    """Colour, dashes and width of a curve.

    Args:
      number: of the curve, from 0; the first 28 differ.
      curves: how many there are; many are drawn thinner.
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number // len(COLOURS) % len(LINES)],
        "linewidth": 1.8 if curves < 5 else 1.1,
    }


def short(text: str, length: int = 18) -> str:
    """A label cut to fit beside an axis."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def note(axes: Axes, text: str) -> None:
    """Writes into an empty plot why it is empty."""
    axes.text(
        0.5,
        0.5,
        textwrap.fill(text, 40),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#5a626c",
        bbox={"facecolor": "white", "edgecolor": "none"},
    )


def unit_square(axes: Axes, x: str, y: str) -> None:
    """Both axes from 0 to 1."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def whole_ticks(axes: Axes) -> None:
    """Whole numbers only on the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def log_counts(axes: Axes) -> None:
    """A logarithmic vertical axis for counts, from below 1, in plain numbers."""
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_below(axes: Axes, count: int, longest: int) -> None:
    """A legend under the plot, in two columns where they fit.

    Args:
      axes: that the legend is of.
      count: number of entries.
      longest: number of letters of the longest entry.
    """
    columns = 2 if count > 2 and longest <= 26 else 1
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


@contextmanager
def _any_letters() -> Iterator[None]:
    """Silences the warning about letters missing from the font: a browser has other fonts, a PNG shows boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


@styled
def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """An `<svg>` element for a page; equal figures give equal bytes.

    Args:
      figure: to render.
      name: of letters and digits, unique in the page; ids begin with it.
      description: for readers who cannot see it.
    """
    text = io.StringIO()
    with _any_letters():
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    body = text.getvalue()
    start = body.index("<svg")
    tag, body = body[start : body.index(">", start) + 1], body[body.index(">", start) + 1 :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", body)
    box = re.search(r'viewBox="[^"]*"', tag)
    width = figure.get_size_inches()[0] * 96
    head = f'<svg class="plot" role="img" aria-label="{html.escape(description)}" style="max-width:{width:.0f}px"'
    return Markup(f"{head} {box[0] if box else ''}>{body}")


@styled
def to_pixels(figure: Figure, dpi: int = PNG_DPI) -> np.ndarray:
    """The figure as uint8 [height, width, 3]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with _any_letters():
        canvas.draw()
    figure.set_layout_engine("none")  # it stays as it was laid out, which takes most of the time
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
