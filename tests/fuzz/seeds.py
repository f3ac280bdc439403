"""Small good files for every reader: each function fills a folder, and yields when it is one to begin from."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image, features

from tests.conftest import GOLDEN
from tests.data.annotations import test_cvat, test_labelme
from tests.data.test_datasets import camvid, custom, ids, photo, save, voc
from tests.fuzz.protobuf import encoded
from tests.golden import golden
from tests.support import photos, streets, tiny, web
from twinseg.common import checkpoint, config
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.data.cache import build_cache
from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from twinseg.common.data.open import open_for_cache

NETWORK = ['--backend', 'pytorch', '--device', 'cpu']
TIME = 1_700_000_000  # of all files, so that a case can be made again
KEYS = {  # of a checkpoint of the network tiny
    'arch': 'tiny',
    'set': 'toy_street',
    'image_size': [32, 64],
    'crop_size': [32, 64],
    'train_samples': 2,
    'val_samples': 1,
    'batch_size': 2,
    'max_iters': 2,
    'num_parallel_workers': 0,
    'threads': 1,
}
Seeds = Iterator[None]


# Weights


def torch_files(folder: Path) -> Seeds:
    """Of torch.save in both formats: weights, a training, a module; TorchScript; plain pickles."""
    import torch

    state = {f'backbone.{index}.weight': torch.arange(24.0).reshape(2, 3, 2, 2) for index in range(3)}
    state['backbone.0.bias'] = torch.ones(2, dtype=torch.float16)
    moments = {'state': {0: {'m': torch.ones(3)}}}
    training = {'state_dict': state, 'meta': {'epoch': 3, 'CLASSES': ['a', 'b']}, 'optimizer': moments}
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    for content in (state, training, module):
        for zipped in (True, False):
            torch.save(content, folder / 'x.pth', _use_new_zipfile_serialization=zipped)
            yield
    torch.jit.save(torch.jit.script(module), str(folder / 'x.pth'))
    yield
    arrays = {'state_dict': {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'numbers': [1, 2.5, 'x', None]}
    for protocol in (0, 2, 4):
        (folder / 'x.pth').write_bytes(pickle.dumps(arrays, protocol))
        yield


def mindspore_files(folder: Path) -> Seeds:
    """.ckpt files, written field by field: tensors alone, and with a text of ours."""

    def value(name: str, dims: tuple[int, ...], kind: str, content: bytes) -> bytes:
        sizes = b''.join(encoded(1, 0, size) for size in dims)
        tensor = sizes + encoded(2, 2, kind.encode()) + encoded(3, 2, content)
        return encoded(1, 2, encoded(1, 2, name.encode()) + encoded(2, 2, tensor))

    numbers = np.arange(24, dtype=np.float32)
    values = [value('backbone.conv.weight', (2, 3, 4), 'Float32', numbers.tobytes())]
    values += [value(f'bn.{name}', (4,), 'Float32', numbers[:4].tobytes()) for name in ('gamma', 'beta', 'moving_mean')]
    values += [value('step', (1,), 'Int32', b'\7\0\0\0'), value('half', (2,), 'Float16', b'\0\0\0\x3c')]
    values += [value('brain', (), 'BFloat16', b'ab')]
    (folder / 'x.ckpt').write_bytes(b''.join(values))
    yield
    text = json.dumps({'format': 1, 'config': {'arch': 'enet'}})
    (folder / 'x.ckpt').write_bytes(b''.join([*values, value('twinseg', (len(text),), 'str', text.encode('utf-32-le'))]))
    yield


def safetensors_files(folder: Path) -> Seeds:
    """Published ones with metadata, of rare types, and the index of several."""
    entries = {'a': ('F32', [2, 3], 24), 'n': ('I64', [], 8), 'h': ('F16', [2], 4), '__metadata__': {'format': 'pt'}}
    rare = {'a': ('F8_E4M3', [2, 2], 4), 'b': ('BF16', [2, 2], 8), 'c': ('F64', [2, 2], 32), 'd': ('BOOL', [4], 4)}
    for table in (entries, rare):
        header, at = {}, 0
        for name, entry in table.items():
            if isinstance(entry, dict):
                header[name] = entry
                continue
            kind, shape, size = entry
            header[name] = {'dtype': kind, 'shape': shape, 'data_offsets': [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        (folder / 'x.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + bytes(at))
        yield
    (folder / 'x.safetensors').write_text(json.dumps({'weight_map': {'a': 'x-1.safetensors', 'b': 'x-2.safetensors'}}))
    yield


def published_weights(folder: Path) -> Seeds:
    """ENet of davidtvs as its publisher saves it, alone and in a training, in every format."""
    import torch
    from safetensors.numpy import save_file

    arrays = golden.state_dict(golden.read(GOLDEN / 'davidtvs_enet.json'))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for content in (state, {'epoch': 1, 'miou': 0.5, 'state_dict': state}):
        for zipped in (True, False):
            torch.save(content, folder / 'x.pth', _use_new_zipfile_serialization=zipped)
            yield
    (folder / 'x.pth').unlink()
    save_file(dict(arrays), folder / 'x.safetensors')
    yield


# Checkpoints of our own, and runs


def checkpoints(folder: Path) -> Seeds:
    """A checkpoint and an image; then also the run that made it, which can be resumed."""
    backend = get_backend('pytorch')
    state = {f'model.{name}': array for name, array in backend.state(tiny.tiny_network('pytorch', 0.0, 19)).items()}
    meta = checkpoint.RunMeta(
        config=KEYS,
        backend='pytorch',
        device='cpu',
        step=2,
        num_classes=19,
        classes=list(CITYSCAPES_CLASSES),
        palette=[list(colour) for colour in CITYSCAPES_PALETTE],
        versions={'torch': '2'},
        scores={'mIoU': 0.5},
    )
    checkpoint.save(folder / 'x.safetensors', state, meta)
    save(folder / 'a.png', photo(size=(32, 64)))
    yield
    _train(folder)
    shutil.copy(next((folder / 'run/checkpoints').glob('step_*')), folder / 'x.safetensors')
    yield


def _train(folder: Path) -> None:
    (folder / 'run.yaml').write_text(yaml.safe_dump({**KEYS, 'max_iters': 1, 'val_interval': 1}))
    if main(['train', str(folder / 'run.yaml'), *NETWORK, '--work-dir', str(folder / 'run')]):
        raise RuntimeError('the run to begin from was not made')
    shutil.rmtree(folder / 'run/tensorboard')


def runs(folder: Path) -> Seeds:
    """A run's folder as a training leaves it, with scores of an evaluation, and a page of earlier results."""
    _train(folder)
    (folder / 'run.yaml').unlink()
    (folder / 'run/export_onnx.json').write_text(json.dumps({'format': 'onnx', 'difference': 3e-7, 'passed': True}))
    (folder / 'run/ms.json').write_text(json.dumps({'mIoU': 50.0, 'conditions': {'ms_flip': True, 'split': 'val'}}))
    (folder / 'parity.json').write_text(json.dumps([{'what': 'logits', 'difference': 1e-6}]))
    if main(['results', str(folder / 'run'), '--out', str(folder / 'r.md')]):
        raise RuntimeError('the page to begin from was not made')
    yield


