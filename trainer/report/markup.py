"""Pieces of a page that needs nothing but itself: text, tables, plots and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import simplejpeg

JPEG_QUALITY = 82


class Html(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


def as_html(value: Any) -> Html:
    """A value as markup: itself if it is, else its text, escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[Any]) -> Html:
    """Parts one after the other."""
    return Html("\n".join(as_html(part) for part in parts))


def element(tag: str, *content: Any, **attributes: str) -> Html:
    """`<tag attributes>content</tag>`; `class_` is the attribute `class`."""
    given = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{given}>{''.join(as_html(part) for part in content)}</{tag}>")


LINE_BREAK = Html("<br>")


def paragraph(*content: Any, class_: str = "") -> Html:
    """A paragraph."""
    return element("p", *content, **({"class_": class_} if class_ else {}))


def warning(*content: Any) -> Html:
    """A paragraph that must not be overlooked."""
    return element("p", element("strong", "Note. "), *content, class_="warning", role="note")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = (), class_: str = "") -> Html:
    """A table that scrolls sideways where it is too wide.

    Args:
      head: of the columns.
      rows: of cells.
      numbers: columns that are set flush right.
      class_: of the table; in one that is `explained` the last column comes to lie under the others on a telephone.
    """
    classes = [{"class_": "number"} if column in numbers else {} for column in range(len(head))]
    titles = element(
        "tr", *(element("th", cell, scope="col", **kind) for cell, kind in zip(head, classes, strict=True))
    )
    body = [
        element("tr", *(element("td", cell, **kind) for cell, kind in zip(row, classes, strict=True))) for row in rows
    ]
    return element(
        "div", element("table", element("thead", titles), element("tbody", *body), class_=class_), class_="scroll"
    )


def facts(rows: Iterable[Sequence[Any]]) -> Html:
    """A table of names and what they are."""
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
    return element("table", element("tbody", *body), class_="facts")


def plots(*figures: str, captions: Sequence[str] = (), small: bool = False) -> Html:
    """SVG elements beside each other where there is room: two, or three small ones."""
    texts = [*captions, *[""] * (len(figures) - len(captions))]
    shown = (
        element("figure", Html(figure), *([element("figcaption", text)] if text else []))
        for figure, text in zip(figures, texts, strict=True)
    )
    return element("div", *shown, class_="plots small" if small else "plots")


def picture(pixels: np.ndarray, description: str) -> Html:
    """An image within the page, as JPEG.

    Args:
      pixels: uint8 [height, width, 1 or 3].
      description: for those who cannot see it.
    """
    colours, sampling = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY, colours, sampling)
    height, width = pixels.shape[:2]
    source = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Html(f'<img src="{source}" width="{width}" height="{height}" alt="{html.escape(description)}">')


def page(title: str, subtitle: Any, sections: Sequence[tuple[str, Html]]) -> str:
    """A whole page with a table of contents.

    Args:
      title: of the page.
      subtitle: below it.
      sections: heading and content of each.
    """
    names = [f"section-{number}" for number in range(1, len(sections) + 1)]
    links = (
        element("li", element("a", heading, href=f"#{name}"))
        for name, (heading, _) in zip(names, sections, strict=True)
    )
    body = join(
        [
            element("header", element("h1", title), paragraph(subtitle, class_="subtitle")),
            element("nav", element("ol", *links), aria_label="contents"),
            *(
                element("section", element("h2", heading), content, id=name)
                for name, (heading, content) in zip(names, sections, strict=True)
            ),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #20252b; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #e3e6ea; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; }
.subtitle { color: #5a626c; }
.headline { font-size: 1.2rem; line-height: 1.5; }
.warning { background: #fff6e0; border-left: 4px solid #e69f00; padding: .6rem .8rem; max-width: none; }
nav ol { columns: 3 15rem; padding-left: 1.4rem; margin: 1rem 0; font-size: .95rem; }
a { color: #005a9c; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid #eceef1; }
th { font-weight: 600; color: #4a525c; border-bottom: 1px solid #b8bdc4; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: #a63c00; font-weight: 600; }
.muted { color: #5a626c; }
td:first-child { white-space: nowrap; }
.facts { margin: .8rem 0; } .facts th { border-bottom: 1px solid #eceef1; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; white-space: normal; }
.worst { background: #fbdfcf; padding: .1rem .35rem; margin-right: -.35rem; border-radius: 3px; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; margin: .8rem 0; }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; }
.plots figure { width: 27rem; }
.plots.small figure { width: 17.5rem; }
figcaption { font-size: .85rem; color: #4a525c; overflow-wrap: anywhere; }
svg.plot { display: block; width: 100%; height: auto; }
svg.plot text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
pre { overflow-x: auto; background: #f6f7f9; padding: .8rem; font-size: .82rem; line-height: 1.4; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem 1rem; }
.pair { display: flex; gap: 2px; background: #000; }
.pair img { flex: 1 1 0; min-width: 0; width: 50%; height: auto; object-fit: contain; }
td .muted { font-size: .85rem; } td:first-child .muted { display: block; white-space: normal; min-width: 10rem; }
@media (max-width: 600px) {
  body { font-size: 15px; } main { padding: 1rem .9rem 3rem; }
  .explained, .explained thead, .explained tbody { display: block; }
  .explained tr { display: grid; grid-template-columns: 1fr 3.2rem 8.8rem; border-bottom: 1px solid #eceef1; }
  .explained td:first-child { font-weight: 600; }
  .explained td, .explained th { border: 0; padding: .2rem .4rem .2rem 0; }
  .explained td:last-child { grid-column: 1 / -1; color: #4a525c; } .explained th:last-child { display: none; }
}
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; } a { color: inherit; }
  h2, h3 { break-after: avoid; } figure, tr, .warning { break-inside: avoid; } .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  .warning, .pair, .worst, pre { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .plots figure { width: 47%; } .gallery { grid-template-columns: repeat(2, 1fr); }
}
"""
