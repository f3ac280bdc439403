#!/usr/bin/env python
"""What users wait for, beside what else does it or beside another commit: CPU time in turns, as ratios with their spread.

python scripts/benchmark_peers.py [WORK...] [--rounds 7] [--peers FOLDER] [--tramac FOLDER] [--write docs/speed.md]
python scripts/benchmark_peers.py --against COMMIT [WORK...] [--slower 1.15]

Every side is a process of its own with one thread. The two take turns, so that other work on the machine slows both, and a
ratio is taken within a round. The peers are installed into FOLDER (by default in the cache folder) by pip, the first time, and
are seen by their side alone; Tramac/Fast-SCNN-pytorch is no package, so --tramac names a checkout of it. A work whose peer
cannot be installed or imported is left out with the reason. With ``--against`` both sides are this suite, the other one from
COMMIT, and the exit status is 1 where a work takes more than ``--slower`` times as long.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, Optional

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEERS = (  # and what they need beside the suite's PyTorch, NumPy and Pillow; mmcv-lite is mmcv without compiled operators
    *('timm', 'torchmetrics', 'lightning-utilities', 'mmsegmentation==1.2.2', 'mmengine', 'mmcv-lite<2.2'),
    *('addict', 'ftfy', 'matplotlib', 'prettytable', 'regex', 'termcolor', 'wcwidth', 'yapf'),
    *('contourpy', 'cycler', 'fonttools', 'kiwisolver', 'pyparsing'),
)
FAST_SCNN = 'fast_scnn_8xb4-160k_cityscapes-512x1024'
STDC1 = 'stdc1_4xb12-80k_cityscapes-512x1024'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
TRAMAC: dict[str, Any] = {'preset': 'tramac', 'model_args': {'auxiliary': False}, 'auxiliary_weights': {}, 'weight_decay': 1e-4}
TWIN = 'in PyTorch'  # the peer of a work in MindSpore; these works come last, for they change how the process keeps memory
SIZE, CLASSES, BATCH, STEP_SIZE = (1024, 2048), 19, 2, (256, 512)
Work = Callable[[], object]
KEPT: list[Any] = []  # what would be gone with its last name


@dataclass(frozen=True)
class Row:
    """A work: what it is, who else does it, and what makes it ready on each side; without ``theirs`` beside commits alone."""

    title: str
    peer: str
    ours: Callable[[], Work]
    theirs: Optional[Callable[[], Work]] = None


def logits(size: tuple[int, int]) -> np.ndarray:
    """float32 (1, C, h, w) at an eighth of the size, smooth as a network's."""
    import cv2

    small = np.random.default_rng(0).standard_normal((CLASSES, size[0] // 8, size[1] // 8)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 3) for plane in small])[None]


def ids(size: tuple[int, int]) -> Callable[[], Work]:
    def ready() -> Work:
        from twinseg.common.images.interpolation import class_ids

        values = logits(size)
        return lambda: class_ids(values, size, False)

    return ready


def plain_ids(size: tuple[int, int]) -> Callable[[], Work]:
    def ready() -> Work:
        import torch
        import torch.nn.functional as F

        values = torch.from_numpy(logits(size))
        return lambda: F.interpolate(values, size, mode='bilinear').argmax(1).to(torch.uint8)

    return ready


def label_and_prediction() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W), regions as of a street, ignored ones among them."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, CLASSES, (2, 32, 64)).astype(np.uint8)
    label, prediction = (cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_NEAREST) for part in coarse)
    label[:100] = 255
    return label, prediction


def matrix() -> Work:
    from twinseg.common.metrics import confusion_matrix

    label, prediction = label_and_prediction()
    return lambda: confusion_matrix(label, prediction, CLASSES)