# Recipes


def recipes(folder: Path) -> Seeds:
    """A recipe of each task, one with a base, one in the model zoo's words; and lines for --set."""
    (folder / 'b.yaml').write_text('set: cityscapes\nseed: 3\noptimizer: adamw\n')
    (folder / 'set.txt').write_text('crop_size=[64, 96]\nbase_lr=1e-3\nmodel_args={bn_momentum: 0.3}\nclasses=[a, b]\n')
    for keys in (
        streets.settings(Path('d')),
        photos.settings(Path('d'), class_file='classes.txt'),
        {'base': 'b.yaml', 'arch': 'stdc1_seg', 'preset': 'mmseg', 'epochs': 3, 'class_weight': 'enet'},
        {'arch': 'DDRNet23', 'num_classes': 10, 'image_size': 64, 'optimizer': 'momentum', 'base_lr': 0.1, 'data_url': 'd'},
    ):
        (folder / 'c.yaml').write_text(yaml.safe_dump(keys))
        yield


# Images and videos


def images(folder: Path) -> Seeds:
    """Every format that is read, in several forms, and some that are not."""
    colour, deep = photo(size=(9, 11)), np.arange(99, dtype=np.uint16).reshape(9, 11) * 600
    rgb, grey, sixteen = (Image.fromarray(pixels) for pixels in (colour, colour[..., 0], deep))
    exif = Image.Exif()
    exif[0x0112] = 6
    formats = (
        'PNG',
        'JPEG',
        'TIFF',
        'WEBP',
        'BMP',
        'DIB',
        'GIF',
        'PPM',
        'JPEG2000',
        *(['AVIF'] if features.check('avif') else []),
    )
    forms: list[tuple[Image.Image, str, dict]] = [
        *((rgb, kind, {}) for kind in (*formats, 'EPS', 'PDF', 'ICO', 'TGA', 'PCX', 'SGI', 'ICNS')),
        *((grey, kind, {}) for kind in ('PNG', 'JPEG', 'TIFF', 'PPM')),
        *((sixteen, kind, {}) for kind in ('PNG', 'TIFF', 'PPM')),
        *((rgb, 'TIFF', {'compression': kind}) for kind in ('tiff_lzw', 'tiff_deflate', 'jpeg', 'packbits')),
        *((rgb.convert(mode), 'PNG', {}) for mode in ('P', '1', 'RGBA', 'LA')),
        *((rgb, kind, {'exif': exif}) for kind in ('JPEG', 'PNG', 'WEBP', 'TIFF')),
        (rgb, 'WEBP', {'lossless': True}),
        (rgb.convert('CMYK'), 'JPEG', {}),
        (Image.fromarray(np.ones((9, 11), np.float32)), 'TIFF', {}),
    ]
    for picture, kind, options in forms:
        picture.save(folder / f'x.{"png" if kind == "PNG" else "img"}', kind, **options)
        yield
        for path in folder.glob('x.*'):
            path.unlink()
    for pixels in (np.arange(297, dtype=np.uint16).reshape(9, 11, 3) * 200, np.ones((9, 11, 3), np.float64)):
        cv2.imwrite(str(folder / 'x.tif'), pixels)
        yield


