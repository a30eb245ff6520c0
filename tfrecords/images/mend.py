"""Grey and RGB JPEG files with a fault around the image data and none in it: stray bytes, no end marker.

Stray bytes are dropped from the header only: behind the start of the image data they are what damage leaves. An end
marker is added only to one sequential scan: of a progressive file whole scans may be missing without a trace.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cxr.errors import ImageError
from tfrecords.images import codec

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
_NO_SEQUENTIAL_SCAN = {0xC2, 0xC3, 0xC6, 0xC7, 0xCA, 0xCB, 0xCE, 0xCF}  # start of frame: progressive, lossless


def mend_jpeg(data: bytes) -> tuple[bytes, str] | None:
    """A faultless file of the same image, where two decoders agree on every pixel.

    libjpeg-turbo, strictly, decodes the mended file; Pillow, with a build of its own, the one that came, with no more
    than the end marker added. (OpenCV would print what it finds wrong.)

    Args:
      data: a JPEG file that is not decoded strictly.

    Returns:
      The mended file and what was mended; None where it cannot be, or the decoders do not agree.
    """
    ended, has_end = _with_end(data)
    parts = _split(ended)
    if parts is None:
        return None
    header, rest, kinds = parts
    several_scans = bytes((0xFF, _SOS)) in rest[2:] or not _NO_SEQUENTIAL_SCAN.isdisjoint(kinds)
    if not has_end and several_scans:
        return None
    stray = len(ended) - len(header) - len(rest)
    faults = [f"{stray} stray bytes before a marker"] * (stray > 0) + ["no end marker (EOI)"] * (not has_end)
    return (header + rest, "JPEG with " + " and ".join(faults)) if faults and _agree(header + rest, ended) else None


def _with_end(data: bytes) -> tuple[bytes, bool]:
    """`data` with an end marker, and whether it had one; what may follow it is left alone."""
    if _EOI in data[data.rfind(bytes((0xFF, _SOS))) :]:
        return data, True
    return data + (_EOI[1:] if data.endswith(b"\xff") else _EOI), False


def _split(data: bytes) -> tuple[bytes, bytes, set[int]] | None:
    """The header without stray bytes, what follows from the first SOS marker on, and the markers of the header."""
    at, header, kinds = 2, bytearray(_SOI), set[int]()
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
            continue
        if data[at + 1] == _SOS:
            return bytes(header), data[at:], kinds
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kinds.add(data[at + 1])
        header += data[at:end]
        at = end
    return None


def _agree(mended: bytes, ended: bytes) -> bool:
    try:
        other = _by_pillow(ended)
        return other is not None and np.array_equal(codec.decode_jpeg(mended, other.shape[2]), other)
    except ImageError:
        return False


def _by_pillow(data: bytes) -> np.ndarray | None:
    """Pixels [height, width, 1 or 3] as stored; None of another kind, or where Pillow has none."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            pixels = np.asarray(image)
            return np.atleast_3d(pixels) if image.mode in ("L", "RGB") else None
    except Exception:  # whatever Pillow's plug-in raises, there is no second opinion
        return None
