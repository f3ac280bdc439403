"""Makes the fixtures of Supervisely with the geometry of its SDK, whose wheel is unpacked; the rest of the SDK needs a hundred
packages, and is replaced here by objects that do nothing:

    pip download --no-deps supervisely==6.74.51 && unzip -d sdk supervisely-6.74.51-*.whl
    python tests/data/annotations/make_supervisely.py sdk

It writes the project ``supervisely/``, and ``supervisely_labels/*.png``: what the SDK draws, ids 1 and 2 for its two classes.
"""

import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import cv2  # noqa: F401
import numpy as np
from PIL import Image, ImageDraw, ImageFont  # noqa: F401

FOLDER = Path(__file__).parent
SDK = Path(sys.argv[1]).resolve()
KEPT = {'supervisely', 'numpy', 'cv2', 'PIL', *sys.stdlib_module_names}


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in KEPT else importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return MagicMock(__path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


sys.path.insert(0, str(SDK))
sys.meta_path.insert(0, Absent())
for name in ('', '.geometry', '.imaging', '.io', '.annotation', '.api'):
    module = types.ModuleType(f'supervisely{name}')
    module.__path__ = [str(SDK / f'supervisely{name}'.replace('.', '/'))]
    sys.modules[module.__name__] = module
sys.modules['supervisely'].logger = MagicMock()
for name in ('_utils', 'io.fs', 'io.json', 'sly_logger'):
    sys.modules[f'supervisely.{name}'] = MagicMock()
sys.modules['supervisely._utils'].unwrap_if_numpy = lambda x: x.item() if isinstance(x, np.number) else x
sys.modules['supervisely.io.json'].JsonSerializable = type('JsonSerializable', (), {})

from supervisely.geometry.bitmap import Bitmap  # noqa: E402
from supervisely.geometry.polygon import Polygon  # noqa: E402
from supervisely.geometry.rectangle import Rectangle  # noqa: E402

KINDS = {'bitmap': Bitmap, 'polygon': Polygon, 'rectangle': Rectangle}
CLASSES = {'leaf': '#00FF7F', 'stone': '#801020'}


def random_object(rng, kind, height, width):
    """An object as the platform saves it."""
    item = {'classTitle': str(rng.choice([*CLASSES])), 'geometryType': kind, 'tags': [], 'description': ''}
    if kind == 'bitmap':
        mask = rng.random((height // 3, width // 3)) < 0.6
        x, y = (int(value) for value in rng.integers(0, [width // 2, height // 2]))
        return {**item, 'bitmap': {'data': Bitmap.data_2_base64(mask), 'origin': [x, y]}}
    corners = (rng.uniform(0, 0.99, (2 if kind == 'rectangle' else int(rng.integers(3, 8)), 2)) * [width, height]).round(2)
    hole = (rng.uniform(0.3, 0.7, (4, 2)) * [width, height]).round()
    interior = [hole.astype(int).tolist()] if kind == 'polygon' and rng.random() < 0.5 else []
    if kind == 'rectangle':
        corners = np.stack([corners.min(0), corners.max(0)])
    return {**item, 'points': {'exterior': corners.tolist(), 'interior': interior}}


for seed, (split, height, width) in enumerate([('train', 40, 56), ('train', 31, 90), ('val', 64, 33)]):
    rng = np.random.default_rng(seed)
    name = f'photo {seed}.png'
    objects = [random_object(rng, kind, height, width) for kind in (*KINDS, *reversed(KINDS))]
    label = np.zeros((height, width), np.uint8)
    for item in objects:
        figure = KINDS[item['geometryType']].from_json(item)
        figure._draw_impl(label, 1 + [*CLASSES].index(item['classTitle']))
    for folder, suffix in (('img', ''), ('ann', '.json')):
        path = FOLDER / 'supervisely' / split / folder / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix:
            content = {'description': '', 'tags': [], 'size': {'height': height, 'width': width}, 'objects': objects}
            path.write_text(json.dumps(content))
        else:
            Image.new('RGB', (width, height)).save(path)
    (FOLDER / 'supervisely_labels').mkdir(exist_ok=True)
    Image.fromarray(label).save(FOLDER / 'supervisely_labels' / name)
classes = [{'title': title, 'color': colour, 'shape': 'any'} for title, colour in CLASSES.items()]
(FOLDER / 'supervisely/meta.json').write_text(json.dumps({'classes': classes, 'tags': [], 'projectType': 'images'}))
