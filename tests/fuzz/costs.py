"""What a file of a megabyte can cost at most, by kinds of files: ``python -m tests.fuzz.costs`` prints SECURITY.md's table.

Each file is made as costly as its format and the limits of its reader allow, as far as we know how; it is read, or refused, in
a watched process.
"""

import json
import os
import random
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from tests.fuzz import readers
from tests.fuzz.__main__ import make_ready
from tests.fuzz.protobuf import encoded
from tests.fuzz.watched import Limits, World, watch
from twinseg.common.cli import main as command
from twinseg.common.cli.notices import show_warnings_in_one_line
from twinseg.common.data.annotations.base import MAX_PAINTED
from twinseg.common.data.reading import ImageRules, read_image
from twinseg.common.tasks import tiles, video

SIZE = 1 << 20  # bytes
SIDES = (8191, 8192)  # of the largest image that a data set has
LIMITS = Limits(seconds=600, memory=20 << 30, statuses=(0, 1, 2))
Make = Callable[[Path], None]


def picture(name: str, **options: object) -> Make:
    """An image of the most pixels, all of one colour."""

    def make(folder: Path) -> None:
        Image.new('RGB', SIDES).save(folder / name, **options)

    return make


def largest(folder: Path) -> None:
    """A PNG of the most pixels that ``predict`` takes, a bit each."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    Image.new('1', (23170, tiles.MAX_PREDICTED // 23170)).save(folder / 'x.png')
    Image.MAX_IMAGE_PIXELS = before


def motion_jpeg(folder: Path) -> None:
    writer = cv2.VideoWriter(str(folder / 'v.avi'), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*'MJPG'), 5, (4096, 4096))
    for _ in range(5):
        writer.write(np.zeros((4096, 4096, 3), np.uint8))
    writer.release()


def pickled(folder: Path) -> None:
    """Half a million empty lists in one."""
    (folder / 'x.pth').write_bytes(b'\x80\2' + b'](' + b']' * (SIZE - 20) + b'e.')


def zipped_pickle(folder: Path) -> None:
    """A dict of very many names."""
    names = b''.join(b'X\4\0\0\0%04x}' % (number % 65536) for number in range(SIZE // 11))
    with zipfile.ZipFile(folder / 'x.pth', 'w') as archive:
        archive.writestr('archive/data.pkl', b'\x80\2}(' + names + b'u.')


def checkpoint_values(folder: Path) -> None:
    """A .ckpt of very many tensors."""
    tensor = encoded(1, 0, 1) + encoded(2, 2, b'Float32') + encoded(3, 2, bytes(4))
    values = (encoded(1, 2, b'%06d' % number) + encoded(2, 2, tensor) for number in range(SIZE // 29))
    (folder / 'x.ckpt').write_bytes(b''.join(encoded(1, 2, value) for value in values))


def headers(folder: Path) -> None:
    """A safetensors file that is all header."""
    entries = {f'{i:05d}': {'dtype': 'F32', 'shape': [], 'data_offsets': [4 * i, 4 * i + 4]} for i in range(SIZE // 72)}
    text = json.dumps(entries).encode()
    (folder / 'x.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + bytes(4 * len(entries)))


def recipe(folder: Path) -> None:
    keys = {'arch': 'enet', 'model_args': {f'k{i}': [0] * 6 for i in range(13_000)}}
    (folder / 'c.yaml').write_text(yaml.safe_dump(keys, default_flow_style=True, width=SIZE))


def metrics(folder: Path) -> None:
    """A run with a confusion matrix of 500 classes."""
    (folder / 'run').mkdir()
    (folder / 'run/config.yaml').write_text('set: toy_street\n')
    names = {f'c{i}': {'IoU': 1.0} for i in range(500)}
    line = {'kind': 'eval', 'step': 1, 'mIoU': 1.0, 'mAcc': 1.0, 'aAcc': 1.0, 'classes': names, 'confusion': [[0] * 500] * 500}
    (folder / 'run/metrics.jsonl').write_text(json.dumps(line, separators=(',', ':')) + '\n')


def ranks(folder: Path) -> None:
    devices = [{'device_id': '0', 'device_ip': '1.1.1.1', 'rank_id': '0'}] * (SIZE // 60)
    servers = [{'server_id': '1.1.1.1', 'device': devices}]
    table = {'version': '1.0', 'status': 'completed', 'server_count': '1', 'server_list': servers}
    (folder / 'r.json').write_text(json.dumps(table))


def outlines(folder: Path) -> None:
    """Objects over all of the largest image, as many as may be painted, and one with as many corners as there is room for."""
    (folder / 'labelme').mkdir()
    width, height = SIDES
    for name in 'ab':
        Image.new('1', SIDES).save(folder / f'labelme/{name}.png')
        box = {'label': 'a', 'shape_type': 'rectangle', 'points': [[0, 0], [width - 1, height - 1]]}
        corners = [[i % width, (0, height - 1)[i % 2]] for i in range(40)]
        shapes = [box] * (MAX_PAINTED // (width * height) - 1) + [{**box, 'shape_type': 'polygon', 'points': corners}]
        content = {'imagePath': f'{name}.png', 'imageData': None, 'shapes': shapes}
        (folder / f'labelme/{name}.json').write_text(json.dumps(content))


def zip_of_zeros(folder: Path) -> None:
    with zipfile.ZipFile(folder / 'x.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('zeros', bytes(1 << 30))


def zip_of_names(folder: Path) -> None:
    with zipfile.ZipFile(folder / 'x.zip', 'w') as archive:
        for number in range(SIZE // 110):
            archive.writestr(f'{number:05d}', b'')


def zeros(folder: Path) -> None:
    """A label of SBD that unpacks to all that is read of one."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack('<2I', kind, len(body)) + body + bytes(-len(body) % 8)

    data = zlib.compress(element(14, bytes((16 << 20) - 64)))
    content = struct.pack('<H', 0x100) + b'IM' + struct.pack('<2I', 15, len(data)) + data
    (folder / 'x.mat').write_bytes(b'MATLAB 5.0'.ljust(124) + content)