class Operators(types.ModuleType):
    """``mmcv.ops``, which mmcv-lite has no compiled part for: names that mmsegmentation imports, and nothing here calls."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


def open_mmsegmentation() -> None:
    sys.modules.setdefault('mmcv.ops', Operators('mmcv.ops'))
    from mmseg.utils import register_all_modules

    register_all_modules()


def mmsegmentations_matrix() -> Work:
    import torch

    open_mmsegmentation()
    from mmseg.evaluation import IoUMetric

    label, prediction = (torch.from_numpy(part.astype(np.int64)) for part in label_and_prediction())
    return lambda: IoUMetric.intersect_and_union(prediction, label, CLASSES, 255)


def torchmetrics_matrix() -> Work:
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    label, prediction = (torch.from_numpy(part.astype(np.int64)) for part in label_and_prediction())
    return lambda: multiclass_confusion_matrix(prediction, label, CLASSES, ignore_index=255)


def tensors() -> dict[str, np.ndarray]:
    """DDRNet-39's numbers: 32 million weights and their momentum."""
    rng = np.random.default_rng(0)
    return {
        f'{kind}.{layer}': rng.random(1 << 18, np.float32) for kind in ('model', 'optimizer.momentum') for layer in range(123)
    }


def checkpoint() -> Work:
    from twinseg.common.checkpoint import RunMeta, save

    state, folder = tensors(), Path(tempfile.mkdtemp(dir=os.environ['WORK_FOLDER']))
    return lambda: save(folder / 'a.safetensors', state, RunMeta())


def torch_save() -> Work:
    import torch

    state, path = {name: torch.from_numpy(value) for name, value in tensors().items()}, Path(os.environ['WORK_FOLDER']) / 'a.pt'

    def work() -> None:
        with path.open('wb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    return work


def network(engine: Optional[str]) -> Callable[[], Work]:
    """Image to class ids by the CamVid weights that ship, at 512 x 1024."""

    def ready() -> Work:
        from twinseg.common.inference.runs import load_run

        run = load_run(ROOT / 'weights' / 'fast_scnn_camvid.safetensors', 'pytorch', 'cpu')
        if engine:
            from twinseg.common.deploy.on_engine import on_engine

            run = on_engine(run, engine)
        image = street()
        return lambda: run.predictor.class_ids(image)

    return ready


def street() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 3, 512, 1024), np.uint8)


def plain_openvino() -> Work:
    """The same network exported, run by OpenVINO for this size alone, up to the logits at the head's size."""
    import openvino

    from twinseg.common.deploy.export import ExportOptions, export_checkpoint

    path = Path(os.environ['WORK_FOLDER']) / 'network.onnx'
    options = ExportOptions((512, 1024))
    export_checkpoint(ROOT / 'weights' / 'fast_scnn_camvid.safetensors', path, 'onnx', options, backend_name='pytorch')
    hints = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    model = openvino.Core().compile_model(str(path), 'CPU', hints)
    image = street().astype(np.float32)
    return lambda: model([(image - 120) / 58])[0]


def training_batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (BATCH, *STEP_SIZE)
    return rng.integers(0, 256, (BATCH, 3, *STEP_SIZE), np.uint8), rng.integers(0, CLASSES, shape).astype(np.uint8)


def step(recipe: str, backend_name: str = 'pytorch', **changes: Any) -> Callable[[], Work]:
    def ready() -> Work:
        from twinseg.common import config
        from twinseg.common.backend import get_backend
        from twinseg.common.inference.runs import network_arguments

        settings = config.load(recipe).replace(pretrained=None, batch_size=BATCH, **changes)
        backend = get_backend(backend_name)
        backend.setup('cpu', threads=1)
        built = backend.build_model(settings.model.arch, **network_arguments(settings, CLASSES))
        trainer, batch = backend.make_trainer(built, settings), training_batch()
        return lambda: trainer.step([batch], 0.001)

    return ready


def mmsegmentations_step(name: str) -> Callable[[], Work]:
    def ready() -> Work:
        import mmseg
        import torch
        from mmengine.config import Config
        from mmengine.structures import PixelData
        from mmseg.registry import MODELS
        from mmseg.structures import SegDataSample

        open_mmsegmentation()
        settings = Config.fromfile(str(Path(mmseg.__path__[0]) / '.mim' / 'configs' / name)).model
        settings.pop('pretrained', None)
        settings = json.loads(json.dumps(settings.to_dict()).replace('"SyncBN"', '"BN"'))
        settings['backbone'].pop('init_cfg', None)
        settings['backbone'].get('backbone_cfg', {}).pop('init_cfg', None)
        settings['data_preprocessor']['size'] = STEP_SIZE
        model = MODELS.build(settings).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=5e-4)
        images, labels = training_batch()
        samples = []
        for label in labels:
            samples.append(SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(label.astype(np.int64))[None])))
        inputs = [torch.from_numpy(image) for image in images]

        def work() -> None:
            data = model.data_preprocessor({'inputs': inputs, 'data_samples': samples}, True)
            loss, _ = model.parse_losses(model(data['inputs'], data['data_samples'], mode='loss'))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return work

    return ready


