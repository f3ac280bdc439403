"""Every reader of files from elsewhere: good files to begin from, and what a user would do with them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.seeds import NETWORK, Seeds
from tests.fuzz.watched import Limits
from twinseg.common import config
from twinseg.common.backend import get_backend
from twinseg.common.cli import explain, main
from twinseg.common.data import label_faults
from twinseg.common.data.open import open_dataset, open_splits, shared_images, unused_files
from twinseg.common.data.prepare import sbd_label
from twinseg.common.data.reading import ImageRules, read_image, read_samples
from twinseg.common.files.archive import unpack
from twinseg.common.settings.presets import preset_arguments
from twinseg.common.tasks import tiles, video
from twinseg.common.weights import load, load_pretrained
from twinseg.common.weights.reading import files as weights

MEGABYTE = 1 << 20
RULES = (ImageRules(), ImageRules(white_level=4095), ImageRules(upright=False), ImageRules(most=tiles.MAX_PREDICTED))


@dataclass(frozen=True)
class Reader:
    """``read`` is called in the case's folder with a generator of random numbers, and returns the status that the command ends
    with. ``share``: how often it has its turn. ``needs``: a package without which it is left out. ``changes``: beginnings of
    the names of the files that are changed; by default all."""

    name: str
    seeds: Callable[[Path], Seeds]
    read: Callable[[random.Random], int]
    share: float = 1.0
    limits: Limits = Limits()
    needs: str = ''
    changes: tuple[str, ...] = ('',)


def edge(work: Callable[[], object]) -> int:
    """Work as a command does it: an error is a line, and a status."""
    try:
        work()
    except Exception as error:
        return explain(error)
    return 0


def _file(stem: str, otherwise: str) -> Path:
    """The file of this name and any suffix."""
    return next(iter(sorted(Path().glob(f'{stem}.*'))), Path(otherwise))


def read_weights(rng: random.Random) -> int:
    path = _file('x', 'x.pth')
    return edge(lambda: (weights.read(path), load(path)))


def read_published(rng: random.Random) -> int:
    """What ``pretrained`` does: the file's tensors fill a network as far as they fit."""
    path, backend = _file('x', 'x.pth'), get_backend('pytorch')
    network = backend.build_model('enet', seed=None, **preset_arguments('davidtvs', 'enet'))
    return edge(lambda: load_pretrained(backend, network, 'enet', path, reset_classifier=rng.random() < 0.5))


def read_checkpoint(rng: random.Random) -> int:
    commands = [
        ['predict', 'a.png', '--checkpoint', 'x.safetensors', *NETWORK, '--out', 'p'],
        ['eval', '--checkpoint', 'x.safetensors', *NETWORK, '--json', 'e.json'],
        ['train', '--checkpoint', 'x.safetensors', *NETWORK, '--work-dir', 'w', '--set', 'max_iters=3'],
    ]
    return main(rng.choice(commands))


def read_run(rng: random.Random) -> int:
    commands = [
        ['report', 'run', '--out', 'r.html', '--pictures', '0'],
        ['results', 'run', '--out', 'r.md', '--add'],
        ['train', '--resume', '--work-dir', 'run', *NETWORK, '--set', 'max_iters=1'],
    ]
    return main(rng.choice(commands))


def read_recipe(rng: random.Random) -> int:
    def work() -> None:
        path = Path('set.txt')
        lines = path.read_bytes().decode(errors='surrogateescape').split('\n') if path.is_file() else []
        chosen = config.load('c.yaml', [line for line in lines if line and rng.random() < 0.3])
        if config.from_flat(chosen.flat(), trusted=True) != chosen:
            raise AssertionError('the keys of a recipe are not those of its checkpoint')
        config.dump(chosen)

    return main(['recipe', 'c.yaml']) if rng.random() < 0.2 else edge(work)


def read_picture(rng: random.Random) -> int:
    path, rules = _file('x', 'x.png'), rng.choice(RULES)
    return edge(lambda: read_image(path, rules=rules)) if rng.random() < 0.6 else edge(lambda: read_samples(path))


def read_video(rng: random.Random) -> int:
    return edge(lambda: video.rewrite(_file('v', 'v.mp4'), Path('out.mp4'), lambda frame: frame[:64, :64]))


def read_pictures(rng: random.Random) -> int:
    return main(['predict', 'd', '--checkpoint', 'x.safetensors', *NETWORK, '--out', 'p'])


def read_data_set(rng: random.Random) -> int:
    def work() -> None:
        training, validation = open_splits(config.load('c.yaml').data)
        datasets = [training] if validation is None else [training, validation]
        unused_files(*datasets), shared_images(training, validation)
        for dataset in datasets:
            label_faults.faults(dataset, label_faults.look(dataset), training=True)
            for index in range(min(len(dataset), 50)):
                dataset.read(index)

    return main(['browse', 'c.yaml', '--out', 'browsed']) if rng.random() < 0.3 else edge(work)