def videos(folder: Path) -> Seeds:
    for name, code in (('v.mp4', 'mp4v'), ('v.avi', 'MJPG'), ('v.mkv', 'MJPG')):
        writer = cv2.VideoWriter(str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 5, (32, 16))
        for index in range(3):
            writer.write(photo(index, (16, 32)))
        writer.release()
        yield
        (folder / name).unlink()


def pictures(folder: Path) -> Seeds:
    """A folder of pictures, and a checkpoint."""
    next(checkpoints(folder))
    (folder / 'a.png').unlink()
    for name in ('sub/b.jpg', 'c.png', 'c.tif'):
        save(folder / 'd' / name, photo(size=(20, 30)))
    yield


# Data sets


def _recipe(folder: Path, **keys: object) -> None:
    (folder / 'c.yaml').write_text(yaml.safe_dump({'arch': 'enet', 'num_parallel_workers': 0, 'data_url': 'd', **keys}))


def custom_sets(folder: Path) -> Seeds:
    """Folders with ids in the labels, with a list, with colours."""
    keys = {**custom(folder / 'd').model_dump(exclude_unset=True), 'data_url': 'd', 'val_split': 'train'}
    _recipe(folder, **keys)
    yield
    (folder / 'd/train.txt').write_text('town/one.jpg\ttown/one_mask.png\n')
    _recipe(folder, **keys, split_list='{split}.txt')
    yield
    save(folder / 'd/masks/train/town/one_mask.png', np.full((20, 30, 3), 9, np.uint8))
    save(folder / 'd/photos/train/town/one.jpg', photo(size=(20, 30)))
    _recipe(folder, **{**keys, 'label_map': {'9,9,9': 1}, 'palette': [[0, 0, 0], [9, 9, 9]], 'unknown_colors': 'ignore'})
    yield


def published_sets(folder: Path) -> Seeds:
    """CamVid in both forms, Cityscapes, VOC."""
    below = folder / 'd'
    camvid(below)
    _recipe(folder, set='camvid')
    yield
    shutil.rmtree(below)
    for name in ('x1', 'x2'):
        save(below / f'701_StillsRaw_full/{name}.png', photo())
        save(below / f'LabeledApproved_full/{name}_L.png', np.zeros_like(photo()))
    for split in ('train', 'val'):
        (below / f'{split}.txt').write_text('701_StillsRaw_full/x2.png other columns\n\nx1\n')
    _recipe(folder, set='camvid32')
    yield
    shutil.rmtree(below)
    for split in ('train', 'val'):
        save(below / f'leftImg8bit/{split}/ulm/ulm_0_1_leftImg8bit.png', photo())
        save(below / f'gtFine/{split}/ulm/ulm_0_1_gtFine_labelIds.png', ids(*range(34), 255))
    _recipe(folder, set='cityscapes')
    yield
    shutil.rmtree(below)
    voc(below)
    _recipe(folder, set='voc')
    yield