def tramacs_step() -> Work:
    """``train.py`` with its defaults but for the loss: OHEM goes through a GPU there."""
    import torch

    if 'TRAMAC' not in os.environ:
        raise RuntimeError('give --tramac FOLDER, a checkout of Tramac/Fast-SCNN-pytorch')
    sys.path.insert(0, os.environ['TRAMAC'])
    from models.fast_scnn import FastSCNN
    from utils.loss import MixSoftmaxCrossEntropyLoss

    model = FastSCNN(CLASSES).train()
    criterion = MixSoftmaxCrossEntropyLoss(aux=False, ignore_label=255)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4)
    images, labels = training_batch()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def work() -> None:
        pixels = (torch.from_numpy(images).float() / 255 - mean) / deviation
        result = criterion(model(pixels), torch.from_numpy(labels).long())
        optimizer.zero_grad()
        result.backward()
        optimizer.step()

    return work


def photograph() -> bytes:
    """A JPEG of ImageNet's usual size."""
    import cv2
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)).save(content, 'JPEG', quality=90)
    return content.getvalue()


def classifier_sample() -> Work:
    from twinseg.common import config
    from twinseg.common.data.classification_transforms import train_image
    from twinseg.common.data.reading import read_image
    from twinseg.common.data.sampling import sample_rng
    from twinseg.common.data.segmentation_transforms import channels_first

    augment, file = config.load('ddrnet23_imagenet_gpu').augment, photograph()

    def work() -> None:
        for number in range(20):
            image = read_image(io.BytesIO(file), 'image')
            channels_first(train_image(image, augment, (224, 224), sample_rng(0, 0, number)))

    return work


