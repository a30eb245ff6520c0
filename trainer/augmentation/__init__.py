"""Random changes of the training images, as layers of the model and so on the device that trains.

    layers = Augmentation.of("strong").layers(seed=0)

Keras is loaded when layers are made, not before.

They follow the order in which a real image comes about: the patient stands (geometry), the exposure and the display
curve are set (tone), optics and resizing take detail away (blur, rescale), the sensor adds noise, the file is
compressed. In another order blur would smooth the noise and the block edges away, which no real chain does.
Erasing comes last: a covered part is to hide pixels, not to be smoothed or compressed in itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from cxr.kinds import Choice, Flag, Real, Whole
from cxr.options import Options, check_names, checked, fields_of, option, options

if TYPE_CHECKING:
    import keras

Strength = Literal["none", "light", "strong"]


@options
class Augmentation(Options):
    """How far images are changed at most. The defaults change nothing.

    Geometry and tone act on every image, each of the others on a share of the batch.
    """

    title: ClassVar[str] = "augmentation"

    shift: float = option(Real(0, 0.5), "of each side", default=0.0)
    rotation_degrees: float = option(Real(0, 180), "either way", default=0.0)
    zoom: float = option(Real(0, 1), "scale between 1 / (1 + zoom) and 1 + zoom", default=0.0)
    flip: bool = option(
        Flag(), "half of the images are mirrored left to right; no named strength does, the heart lies left",
        default=False,
    )  # fmt: skip
    brightness: float = option(Real(0, 4), "factor between 1 / (1 + x) and 1 + x", default=0.0)
    contrast: float = option(Real(0, 4), "factor between 1 / (1 + x) and 1 + x", default=0.0)
    gamma: float = option(Real(0, 4), "exponent between 1 / (1 + x) and 1 + x", default=0.0)
    blur_sigma: float = option(Real(0, 10), "pixels of an image whose short side is 224", default=0.0)
    rescale_factor: float = option(
        Real(1, 8), "to this fraction of the resolution and back; 1 changes nothing", default=1.0
    )
    noise_sigma: float = option(Real(0, 1), "of full scale", default=0.0)
    jpeg_quality: int = option(Whole(1, 100), "lowest JPEG quality; 100 changes nothing", default=100)
    erasing_area: float = option(Real(0, 1), "share of the image that is covered", default=0.0)
    probability: float = option(
        Real(0, 1), "that blur, rescaling, noise, recompression or erasing acts on an image, each for itself",
        default=0.5,
    )  # fmt: skip

    @classmethod
    def of(cls, strength: Strength, **changes: Any) -> Augmentation:
        """A named strength, with some fields changed; raises InputError for a name or value that cannot be."""
        checked("augment", Choice(get_args(Strength)), strength)
        check_names(changes, fields_of(cls), "augmentation", "option")
        return cls(**STRENGTHS[strength] | changes)

    def layers(self, seed: int) -> list[keras.layers.Layer]:
        """The layers that have something to do, in order; each gets a seed that follows from `seed`, 0 or more."""
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


STRENGTHS: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {"shift": 0.04, "rotation_degrees": 5.0, "zoom": 0.05, "brightness": 0.1, "contrast": 0.1, "gamma": 0.1},
    "strong": {
        "shift": 0.06, "rotation_degrees": 10.0, "zoom": 0.1, "brightness": 0.45, "contrast": 0.7, "gamma": 0.5,
        "blur_sigma": 2.0, "rescale_factor": 2.5, "noise_sigma": 0.05, "jpeg_quality": 20, "erasing_area": 0.15,
        "probability": 0.4,
    },
}  # fmt: skip
"""What each name stands for.

Strong reaches somewhat beyond what a model is to endure at test: JPEG quality 30, blur of 1.5 pixels at 224, half the
resolution, brightness x 0.7 and x 1.3, contrast x 0.6, gamma 0.7 and 1.4, noise of 10 levels.
"""
