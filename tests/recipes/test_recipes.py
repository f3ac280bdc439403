"""The recipes: published numbers point by point, and a training step of every network and loss that they name."""

import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest

from tests.test_schedules import RELATIVE, mmengine
from tests.training.test_golden_steps import cases, recorded
from tests.training.test_losses import CITYSCAPES
from twinseg.common.backend import get_backend
from twinseg.common.config import KEYS, load
from twinseg.common.data.classes import CAMVID_CLASSES, CAMVID_ELEVEN, CITYSCAPES_CLASSES, VOC_CLASSES
from twinseg.common.schedules import detail_kernels, detail_strides, learning_rates
from twinseg.common.settings import recipes
from twinseg.common.settings.presets import preset_arguments
from twinseg.common.training.loss_checks import check
from twinseg.common.training.setup import global_batch

mmengine = functools.cache(mmengine)  # many recipes share a curve

LOSS = 0.1  # relative, of one step: dropout draws other channels in each framework
CLASSES = {
    'cityscapes': len(CITYSCAPES_CLASSES),
    'toy_street': len(CITYSCAPES_CLASSES),
    'voc': len(VOC_CLASSES),
    'camvid': len(CAMVID_CLASSES),
    'camvid32': len(CAMVID_CLASSES),
    'camvid11of32': len(CAMVID_ELEVEN),
}
SEGMENTATION = {path.stem: found for path in recipes.recipes() if (found := load(path)).task == 'segmentation'}

# mmsegmentation's naming: network_{GPUs}xb{images of each}-{steps / 1000}k_{data}-{height}x{width} of the crop
NAME = re.compile(r'(?P<gpus>\d)xb(?P<batch>\d+)-(?P<steps>\d+)k_(?P<data>cityscapes|voc12aug)-(?P<height>\d+)x(?P<width>\d+)')
NAMED = {name: NAME.search(name) for name in SEGMENTATION if NAME.search(name)}
# Their _base_ files, and what single configurations say otherwise. 'warmup': steps, from a tenth of the learning rate.
BASE = dict(lr=0.01, weight_decay=5e-4, eta_min=1e-4, warmup=0, loss='cross_entropy', auxiliary={'aux': 0.4}, class_weight=None)
STDC = dict(
    warmup=1000, loss='ohem_pixel_sampler', thresh=0.7, min_kept=10000, auxiliary={'aux16': 1.0, 'aux32': 1.0, 'detail': 1.0}
)
DDRNET = dict(eta_min=0.0, loss='ohem', thresh=0.9, min_kept=131072, class_weight=CITYSCAPES)
OTHERWISE = {
    'stdc1_4xb12': STDC,
    'stdc2_4xb12': STDC,
    'stdc1_in1k-pre_4xb12': STDC,
    'stdc2_in1k-pre_4xb12': STDC,
    'stdc1_8xb12': STDC,
    'fast_scnn_8xb4': dict(
        lr=0.12, weight_decay=4e-5, loss='sigmoid_cross_entropy', auxiliary={'aux_gfe': 0.4, 'aux_ltd': 0.4}
    ),
    'ddrnet_23-slim_in1k-pre_2xb6': DDRNET,
    'ddrnet_23_in1k-pre_2xb6': DDRNET,
    'ddrnet_39_in1k-pre_2xb6': DDRNET,
}
AUTHORS = 'in1k-pre_3xb16-60k'  # STDC-Seg's own recipes, named in the same way
SCALES = {'cityscapes': [1024, 2048], 'voc12aug': [512, 2048]}
MMSEG = [name for name in NAMED if AUTHORS not in name]


def published(name: str) -> dict:
    return {**BASE, **OTHERWISE.get(name[: name.index('-', NAMED[name].start())], {})}


def test_the_asked_recipes_are_there():
    for network, lengths in itertools.product(
        ('fcn_r{}-d8', 'pspnet_r{}-d8', 'deeplabv3_r{}-d8', 'deeplabv3plus_r{}-d8', 'upernet_r{}'),
        (
            '4xb2-40k_cityscapes-512x1024',
            '4xb2-80k_cityscapes-512x1024',
            '4xb4-20k_voc12aug-512x512',
            '4xb4-40k_voc12aug-512x512',
        ),
    ):
        assert {f'{network.format(depth)}_{lengths}' for depth in (50, 101)} <= set(MMSEG)
    assert set(OTHERWISE) <= {name[: name.index('-', NAMED[name].start())] for name in MMSEG}
    for kind in 'dp', 'ddp':
        archs = {found.model.arch for name, found in SEGMENTATION.items() if f'_deephm-{kind}_' in name}
        assert archs == {'deeplabv3plus', 'gcn', 'upernet', 'duc_hdc', 'pspnet', 'enet', 'unet', 'segnet', 'fcn'}