def open_torchvision() -> None:
    """Its transforms, also where its compiled part is of another PyTorch: with the operators that it asks for at its import."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        operators = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            operators.define(f'{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor')
        KEPT.append(operators)


def timms_sample() -> Work:
    open_torchvision()
    from PIL import Image, ImageOps
    from timm.data import create_transform

    from twinseg.common import config

    posterize = ImageOps.posterize
    ImageOps.posterize = lambda picture, bits: posterize(picture, max(bits, 1))  # timm asks for 0 bits, which Pillow refuses
    policy = config.load('ddrnet23_imagenet_gpu').augment.auto_augment
    transform: Any = create_transform(
        224, is_training=True, auto_augment=policy, interpolation='bicubic', re_prob=0.0, use_prefetcher=True
    )
    file = photograph()
    return lambda: [np.asarray(transform(Image.open(io.BytesIO(file)).convert('RGB'))) for _ in range(20)]


def street_file() -> tuple[Path, Path]:
    """A scene of Cityscapes' size and its label, as PNG files."""
    import cv2

    folder = Path(tempfile.mkdtemp(dir=os.environ['WORK_FOLDER']))
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (64, 128, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(0, 8, scene.shape, np.uint8)
    for split in ('train', 'val'):
        for kind, pixels in (('images', cv2.add(scene, noise)), ('labels', label_and_prediction()[1])):
            (folder / kind / split).mkdir(parents=True)
            cv2.imwrite(str(folder / kind / split / 'a.png'), pixels)
    return folder / 'images' / 'train' / 'a.png', folder / 'labels' / 'train' / 'a.png'


def segmentation_sample() -> Work:
    from twinseg.common import config
    from twinseg.common.data.open import open_dataset
    from twinseg.common.data.samples import TrainSamples

    keys = {
        **{'set': 'custom', 'data_url': str(street_file()[0].parents[2]), 'image_dir': 'images/{split}'},
        **{'label_dir': 'labels/{split}', 'classes': [f'class {number}' for number in range(CLASSES)]},
    }
    like = config.load('fast_scnn_8xb4-160k_cityscapes-512x1024')
    settings = config.from_flat({**like.flat(), **keys})
    samples, epochs = TrainSamples(open_dataset(settings.data, 'train'), settings.augment, 0), iter(range(1 << 30))
    return lambda: samples[next(epochs), 0]


def mmsegmentations_sample() -> Work:
    from mmcv.transforms import Compose

    open_mmsegmentation()
    image, label = street_file()
    pipeline = Compose(
        [
            {'type': 'LoadImageFromFile'},
            {'type': 'LoadAnnotations'},
            {'type': 'RandomResize', 'scale': (2048, 1024), 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
            {'type': 'RandomCrop', 'crop_size': (512, 1024), 'cat_max_ratio': 0.75},
            {'type': 'RandomFlip', 'prob': 0.5},
            {'type': 'PhotoMetricDistortion'},
            {'type': 'PackSegInputs'},
        ]
    )
    sample = {'img_path': str(image), 'seg_map_path': str(label), 'reduce_zero_label': False, 'seg_fields': []}
    return lambda: pipeline(dict(sample))


def saved_prediction() -> Work:
    from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
    from twinseg.common.tasks.segmentation import Segmentation

    label, _ = label_and_prediction()
    image = np.random.default_rng(0).integers(100, 120, (*SIZE, 3), np.uint8)
    result = Segmentation(image, label, tuple(CITYSCAPES_CLASSES), np.array(CITYSCAPES_PALETTE, np.uint8), 'a')
    return lambda: result.save(os.environ['WORK_FOLDER'])


def first_batch() -> Work:
    from twinseg.common.data.sampling import training_batches

    return lambda: next(training_batches(10**6, 16, 0, start=10**7))


def torchs_first_batch() -> Work:
    from torch.utils.data import BatchSampler, RandomSampler

    return lambda: next(iter(BatchSampler(RandomSampler(range(10**6)), 16, True)))  # type: ignore[arg-type]


def listing() -> Work:
    return lambda: subprocess.run([sys.executable, '-m', 'twinseg', 'list'], check=True, capture_output=True)


ROWS = {
    'ids': Row('logits to class ids, 512x1024', 'resize and argmax', ids((512, 1024)), plain_ids((512, 1024))),
    'ids_full': Row('logits to class ids, 1024x2048', 'resize and argmax', ids(SIZE), plain_ids(SIZE)),
    'matrix': Row('confusion matrix, 1024x2048', 'mmsegmentation', matrix, mmsegmentations_matrix),
    'matrix_torchmetrics': Row('confusion matrix, 1024x2048', 'torchmetrics', matrix, torchmetrics_matrix),
    'predict': Row('Fast-SCNN, image to class ids', 'OpenVINO, logits', network(None), plain_openvino),
    'predict_engine': Row('the same with --engine openvino', 'OpenVINO, logits', network('openvino'), plain_openvino),
    'step_fast_scnn': Row(
        'training step, Fast-SCNN',
        'mmsegmentation',
        step(FAST_SCNN),
        mmsegmentations_step('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'),
    ),
    'step_stdc1': Row(
        'training step, STDC1',
        'mmsegmentation',
        step(STDC1),
        mmsegmentations_step('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py'),
    ),
    'step_ddrnet23_slim': Row(
        'training step, DDRNet-23-slim',
        'mmsegmentation',
        step(DDRNET),
        mmsegmentations_step('ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'),
    ),
    'step_tramac': Row('training step, Fast-SCNN of Tramac', 'Tramac', step(FAST_SCNN, **TRAMAC), tramacs_step),
    'checkpoint': Row('checkpoint of DDRNet-39', 'torch.save and fsync', checkpoint, torch_save),
    'sample_classifier': Row('20 augmented samples of ImageNet', 'timm', classifier_sample, timms_sample),
    'sample_street': Row('an augmented sample of Cityscapes', 'mmsegmentation', segmentation_sample, mmsegmentations_sample),
    'first_batch': Row('order of 10^6 samples, first batch', 'PyTorch', first_batch, torchs_first_batch),
    'saved_prediction': Row('overlay and class ids written, 1024x2048', '', saved_prediction),
    'list': Row('`twinseg list`', '', listing),
    **{
        f'step_{arch}_mindspore': Row(f'training step, {title}, in MindSpore', TWIN, step(recipe, 'mindspore'), step(recipe))
        for arch, title, recipe in (
            ('fast_scnn', 'Fast-SCNN', FAST_SCNN),
            ('stdc1', 'STDC1', STDC1),
            ('ddrnet23_slim', 'DDRNet-23-slim', DDRNET),
        )
    },
}


def spent() -> float:
    """Seconds of CPU time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def keep_freed_memory() -> None:
    """What the command does with memory; earlier commits do not have it."""
    with suppress(ImportError):
        from twinseg.common.host.memory import keep_freed_memory as keep

        keep()


def serve(side: str) -> None:
    """Does the works whose names come on stdin, and answers each with a line: its seconds, or why it cannot be done."""
    import cv2

    cv2.setNumThreads(1)
    works: dict[str, Work] = {}
    for line in sys.stdin:
        name, answer = line.strip(), {}
        try:
            with redirect_stdout(sys.stderr):
                if side == 'ours' or ROWS[name].peer == TWIN:
                    keep_freed_memory()
                if name not in works:
                    ready = ROWS[name].ours if side == 'ours' else ROWS[name].theirs
                    assert ready is not None
                    works[name] = ready()
                    works[name]()
                began = spent()
                works[name]()
                answer = {'seconds': spent() - began}
        except Exception as error:  # a peer may fail in any way
            answer = {'error': f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'}
        print(json.dumps(answer), flush=True)


class Side:
    """A process that does works when it is asked."""

    def __init__(self, side: str, tree: Path, folder: Path, more: tuple[Path, ...] = ()):
        threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
        path = os.pathsep.join(map(str, (tree, *more)))
        environment = {**os.environ, **threads, 'PYTHONPATH': path, 'WORK_FOLDER': str(folder)}
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), '--side', side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            cwd=folder,
            text=True,
        )

    def seconds(self, work: str) -> float:
        """CPU time of a work; RuntimeError says why it cannot be done."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(work + '\n')
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        answer = json.loads(line or '{"error": "the process ended"}')
        if 'error' in answer:
            raise RuntimeError(answer['error'])
        return answer['seconds']

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def compare(name: str, ours: Side, theirs: Side, rounds: int) -> tuple[float, float, list[float]]:
    """Median seconds of both sides, and the ratio of theirs to ours in each round, sorted."""
    pairs = [(ours.seconds(name), theirs.seconds(name)) for _ in range(rounds)]
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
        sorted(other / mine for mine, other in pairs),
    )


def install(folder: Path) -> None:
    """Installs the peers into a folder, the first time."""
    minor = metadata.version('torch').split('.')[1]
    packages = [*PEERS, f'torchvision==0.{int(minor) + 15}.*']  # that of PyTorch 2.x is 0.(x + 15)
    done = folder / 'installed'
    if not done.is_file() or done.read_text() != '\n'.join(packages):
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--upgrade', '--no-deps', '--target', str(folder)]
        if subprocess.run([*command, *packages]).returncode == 0:
            done.write_text('\n'.join(packages))


def commit() -> str:
    """The commit of this tree, and whether files have changed since."""
    git = ['git', '-C', str(ROOT)]
    name = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True).stdout.strip()
    return name + (' with changes' if changed else '')


