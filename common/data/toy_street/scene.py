"""Contents of a street scene: sky, ground, rows of buildings, trees, walls and fences on both sides, and the things between
them, from far to near. A scene is a function of its random numbers alone."""

import math
from typing import Any, Sequence

import cv2
import numpy as np

from twinseg.common.data.base import IGNORE
from twinseg.common.data.toy_street.canvas import TRAIN_IDS, Camera, Canvas, Colour

NEAR, FAR = 2.2, 90.0  # depths of the first and the last of the street's rows, metres
VIEW = 0.72  # focal length in image widths

CAR_PAINT = (
    (190, 190, 195),
    (35, 35, 40),
    (120, 125, 130),
    (150, 25, 30),
    (30, 55, 120),
    (225, 225, 225),
    (70, 80, 75),
    (180, 150, 90),
)
FACADES = (
    (178, 150, 120),
    (160, 90, 70),
    (200, 190, 170),
    (140, 135, 130),
    (190, 165, 110),
    (120, 80, 70),
    (205, 205, 200),
    (150, 160, 150),
)
CLOTHES = (
    (40, 45, 60),
    (150, 40, 40),
    (60, 90, 140),
    (200, 200, 195),
    (90, 70, 50),
    (35, 35, 35),
    (190, 150, 60),
    (80, 120, 80),
)
SKIN = ((225, 180, 150), (190, 140, 110), (120, 85, 65), (240, 200, 175))
HAIR = ((25, 25, 28), (90, 65, 40), (170, 140, 80))
DARK, GLASS, METAL, TYRE = (25, 25, 28), (55, 68, 80), (105, 108, 110), (22, 22, 22)


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 (height, width, 3) RGB and label uint8 (height, width) of Cityscapes' train ids."""
    scene = Scene(rng, height, width)
    scene.draw_sky()
    scene.draw_ground()
    scene.draw_rows()
    scene.draw_things()
    scene.draw_bonnet()
    return scene.developed(), scene.label