def image_folders(folder: Path) -> Seeds:
    """Folders of classes, and tars of them, with files that number the classes."""
    photos.make(folder / 'd', 2, 1, (10, 12))
    (folder / 'classes.json').write_text(json.dumps({str(i): [name, name.title()] for i, name in enumerate(photos.CLASSES)}))
    keys = {'arch': 'resnet18', 'set': 'image_folder', 'image_size': 16}
    _recipe(folder, **keys, class_file='classes.json')
    yield
    (folder / 'classes.json').unlink()
    (folder / 'classes.txt').write_text('blue\ngreen first\nred\n')
    for split in ('train', 'val'):
        below = folder / 'd' / split
        files = {str(path.relative_to(below)): path.read_bytes() for path in sorted(below.rglob('*.png'))}
        shutil.rmtree(below)
        web.tar(folder / f'd/{split}.tar', files)
    _recipe(folder, **keys, class_file='classes.txt')
    yield


def caches(folder: Path) -> Seeds:
    """A custom set with its cache, which knows the files by their times."""
    next(custom_sets(folder))
    same_times(folder)
    here, before = os.getcwd(), os.environ.get('TWINSEG_CACHE')
    os.environ['TWINSEG_CACHE'] = str(folder / 'cache')
    os.chdir(folder)
    try:
        build_cache(open_for_cache(config.load('c.yaml').data), 'raise')
    finally:
        os.chdir(here)
        os.environ.pop('TWINSEG_CACHE') if before is None else os.environ.update(TWINSEG_CACHE=before)
    yield


def same_times(folder: Path) -> None:
    """Gives all files below a folder one time."""
    for path in sorted(folder.rglob('*')):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (TIME, TIME))


# Annotations, and what is prepared


def annotations(folder: Path) -> Seeds:
    """labelme, COCO, CVAT and Supervisely, each in a folder of that name; and names of classes."""
    (folder / 'classes.txt').write_text(
        'cat\ndog\nroad\nroof tile\nleaf\nstone\nline of trees\nZaun=cat\n_background_=__ignore__\n'
    )
    for name in 'ab':
        save(folder / f'labelme/{name}.png', photo(size=(10, 12)))
    shapes = [
        test_labelme.shape(points=[[2, 1], [7, 5]], shape_type=kind, label=label)
        for kind, label in (('rectangle', 'dog'), ('line', 'cat'), ('circle', 'dog'))
    ]
    test_labelme.annotate(folder / 'labelme/a.json', test_labelme.shape(), shapes[0], imageHeight=10, imageWidth=12)
    test_labelme.annotate(folder / 'labelme/b.json', *shapes[1:])
    yield
    shutil.rmtree(folder / 'labelme')
    (folder / 'labelme').mkdir()
    for name in ('small.json', 'odd.json'):
        shutil.copy(test_labelme.FIXTURES / name, folder / 'labelme')
    yield
    shutil.rmtree(folder / 'labelme')
    for name in 'ab':
        save(folder / f'coco/{name}.png', photo(size=(10, 12)))
    parts: list = [[[1, 1, 5, 1, 5, 5]], {'size': [10, 12], 'counts': [3, 4, 113]}, {'size': [10, 12], 'counts': '34a3'}]
    objects = [
        {'id': number, 'image_id': number % 2, 'category_id': 7, 'segmentation': part, 'iscrowd': number % 2}
        for number, part in enumerate(parts)
    ]
    pictures = [{'id': number, 'file_name': f'{name}.png', 'height': 10, 'width': 12} for number, name in enumerate('ab')]
    for count in (2, 3):
        content = {'images': pictures, 'annotations': objects[:count], 'categories': [{'id': 7, 'name': 'cat'}]}
        (folder / 'coco/instances.json').write_text(json.dumps(content))
        yield
    shutil.rmtree(folder / 'coco')
    test_cvat.export(folder / 'cvat')
    yield
    shutil.rmtree(folder / 'cvat')
    shutil.copytree(Path(test_labelme.__file__).parent / 'supervisely', folder / 'supervisely')
    yield