def constants(folder: Path) -> None:
    """ONNX of as many nodes as there is room for."""
    from onnx import helper

    from tests.deploy import test_hostile_onnx as onnx

    Image.new('RGB', (24, 16)).save(folder / 'a.png')
    nodes = [helper.make_node('Relu', [f'c{i}' if i else 'features'], [f'c{i + 1}']) for i in range(SIZE // 30)]
    nodes.append(helper.make_node('Identity', [f'c{len(nodes)}'], ['extra']))
    (folder / 'x.onnx').write_bytes(onnx.model(nodes).SerializeToString())


def _image(most: int = ImageRules().most) -> int:
    [path] = Path().glob('x.*')
    return readers.edge(lambda: read_image(path, rules=ImageRules(most=most)))


def _video() -> int:
    return readers.edge(lambda: video.rewrite(Path('v.avi'), Path('o.mp4'), lambda frame: frame[:64, :64]))


def _first(read: Callable[[random.Random], int]) -> int:
    return read(random.Random(1))


COSTS: dict[str, tuple[Make, Callable[[], int]]] = {
    'PNG': (picture('x.png'), _image),
    'JPEG': (picture('x.jpg', progressive=True, quality=1), _image),
    'TIFF': (picture('x.tif', compression='tiff_deflate'), _image),
    'WebP': (picture('x.webp', lossless=True, method=0), _image),
    'GIF': (picture('x.gif'), _image),
    'PNG, largest for predict': (largest, lambda: _image(tiles.MAX_PREDICTED)),
    'video': (motion_jpeg, _video),
    '.pth (pickle)': (pickled, lambda: _first(readers.read_weights)),
    '.pth (zip)': (zipped_pickle, lambda: _first(readers.read_weights)),
    '.ckpt': (checkpoint_values, lambda: _first(readers.read_weights)),
    'safetensors': (headers, lambda: _first(readers.read_weights)),
    'recipe': (recipe, lambda: _first(readers.read_recipe)),
    'metrics of a run': (metrics, lambda: command(['report', 'run', '--out', 'r.html', '--pictures', '0'])),
    'rank table': (ranks, lambda: _first(readers.read_ranks)),
    'annotations': (outlines, lambda: command(['prepare', 'custom', '--from', 'labelme', 'labelme', '--folder', 'out'])),
    'zip, one member': (zip_of_zeros, lambda: _first(readers.read_archive)),
    'zip, many members': (zip_of_names, lambda: _first(readers.read_archive)),
    '.mat': (zeros, lambda: _first(readers.read_matlab)),
    'ONNX': (constants, lambda: command(['predict', 'a.png', '--model', 'x.onnx', '--out', 'p'])),
}


def main() -> None:
    os.environ['OPENCV_FFMPEG_LOGLEVEL'] = '-8'
    show_warnings_in_one_line()
    make_ready(torch=False)
    print('| file | MB on the disk | MB of memory | seconds of a core | |\n|---|---|---|---|---|')
    for name, (make, read) in COSTS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory(prefix='twinseg-costs-') as root:
            world = World(Path(root) / 'world')
            make(world.case)
            size = sum(path.stat().st_size for path in world.case.rglob('*') if path.is_file()) / SIZE
            outcome = watch(read, world, LIMITS)
            result = outcome.problem or ('refused' if outcome.status == 2 else 'read')
            print(f'| {name} | {size:.2f} | {outcome.memory >> 20} | {outcome.seconds:.1f} | {result} |', flush=True)


if __name__ == '__main__':
    main()
