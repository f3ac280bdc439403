"""A street seen through a pinhole camera: polygons, discs and lines in metres, drawn into an image and its label at once."""

import math
from typing import Any, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.data.base import IGNORE
from twinseg.common.data.classes import CITYSCAPES_CLASSES

EYE = 1.5  # height of the camera, metres
TRAIN_IDS = {name: i for i, name in enumerate(CITYSCAPES_CLASSES)}

Colour = Sequence[float] | np.ndarray
Paint = Optional[Colour]  # colour in the image; None: only the label is drawn
Kind = Optional[str]  # name of a class in the label; None: only the image is drawn
Points = Sequence[Sequence[float]]  # (x, y, z) in metres: x to the right, y up, z ahead


class Camera(NamedTuple):
    """A camera that looks along the street from ``x`` metres beside its middle, EYE metres above the ground; the rest in
    pixels: its focal length, and the image's row of the horizon and column of its axis."""

    focal: float
    horizon: float
    centre: float
    x: float


class Canvas:
    """An image, uint8 (H, W, 3) RGB, and its label, uint8 (H, W) of Cityscapes' train ids, that are drawn together.

    What is drawn later covers what was drawn before. Things are drawn in the image where they have a colour, in the label where
    they have the name of a class; the further away they are, the more their colour turns to that of the ``haze``.
    """

    def __init__(self, height: int, width: int, camera: Camera, haze: tuple[float, float, float]):
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.full((height, width), IGNORE, np.uint8)
        self.camera, self.haze = camera, haze
        self._eye, self._scale = np.array([camera.x, EYE]), np.array([camera.focal, -camera.focal])
        self._middle = np.array([camera.centre, camera.horizon])

    def project(self, points: Any) -> np.ndarray:
        """(..., 3) metres -> (..., 2) pixels, int32: column and row."""
        points = np.asarray(points, float)
        return np.rint((points[..., :2] - self._eye) * self._scale / points[..., 2:] + self._middle).astype(np.int32)

    def point(self, x: float, y: float, z: float) -> tuple[int, int]:
        """The same for one point: the pixel's column and row."""
        focal, horizon, centre, eye_x = self.camera
        return round(centre + focal * (x - eye_x) / z), round(horizon + focal * (EYE - y) / z)

    def shade(self, colour: Colour, z: float) -> tuple[float, ...]:
        """The colour as it looks from ``z`` metres away."""
        clear = math.exp(-z / 130)
        (red, green, blue), (r, g, b) = colour, self.haze
        return red * clear + r * (1 - clear), green * clear + g * (1 - clear), blue * clear + b * (1 - clear)

    def fill(self, points: Points, colour: Paint, name: Kind) -> None:
        """A polygon, in the image and in the label."""
        self.fills(np.array([points]), colour, name)

    def fills(self, polygons: np.ndarray, colour: Paint, name: Kind) -> None:
        """Polygons (n, points, 3), all in the haze of the first one's first point."""
        pixels = list(self.project(polygons))
        if colour is not None:
            cv2.fillPoly(self.image, pixels, self.shade(colour, float(polygons[0, 0, 2])))
        if name is not None:
            cv2.fillPoly(self.label, pixels, (TRAIN_IDS[name],))

    def front(self, x0: float, x1: float, y0: float, y1: float, z: float, colour: Paint, name: Kind) -> None:
        """A rectangle that faces the camera."""
        self.fill([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour, name)

    def flank(self, x: float, y0: float, y1: float, z0: float, z1: float, colour: Paint, name: Kind) -> None:
        """An upright rectangle along the street."""
        self.fill([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], colour, name)

    def flat(self, x0: float, x1: float, y: float, z0: float, z1: float, colour: Paint, name: Kind) -> None:
        """A level rectangle at height y."""
        self.fill([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], colour, name)

    def disc(
        self, x: float, y: float, z: float, radius: tuple[float, float] | float, colour: Paint, name: Kind, ring: float = 0
    ) -> None:
        """A disc or ellipse that faces the camera; ``ring`` metres thick if not filled."""
        across, up = radius if isinstance(radius, tuple) else (radius, radius)
        axes = (max(round(across * self.camera.focal / z), 1), max(round(up * self.camera.focal / z), 1))
        middle = self.point(x, y, z)
        if colour is not None:
            thickness = max(round(ring * self.camera.focal / z), 1) if ring else -1
            cv2.ellipse(self.image, middle, axes, 0, 0, 360, self.shade(colour, z), thickness)
        if name is not None:
            cv2.ellipse(self.label, middle, axes, 0, 0, 360, (TRAIN_IDS[name],), -1)

    def limb(
        self, start: tuple[float, float], end: tuple[float, float], z: float, width: float, colour: Colour, name: str
    ) -> None:
        """A thick line between two points (x, y) at one depth."""
        a, b = self.point(start[0], start[1], z), self.point(end[0], end[1], z)
        thickness = max(round(width * self.camera.focal / z), 1)
        cv2.line(self.image, a, b, self.shade(colour, z), thickness)
        cv2.line(self.label, a, b, (TRAIN_IDS[name],), thickness)

    def floor(self, x0: float, x1: float, z0: float, z1: float, colour: Colour, name: Kind) -> None:
        """A strip on the ground, cut into pieces where it is long, so that the haze deepens along it."""
        if z1 <= z0:
            return
        depths = np.geomspace(z0, z1, 2 + int(math.log(z1 / z0) * 3))
        for polygon in self.slabs(x0, x1, depths[:-1], depths[1:])[::-1]:
            self.fills(polygon[None], colour, name)

    @staticmethod
    def slabs(x0: float, x1: float, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Rectangles on the ground, (n, 4, 3)."""
        return np.array([[(x0, 0, a), (x1, 0, a), (x1, 0, b), (x0, 0, b)] for a, b in zip(starts, ends)])

    def box(
        self, x: float, z: float, half: float, low: float, high: float, length: float, colour: np.ndarray, name: str
    ) -> float:
        """A box on the road: the side that we see, then the face towards us. Returns that side's x. The parameters are eight
        because coordinates are given one by one, as in all of these methods."""
        near = x + half if x < self.camera.x else x - half
        self.flank(near, low, high, z, z + length, colour * 0.75, name)
        if high < EYE:
            self.flat(x - half, x + half, high, z, z + length, colour * 1.1, name)
        self.front(x - half, x + half, low, high, z, colour, name)
        return near