def read_cache(rng: random.Random) -> int:
    """Whatever the cache says, the pixels are those of the files."""

    def work() -> None:
        image, label = open_dataset(config.load('c.yaml').data, 'train').read(0)
        if not np.array_equal(image, read_image(Path('d/photos/train/town/one.jpg'))) or set(np.unique(label)) - {0, 1, 255}:
            raise AssertionError('what was changed in the cache is used')

    return edge(work)


def read_annotations(rng: random.Random) -> int:
    tool = next((name for name in ('labelme', 'coco', 'cvat', 'supervisely') if Path(name).exists()), 'labelme')
    source = 'coco/instances.json' if tool == 'coco' and rng.random() < 0.5 else tool
    classes = ['--classes', 'classes.txt'] if rng.random() < 0.3 else []
    return main(['prepare', 'custom', '--from', tool, source, '--folder', 'out', *classes])


def read_prepared(rng: random.Random) -> int:
    name = next((name for name in ('cityscapes', 'voc', 'camvid32') if Path(name).exists()), 'cityscapes')
    return main(['prepare', name, '--folder', name])


def read_archive(rng: random.Random) -> int:
    def work() -> None:
        folder = Path('new')
        folder.mkdir()
        (folder / 'mine.txt').write_text('mine')
        try:
            unpack(_file('x', 'x.zip'), folder)
        finally:
            if (folder / 'mine.txt').read_text() != 'mine':
                raise AssertionError('a file that was there is another')

    return edge(work)


def read_matlab(rng: random.Random) -> int:
    return edge(lambda: sbd_label(Path('x.mat')))


def read_ranks(rng: random.Random) -> int:
    return main(['ranks', 'r.json'])


def read_network(rng: random.Random) -> int:
    if Path('pre').exists():
        return main(['postprocess', 'x.onnx', '--inputs', 'pre', '--results', 'res', '--json', 'e.json'])
    return main(rng.choice([['predict', 'a.png', '--model', 'x.onnx', '--out', 'p'], ['conversion-facts', 'x.onnx']]))


WEIGHTS = Limits(memory=256 * MEGABYTE)
PICTURES = Limits(memory=1500 * MEGABYTE, seconds=20)  # images of 67 million pixels are decoded, and in more than one form
BROWSED = Limits(memory=1500 * MEGABYTE, seconds=20, statuses=(0, 1, 2))  # 1: with problems, which it lists
PREDICTED = Limits(memory=4000 * MEGABYTE, seconds=60, statuses=(0, 1, 2))  # 1: some of the files; up to 537 million pixels
ENGINE = Limits(memory=1500 * MEGABYTE, seconds=60, statuses=(0, 1, 2))  # 1: results that differ from the network's
VIDEO = Limits(memory=1500 * MEGABYTE, seconds=20, programs=('ffmpeg',))
READERS = (
    Reader('torch', seeds.torch_files, read_weights, 4, WEIGHTS, 'torch'),
    Reader('ckpt', seeds.mindspore_files, read_weights, 2, WEIGHTS),
    Reader('safetensors', seeds.safetensors_files, read_weights, 2, WEIGHTS),
    Reader('publisher', seeds.published_weights, read_published, 1, WEIGHTS, 'torch'),
    Reader('checkpoint', seeds.checkpoints, read_checkpoint, 2, needs='torch', changes=('x.',)),
    Reader('run', seeds.runs, read_run, 2, needs='torch'),
    Reader('recipe', seeds.recipes, read_recipe, 4),
    Reader('picture', seeds.images, read_picture, 4, PICTURES),
    Reader('pictures', seeds.pictures, read_pictures, 0.5, PREDICTED, 'torch', ('d/',)),
    Reader('video', seeds.videos, read_video, 1, VIDEO),
    Reader('custom set', seeds.custom_sets, read_data_set, 2, BROWSED),
    Reader('published set', seeds.published_sets, read_data_set, 2, BROWSED),
    Reader('image folder', seeds.image_folders, read_data_set, 2, BROWSED),
    Reader('cache', seeds.caches, read_cache, 2, changes=('cache/',)),
    Reader('annotations', seeds.annotations, read_annotations, 4, PICTURES, 'pycocotools'),
    Reader('prepare', seeds.prepared, read_prepared, 2, PICTURES),
    Reader('archive', seeds.archives, read_archive, 3),
    Reader('matlab', seeds.matlab_files, read_matlab, 1),
    Reader('ranks', seeds.rank_tables, read_ranks, 1),
    Reader('network', seeds.networks, read_network, 0.3, ENGINE, 'onnxruntime'),
)
