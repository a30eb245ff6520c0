"""Draws synthetic frontal chest radiographs: no patient, no download, findings known by construction.

A radiograph adds up what the beam crosses, so each part here returns an attenuation map that is added to the others:
soft tissue, air (negative), blood, bone. Only the last step, the film, turns the sum into grey levels.

Parts are placed in chest coordinates. `u` runs across, from -1 to 1 between the widest points of the rib cage, with the
patient's right at -1 as on any chest film; `v` runs down, 0 at the apex of the lungs and 1 at their lowest corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from cxr.errors import InputError

FINDINGS = ("normal", "bacteria", "virus")
SMALLEST_SIDE = 32

# Anatomy has no detail finer than this; drawing it larger would cost time and show nothing more.
DRAWN_SIDE = 560

# Centre (u, v) and radii of the lobes as seen from the front. The middle lobe and lingula lie low beside the heart.
LOBES = {
    "right upper": (-0.50, 0.22, 0.36, 0.22),
    "right middle": (-0.48, 0.66, 0.32, 0.17),
    "right lower": (-0.58, 0.76, 0.38, 0.22),
    "left upper": (0.48, 0.24, 0.36, 0.24),
    "lingula": (0.60, 0.56, 0.30, 0.17),
    "left lower": (0.66, 0.76, 0.36, 0.22),
}

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Frame:
    """Where the chest lies in the drawing.

    Attributes:
      height, width: size of the drawing in pixels.
      centre: x, y in pixels of the point u = 0, v = 0.5.
      across: pixels per unit of u (half the width of the rib cage).
      down: pixels per unit of v (the height of the lungs).
      angle: rotation of the patient in radians, clockwise.
    """

    height: int
    width: int
    centre: tuple[float, float]
    across: float
    down: float
    angle: float

    @classmethod
    def sample(cls, body: np.random.Generator, pose: np.random.Generator, height: int, width: int) -> Frame:
        ratio = body.uniform(1.22, 1.62)
        cage = pose.uniform(0.72, 0.93) * width / 2
        tallest = pose.uniform(0.72, 0.82) * height
        across = min(cage, tallest / (0.82 * ratio))
        down = min(across * ratio, tallest)
        x = width * (0.5 + pose.normal(0, 0.015))
        y = down / 2 + (height - down) * pose.uniform(0.36, 0.6)
        return cls(height, width, (x, y), across, down, math.radians(pose.normal(0, 1.8)))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """u and v of every pixel, each float32 [height, width]."""
        x = np.arange(self.width, dtype=np.float32)[None, :] - np.float32(self.centre[0])
        y = np.arange(self.height, dtype=np.float32)[:, None] - np.float32(self.centre[1])
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        return (x * cos + y * sin) / np.float32(self.across), (y * cos - x * sin) / np.float32(self.down) + 0.5

    def place(self, points: np.ndarray) -> np.ndarray:
        """Chest coordinates [n, 2] as pixels x, y, float64 [n, 2]."""
        x, y = points[:, 0] * self.across, (points[:, 1] - 0.5) * self.down
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack([x * cos - y * sin + self.centre[0], x * sin + y * cos + self.centre[1]], axis=1)

    def layer(self) -> np.ndarray:
        return np.zeros((self.height, self.width), np.uint8)

    def soften(self, image: np.ndarray, radius: float) -> np.ndarray:
        """Gaussian blur; `radius` in units of u."""
        sigma = max(radius * self.across, 0.3)
        return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)

    def blank_float(self) -> np.ndarray:
        return np.zeros((self.height, self.width), np.float32)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _fill(layer: np.ndarray, pixels: np.ndarray, value: int = 255) -> None:
    cv2.fillPoly(layer, [_fixed(pixels)], value, cv2.LINE_AA, _SUBPIXEL_BITS)


def _stroke(layer: np.ndarray, pixels: np.ndarray, value: int, thickness: int = 1) -> None:
    cv2.polylines(layer, [_fixed(pixels)], False, value, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _curve(points: object, closed: bool, steps: int = 8) -> np.ndarray:
    """A smooth curve through `points` [n, 2] (Catmull-Rom), `steps` samples a span."""
    knots = np.asarray(points, np.float64)
    if closed:
        before, after, beyond = np.roll(knots, 1, 0), np.roll(knots, -1, 0), np.roll(knots, -2, 0)
    else:
        padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
        before, knots, after, beyond = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    before, knots, after, beyond = (p[:, None, :] for p in (before, knots, after, beyond))
    bend = 2 * before - 5 * knots + 4 * after - beyond
    spans = knots + 0.5 * t * (after - before + t * (bend + t * (3 * (knots - after) + beyond - before)))
    return spans.reshape(-1, 2)


def _solid(frame: Frame, outline: np.ndarray, roundness: float) -> tuple[np.ndarray, np.ndarray]:
    """The cover of an outline and its thickness, which grows from 0 at the rim to 1 over about `roundness` (in u)."""
    layer = frame.layer()
    _fill(layer, frame.place(outline))
    inside = (layer > 127).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    return layer.astype(np.float32) / 255, 1 - np.exp(depth * np.float32(-1 / (roundness * frame.across)))


def _cloud(rng: np.random.Generator, frame: Frame, coarsest: int, octaves: int, roughness: float = 0.55) -> np.ndarray:
    """Smooth random texture, float32 [height, width], mean about 0 and deviation about 1."""
    total, power = frame.blank_float(), 0.0
    for octave in range(octaves):
        cells = coarsest << octave
        weight = roughness**octave
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(grid, (frame.width, frame.height), interpolation=cv2.INTER_CUBIC)
        power += weight**2 * 0.55
    return total / np.float32(math.sqrt(power))


def _ramp(x: np.ndarray, start: float, stop: float) -> np.ndarray:
    """0 below `start`, 1 above `stop`, smooth between."""
    t = np.clip((x - np.float32(start)) / np.float32(stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(u: np.ndarray, v: np.ndarray, u0: float, v0: float, ru: float, rv: float) -> np.ndarray:
    """1 at (u0, v0), falling off over the radii."""
    return np.exp(-np.square((u - np.float32(u0)) / np.float32(ru)) - np.square((v - np.float32(v0)) / np.float32(rv)))


def _cage(v: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at height v, in u."""
    heights = np.linspace(-0.13, 0.85, 60)
    t = (heights + 0.13) / 0.98
    return np.interp(v, heights, (1 - (1 - t) ** 2.5) ** 0.58)


