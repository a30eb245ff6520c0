"""Random changes of the training images, as layers of the model and so on the device that trains.

    layers = augmentation("strong", seed=0)

Keras is loaded when layers are made, not before.

They follow the order in which a real image comes about: the patient stands (geometry), the exposure and the display
curve are set (tone), optics and resizing take detail away (blur, rescale), the sensor adds noise, the file is
compressed. In another order blur would smooth the noise and the block edges away, which no real chain does.
Erasing comes last: a covered part is to hide pixels, not to be smoothed or compressed in itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from cxr.errors import InputError
from trainer.augmentation.ranges import check_range

if TYPE_CHECKING:
    import keras

Strength = Literal["none", "light", "strong"]


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed at most. The defaults change nothing.

    Geometry and tone act on every image, each of the others on a share of the batch.

    Attributes:
      shift: of each side, 0 to 0.5.
      rotation_degrees: either way, 0 to 180.
      zoom: scale between 1 / (1 + zoom) and 1 + zoom, 0 to 1.
      flip: whether half of the images are mirrored left to right; no named strength does, for the heart lies left.
      brightness, contrast, gamma: factor or exponent between 1 / (1 + x) and 1 + x, 0 to 4.
      blur_sigma: pixels of an image whose short side is 224, 0 to 10.
      rescale_factor: to this fraction of the resolution and back, 1 to 8; 1 changes nothing.
      noise_sigma: of full scale, 0 to 1.
      jpeg_quality: the lowest, 1 to 100; 100 changes nothing.
      erasing_area: of the image, 0 to 1.
      probability: that blur, rescaling, noise, recompression or erasing acts on an image, each for itself; 0 to 1.
    """

    shift: float = 0.0
    rotation_degrees: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    blur_sigma: float = 0.0
    rescale_factor: float = 1.0
    noise_sigma: float = 0.0
    jpeg_quality: int = 100
    erasing_area: float = 0.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            check_range(name, getattr(self, name), least=least, most=most)
        if not isinstance(self.flip, bool):
            raise InputError(f"flip must be true or false; received {self.flip!r}")

    @classmethod
    def of(cls, strength: Strength, **changes: Any) -> Augmentation:
        """A named strength, with some fields changed.

        Raises:
          InputError: there is no such strength or field, or a value is out of its range.
        """
        if strength not in get_args(Strength):
            raise InputError(f"no augmentation {strength!r}; expected {', '.join(get_args(Strength))}")
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(changes) - set(names)):
            raise InputError(f"augmentation has no {', '.join(unknown)}; it has {', '.join(names)}")
        return cls(**STRENGTHS[strength] | changes)

    def layers(self, seed: int) -> list[keras.layers.Layer]:
        """The layers that have something to do, in their order; none where nothing changes.

        Args:
          seed: 0 or more; each layer gets a seed of its own that follows from it.
        """
        from trainer.augmentation.geometry import RandomAffine, RandomFlip
        from trainer.augmentation.photometry import RandomErasing, RandomNoise, RandomTone
        from trainer.augmentation.recompression import RandomRecompression
        from trainer.augmentation.resolution import RandomBlur, RandomRescale

        # One seed for every possible layer, so that leaving one out does not change the draws of the others.
        seeds = [int(state) >> 1 for state in np.random.SeedSequence(seed).generate_state(8)]
        affine, flip, tone, blur, rescale, noise, jpeg, erasing = seeds
        found: list[keras.layers.Layer] = []
        if self.shift or self.rotation_degrees or self.zoom:
            found.append(RandomAffine(self.shift, self.rotation_degrees, self.zoom, seed=affine))
        if self.flip:
            found.append(RandomFlip(seed=flip))
        if self.brightness or self.contrast or self.gamma:
            found.append(RandomTone(self.brightness, self.contrast, self.gamma, seed=tone))
        if not self.probability:
            return found
        share = self.probability
        if self.blur_sigma:
            found.append(RandomBlur(self.blur_sigma, probability=share, seed=blur))
        if self.rescale_factor > 1:
            found.append(RandomRescale(self.rescale_factor, probability=share, seed=rescale))
        if self.noise_sigma:
            found.append(RandomNoise(self.noise_sigma, probability=share, seed=noise))
        if self.jpeg_quality < 100:
            found.append(RandomRecompression((self.jpeg_quality, 100), probability=share, seed=jpeg))
        if self.erasing_area:
            least = min(RandomErasing.MIN_AREA, self.erasing_area)
            found.append(RandomErasing(self.erasing_area, least, probability=share, seed=erasing))
        return found


LIMITS = {
    "shift": (0, 0.5),
    "rotation_degrees": (0, 180),
    "zoom": (0, 1),
    "brightness": (0, 4),
    "contrast": (0, 4),
    "gamma": (0, 4),
    "blur_sigma": (0, 10),
    "rescale_factor": (1, 8),
    "noise_sigma": (0, 1),
    "jpeg_quality": (1, 100),
    "erasing_area": (0, 1),
    "probability": (0, 1),
}
"""The least and the greatest value of each field that is a number."""

STRENGTHS: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {
        "shift": 0.04,
        "rotation_degrees": 5.0,
        "zoom": 0.05,
        "brightness": 0.1,
        "contrast": 0.1,
        "gamma": 0.1,
    },
    "strong": {
        "shift": 0.06,
        "rotation_degrees": 10.0,
        "zoom": 0.1,
        "brightness": 0.45,
        "contrast": 0.7,
        "gamma": 0.5,
        "blur_sigma": 2.0,
        "rescale_factor": 2.5,
        "noise_sigma": 0.05,
        "jpeg_quality": 20,
        "erasing_area": 0.15,
        "probability": 0.4,
    },
}
"""What each name stands for.

Strong reaches somewhat beyond what a model is to endure at test: JPEG quality 30, blur of 1.5 pixels at 224, half the
resolution, brightness x 0.7 and x 1.3, contrast x 0.6, gamma 0.7 and 1.4, noise of 10 levels.
"""


def augmentation(strength: Strength | Augmentation, seed: int) -> list[keras.layers.Layer]:
    """Layers that change training images, float32 `[batch, height, width, 1 or 3]` in [0, 1], and nothing at inference.

    Args:
      strength: its name, or ranges of your own.
      seed: 0 or more.

    Raises:
      InputError: there is no such strength.
    """
    chosen = strength if isinstance(strength, Augmentation) else Augmentation.of(strength)
    return chosen.layers(seed)