@contextmanager
def checked_out(name: str) -> Iterator[Path]:
    """The files of a commit, in a temporary folder; SystemExit where there is no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree, git = Path(folder) / 'tree', ['git', '-C', str(ROOT), 'worktree']
        added = subprocess.run([*git, 'add', '--quiet', '--detach', str(tree), name], capture_output=True, text=True)
        if added.returncode:
            print(f'--against {name}: {added.stderr.strip()}', file=sys.stderr)
            raise SystemExit(2)
        try:
            yield tree
        finally:
            subprocess.run([*git, 'remove', '--force', str(tree)], check=True)


def table(names: list[str], ours: Side, theirs: Side, rounds: int, peer: Optional[str]) -> tuple[list[str], dict[str, float]]:
    """Lines of Markdown, printed as they come, and the median ratio of each work."""
    head = f'| work | beside | TwinSeg, ms | {"the other" if peer is None else peer}, ms | ratio (least to most) |'
    lines, ratios = [head, '|---|---|---|---|---|'], {}
    print('\n'.join(lines), flush=True)
    for name in names:
        beside = ROWS[name].peer if peer is None else peer
        try:
            mine, other, every = compare(name, ours, theirs, rounds)
            ratios[name] = statistics.median(every)
            spread = f'**{ratios[name]:.2f}** ({every[0]:.2f} to {every[-1]:.2f})'
            lines.append(f'| {ROWS[name].title} | {beside} | {1000 * mine:.1f} | {1000 * other:.1f} | {spread} |')
        except RuntimeError as error:
            lines.append(f'| {ROWS[name].title} | {beside} | | | not measured: {error} |'.replace('\n', ' '))
        print(lines[-1], flush=True)
    return lines, ratios


def page(lines: list[str], rounds: int) -> str:
    """docs/speed.md."""
    from twinseg.common.measure.environment import machine, versions

    facts = ', '.join(f'{name} {value}' for name, value in versions().items())
    return '\n'.join(
        [
            '# Speed',
            '',
            'What users wait for, beside what else does it; `python scripts/benchmark_peers.py --write docs/speed.md`.',
            'CPU time of one thread, both sides in turns in processes of their own. The ratio is theirs to ours, the median of',
            f'{rounds} rounds; above 1 TwinSeg takes less. `--against COMMIT` compares two commits of the suite.',
            '',
            f'{date.today()}, commit {commit()}, {machine()["cpu"]}; {facts}.',
            '',
            *lines,
            '',
            f'Training steps: {BATCH} images of {STEP_SIZE[0]}x{STEP_SIZE[1]}, float32.',
            '',
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('works', nargs='*', metavar='WORK', help=f'by default all of {", ".join(ROWS)}')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--peers', type=Path, help='folder that the peers are installed into')
    parser.add_argument('--tramac', type=Path, help='checkout of Tramac/Fast-SCNN-pytorch')
    parser.add_argument('--against', metavar='COMMIT')
    parser.add_argument('--slower', type=float, default=1.15, help='--against: the largest ratio of this tree to COMMIT')
    parser.add_argument('--write', type=Path, metavar='FILE', help='page that gets the table')
    parser.add_argument('--side', choices=('ours', 'theirs'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tramac:
        os.environ['TRAMAC'] = str(options.tramac.absolute())
    if options.side:
        serve(options.side)
        return 0
    unknown = [name for name in options.works if name not in ROWS]
    if unknown or options.rounds < 1 or options.against and options.write:
        parser.error(f'no work {unknown[0]!r}' if unknown else '--rounds is 1 or more; --write is not for --against')
    with tempfile.TemporaryDirectory() as folder:
        if options.against:
            with checked_out(options.against) as tree:
                sides = Side('ours', ROOT, Path(folder)), Side('ours', tree, Path(folder))
                _, ratios = table(options.works or list(ROWS), *sides, options.rounds, options.against)
                for side in sides:
                    side.end()
            slower = [name for name, ratio in ratios.items() if 1 / ratio > options.slower]
            if slower:
                print(f'slower than {options.against} by more than {options.slower} times: {", ".join(slower)}')
            return 1 if slower else 0
        from twinseg.common.files.folders import cache_folder

        peers = (options.peers or cache_folder() / 'peers').absolute()
        peers.mkdir(parents=True, exist_ok=True)
        install(peers)
        sides = Side('ours', ROOT, Path(folder)), Side('theirs', ROOT, Path(folder), (peers,))
        names = options.works or [name for name in ROWS if ROWS[name].theirs]
        lines, _ = table(names, *sides, options.rounds, None)
        for side in sides:
            side.end()
    if options.write:
        options.write.write_text(page(lines, options.rounds), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
