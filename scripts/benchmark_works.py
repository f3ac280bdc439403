"""What scripts/benchmark_peers.py measures: a row a work, with what makes it ready on our side and on that of a peer."""

import io
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FAST_SCNN = 'fast_scnn_8xb4-160k_cityscapes-512x1024'
STDC1 = 'stdc1_4xb12-80k_cityscapes-512x1024'
DDRNET = 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'
TRAMAC: dict[str, Any] = {
    **{'preset': 'tramac', 'model_args': {'auxiliary': False}, 'auxiliary_weights': {}},
    **{'loss': 'cross_entropy', 'weight_decay': 1e-4},
}
TWIN = 'in PyTorch'  # the peer of a work in MindSpore; these works come last, for they change how the process keeps memory
SIZE, CLASSES, BATCH, STEP_SIZE = (1024, 2048), 19, 2, (512, 1024)
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


def views() -> Work:
    """Six scales and their mirrored images, averaged, as `--ms-flip` does."""
    from twinseg.common.inference.runs import load_run
    from twinseg.common.inference.views import TestTimeAugmentation
    from twinseg.common.tasks.base import SCALES

    run = load_run(ROOT / 'weights' / 'fast_scnn_camvid.safetensors', 'pytorch', 'cpu')
    image, augmented = street(), TestTimeAugmentation(run.predictor, SCALES, True)
    return lambda: augmented.class_ids(image)


def plain_views() -> Work:
    """The same as a loop in PyTorch."""
    import torch
    import torch.nn.functional as F

    from twinseg.common.inference.runs import load_run
    from twinseg.common.tasks.base import SCALES

    network: Any = load_run(ROOT / 'weights' / 'fast_scnn_camvid.safetensors', 'pytorch', 'cpu').network
    image = (torch.from_numpy(street()).float() - 120) / 58
    network.eval()

    @torch.inference_mode()
    def work() -> np.ndarray:
        total: Any = 0
        for scale in SCALES:
            view = F.interpolate(image, scale_factor=scale, mode='bilinear')
            for mirrored in (False, True):
                logits = network(view.flip(-1) if mirrored else view)['logits']
                probabilities = F.interpolate(logits, image.shape[2:], mode='bilinear').softmax(1)
                total = total + (probabilities.flip(-1) if mirrored else probabilities)
        return total.argmax(1).byte().numpy()

    return work


def street() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 3, 512, 1024), np.uint8)


def openvino_logits() -> Callable[[], np.ndarray]:
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


def openvino_ids() -> Work:
    """The same, and what is most often written behind it: every class resized to the image's size, and argmax."""
    import cv2

    logits_of = openvino_logits()

    def work() -> np.ndarray:
        planes = [cv2.resize(plane, (1024, 512)) for plane in logits_of()[0]]
        return np.argmax(planes, 0).astype(np.uint8)

    return work


def training_batch(size: tuple[int, int] = STEP_SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, 3, *size), np.uint8), rng.integers(0, CLASSES, (BATCH, *size)).astype(np.uint8)


def step(recipe: str, backend_name: str = 'pytorch', size: tuple[int, int] = STEP_SIZE, **changes: Any) -> Callable[[], Work]:
    def ready() -> Work:
        from twinseg.common import config
        from twinseg.common.backend import get_backend
        from twinseg.common.inference.runs import network_arguments

        settings = config.load(recipe).replace(pretrained=None, batch_size=BATCH, **changes)
        backend = get_backend(backend_name)
        backend.setup('cpu', threads=1)
        built = backend.build_model(settings.model.arch, **network_arguments(settings, CLASSES))
        trainer, batch = backend.make_trainer(built, settings), training_batch(size)
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
    """Imports what the peers import, even where its compiled part is of another PyTorch: its operators are declared then."""
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
    'predict': Row('Fast-SCNN, image to class ids', 'OpenVINO, resize and argmax', network(None), openvino_ids),
    'predict_engine': Row('the same with --engine openvino', 'OpenVINO, resize and argmax', network('openvino'), openvino_ids),
    'predict_logits': Row('the same with --engine openvino', 'OpenVINO, logits alone', network('openvino'), openvino_logits),
    'views': Row('Fast-SCNN, --ms-flip, 512x1024', 'a loop in PyTorch', views, plain_views),
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


def keep_freed_memory() -> None:
    """What the command does with memory; commits before that do not have it, or have it elsewhere."""
    with suppress(ImportError):
        try:
            from twinseg.common.host.memory import keep_freed_memory as keep
        except ImportError:
            from twinseg.common.memory import keep_freed_memory as keep  # type: ignore[import-not-found, no-redef]
        keep()