def prepared(folder: Path) -> Seeds:
    """Cityscapes' polygons, VOC with SBD's labels, CamVid in zips, each in a folder of that name."""
    for split in ('train', 'val'):
        stem = f'{split}/ulm/ulm_0_1'
        save(folder / f'cityscapes/leftImg8bit/{stem}_leftImg8bit.png', photo())
        thing = {'label': 'cargroup', 'polygon': [[1, 1], [9, 1], [5, 8]]}
        content = {'imgHeight': 20, 'imgWidth': 30, 'objects': [thing, {**thing, 'label': 'road', 'deleted': 1}]}
        _write(folder / f'cityscapes/gtFine/{stem}_gtFine_polygons.json', json.dumps(content).encode())
    yield
    shutil.rmtree(folder / 'cityscapes')
    base = voc(folder / 'voc')
    shutil.rmtree(base / 'SegmentationClassAug')
    (base / 'ImageSets/Segmentation/aug.txt').unlink()
    for name, split in (('2010_000001', 'train'), ('2010_000002', 'val')):
        _write(folder / f'voc/benchmark_RELEASE/dataset/cls/{name}.mat', _matlab(packed=True))
        _write(folder / f'voc/benchmark_RELEASE/dataset/{split}.txt', f'{name}\n'.encode())
    yield
    shutil.rmtree(folder / 'voc')
    (folder / 'camvid32').mkdir()
    for name in ('701_StillsRaw_full', 'LabeledApproved_full'):
        members = {f'{name}/{number}.png': _png() for number in range(2)}
        web.zipped(folder / f'camvid32/{name}.zip', {**members, 'README': b'x', f'{name}/list.txt': b'a\n'})
    yield


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(size=(6, 8))).save(file, 'PNG')
    return file.getvalue()


def archives(folder: Path) -> Seeds:
    """Zips, stored and compressed; tars, plain and compressed."""
    members = {'a/b/c.txt': b'one', 'd.txt': b'two' * 300, 'a/e.png': _png(), 'README': b''}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / 'x.zip', 'w') as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, compression)
        yield
    (folder / 'x.zip').unlink()
    for mode in ('w', 'w:gz'):
        web.tar(folder / 'x.tar', members, mode)
        yield


def matlab_files(folder: Path) -> Seeds:
    for packed in (True, False):
        (folder / 'x.mat').write_bytes(_matlab(packed))
        yield


def _matlab(packed: bool) -> bytes:
    """A label as SBD has them, without the fields that nobody reads."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack('<2I', kind, len(body)) + body + bytes(-len(body) % 8)

    def array(kind: int, sizes: tuple[int, int], rest: bytes, name: bytes = b'') -> bytes:
        head = element(6, struct.pack('<2I', kind, 0)) + element(5, struct.pack('<2i', *sizes)) + element(1, name)
        return element(14, head + rest)

    label = array(9, (20, 30), element(2, bytes(np.arange(600, dtype=np.uint8) % 21)))
    names = element(5, struct.pack('<i', 32)) + element(1, b'Segmentation'.ljust(32, b'\0'))
    content = array(2, (1, 1), names + label, b'GTcls')
    data = zlib.compress(content)
    content = struct.pack('<2I', 15, len(data)) + data if packed else content
    return b'MATLAB 5.0'.ljust(124) + struct.pack('<H', 0x100) + b'IM' + content


# Deployment


def rank_tables(folder: Path) -> Seeds:
    hosts = ['10.0.0.1:0=192.168.100.101,1=192.168.101.101', '10.0.0.2:0=192.168.100.102']
    main(['ranks', *hosts, '--out', str(folder)])
    next(folder.glob('hccl*')).rename(folder / 'r.json')
    yield


def networks(folder: Path) -> Seeds:
    """ONNX with weights in it, in a file beside, with a resize, in int8; and the files of preprocess and of a card."""
    from onnx import helper

    from tests.deploy import test_hostile_onnx as onnx

    save(folder / 'a.png', photo(size=onnx.SIZE))
    int8 = [onnx.constant('s', np.float32(0.1)), onnx.constant('z', np.int8(0))]
    nodes = [
        helper.make_node('QuantizeLinear', ['features', 's', 'z'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 's', 'z'], ['extra']),
    ]
    (folder / 'w.bin').write_bytes(onnx.WEIGHT.tobytes())
    for parts in ({}, onnx.external('w.bin'), onnx.resize(2.0), {'nodes': nodes, 'weights': int8}):
        (folder / 'x.onnx').write_bytes(onnx.model(**parts).SerializeToString())
        yield
    (folder / 'x.onnx').write_bytes(onnx.model().SerializeToString())
    meta = {'data': 'custom', 'split': 'val', 'classes': ['a', 'b', 'c'], 'ignore_index': 255, 'input': 'float32'}
    meta |= {'input_shape': [3, *onnx.SIZE], 'samples': [{'name': '0_a', 'label': list(onnx.SIZE)}]}
    _write(folder / 'pre/meta.json', json.dumps(meta).encode())
    for name, kind, shape in (
        ('pre/00_data/0_a', np.float32, (3, *onnx.SIZE)),
        ('pre/label/0_a_label', np.int32, onnx.SIZE),
        ('res/0_a_0', np.float32, (3, *onnx.SIZE)),
    ):
        _write(folder / f'{name}.bin', np.ones(shape, kind).tobytes())
    yield
