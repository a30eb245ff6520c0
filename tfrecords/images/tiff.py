"""What the tags of a TIFF file say of its samples, and which samples are supported (TIFF 6.0).

Pillow reads some files as what they are not: it does not look at SampleFormat where there are 8 bits, cuts colour of 16
bits to 8, and does not turn 16 bits of which white is zero.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, TiffImagePlugin

from cxr.errors import ImageError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a file begins; the last two are BigTIFF."""

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_PLANES = 284
_EXTRA_SAMPLES = 338
_SAMPLE_FORMAT = 339
_SAMPLES = {1: "unsigned whole numbers", 2: "signed whole numbers", 3: "floating-point numbers"}
_UNDEFINED = 4


def bits(image: Image.Image) -> tuple[int, ...]:
    """Bits of each sample of a pixel; none of a file of another format."""
    found: tuple[int, ...] = _tag(image, _BITS_PER_SAMPLE, ())
    return found


def white_is_zero(image: Image.Image) -> bool:
    """Whether the highest value is black."""
    return bool(_tag(image, _PHOTOMETRIC, 1) == 0)


def check_samples(image: Image.Image) -> None:
    """Refuses signed and floating-point samples: ImageError."""
    found = set(_tag(image, _SAMPLE_FORMAT, (1,))) - {1, _UNDEFINED}
    if found:
        name = _SAMPLES.get(found.pop(), "an unknown sample format")
        raise ImageError(f"TIFF of {name} is not supported; expected unsigned whole numbers. Export it as PNG")


def check_deep_colour(image: Image.Image) -> None:
    """Refuses 16 bits a channel in another form than OpenCV is known to read rightly: ImageError."""
    photometric, planes = _tag(image, _PHOTOMETRIC, None), _tag(image, _PLANES, 1)
    extra = tuple(_tag(image, _EXTRA_SAMPLES, ()))
    if photometric != 2 or planes != 1 or extra not in ((), (2,)):
        raise ImageError(
            f"TIFF of 16 bits a channel, photometric interpretation {photometric}, planar configuration {planes}, "
            f"extra samples {extra} is not supported; expected interleaved RGB (2, 1), with alpha (2) or nothing "
            "besides. Export it as PNG"
        )


def describe_unknown(data: bytes) -> str:
    """What a TIFF file is that Pillow does not recognise."""
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        depths, formats = tags[_BITS_PER_SAMPLE], tags.get(_SAMPLE_FORMAT, (1,))
    except Exception:  # whatever Pillow raises for a directory that it cannot parse
        return f"damaged TIFF: its directory cannot be read; it begins with {data[:8]!r}"
    return (
        f"TIFF of {depths[0]} bits a sample, {len(depths)} samples a pixel, photometric interpretation "
        f"{tags.get(_PHOTOMETRIC)}, planar configuration {tags.get(_PLANES, 1)}, "
        f"{_SAMPLES.get(formats[0], 'an unknown sample format')}, is not supported; expected 8 or 16 bits of unsigned "
        "whole numbers, grey or RGB. Export it as PNG"
    )


def _tag(image: Image.Image, tag: int, default: Any) -> Any:
    """A tag; the default where it is absent or empty, or the file of another format."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    value = tags.get(tag)
    return default if value is None or value == () else value