def _torso(body: np.random.Generator, frame: Frame, arm: np.ndarray) -> np.ndarray:
    """Skin, fat and muscle with neck, shoulders and arms; about 0.7 where the chest is thick, 0 outside."""
    fat = body.uniform(1.09, 1.24)
    neck = body.uniform(0.26, 0.36)
    slope = body.uniform(-0.18, -0.10)
    along = arm[-1] - arm[0]
    across = np.array([along[1], -along[0]]) / np.hypot(*along)  # towards the outer or upper side of the arm
    half = [(neck, -0.9), (neck, -0.32), (neck + 0.12, -0.2), (0.75, slope), (1.12, slope + 0.03)]
    half += [tuple(arm[1] + 0.17 * across), tuple(arm[-1] + 0.15 * across), tuple(arm[-1] - 0.15 * across)]
    half += [tuple(arm[1] - 0.15 * across), (1.16, 0.30)]
    half += [(fat, 0.55), (fat * 1.02, 0.85), (fat, 1.15), (fat * 1.02, 1.9)]
    right = _curve([(-u, v) for u, v in half], closed=False)
    left = _curve(half[::-1], closed=False)
    cover, depth = _solid(frame, np.vstack([right, left]), 0.16)
    return frame.soften(cover * (0.20 + 0.52 * depth), 0.012)


