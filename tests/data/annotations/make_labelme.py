"""Makes the fixtures of labelme with labelme itself, in an environment that has it (pip install labelme==6.3.1):

    QT_QPA_PLATFORM=offscreen python tests/data/annotations/make_labelme.py

It writes ``labelme/*.json`` as labelme saves them, and ``labelme/*.png``: what its ``shapes_to_label`` makes of them, class ids
in the order of CLASSES.
"""

from pathlib import Path

import numpy as np
from labelme._label_file import read_image_file, read_label_file, write_label_file
from labelme.utils import img_arr_to_b64, img_arr_to_data, img_data_to_arr, shapes_to_label
from PIL import Image

FOLDER = Path(__file__).parent / 'labelme'
CLASSES = ('_background_', 'cat', 'dog', 'line of trees', 'Zaun')  # ids 0 to 4
SIZES = {'small': (48, 64), 'odd': (61, 37), 'row': (1, 90), 'wide': (50, 200)}  # height, width


def random_points(rng, height, width, count):
    """Corners with fractions, some of them outside the image."""
    return (rng.uniform(-0.2, 1.2, (count, 2)) * [width, height]).round(3).tolist()


def random_shapes(rng, height, width):
    shapes = []
    counts = {'polygon': 5, 'circle': 2, 'rectangle': 2, 'line': 2, 'linestrip': 4, 'point': 1, 'oriented_rectangle': 4}
    for number, kind in enumerate(rng.permutation([*counts] * 2)):
        shapes.append(
            {
                'label': CLASSES[number % len(CLASSES)],
                'points': random_points(rng, height, width, counts[kind] + (kind == 'polygon') * int(rng.integers(0, 9) - 2)),
                'group_id': 1 if number % 3 == 0 else None,
                'description': '',
                'shape_type': str(kind),
                'flags': {},
                'mask': None,
            }
        )
    box = [[1, 0], [min(20, width - 1), min(9, height - 1)]]
    mask = rng.random((box[1][1] + 1, box[1][0])) < 0.5
    shapes.append(
        {
            'label': 'dog',
            'points': [[float(x), float(y)] for x, y in box],
            'group_id': None,
            'description': '',
            'shape_type': 'mask',
            'flags': {},
            'mask': img_arr_to_b64(mask.astype(np.uint8)),
        }
    )
    return shapes


for seed, (name, (height, width)) in enumerate(SIZES.items()):
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 50 * seed, np.uint8)
    path = FOLDER / f'{name}.json'
    path.parent.mkdir(exist_ok=True)
    write_label_file(
        str(path),
        shapes=random_shapes(rng, height, width),
        image_path=f'..\\photos\\{name}.png',
        image_height=height,
        image_width=width,
        image_data=img_arr_to_data(picture),
    )
    drawn, _ = shapes_to_label((height, width), read_label_file(str(path)).shapes, {name: i for i, name in enumerate(CLASSES)})
    Image.fromarray(drawn.astype(np.uint8)).save(path.with_suffix('.png'))

# A photo of a phone, stored lying: labelme shows it upright, 48 pixels wide, and its points are those of the upright picture.
turned = FOLDER / 'turned.JPG'
exif = Image.Exif()
exif[0x0112] = 6
Image.fromarray(np.tile(np.arange(0, 192, 3, dtype=np.uint8), (48, 1))).save(turned, format='JPEG', exif=exif)
upright = img_data_to_arr(read_image_file(str(turned)))
write_label_file(
    str(turned.with_suffix('.json')),
    shapes=[
        {'label': 'cat', 'points': [[2, 3], [30, 5], [20, 40]], 'group_id': None, 'shape_type': 'polygon', 'flags': {}},
        {'label': 'dog', 'points': [[30, 50], [34, 58]], 'group_id': None, 'shape_type': 'circle', 'flags': {}},
    ],
    image_path='turned.JPG',
    image_height=upright.shape[0],
    image_width=upright.shape[1],
)
shapes = read_label_file(str(turned.with_suffix('.json'))).shapes
drawn, _ = shapes_to_label(upright.shape, shapes, {name: i for i, name in enumerate(CLASSES)})
Image.fromarray(drawn.astype(np.uint8)).save(turned.with_suffix('.png'))