@pytest.mark.parametrize('name', NAMED)
def test_names_say_batch_length_and_crop(name):
    found, said = SEGMENTATION[name], NAMED[name]
    assert found.data.batch_size == int(said['batch'])
    assert found.optimizer.lr_batch_size == int(said['gpus']) * int(said['batch'])
    assert found.schedule.max_iters == 1000 * int(said['steps'])
    assert found.augment.crop_size == [int(said['height']), int(said['width'])]
    assert found.data.set == {'cityscapes': 'cityscapes', 'voc12aug': 'voc'}[said['data']]


@pytest.mark.parametrize('name', MMSEG)
def test_numbers_are_mmsegmentations(name):
    found, theirs = SEGMENTATION[name], published(name)
    assert (found.optimizer.optimizer, found.optimizer.momentum, found.optimizer.use_nesterov) == ('sgd', 0.9, False)
    assert found.optimizer.weight_decay == theirs['weight_decay'] and found.optimizer.norm_bias_decay
    assert not found.optimizer.lr_mult and not found.optimizer.clip_global_norm and not found.optimizer.with_ema
    assert (found.loss.loss, found.loss.class_weight) == (theirs['loss'], theirs['class_weight'])
    assert found.loss.auxiliary_weights == theirs['auxiliary'] and found.loss.detail_weights == [1.0, 1.0]
    assert not found.loss.avg_non_ignore and not found.loss.label_smoothing
    if 'thresh' in theirs:
        devices = int(NAMED[name]['gpus']) if theirs['loss'] == 'ohem' else 1  # theirs is of each GPU, ours of all
        assert (found.loss.ohem_thresh, found.loss.ohem_min_kept) == (theirs['thresh'], theirs['min_kept'] * devices)
    augment = found.augment
    assert augment.base_size == SCALES[NAMED[name]['data']] and augment.ratio_range == [0.5, 2.0]
    assert (augment.cat_max_ratio, augment.flip_prob, augment.photometric_distortion) == (0.75, 0.5, True)
    assert not augment.rotate and not augment.cutout_prob
    assert (augment.mean, augment.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert augment.eval_size in (None, augment.base_size)  # on Cityscapes the file's own size
    assert augment.eval_size or found.data.set == 'cityscapes'


@pytest.mark.parametrize('name', MMSEG)
def test_learning_rates_are_mmengines_in_every_step(name):
    found, theirs = SEGMENTATION[name], published(name)
    gpus = int(NAMED[name]['gpus'])
    ours = learning_rates(found.optimizer, found.schedule, 1, global_batch(found, gpus))
    expected = mmengine(theirs['lr'], 1000 * int(NAMED[name]['steps']), 0.9, theirs['eta_min'], theirs['warmup'])
    np.testing.assert_allclose(ours, expected, rtol=RELATIVE)


FIXED_NORMS = {'backbone*.bn.*': 0.0, 'ffm': 10.0, 'head': 10.0, 'aux16': 10.0, 'aux32': 10.0, 'detail': 10.0}
STDC_SEG = {  # key -> value of MichaelFan01/STDC-Seg@59ff37f, and where it is there
    'batch_size': (16, 'train.py:57'),
    'crop_size': ([512, 1024], 'train.py:175'),
    'scale_set': ([step / 8 for step in range(1, 13)], 'train.py:176'),
    'small_image': ('enlarge', 'transform.py:23'),
    'antialias': (True, 'transform.py:63, Pillow'),
    'color_factors': ([0.5, 1.5], 'cityscapes.py:73, transform.py:80'),
    'cat_max_ratio': (1.0, 'transform.py:12, any crop'),
    'flip_prob': (0.5, 'transform.py:41'),
    'mean': ([255 * 0.485, 255 * 0.456, 255 * 0.406], 'cityscapes.py:70'),
    'std': ([255 * 0.229, 255 * 0.224, 255 * 0.225], 'cityscapes.py:70'),
    'optimizer': ('sgd', 'optimizer_loss.py:41'),
    'momentum': (0.9, 'train.py:232'),
    'use_nesterov': (False, 'optimizer_loss.py:41'),
    'weight_decay': (5e-4, 'train.py:233'),
    'norm_bias_decay': (False, 'models/model_stages.py:60'),
    'lr_mult': (FIXED_NORMS, 'models/model_stages.py:311, nets/stdcnet.py:12'),
    'loss': ('stdc_ohem', 'loss/loss.py:12'),
    'ohem_thresh': (0.7, 'train.py:223'),
    'ohem_min_kept': (3 * 16 * 1024 * 512 // 16, 'train.py:224, of three GPUs'),
    'auxiliary_weights': ({'aux16': 1.0, 'aux32': 1.0, 'detail': 1.0}, 'train.py:322'),
    'detail_weights': ([1.0, 1.0], 'train.py:322'),
    'detail_target': ('decaying', 'optimizer_loss.py:39'),
    'sync_bn': ('heads', 'models/model_stages.py:12, nets/stdcnet.py:12'),
    'val_interval': (1000, 'train.py:70'),
}


@pytest.mark.parametrize('arch', ['stdc1', 'stdc2'])
@pytest.mark.parametrize('scale, size, other', [('', [768, 1536], [512, 1024]), ('-seg50', [512, 1024], [768, 1536])])
def test_stdc_seg(arch, scale, size, other):
    """MichaelFan01/STDC-Seg: 3 GPUs with 16 images; scores at scales 0.5 and 0.75 of one training (train.py:376)."""
    found = SEGMENTATION[f'{arch}{scale}_in1k-pre_3xb16-60k_cityscapes-512x1024']
    ours = learning_rates(found.optimizer, found.schedule, 1, 48)
    official = [
        1e-5 * 1000 ** (step / 1000) if step < 1000 else 0.01 * (1 - (step - 1000) / 59000) ** 0.9 for step in range(60000)
    ]
    np.testing.assert_allclose(ours, official, rtol=RELATIVE)
    assert detail_strides(detail_kernels(found.optimizer, ours)) == (28839, 41352)
    for key, (value, where) in STDC_SEG.items():
        assert getattr(getattr(found, KEYS[key]), key) == pytest.approx(value), f'{key}: {where}'
    assert found.augment.eval_size == size and found.augment.more_eval_sizes == [other]
    assert (found.model.arch, found.model.pretrained) == (f'{arch}_seg', f'{arch}_stdc_seg')
    assert found.model.model_args == preset_arguments('stdc_seg', f'{arch}_seg')


@pytest.mark.parametrize('name', [name for name in SEGMENTATION if AUTHORS + '-trainval' in name])
def test_recipes_for_the_test_server_train_on_val_too(name):
    joined, alone = (SEGMENTATION[one].flat() for one in (name, name.replace('-trainval', '')))
    assert joined.pop('train_split') == ['train', 'val']
    assert {key for key in joined if joined[key] != alone.get(key)} == {'recipe', 'val_interval'}


@pytest.mark.parametrize(
    'name', [name for name, one in SEGMENTATION.items() if one.data.val_split in {*one.data.train_splits, 'test'}]
)
def test_no_checkpoint_is_chosen_by_images_that_are_trained_on_or_for_the_test(name):
    found = SEGMENTATION[name]
    images = {'cityscapes': 2975 + 500, 'camvid11of32': 367 + 101}[found.data.set]
    steps = found.schedule.max_iters or found.schedule.epochs * (images // found.optimizer.lr_batch_size)
    assert found.runtime.val_interval == steps, 'one evaluation, at the end'


@pytest.mark.parametrize('arch', ['stdc1', 'stdc2'])
def test_stdc_on_camvid(arch):
    """Their code for Cityscapes where no file for CamVid exists; PaddleSeg's pp_liteseg_stdc1_camvid_960x720_10k.yml."""
    found = SEGMENTATION[f'{arch}_in1k-pre_10k_camvid-720x960']
    otherwise = {
        'scale_set': list(np.arange(0.5, 2.51, 0.25)),
        'crop_size': [720, 960],
        'batch_size': 24,  # 4 x 6
        'ohem_min_kept': 4 * 6 * 960 * 720 // 16,
        'set': 'camvid11of32',  # this and the splits by memory of the paper
        'train_split': ['train', 'val'],
        'val_split': 'test',
        'val_interval': 10000,  # the test images choose no checkpoint
    }
    for key, expected in {**{key: value for key, (value, _) in STDC_SEG.items()}, **otherwise}.items():
        ours = getattr(getattr(found, KEYS[key]), key)
        assert ours == (expected if key in otherwise else pytest.approx(expected)), key
    rates = learning_rates(found.optimizer, found.schedule, 1, 24)
    assert len(rates) == 10000 and rates[0] == pytest.approx(1e-5) and rates[200] == rates.max() == pytest.approx(0.01)
    assert found.schedule.min_lr == 0 and found.model.model_args == preset_arguments('stdc_seg', f'{arch}_seg')


def test_norms_are_synchronised_where_the_publishers_are():
    """Batches by process: mmsegmentation's STDC (_base_/models/stdc.py: BN), DeepHM (train_ddp.py:164), torchvision (train.py
    without --sync-bn), the model zoo's DDRNet; STDC-Seg by parts."""
    kinds = {path.stem: load(path).runtime.sync_bn for path in recipes.recipes()}
    patterns = {
        False: r'stdc\d_(in1k-pre_)?[48]xb12|_deephm-|^(resnet\d+|vgg16_bn)_imagenet$|ddrnet23_imagenet_(gpu|ascend)',
        'heads': r'stdc\d(-seg50)?_in1k-pre_(3xb16|10k)',
        True: r'^(fcn|pspnet|deeplabv3plus|upernet)_r\d+(-d8)?_4xb|^fast_scnn_8xb4|^ddrnet_\d\d.*_2xb6',
    }
    for kind, pattern in patterns.items():
        chosen = [name for name in kinds if re.search(pattern, name)]
        assert len(chosen) >= 4 and {kinds[name] for name in chosen} == {kind}, chosen


@pytest.mark.parametrize('name', [name for name in SEGMENTATION if '_deephm-' in name])
def test_deephm(name):
    """DeepHM/deeplabv3plus_DPDDP, config.json: batch 8 of all GPUs (DP) or of each of two (DDP), 10582 images, 80 epochs."""
    found, gpus = SEGMENTATION[name], 1 if '-dp_' in name else 2
    assert found.runtime.launcher == ('dp' if gpus == 1 else None)
    steps = -(-10582 // (8 * gpus))  # the last batch is smaller
    ours = learning_rates(found.optimizer, found.schedule, steps, global_batch(found, gpus))
    np.testing.assert_allclose(ours, 0.01 * (1 - np.arange(80 * steps) / (80 * steps)) ** 0.9, rtol=RELATIVE)
    assert found.optimizer.weight_decay == 1e-4 and found.runtime.val_interval == 5 * steps
    backbone = {'fcn': ('backbone', 'conv6', 'conv7', 'classifier'), 'enet': (), 'unet': (), 'segnet': ()}
    assert found.optimizer.lr_mult == dict.fromkeys(backbone.get(found.model.arch, ('backbone',)), 0.1)
    assert found.loss.auxiliary_weights == ({'aux': 0.4} if found.model.arch == 'pspnet' else {})
    np.testing.assert_allclose(
        np.array([found.augment.mean, found.augment.std]) / 255,
        [[0.45734706, 0.43338275, 0.40058118], [0.23965294, 0.23532275, 0.2398498]],
        atol=1e-5,
    )


CHENJUN = 'ddrnet_23-slim_chenjun2hao_cityscapes-1024x1024'
# setting -> value of chenjun2hao/DDRNet.pytorch@bc0e193, and where it is written: a line of experiments/cityscapes/
# ddrnet23_slim.yaml, or of another file
CHENJUN_SETTINGS: dict[str, tuple[Any, str]] = {
    'batch_size': (8, ':32 BATCH_SIZE_PER_GPU'),
    'lr_batch_size': (2 * 8, ':5 GPUS'),
    'sampling': ('shuffle', ':33 SHUFFLE'),
    'base_size': ([1024, 2048], ':31 BASE_SIZE, the long side'),
    'crop_size': ([1024, 1024], ':28 IMAGE_SIZE'),
    'scale_set': ([round(0.5 + step / 10, 1) for step in range(16 + 1)], ':46 SCALE_FACTOR; lib/datasets/base_dataset.py:160'),
    'padding': ('black', 'lib/datasets/base_dataset.py:76-84'),
    'cat_max_ratio': (1.0, 'lib/datasets/base_dataset.py:72, one box'),
    'flip_prob': (0.5, 'lib/datasets/base_dataset.py:171'),
    'photometric_distortion': (False, 'lib/config/default.py, RANDOM_BRIGHTNESS'),
    'optimizer': ('sgd', ':37 OPTIMIZER'),
    'base_lr': (0.01, ':38 LR'),
    'weight_decay': (5e-4, ':39 WD'),
    'momentum': (0.9, ':40 MOMENTUM'),
    'use_nesterov': (False, ':41 NESTEROV'),
    'norm_bias_decay': (True, 'tools/train.py:224, one group'),
    'epochs': (484, ':35 END_EPOCH'),
    'losses': ({'logits': 'ohem', 'aux': 'cross_entropy'}, 'lib/core/criterion.py:98'),
    'logits_weight': (0.4, ':26 BALANCE_WEIGHTS; lib/models/ddrnet_23_slim.py:340'),
    'auxiliary_weights': ({'aux': 1.0}, ':26 BALANCE_WEIGHTS'),
    'ohem_thresh': (0.9, ':24 OHEMTHRES'),
    'ohem_min_kept': (2 * 131072, ':25 OHEMKEEP, of each GPU'),
    'class_weight': (CITYSCAPES, 'lib/datasets/cityscapes.py:62'),
    'avg_non_ignore': (False, 'lib/core/function.py:64, the mean of a map'),
    'sync_bn': (False, 'tools/train.py:101'),
    'train_split': ('train', ':15 TRAIN_SET'),
    'val_split': ('val', ':14 TEST_SET'),
    'eval_average': ('exponentials', 'lib/datasets/base_dataset.py:193'),
    'slide_window': ([1024, 2048], ':48 TEST.IMAGE_SIZE'),
    'slide_stride': ([1024, 2048], 'lib/datasets/cityscapes.py:126'),
    'mean': ([123.675, 116.28, 103.53], 'lib/datasets/cityscapes.py:31'),
    'std': ([58.395, 57.12, 57.375], 'lib/datasets/cityscapes.py:32'),
}
# What its authors do otherwise (README of ydhongHIT/DDRNet@de0db31; M: memory of the paper); 4 GPUs with 3 images (M)
AUTHORS_OTHERWISE: dict[str, Any] = {
    'batch_size': 3,
    'lr_batch_size': 12,
    'sampling': 'class_balanced',  # README: "class balance sample"
    'logits_weight': 1.0,  # M, and issue 22 of chenjun2hao/DDRNet.pytorch
    'auxiliary_weights': {'aux': 0.4},
    'ohem_min_kept': 4 * 131072,
    'sync_bn': True,
}
TRAINVAL = {'train_split': ['train', 'val']}  # issue 32 of ydhongHIT/DDRNet: for the test server
CAMVID_OTHERWISE: dict[str, Any] = {
    **TRAINVAL,  # issue 6
    'val_split': 'test',
    'set': 'camvid11of32',  # issue 25
    'batch_size': 12,
    'lr_batch_size': 12,
    'base_size': [720, 960],
    'crop_size': [720, 960],
    'base_lr': 1e-3,  # M
    'epochs': 968,  # M
    'logits_weight': 1.0,
    'auxiliary_weights': {'aux': 0.4},
    'ohem_min_kept': 131072,
    'class_weight': None,
    'slide_window': None,
    'slide_stride': None,
    'sync_bn': True,  # one GPU
}


@pytest.mark.parametrize(
    'name, arch, otherwise',
    [
        (CHENJUN, 'ddrnet23_slim', {}),
        ('ddrnet_23-slim_authors_cityscapes-1024x1024', 'ddrnet23_slim', AUTHORS_OTHERWISE),
        ('ddrnet_23_authors_cityscapes-1024x1024', 'ddrnet23', AUTHORS_OTHERWISE),
        ('ddrnet_23-slim_authors-trainval_cityscapes-1024x1024', 'ddrnet23_slim', {**AUTHORS_OTHERWISE, **TRAINVAL}),
        ('ddrnet_23_authors-trainval_cityscapes-1024x1024', 'ddrnet23', {**AUTHORS_OTHERWISE, **TRAINVAL}),
        ('ddrnet_39_authors-trainval_cityscapes-1024x1024', 'ddrnet39', {**AUTHORS_OTHERWISE, **TRAINVAL}),
        ('ddrnet_23-slim_authors_camvid-720x960', 'ddrnet23_slim', CAMVID_OTHERWISE),
        ('ddrnet_23_authors_camvid-720x960', 'ddrnet23', CAMVID_OTHERWISE),
    ],
)
def test_ddrnet_by_its_authors(name, arch, otherwise):
    found = SEGMENTATION[name]
    expected = {**{key: value for key, (value, _) in CHENJUN_SETTINGS.items()}, **otherwise}
    ours = {key: getattr(getattr(found, KEYS[key]), key) for key in expected}
    assert ours == {key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()}
    assert found.model.arch == f'{arch}_seg' and found.model.pretrained == f'{arch}_authors'
    assert found.model.model_args == {'stem_bias': True}
    images = {'cityscapes': {'train': 2975, 'val': 500}, 'camvid11of32': {'train': 367, 'val': 101}}[found.data.set]
    steps = sum(images[split] for split in found.data.train_splits) // found.optimizer.lr_batch_size
    ours = learning_rates(found.optimizer, found.schedule, steps, found.optimizer.lr_batch_size)
    total = steps * found.schedule.epochs
    np.testing.assert_allclose(ours, found.optimizer.base_lr * (1 - np.arange(total) / total) ** 0.9, rtol=RELATIVE)
    assert found.runtime.val_interval % steps == found.runtime.checkpoint_interval % steps == 0, 'whole epochs'


def one_of_each() -> list[Any]:
    """A recipe for every network, loss and optimizer that there is; slow are large ones, and those whose own steps
    training/test_golden_steps.py takes in every run."""
    found: dict[tuple, str] = {}
    for name, one in SEGMENTATION.items():
        loss = one.loss.model_dump(exclude={'class_weight'})
        found.setdefault(
            (one.model.arch, str(one.model.arguments()), str(loss), one.optimizer.optimizer, str(one.optimizer.lr_mult)), name
        )
    large, stepped = ('resnet101', 'resnet152', 'vgg16'), {recorded(case)['config'].rpartition('/')[2] for case in cases()}
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (SEGMENTATION[name].model.backbone in large or name in stepped))
        for name in found.values()
    ]


def step(backend, name: str) -> dict[str, float]:
    """What a training step of a recipe says, from weights drawn at random, on two small images."""
    one = SEGMENTATION[name].replace(pretrained=None, launcher=None, graph_mode=int(backend.name == 'mindspore'))
    if isinstance(one.loss.class_weight, str):
        one = one.replace(class_weight=[1.0] * CLASSES[one.data.set])
    classes = CLASSES[one.data.set]
    network = backend.build_model(one.model.arch, num_classes=classes, **one.model.arguments())
    check(one.loss, network.align_corners, classes)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, (2, 64, 64), dtype=np.uint8)
    labels[:, :8] = 255
    return backend.make_trainer(network, one).step([(rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8), labels)], 1e-3)


@pytest.mark.parametrize('name', one_of_each())
def test_every_network_takes_a_step(name):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    one, values = SEGMENTATION[name], step(backend, name)
    assert np.isfinite(values['loss']) and values['grad_norm'] > 0
    assert {'loss_logits', *(f'loss_{output}' for output in one.loss.auxiliary_weights)} <= set(values)


@pytest.mark.slow
@pytest.mark.parametrize('name', [param.values[0] for param in one_of_each() if not param.marks])
def test_both_backends_take_the_same_step(name):
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    found = []
    for backend_name in ('pytorch', 'mindspore'):
        backend = get_backend(backend_name)
        backend.setup('cpu', threads=1)
        found.append(step(backend, name))
    assert found[0].keys() == found[1].keys()
    assert found[1]['loss'] == pytest.approx(found[0]['loss'], rel=LOSS)