def _lungs(body: np.random.Generator, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Air in both lungs, 0 to 1, and the cover of the lung fields, 0 to 1."""
    air, cover = frame.blank_float(), frame.blank_float()
    liver = body.uniform(0.02, 0.06)
    dome = body.uniform(0.06, 0.15)
    sides = np.array([0.04, 0.12, 0.22, 0.36, 0.52, 0.68, 0.84])
    for side in (-1, 1):
        base = 1.0 - (liver if side < 0 else 0.0)
        top = body.uniform(-0.02, 0.02)
        lateral = np.stack([_cage(sides) * 0.965, sides * base], axis=1)
        outline = np.vstack([
            [(0.22, top + 0.02), (0.31, top - 0.01)],
            lateral,
            [(0.965, base - 0.06), (0.955, base), (0.90, base - 0.03), (0.78, base - 0.6 * dome)],
            [(0.60, base - dome), (0.42, base - 1.08 * dome), (0.26, base - 0.9 * dome), (0.15, base - 0.7 * dome)],
            [(0.12, 0.60), (0.12, 0.40), (0.13, 0.22), (0.155, 0.10)],
        ])  # fmt: skip
        outline[:, 0] *= side
        mask, depth = _solid(frame, _curve(outline, closed=True), 0.13)
        cover = np.maximum(cover, mask)
        air += mask * (0.42 + 0.58 * depth)
    return frame.soften(air, 0.011), frame.soften(cover, 0.008)


def _mediastinum(body: np.random.Generator, frame: Frame, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blood in the heart and great vessels, and air in the windpipe and its two branches, each 0 to 1."""
    size = body.uniform(0.92, 1.22)
    low = body.uniform(-0.03, 0.03)
    stalk = body.uniform(0.8, 1.2)
    knob = body.uniform(0.0, 0.05)
    points = [(-0.24, -0.35), (-0.19, -0.05), (-0.16, 0.10), (-0.155, 0.26), (-0.18, 0.40)]
    right = [(-0.25, 0.52), (-0.29, 0.64), (-0.28, 0.76), (-0.20, 0.88)]
    left = [(0.12, 1.0), (0.42, 0.97), (0.57, 0.89), (0.59, 0.79), (0.52, 0.65), (0.40, 0.52), (0.29, 0.42)]
    arch = [(0.225, 0.345), (0.20 + knob, 0.27), (0.19 + knob, 0.215), (0.16, 0.14), (0.18, -0.05), (0.24, -0.35)]
    outline = np.array(points + right + left + arch)
    belly = outline[:, 1] > 0.45
    outline[belly, 0] *= size
    outline[belly, 1] += low
    outline[~belly, 0] *= stalk
    cover, depth = _solid(frame, _curve(outline, closed=True), 0.085)
    thickness = 0.35 + 0.25 * _ramp(v, -0.1, 0.25) + 0.4 * _ramp(v, 0.3, 0.7)
    blood = frame.soften(cover * (0.34 + 0.66 * depth), 0.013) * thickness
    pipe, lean = frame.layer(), body.uniform(-0.03, 0.02)
    for path, wide in (
        ([(0.0, -0.9), (0.0, -0.15), (lean, 0.12), (lean, 0.31)], 0.085),
        ([(lean, 0.31), (lean - 0.09, 0.38), (lean - 0.17, 0.45)], 0.055),
        ([(lean, 0.31), (lean + 0.10, 0.37), (lean + 0.20, 0.41)], 0.05),
    ):
        _stroke(pipe, frame.place(_curve(path, closed=False)), 255, max(1, round(wide * frame.across)))
    return blood, frame.soften(pipe, 0.016).astype(np.float32) / 255


def _abdomen(body: np.random.Generator, frame: Frame, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Liver and spleen, and air in the stomach under the left dome, each 0 to 1."""
    gas, centre = frame.layer(), np.array([body.uniform(0.35, 0.6), body.uniform(1.03, 1.14)])
    amount = body.choice([0.0, 0.4, 0.7, 1.0])
    for _ in range(3):  # folds of the stomach or bowel
        turn = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        radius = body.uniform(0.08, 0.20) * (1 + 0.10 * body.standard_normal(12))
        ring = np.stack([np.cos(turn) * radius * 1.4, np.sin(turn) * radius * 0.5], axis=1)
        fold = _curve(ring + centre + body.normal(0, (0.12, 0.03)), closed=True)
        _fill(gas, frame.place(fold), int(body.integers(120, 256)))
    return _ramp(v, 0.72, 1.0), np.float32(amount / 255) * frame.soften(gas, 0.02).astype(np.float32)


def _ribbon(marrow: np.ndarray, rim: np.ndarray, pixels: np.ndarray, half: np.ndarray, lower: int, upper: int) -> None:
    """A long bone along `pixels` [n, 2]: its body into `marrow`, the denser cortex along both sides into `rim`."""
    along = np.gradient(pixels, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    one, other = pixels + across * half[:, None], pixels - across * half[:, None]
    _fill(marrow, np.vstack([one, other[::-1]]))
    _stroke(rim, one, lower)
    _stroke(rim, other, upper)


def _ribs(body: np.random.Generator, frame: Frame, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Twelve pairs of ribs: each a tilted hoop, seen from the front as a flat back arc and a steep front arc."""
    pitch = body.uniform(0.088, 0.104)
    drop = body.uniform(0.46, 0.74)
    arch = body.uniform(0.015, 0.045)
    height = body.uniform(0.036, 0.046) * frame.down
    layers = {name: (frame.layer(), frame.layer()) for name in ("back", "front")}
    theta = {"back": np.linspace(0.02, 0.60, 30) * math.pi, "front": np.linspace(0.56, 0.80, 16) * math.pi}
    for side in (-1, 1):
        for rib in range(12):
            head = -0.105 + pitch * rib + body.normal(0, 0.005)
            fall = drop * min(0.30 + 0.11 * rib, 1.0) * (1 + body.normal(0, 0.04))
            reach = 0.985 * float(_cage(np.array(head + fall / 2)))
            plump = height * body.uniform(0.88, 1.12)
            for name, (marrow, cortex) in layers.items():
                if name == "front" and rib > 8:  # floating ribs, and those whose gristle shows no front end
                    continue
                angle = theta[name] if rib < 11 else theta[name][:20]
                x = 0.03 + (reach - 0.03) * np.sin(angle)
                y = head + fall / 2 * (1 - np.cos(angle)) - arch * np.sin(2 * angle) * (angle < math.pi / 2)
                pixels = frame.place(np.stack([side * x, y], axis=1))
                steep = np.abs(np.sin(angle)) ** 6  # there the rib is seen edge on, as thin as it is thick
                half = plump / 2 * (1 - 0.5 * steep) * np.linspace(0.85, 1.05 if name == "back" else 1.35, len(x))
                strong, weak = (255, 110) if (side > 0) == (name == "back") else (110, 255)
                _ribbon(marrow, cortex, pixels, half, strong, weak)
    strength = np.float32(body.uniform(0.75, 1.2))
    wall = np.exp(-np.square((np.abs(u) - _cage(v).astype(np.float32)) / np.float32(0.085)))  # beam runs along the bone
    back = _bone(frame, *layers["back"], 0.068, 0.090) * (0.9 + 0.35 * wall)
    front = _bone(frame, *layers["front"], 0.048, 0.055) * (0.10 + 0.90 * _ramp(np.abs(u), 0.34, 0.80))
    return strength * (back + front + 0.03 * wall * _ramp(v, -0.05, 0.2))


def _bone(frame: Frame, marrow: np.ndarray, cortex: np.ndarray, inner: float, outer: float) -> np.ndarray:
    """Attenuation of bones drawn by `_ribbon`."""
    mixed = cv2.addWeighted(marrow, inner / 255, cortex, outer / 255, 0, dtype=cv2.CV_32F)
    return frame.soften(mixed, 0.004)


def _girdle(body: np.random.Generator, pose: np.random.Generator, frame: Frame, arm: np.ndarray) -> np.ndarray:
    """Collar bones, shoulder blades and upper arms."""
    marrow, cortex, blade = frame.layer(), frame.layer(), frame.layer()
    inner = body.uniform(0.0, 0.06)
    rise = body.uniform(0.05, 0.12)
    thick = body.uniform(0.024, 0.033) * frame.across
    for side in (-1, 1):
        tilt = pose.normal(0, 0.012)
        bone = [(0.10, inner), (0.26, inner - 0.028), (0.45, inner - rise * 0.55 + tilt), (0.66, inner - rise + tilt)]
        bone += [(0.86, inner - rise * 1.18 + tilt), (1.0, inner - rise * 1.08 + tilt)]
        path = _curve([(side * x, y) for x, y in bone], closed=False)
        half = thick * (0.80 + 0.5 * np.abs(np.linspace(-1, 1, len(path))) ** 1.6)
        half[:3] *= (0.35, 0.7, 0.9)
        half[-3:] *= (0.9, 0.7, 0.35)
        _ribbon(marrow, cortex, frame.place(path), half, 255, 200)
        scapula = [(0.92, -0.08), (1.08, -0.03), (1.12, 0.06), (1.04, 0.14), (0.99, 0.30), (0.90, 0.48), (0.84, 0.36)]
        scapula += [(0.80, 0.12), (0.84, -0.02)]
        shift = np.array([pose.uniform(0.0, 0.12), pose.uniform(-0.04, 0.03)])
        plate = frame.place(_curve((np.array(scapula) + shift) * (side, 1), closed=True))
        _fill(blade, plate, 120)
        _stroke(blade, plate, 230)
        shaft = _curve(arm * (side, 1), closed=False)
        half = np.interp(np.arange(len(shaft)), [0, 1, 3, 6, 14], [0.005, 0.065, 0.09, 0.085, 0.052])
        _ribbon(marrow, cortex, frame.place(shaft), half * frame.across, 230, 230)
    return _bone(frame, marrow, cortex, 0.105, 0.060) + frame.soften(blade, 0.006).astype(np.float32) * (0.06 / 255)


def _arm(body: np.random.Generator, pose: np.random.Generator) -> np.ndarray:
    """Axis of the left upper arm from its head to the elbow, [5, 2] in chest coordinates: hanging or lifted."""
    turn = pose.uniform(-0.75, 0.25) if pose.random() < 0.4 else pose.uniform(1.15, 1.45)
    reach = np.array([0.0, 0.12, 0.4, 0.8, 1.3])[:, None] * body.uniform(0.9, 1.1)
    return np.array([1.16, 0.01]) + reach * (math.cos(turn), math.sin(turn) * 0.75)


def _spine(body: np.random.Generator, frame: Frame, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vertebrae with end plates, pedicles and spinous processes, over a column of soft tissue."""
    plate, detail = frame.layer(), frame.layer()
    pitch, width = body.uniform(0.082, 0.100), body.uniform(0.085, 0.105)
    sway = body.normal(0, 0.006, 20).cumsum() * 0.5
    for number in range(20):
        origin = (sway[number] - sway.mean(), -0.42 + pitch * number)
        shape = np.array([(-1, 0.10), (-0.84, 0.5), (-1, 0.90), (1, 0.90), (0.84, 0.5), (1, 0.10)])
        corners = frame.place(shape * (width, pitch) + origin)
        _fill(plate, corners, 200)
        _stroke(detail, corners[2:4], 230)
        _stroke(detail, corners[[0, 5]], 230)
        _stroke(detail, corners[:3], 130)
        _stroke(detail, corners[3:], 130)
        for x in (-0.62, 0.62):
            oval = _box(frame, origin[0] + x * width, origin[1] + 0.38 * pitch, 0.22 * width, 0.19 * pitch)
            cv2.ellipse(detail, oval, 190, max(1, round(frame.across / 150)), cv2.LINE_AA)
        oval = _box(frame, origin[0], origin[1] + 0.72 * pitch, 0.10 * width, 0.22 * pitch)
        cv2.ellipse(detail, oval, 200, -1, cv2.LINE_AA)
    bones = frame.soften(plate, 0.007).astype(np.float32) * np.float32(0.075 / 255)
    bones += frame.soften(detail, 0.006).astype(np.float32) * np.float32(0.06 / 255)
    column = np.exp(-np.square(u / np.float32(1.5 * width)))
    return np.float32(body.uniform(0.5, 1.25)) * bones + 0.05 * column * (0.5 + 0.5 * _ramp(v, 0.3, 1.0))


def _box(frame: Frame, u: float, v: float, half_u: float, half_v: float) -> tuple:
    (x, y), turn = frame.place(np.array([(u, v)]))[0], math.degrees(frame.angle)
    return ((float(x), float(y)), (2 * half_u * frame.across, 2 * half_v * frame.down), turn)


def _vessels(body: np.random.Generator, frame: Frame, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Arteries and veins that fan out of both hila and thin towards the rim, 0 to about 1."""
    tree = frame.layer()
    pixel = frame.across / 300
    for side, hilum in ((-1, (0.19, 0.42)), (1, (0.22, 0.39))):
        angle = np.linspace(-1.3, 1.5, 10) + body.normal(0, 0.08, 10)
        start = np.array(hilum) + body.normal(0, 0.025, (10, 2))
        for calibre, stride in ((1.0, 0.046), (0.68, 0.036), (0.46, 0.030), (0.32, 0.026), (0.22, 0.022)):
            heading = angle[:, None] + np.cumsum(body.normal(0, 0.10, (len(angle), 6)), axis=1)
            length = stride * body.uniform(0.6, 1.25, (len(angle), 1))
            moves = np.stack([np.cos(heading) * length, np.sin(heading) * length * 0.72], axis=2)
            path = np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, axis=1)], axis=1)
            pixels = _fixed(frame.place(path.reshape(-1, 2) * (side, 1))).reshape(path.shape)
            for part, size in ((pixels[:, :4], 1.0), (pixels[:, 3:], 0.8)):
                value, thickness = round(245 * (calibre * size) ** 0.8), max(1, round(6 * calibre * size * pixel))
                cv2.polylines(tree, list(part), False, value, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
            turn = np.array([[-0.38, 0.38]]) + body.normal(0, 0.13, (len(angle), 2))
            keep = body.random((len(angle), 2)) < (0.85 if calibre > 0.4 else 0.6)
            angle, start = (heading[:, -1:] + turn)[keep], np.repeat(path[:, -1:], 2, axis=1)[keep]
    root = _bump(u, v, -0.20, 0.44, 0.085, 0.13) + _bump(u, v, 0.22, 0.40, 0.075, 0.11)
    return frame.soften(tree, 0.0065).astype(np.float32) / 255 * (0.65 + 0.5 * np.minimum(root, 1)) + 0.40 * root


def _consolidation(
    rng: np.random.Generator, frame: Frame, u: np.ndarray, v: np.ndarray, vessels: np.ndarray
) -> np.ndarray:
    """Bacterial pneumonia: the share of air replaced by fluid in one or two lobes, 0 to 1."""
    filled = frame.blank_float()
    texture = _cloud(rng, frame, 5, 3)
    for name in rng.choice(list(LOBES), size=int(rng.choice([1, 2], p=[0.65, 0.35])), replace=False):
        u0, v0, ru, rv = LOBES[str(name)]
        spread = rng.uniform(0.9, 1.35)
        ru, rv = ru * spread * rng.uniform(0.85, 1.15), rv * spread * rng.uniform(0.85, 1.15)
        centre = rng.normal(0, 0.05, 2)
        level = _bump(u, v, u0 + centre[0], v0 + centre[1], ru * 1.3, rv * 1.3) + 0.09 * texture
        patch = _ramp(level, 0.22, rng.uniform(0.55, 0.80))
        if "upper" in name and rng.random() < 0.5:  # a fissure stops it
            edge = v0 + 0.8 * rv + 0.12 * (np.abs(u) - 0.5)
            patch *= 1 - _ramp(v - edge.astype(np.float32), -0.02, 0.02)
        filled = np.maximum(filled, np.float32(rng.uniform(0.55, 0.95)) * patch)
    bronchograms = np.clip(vessels, 0, 1) * np.float32(rng.uniform(0.0, 0.3))
    grain = np.clip(1 + 0.10 * _cloud(rng, frame, 20, 2), 0.5, 1.3)
    return np.clip(filled * grain * (1 - bronchograms), 0, 0.95)


def _infiltrate(
    rng: np.random.Generator, frame: Frame, u: np.ndarray, v: np.ndarray, vessels: np.ndarray
) -> np.ndarray:
    """Viral pneumonia: hazy patches and a net of thickened interstitium in both lungs, 0 to 1."""
    patches = _ramp(_cloud(rng, frame, 7, 3, 0.6), -0.5, 1.9)
    fine = _cloud(rng, frame, 26, 3, 0.8)
    net = np.exp(-np.square(fine / np.float32(0.6)))  # ridges where the texture crosses zero
    low = rng.uniform(0.0, 0.6)
    central = _bump(u, v, -0.34, 0.5 + 0.15 * low, 0.42, 0.42) + _bump(u, v, 0.36, 0.5 + 0.15 * low, 0.42, 0.42)
    weight = np.float32(rng.uniform(0.85, 1.3)) * (0.35 + 0.65 * np.minimum(central, 1))
    haze = rng.uniform(0.50, 0.80) * patches + rng.uniform(0.08, 0.16) * net * (0.3 + patches)
    cuffs = np.float32(rng.uniform(0.05, 0.22)) * np.clip(vessels, 0, 1)
    return np.clip(weight * haze + cuffs, 0, 0.9)


def _equipment(pose: np.random.Generator, frame: Frame) -> np.ndarray:
    """Electrodes and leads left on some patients, sick or not."""
    layer = frame.layer()
    if pose.random() < 0.08:
        for _ in range(int(pose.integers(1, 4))):
            spot = (pose.choice([-1, 1]) * pose.uniform(0.3, 0.9), pose.uniform(-0.02, 0.8))
            cv2.ellipse(layer, _box(frame, *spot, 0.045, 0.04), 120, -1, cv2.LINE_AA)
            cv2.ellipse(layer, _box(frame, *spot, 0.018, 0.016), 220, -1, cv2.LINE_AA)
            if pose.random() < 0.5:
                lead = np.array([spot, *(np.cumsum(pose.normal(0, 0.22, (3, 2)), axis=0) + spot), (spot[0] * 1.8, 1.4)])
                _stroke(layer, frame.place(_curve(lead, closed=False)), 170, max(1, round(frame.across / 150)))
    return frame.soften(layer, 0.003).astype(np.float32) * np.float32(0.22 / 255)


def _expose(film: np.random.Generator, frame: Frame, sum_of_parts: np.ndarray) -> np.ndarray:
    """Attenuation to brightness in [0, 1]: dose, scatter, the curve of the film, collimator blades."""
    x = sum_of_parts * (1 + 0.022 * _cloud(film, frame, 4, 3) + 0.008 * _cloud(film, frame, 70, 1))
    scatter = cv2.resize(x, (max(frame.width // 8, 8), max(frame.height // 8, 8)), interpolation=cv2.INTER_AREA)
    scatter = cv2.GaussianBlur(scatter, (0, 0), max(scatter.shape) / 12, borderType=cv2.BORDER_REPLICATE)
    share = np.float32(film.uniform(0.05, 0.22))
    x = (1 - share) * x + share * cv2.resize(scatter, (frame.width, frame.height), interpolation=cv2.INTER_LINEAR)
    gain, lift = film.uniform(0.86, 1.18), film.normal(-0.01, 0.045)
    x = np.clip(np.float32(gain) * x + np.float32(lift), 0, None)
    ceiling = film.uniform(0.92, 1.04)  # bright parts crowd towards the film's densest value
    x = np.float32(ceiling) * (1 - np.exp(-((x / np.float32(0.82)) ** film.uniform(1.25, 1.6))))
    x = x ** np.float32(film.uniform(0.82, 1.16))
    if film.random() < 0.3:
        shut = np.sort(film.uniform(0, 0.05, 4)) * film.integers(0, 2, 4)
        tilt = film.normal(0, 0.012)
        left, top, right, bottom = *shut[:2], *(1 - shut[2:])
        corners = [(left, top), (right, top + tilt), (right + tilt, bottom), (left + tilt, 1)]
        blades = frame.layer()
        _fill(blades, np.array(corners) * (frame.width, frame.height))
        x *= np.float32(0.03) + np.float32(0.97) * frame.soften(blades.astype(np.float32) / 255, 0.004)
    return x


def _label(film: np.random.Generator, image: np.ndarray) -> None:
    """Burns a side letter, sometimes a position mark and a ruler, into uint8 [height, width], in place."""
    height, width = image.shape
    size = film.uniform(0.0012, 0.0019) * (height * width) ** 0.5
    weight = max(1, round(size * 2))
    grey = int(film.integers(225, 256))
    kind = film.random()
    left = film.uniform(0.02, 0.12)
    if kind < 0.72:
        letter, x = ("R", left) if kind < 0.55 else ("L", 0.94 - left)
        spot = (round(width * x), round(height * film.uniform(0.07, 0.2)))
        cv2.putText(image, letter, spot, cv2.FONT_HERSHEY_SIMPLEX, size, grey, weight, cv2.LINE_AA)
    if film.random() < 0.12:
        spot = (round(width * 0.015), round(height * film.uniform(0.25, 0.4)))
        cv2.putText(image, "A-P", spot, cv2.FONT_HERSHEY_SIMPLEX, size * 0.6, grey, max(1, weight // 2), cv2.LINE_AA)
    if film.random() < 0.12:
        for y in (np.linspace(0.1, 0.9, 17) * height).round().astype(int).tolist():
            cv2.line(image, (0, y), (max(2, width // 200), y), grey, max(1, height // 700))


def draw_phantom(
    rng: np.random.Generator, height: int, width: int, finding: str, body: np.random.Generator | None = None
) -> np.ndarray:
    """Draws one frontal chest radiograph.

    The same generators and size give the same patient, pose and film for every finding: images then differ only where
    the finding lies.

    Args:
      rng: source of the pose, the finding and the film.
      height, width: size in pixels, each at least 32.
      finding: "normal", "bacteria" (consolidation of one or two lobes) or "virus" (patches in both lungs).
      body: source of the anatomy, to draw several images of one patient. Taken from `rng` if None.

    Returns:
      uint8 [height, width] in [0, 255]; bright where the beam was stopped.

    Raises:
      InputError: the finding is not known or a side is shorter than 32.
    """
    if finding not in FINDINGS:
        raise InputError(f"Cannot draw a phantom: finding must be one of {', '.join(FINDINGS)}. Received: {finding!r}.")
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"Cannot draw a phantom: both sides must be at least {SMALLEST_SIDE} pixels. "
            f"Received: height={height}, width={width}."
        )
    spare, pose, disease, film = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, 4))
    body = spare if body is None else body

    shrink = min(1.0, DRAWN_SIDE / max(height, width))
    frame = Frame.sample(body, pose, max(round(height * shrink), 1), max(round(width * shrink), 1))
    u, v = frame.grid()
    arm = _arm(body, pose)
    total = _torso(body, frame, arm)
    air, cover = _lungs(body, frame)
    vessels = _vessels(body, frame, u, v)
    blood, windpipe = _mediastinum(body, frame, v)
    organs, gas = _abdomen(body, frame, v)
    total += np.maximum(0.38 * blood, 0.20 * organs) - 0.06 * windpipe - 0.17 * gas
    total += _ribs(body, frame, u, v) + _girdle(body, pose, frame, arm) + _spine(body, frame, u, v)
    total += _equipment(pose, frame)

    depth = np.float32(body.uniform(0.38, 0.47))
    if finding == "bacteria":
        air = air * (1 - _consolidation(disease, frame, u, v, vessels))
    elif finding == "virus":
        air = air * (1 - _infiltrate(disease, frame, u, v, vessels))
    total += np.float32(body.uniform(0.07, 0.12)) * vessels * cover - depth * air

    exposed = _expose(film, frame, total)
    image = cv2.resize(exposed, (width, height), interpolation=cv2.INTER_CUBIC) if shrink < 1 else exposed
    speckle = film.integers(0, 256, (height, width), dtype=np.uint8).astype(np.float32) - np.float32(127.5)
    grain = cv2.GaussianBlur(speckle, (0, 0), film.uniform(0.45, 0.8))
    pixels = cv2.addWeighted(image, 255, grain, film.uniform(0.05, 0.14), 0, dtype=cv2.CV_8U)
    _label(film, pixels)
    return pixels
