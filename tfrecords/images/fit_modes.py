"""How an image of another aspect ratio comes to a wanted size; by itself, because `fit` loads Numba."""

from __future__ import annotations

from typing import Literal, get_args

Fit = Literal["squash", "pad", "crop"]
"""`squash` stretches the image, `pad` keeps all of it within black borders, `crop` fills the size and cuts off what
is beyond it at both ends."""
FITS: tuple[str, ...] = get_args(Fit)
LARGEST_SIZE = 1 << 14
"""The largest side that images are brought to, pixels."""
