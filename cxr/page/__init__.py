"""Pages of the reports: self-contained HTML files from Jinja2 templates and one stylesheet.

A report's template holds its markup and sentences; Python gives it plain data: numbers, strings, figures. All text is
escaped. The shared pieces (sections, tables, figures, warnings) are macros in `macros.html`; the frame around a report
is `base.html`; `figures` has the style of the plots.
"""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
JPEG_QUALITY = 82
DISCLAIMER = "For research only; not a medical device. It must not be used to decide about a patient."


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than a text.

    Attributes:
      text: what it says.
      below: smaller text beneath it, such as an interval.
      kind: CSS classes of the text: `bad`, `worst`.
    """

    text: str
    below: str = ""
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A small picture with lines of text below it.

    Attributes:
      image: from `picture`.
      lines: the first is the title.
    """

    image: Markup
    lines: tuple[str, ...]


def render(template: Path, title: str, subtitle: str = "", **data: Any) -> str:
    """A whole page with a table of contents; needs no other file and no network.

    Args:
      template: file of the report's sections, in its own package.
      title: of the page.
      subtitle: below it.
      **data: what the template needs; a missing name is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    contents: list[str] = []
    body = environment.get_template(template.name).render(contents=contents, disclaimer=DISCLAIMER, **data)
    return environment.get_template("base.html").render(
        title=title,
        subtitle=subtitle,
        contents=contents,
        body=Markup(body),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; "-" if it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def picture(pixels: np.ndarray, description: str) -> Markup:
    """An `<img>` element that contains its image, as JPEG.

    Args:
      pixels: uint8 [height, width, 1 or 3].
      description: for readers who cannot see it.
    """
    colours, sampling = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY, colours, sampling)
    height, width = pixels.shape[:2]
    source = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(source, width, height, description)