class Scene(Canvas):
    """A street, and what it is made of."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        self.rng = rng
        focal = VIEW * width * rng.uniform(0.9, 1.15)
        horizon, centre = height * rng.uniform(0.4, 0.5), width * rng.uniform(0.42, 0.58)
        self.road, self.pavement = rng.uniform(4.0, 6.5), rng.uniform(2.2, 4.0)  # half the road's width, and the pavement's
        self.verge = rng.uniform(1.5, 3.5) if rng.uniform() < 0.5 else 0.0  # grass between pavement and houses
        eye_x = self.road * rng.uniform(0.25, 0.5)  # we drive on the right
        self.overcast = rng.uniform() < 0.4
        self.sun_side = rng.choice([-1, 1])
        self.crossing = rng.uniform(14, 45) if rng.uniform() < 0.6 else math.inf  # depth of a side street
        haze = (205.0, 212.0, 220.0) if self.overcast else (185.0, 205.0, 230.0)
        super().__init__(height, width, Camera(focal, horizon, centre, eye_x), haze)

    def pick(self, colours: Sequence[Colour]) -> np.ndarray:
        """One of some colours, a little brighter or darker, float64 (3,)."""
        colour = np.array(colours[self.rng.integers(len(colours))])
        return np.clip(colour * self.rng.uniform(0.85, 1.1) + self.rng.uniform(-8, 8, 3), 0, 255)

    # The stage.

    def draw_sky(self) -> None:
        """The sky from top to horizon, its clouds, and the skyline."""
        height, width = self.label.shape
        top = np.array([150, 160, 172] if self.overcast else [70, 125, 195], float) + self.rng.uniform(-15, 15, 3)
        ramp = np.clip(np.arange(height) / max(self.camera.horizon, 1), 0, 1)[:, None]
        self.image[:] = np.rint(top * (1 - ramp) + np.array(self.haze) * ramp).astype(np.uint8)[:, None]
        self.label[:] = TRAIN_IDS['sky']
        for _ in range(self.rng.integers(2, 7)):
            x, y = self.rng.uniform(0, width), self.rng.uniform(0, self.camera.horizon)
            lighter = self.rng.uniform(0, 35)
            for _ in range(4):
                axes = (max(int(width * self.rng.uniform(0.03, 0.1)), 1), max(int(height * self.rng.uniform(0.01, 0.04)), 1))
                middle = (int(x + self.rng.normal() * width * 0.05), int(y + self.rng.normal() * height * 0.015))
                cv2.ellipse(self.image, middle, axes, 0, 0, 360, [min(c + lighter, 250) for c in self.haze], -1)
        sky = self.image[: max(int(self.camera.horizon), 1)]
        cv2.blur(sky, (max(width // 32, 1), max(height // 32, 1)), dst=sky)
        x = -160.0
        while x < 160:  # the skyline
            step, name = self.rng.uniform(8, 30), 'building' if self.rng.uniform() < 0.6 else 'vegetation'
            colour = self.pick(FACADES) * 0.8 if name == 'building' else self.pick([(60, 80, 45)])
            self.front(x, x + step, 0, self.rng.uniform(5, 16), 140, colour, name)
            x += step

    def draw_ground(self) -> None:
        """Grass, pavements, road, side street, and what is painted on them."""
        edge, kerb = self.road + self.pavement + self.verge, self.road
        grass = self.pick([(95, 115, 55), (112, 122, 68), (80, 108, 52)])
        self.floor(-200, 200, 1, 140, grass, 'terrain')
        stone = self.pick([(150, 145, 140), (135, 132, 130), (165, 155, 145)])
        for side in (-1, 1):
            self.floor(side * kerb, side * edge, 1, 140, stone, 'sidewalk')
            joints = np.arange(3, 40, 2.0)
            self.fills(self.slabs(side * kerb, side * edge, joints, joints + 0.06), stone * 0.85, None)
        grey = self.rng.uniform(75, 115)
        tar = np.array([grey, grey, grey + 4])
        self.floor(-kerb, kerb, 1, 140, tar, 'road')
        if self.crossing < FAR:
            self.floor(-60, 60, self.crossing, self.crossing + 8, tar, 'road')
        for side in (-1, 1):
            if self.verge:
                self.floor(side * (edge - self.verge), side * edge, 1, 140, grass, 'terrain')
            self.floor(side * kerb, side * (kerb + 0.18), 1, 140, stone * 1.15, None)
        if self.crossing < FAR:
            self.floor(-kerb - 0.3, kerb + 0.3, self.crossing, self.crossing + 8, tar, 'road')
        paint = np.array([225, 225, 220]) * self.rng.uniform(0.75, 1)
        dashes = np.arange(self.rng.uniform(1, 4), 80, 6.0)
        self.fills(self.slabs(-0.07, 0.07, dashes, dashes + 3), paint, None)
        if self.rng.uniform() < 0.5:
            for side in (-1, 1):
                x = side * (self.road - 2.2)
                self.floor(x, x + 0.12, 1, min(self.crossing - 1, 90), paint, None)
        if self.crossing < FAR:  # a zebra crossing before the side street
            for x in np.arange(-self.road + 0.3, self.road - 0.5, 1.0):
                self.floor(x, x + 0.5, self.crossing - 4, self.crossing - 1, paint, None)
        for _ in range(self.rng.integers(0, 5)):  # mended tar
            x, z = self.rng.uniform(-self.road, self.road - 1), self.rng.uniform(3, 30)
            self.floor(x, x + self.rng.uniform(0.5, 2), z, z + self.rng.uniform(1, 6), tar * self.rng.uniform(0.8, 1.12), None)
        if not self.overcast:
            self.cast_shadow()

    def cast_shadow(self) -> None:
        """The houses' shadow on the side of the sun, in the image alone."""
        reach = self.rng.uniform(-0.6, 0.7) * self.road
        edge = self.sun_side * (self.road + self.pavement + self.verge + 10)
        mask = np.zeros(self.label.shape, np.uint8)
        z = 1.5
        while z < FAR:
            end = z * 1.25 + self.rng.uniform(2, 6)
            x = self.sun_side * (reach + self.rng.uniform(-1, 1))
            cv2.fillPoly(mask, [self.project([(x, 0, z), (edge, 0, z), (edge, 0, end), (x, 0, end)])], (255,))
            z = end
        shaded = cv2.convertScaleAbs(self.image, alpha=self.rng.uniform(0.5, 0.7))
        cv2.copyTo(shaded, mask, self.image)

    # The rows along both sides.

    def draw_rows(self) -> None:
        """The rows along both sides, from far to near: buildings, or trees with a wall, a fence or bushes."""
        for side in (-1, 1):
            city = self.rng.uniform(0.35, 0.95)  # share of buildings
            z = NEAR
            slots = []
            while z < FAR:
                end = z + self.rng.uniform(7, 18)
                if z < self.crossing + 8 and end > self.crossing:  # the side street is empty
                    if self.crossing - z > 3:
                        slots.append((z, self.crossing))
                    z = self.crossing + 8
                    continue
                slots.append((z, end))
                z = end
            for start, end in slots[::-1]:
                light = 0.72 if side == self.sun_side and not self.overcast else 1.0
                kind = 'building' if self.rng.uniform() < city else self.rng.choice(['park', 'wall', 'fence'])
                x = side * (self.road + self.pavement + self.verge)
                if kind == 'building':
                    self.building(x, side, start, end, light)
                    continue
                if self.rng.uniform() < 0.5:
                    self.building(x + side * 9, side, start, end, light)
                for z in np.sort(self.rng.uniform(start, end, self.rng.integers(1, 4)))[::-1]:
                    self.tree(x + side * self.rng.uniform(1.5, 6), z, self.rng.uniform(4, 9))
                if kind == 'wall':
                    self.wall(x, start, end)
                elif kind == 'fence':
                    self.fence(x, start, end)
                else:
                    self.bushes(x + side * 0.8, start, end)

    def building(self, x: float, side: int, start: float, end: float, light: float) -> None:
        """A building with windows, its front at ``x``, from depth ``start`` to ``end``."""
        height, colour = self.rng.uniform(6, 20), self.pick(FACADES) * light
        window = np.array(GLASS) * self.rng.uniform(0.6, 1.5)
        storey, bay = self.rng.uniform(2.8, 3.4), self.rng.uniform(2.0, 3.2)
        back = x + side * 14
        if self.rng.uniform() < 0.4:  # a pitched roof
            ridge = x + side * 5
            roof = self.pick([(120, 60, 50), (80, 80, 85)]) * light
            top = height + 3
            self.fill([(x, height, start), (x, height, end), (ridge, top, end), (ridge, top, start)], roof, 'building')
            self.fill([(x, height, start), (back, height, start), (ridge, top, start)], colour * 0.8, 'building')
        self.front(x, back, 0, height, start, colour * 0.8, 'building')
        self.flank(x, 0, height, start, end, colour, 'building')
        shop = self.rng.uniform() < 0.5
        if shop:
            self.flank(x, 0, storey, start, end, self.pick(FACADES) * 0.7 * light, None)
        if start > 55:
            return
        floors, bays = np.arange(0 if shop else 1, int(height / storey)), np.arange(max(int((end - start) / bay), 1))
        y, z = (grid.ravel() for grid in np.meshgrid(floors * storey + 0.9, start + 0.6 + bays * bay))
        corners = [(0, 0), (0, bay * 0.5), (storey * 0.5, bay * 0.5), (storey * 0.5, 0)]
        if len(y):
            self.fills(np.stack([np.stack([np.full(len(y), x), y + dy, z + dz], -1) for dy, dz in corners], 1), window, None)
        across = np.arange(1.5, 12, bay)
        y, out = (grid.ravel() for grid in np.meshgrid(floors * storey + 0.9, across))
        corners = [(0, 0), (0, bay * 0.45), (storey * 0.5, bay * 0.45), (storey * 0.5, 0)]
        if len(y):
            faces = [np.stack([x + side * (out + dx), y + dy, np.full(len(y), start)], -1) for dy, dx in corners]
            self.fills(np.stack(faces, 1), window * 0.8, None)

    def wall(self, x: float, start: float, end: float) -> None:
        """A wall along the street."""
        height, colour = self.rng.uniform(1.3, 2.6), self.pick([(150, 130, 110), (140, 138, 135), (150, 95, 80)])
        self.flank(x, 0, height, start, end, colour, 'wall')
        for y in np.arange(0.35, height, 0.35):
            self.flank(x, y, y + 0.03, start, end, colour * 0.8, None)
        self.flank(x, height, height + 0.12, start, end, colour * 1.1, 'wall')

    def fence(self, x: float, start: float, end: float) -> None:
        """A fence along the street; its label covers the gaps, too."""
        height, colour = self.rng.uniform(1.1, 1.9), self.pick([(60, 62, 60), (130, 100, 70), (190, 190, 190)])
        self.flank(x, 0, height, start, end, None, 'fence')
        posts = np.arange(start, end, self.rng.uniform(0.3, 0.6)).tolist()
        bars = [[(x, 0, z), (x, 0, z + 0.12), (x, height, z + 0.12), (x, height, z)] for z in posts]
        self.fills(np.array(bars), colour, None)
        for y in (height - 0.15, height * 0.3):
            self.flank(x, y, y + 0.1, start, end, colour, None)

    def tree(self, x: float, z: float, height: float) -> None:
        """A tree, not nearer than the first row."""
        z = max(z, NEAR)
        crown = height * self.rng.uniform(0.22, 0.34)
        self.front(x - 0.15, x + 0.15, 0, height * 0.7, z, self.pick([(75, 58, 42)]), 'vegetation')
        self.leaves(x, height - crown, z, crown, crown)

    def leaves(self, x: float, y: float, z: float, reach_x: float, reach_y: float) -> None:
        """A crown of leaves around a point."""
        green = self.pick([(62, 92, 40), (80, 105, 45), (50, 78, 45), (105, 105, 50)])
        count = min(max(int(500 / z), 8), 40)
        spots = np.hstack([self.rng.normal(0, 0.42, (count, 2)).clip(-1, 1), self.rng.uniform(0.12, 0.4, (count, 1))])
        for i, (dx, dy, radius) in enumerate(spots.tolist()):
            colour = green * (0.75 + 0.3 * i / count + 0.2 * dy)  # lit from above
            self.disc(x + dx * reach_x, y + dy * reach_y, z, reach_x * radius, colour, 'vegetation')

    def bushes(self, x: float, start: float, end: float) -> None:
        """A row of bushes."""
        for z in np.arange(end, start, -2.5):
            if self.rng.uniform() < 0.6:
                self.leaves(x, 0.5, z, self.rng.uniform(0.6, 1.1), 0.5)

    # Things: drawn from far to near.

    def draw_things(self) -> None:
        """Vehicles, people, lamps, signs and trees, from far to near."""
        things: list[tuple[float, Any, tuple]] = []

        def put(thing: Any, x: float, z: float, *arguments: Any) -> None:
            things.append((z, thing, (x, z, *arguments)))

        rng = self.rng
        tram = rng.uniform() < 0.2
        if tram:
            put(self.coach, -self.road * 0.45, rng.uniform(9, 30), 'train')
        for lane, away in ((self.road * 0.4, True), (-self.road * 0.45, False)):
            z = rng.uniform(8, 25)
            while z < 70 and not (tram and not away):
                kind = rng.choice(['car', 'car', 'car', 'truck', 'bus', 'rider', 'motorcycle'])
                x = lane + rng.uniform(-0.4, 0.4)
                if kind == 'car':
                    put(self.car, x, z, away)
                elif kind in ('truck', 'bus'):
                    put(self.coach, x, z, kind)
                else:
                    put(self.cycle, x, z, kind == 'motorcycle', True)
                z += rng.uniform(10, 28)
        for side in (-1, 1):
            x = side * (self.road - 1.1)
            if rng.uniform() < 0.65:
                for z in np.arange(rng.uniform(4, 9), 65, 6.0):
                    if rng.uniform() < 0.65 and not self.crossing - 8 < z < self.crossing + 9:
                        put(self.car, x + rng.uniform(-0.15, 0.15), z, side > 0)
            else:
                for z in rng.uniform(5, 40, rng.integers(1, 4)):
                    put(self.cycle, x, z, rng.uniform() < 0.25, True)
            beside = self.road + 0.4
            for z in rng.uniform(4, 45, rng.integers(1, 7)):
                put(self.person, side * rng.uniform(self.road + 0.6, self.road + self.pavement - 0.4), z)
            for z in rng.uniform(4, 30, rng.integers(0, 3)):
                put(self.cycle, side * (beside + 0.5), z, rng.uniform() < 0.4, False)
            for z in np.arange(rng.uniform(5, 15), 75, rng.uniform(14, 26)):
                put(self.lamp, side * beside, z, side)
            for z in rng.uniform(6, 40, rng.integers(1, 4)):
                put(self.sign, side * beside, z)
            if self.crossing < FAR:
                put(self.traffic_light, side * beside, self.crossing - 1)
            if rng.uniform() < 0.3:
                for z in np.arange(rng.uniform(8, 14), 70, rng.uniform(8, 14)):
                    put(self.tree, side * (beside + 0.5), z, rng.uniform(4, 7))
        if self.crossing < FAR:
            for x in rng.uniform(-self.road, self.road, rng.integers(0, 4)):
                put(self.person, x, self.crossing - rng.uniform(1, 4))
        for _, thing, arguments in sorted(things, key=lambda entry: -entry[0]):
            thing(*arguments)

    def shadow(self, x: float, z: float, half: float, length: float) -> None:
        """The shadow under a vehicle."""
        self.flat(x - half, x + half, 0, z, z + length, DARK, None)

    def wheels(self, near: float, z: float, axles: Sequence[float], radius: float, name: str) -> None:
        """The wheels on the side ``near``, with ``axles`` metres behind ``z``."""
        for dz in sorted(axles, reverse=True):
            angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
            rim = np.stack([np.full(10, near), radius + radius * np.sin(angles), z + dz + radius * np.cos(angles)], -1)
            self.fills(rim[None], TYRE, name)

    def car(self, x: float, z: float, away: bool) -> None:
        """A car, seen from behind (``away``) or from ahead."""
        paint, half = self.pick(CAR_PAINT), self.rng.uniform(0.82, 0.95)
        length, waist, roof = self.rng.uniform(3.6, 4.7), self.rng.uniform(0.85, 1.0), self.rng.uniform(1.4, 1.75)
        self.shadow(x, z, half + 0.1, length)
        for wheel in (-half + 0.15, half - 0.15):
            self.front(x + wheel - 0.12, x + wheel + 0.12, 0, 0.4, z + 0.1, TYRE, 'car')
        near = self.box(x, z, half, 0.25, waist, length, paint, 'car')
        first, last = (0.25, length * 0.7) if away else (length * 0.3, length - 0.25)
        lean = math.copysign(half * 0.15, x - near)  # inward slope of the windows
        self.fill(
            [
                (near, waist, z + first),
                (near, waist, z + last),
                (near + lean, roof, z + last - 0.6),
                (near + lean, roof, z + first + 0.5),
            ],
            paint * 0.8,
            'car',
        )
        low, high = near + lean * 0.1, near + lean * 0.8
        self.fill(
            [
                (low, waist + 0.05, z + first + 0.4),
                (low, waist + 0.05, z + last - 0.35),
                (high, roof - 0.1, z + last - 0.8),
                (high, roof - 0.1, z + first + 0.7),
            ],
            GLASS,
            None,
        )
        for scale, margin, colour, name in ((1.0, 0.0, paint * 0.95, 'car'), (0.88, 0.06, GLASS, None)):
            wide, narrow, sill, top = half * scale, half * 0.85 * scale, waist + margin, roof - margin
            self.fill(
                [
                    (x - wide, sill, z + first),
                    (x + wide, sill, z + first),
                    (x + narrow, top, z + first + 0.5),
                    (x - narrow, top, z + first + 0.5),
                ],
                colour,
                name,
            )
        self.wheels(near, z, (0.7, length - 0.7), 0.32, 'car')
        lamps = (200, 30, 30) if away else (250, 248, 225)
        for lamp in (-half + 0.22, half - 0.22):
            self.front(x + lamp - 0.17, x + lamp + 0.17, 0.62, 0.8, z, lamps, None)
        self.front(x - 0.26, x + 0.26, 0.42, 0.54, z, (225, 225, 215), None)
        self.front(x - half, x + half, 0.25, 0.36, z, DARK, None)

    def coach(self, x: float, z: float, name: str) -> None:
        """A lorry, a bus or a tram."""
        half, length, roof, paints = {
            'truck': (1.15, 7.0, 3.3, ((230, 230, 228), (200, 130, 40), (70, 110, 70))),
            'bus': (1.25, 11.0, 3.0, ((215, 190, 40), (180, 35, 35), (60, 100, 160))),
            'train': (1.25, 26.0, 3.4, ((225, 215, 190), (160, 40, 45), (60, 120, 100))),
        }[name]
        paint = self.pick(paints)
        self.shadow(x, z, half, length)
        for wheel in (-half + 0.2, half - 0.2):
            self.front(x + wheel - 0.2, x + wheel + 0.2, 0, 0.7, z + 0.1, TYRE, name)
        near = self.box(x, z, half, 0.45 if name == 'truck' else 0.3, roof, length, paint, name)
        if name != 'train':
            self.wheels(near, z, (1.2, length - 1.5), 0.48, name)
        if name == 'truck':
            self.front(x - half * 0.03, x + half * 0.03, 0.7, roof - 0.1, z, paint * 0.7, None)
            self.front(x - half, x + half, 0.45, 0.8, z, DARK, None)
            cab = z + length * 0.78
            self.flank(near, 0.45, roof - 0.5, cab, z + length, self.pick(CAR_PAINT), None)
        else:
            self.front(x - half * 0.85, x + half * 0.85, 1.3, roof - 0.5, z, GLASS, None)
            self.front(x - half * 0.6, x + half * 0.6, roof - 0.38, roof - 0.12, z, (240, 200, 70), None)
            for pane in np.arange(z + 0.4, z + length - 1, 1.6):
                self.flank(near, 1.3, roof - 0.6, pane, pane + 1.3, GLASS, None)
            if name == 'train':
                self.front(x - half, x + half, 0.9, 1.15, z, paint * 0.5, None)
        for lamp in (-half + 0.25, half - 0.25):
            self.front(x + lamp - 0.15, x + lamp + 0.15, 0.85, 1.05, z, (220, 60, 40) if x > 0 else (250, 245, 220), None)

    def person(self, x: float, z: float) -> None:
        """A person, grown up or a child."""
        size = self.rng.uniform(0.85, 1.1) if self.rng.uniform() < 0.85 else 0.65
        coat, trousers, stride = self.pick(CLOTHES), self.pick(CLOTHES) * 0.7, self.rng.uniform(0.05, 0.28) * size
        hip, shoulder = 0.88 * size, 1.42 * size
        for foot in (-stride, stride):
            self.limb((x, hip), (x + foot, 0.05), z, 0.17 * size, trousers, 'person')
        for hand in (-1, 1):
            sleeve = (x + hand * 0.2 * size, shoulder - 0.06)
            self.limb(sleeve, (x + hand * (0.22 + stride / 2) * size, hip - 0.05), z, 0.11 * size, coat * 0.85, 'person')
        self.front(x - 0.22 * size, x + 0.22 * size, hip - 0.1, shoulder, z, coat, 'person')
        self.disc(x, shoulder + 0.17 * size, z, (0.11 * size, 0.14 * size), self.pick(SKIN), 'person')
        self.disc(x, shoulder + 0.24 * size, z, (0.11 * size, 0.08 * size), self.pick(HAIR), 'person')

    def cycle(self, x: float, z: float, motor: bool, ridden: bool) -> None:
        """A bicycle or motorcycle, seen at some angle, with or without its rider."""
        name, turn = ('motorcycle' if motor else 'bicycle'), self.rng.uniform(0.35, 1) * self.rng.choice([-1, 1])
        wheel, paint = (0.3 if motor else 0.34), self.pick(CAR_PAINT)
        back, front, seat, bar = x - 0.52 * turn, x + 0.52 * turn, x - 0.2 * turn, x + 0.4 * turn
        for axle in (back, front):
            self.disc(axle, wheel, z, (wheel * abs(turn), wheel), TYRE, name, ring=0.14 if motor else 0.05)
        hub, pedal, saddle, head = (back, wheel), (x, 0.3), (seat, 0.85), (bar, 0.85)
        tubes = ((hub, saddle), (hub, pedal), (pedal, saddle), (pedal, head), (saddle, head), ((bar, 1.02), (front, wheel)))
        for start, end in tubes:
            self.limb(start, end, z, 0.2 if motor else 0.06, paint, name)
        if motor:
            self.disc(x, 0.62, z, (0.55 * abs(turn), 0.24), paint, name)
        self.limb((bar - 0.12, 1.05), (bar + 0.12, 1.05), z, 0.07, DARK, name)
        if not ridden:
            return
        coat, lean = self.pick(CLOTHES), 0.22 * turn
        neck = (seat + lean, 1.45)
        self.limb((seat, 0.9), (x + 0.12 * turn, 0.62), z, 0.17, self.pick(CLOTHES) * 0.7, 'rider')
        self.limb((x + 0.12 * turn, 0.62), (x, 0.22), z, 0.13, self.pick(CLOTHES) * 0.7, 'rider')
        self.limb((seat, 0.92), neck, z, 0.32, coat, 'rider')
        self.limb(neck, (bar, 1.06), z, 0.11, coat * 0.85, 'rider')
        self.disc(neck[0] + 0.04 * turn, 1.66, z, (0.12, 0.14), self.pick(SKIN), 'rider')
        self.disc(neck[0] + 0.02 * turn, 1.73, z, (0.13, 0.09), self.pick(CAR_PAINT), 'rider')

    def pole(self, x: float, z: float, height: float, colour: Colour = METAL) -> None:
        """A pole."""
        self.front(x - 0.06, x + 0.06, 0, height, z, colour, 'pole')

    def lamp(self, x: float, z: float, side: int) -> None:
        """A street lamp, its arm over the road."""
        height = self.rng.uniform(5.5, 8)
        self.pole(x, z, height, self.pick([METAL, (70, 75, 72)]))
        self.limb((x, height), (x - side * 1.6, height + 0.2), z, 0.1, METAL, 'pole')
        self.disc(x - side * 1.6, height + 0.15, z, (0.35, 0.1), (215, 215, 205), 'pole')

    def sign(self, x: float, z: float) -> None:
        """A traffic sign of one of five kinds on its pole."""
        y, size = self.rng.uniform(2.2, 2.8), self.rng.uniform(0.36, 0.52)
        self.pole(x, z, y)
        kind = self.rng.integers(5)
        if kind == 0:
            self.disc(x, y, z, size, (195, 25, 30), 'traffic sign')
            self.disc(x, y, z, size * 0.7, (240, 240, 238), None)
        elif kind == 1:
            self.disc(x, y, z, size, (20, 70, 170), 'traffic sign')
            self.front(x - size * 0.12, x + size * 0.12, y - size * 0.6, y + size * 0.5, z, (240, 240, 240), None)
        elif kind == 2:
            for scale, colour, name in ((1.1, (195, 25, 30), 'traffic sign'), (0.65, (240, 240, 235), None)):
                low, half = y - size * scale * 0.7, size * scale
                self.fill([(x, y + half, z), (x - half, low, z), (x + half, low, z)], colour, name)
        elif kind == 3:
            self.front(x - size, x + size, y - size, y + size, z, (25, 80, 175), 'traffic sign')
            self.front(x - size * 0.4, x + size * 0.4, y - size * 0.5, y + size * 0.5, z, (235, 238, 240), None)
        else:
            for scale, colour, name in ((1.1, (240, 240, 235), 'traffic sign'), (0.8, (235, 190, 30), None)):
                half = size * scale
                self.fill([(x, y + half, z), (x + half, y, z), (x, y - half, z), (x - half, y, z)], colour, name)

    def traffic_light(self, x: float, z: float) -> None:
        """A traffic light, one of its three lamps lit."""
        self.pole(x, z, 3.4)
        self.front(x - 0.24, x + 0.24, 2.5, 3.9, z, DARK, 'traffic light')
        lit = self.rng.integers(3)
        for lamp, colour in enumerate(((50, 230, 120), (250, 190, 40), (245, 50, 40))):
            self.disc(x, 2.75 + 0.45 * lamp, z, 0.16, np.array(colour) * (1 if lamp == lit else 0.25), None)

    # The lens.

    def draw_bonnet(self) -> None:
        """Our own car's bonnet, which no label covers."""
        height, width = self.label.shape
        axes = (int(width * self.rng.uniform(0.42, 0.6)), max(int(height * self.rng.uniform(0.05, 0.1)), 1))
        paint = (self.pick(CAR_PAINT) * 0.6).tolist()
        cv2.ellipse(self.image, (width // 2, height), axes, 0, 0, 360, paint, -1)
        cv2.ellipse(self.label, (width // 2, height), axes, 0, 0, 360, (IGNORE,), -1)

    def developed(self) -> np.ndarray:
        """The image, uint8 (H, W, 3), with blur, noise, uneven light, exposure and a colour cast."""
        height, width = self.label.shape
        image = cv2.GaussianBlur(self.image, (3, 3), self.rng.uniform(0.4, 0.8))
        grain = (np.arange(256) - 127.5) * self.rng.uniform(0.03, 0.12)
        random = np.frombuffer(self.rng.bytes(image.size), np.uint8).reshape(image.shape)
        noise = cv2.LUT(random, grain.astype(np.int8))
        light = cv2.resize(self.rng.integers(-9, 10, (6, 12, 1)).repeat(3, 2).astype(np.int16), (width, height))
        image = cv2.add(cv2.add(image, noise, dtype=cv2.CV_8U), light, dtype=cv2.CV_8U)
        levels = np.arange(256)[:, None] * self.rng.uniform(0.75, 1.2) * self.rng.uniform(0.94, 1.06, 3)
        return cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None])
