"""mmsegmentation's recipes, key by key: what its own files say (``mmsegmentation.json``) against our loaded configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from twinseg.common.config import Config, load
from twinseg.common.data.classes import CITYSCAPES_CLASSES, VOC_CLASSES
from twinseg.common.settings import published_scores, recipes
from twinseg.common.settings.presets import PRESETS
from twinseg.common.tasks.base import SCALES
from twinseg.common.weights.by_name import published_as

TABLE = json.loads(Path(__file__).with_name('mmsegmentation.json').read_text())
PATHS = {path.stem: path for path in recipes.recipes() if path.stem in TABLE}
NAMES = list(PATHS)
DATA = {
    'cityscapes': {
        'dataset': 'CityscapesDataset',
        'splits': ['leftImg8bit/train'],
        'val_split': 'leftImg8bit/val',
        'train.order': ['RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion'],
    },
    'voc': {
        'dataset': 'PascalVOCDataset',
        'splits': ['ImageSets/Segmentation/train.txt', 'ImageSets/Segmentation/aug.txt'],  # ours: train_aug
        'val_split': 'ImageSets/Segmentation/val.txt',
        'train.order': ['RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion', 'Pad'],
    },
}
CLASSES = {'cityscapes': len(CITYSCAPES_CLASSES), 'voc': len(VOC_CLASSES)}
DIFFERENCES: dict[tuple[str, str], str] = {}  # what is meant to differ: beginnings of recipe and of key -> the reason
HEADS = {  # aux outputs in mmsegmentation's order
    'stdc1_seg': ('aux16', 'aux32', 'detail'),
    'stdc2_seg': ('aux16', 'aux32', 'detail'),
    'fast_scnn': ('aux_gfe', 'aux_ltd'),
    'ddrnet23_slim_seg': (),  # its decoder's second loss
    'ddrnet23_seg': (),
}
ALIGNED = {'stdc1_seg': (True, False, False, True), 'stdc2_seg': (True, False, False, True)}  # heads: main, auxiliary ones
MOMENTUM = {'fast_scnn': 0.01}


def flat(value: Any, name: str = '') -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value} if value != {} else {}
    return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, f'{name}.{part}'.lstrip('.')).items()}


def losses(config: Config, weight: float, gpus: int) -> dict[str, Any]:
    """One head's loss, and its sampler, in mmsegmentation's words."""
    loss = config.loss
    if loss.loss == 'ohem':
        return {
            'type': 'OhemCrossEntropy',
            'thres': loss.ohem_thresh,
            'min_kept': loss.ohem_min_kept // gpus,  # theirs is of each GPU, ours of the global batch
            'class_weight': loss.class_weight,
            'loss_weight': weight,
        }
    words = {'type': 'CrossEntropyLoss', 'use_sigmoid': loss.loss == 'sigmoid_cross_entropy', 'loss_weight': weight}
    return {**words, **({'avg_non_ignore': True} if loss.avg_non_ignore else {})}


def head(config: Config, output: str, weight: float, align_corners: bool, gpus: int) -> dict[str, Any]:
    arch = config.model.arch
    norm = {'type': 'SyncBN' if config.runtime.sync_bn else 'BN', 'requires_grad': True}
    norm |= {'momentum': MOMENTUM[arch]} if arch in MOMENTUM else {}
    sampler = {'type': 'OHEMPixelSampler', 'thresh': config.loss.ohem_thresh, 'min_kept': config.loss.ohem_min_kept}
    described: dict[str, Any] = {'loss_decode': losses(config, weight, gpus)}
    if output == 'detail':
        cross_entropy, dice = (weight * part for part in config.loss.detail_weights)
        described['loss_decode'] = [
            {'type': 'CrossEntropyLoss', 'loss_name': 'loss_ce', 'use_sigmoid': True, 'loss_weight': cross_entropy},
            {'type': 'DiceLoss', 'loss_name': 'loss_dice', 'loss_weight': dice},
        ]
    elif config.loss.loss == 'ohem_pixel_sampler':
        described['sampler'] = sampler
    return {
        **described,
        'align_corners': align_corners,
        'norm_cfg': norm,
        'num_classes': 2 if output == 'detail' else CLASSES[config.data.set],
    }


def in_their_words(config: Config, gpus: int) -> dict[str, Any]:
    """Our configuration as mmsegmentation's keys; what only one of several networks says, as its file says it."""
    arch, augment, optimizer, schedule = config.model.arch, config.augment, config.optimizer, config.schedule
    lr = optimizer.base_lr * gpus * config.data.batch_size / optimizer.lr_batch_size  # of their global batch
    assert (optimizer.lr_mult, optimizer.norm_bias_decay, optimizer.use_nesterov, optimizer.with_ema) == (
        {},
        True,
        False,
        False,
    )
    assert schedule.lr_scheduler == 'poly_lr' and schedule.reach_min_lr and not augment.rotate and not augment.cutout_prob
    assert not augment.class_mix and not config.loss.label_smoothing and optimizer.accumulation_step == 1
    warmup = {
        'type': 'LinearLR',
        'by_epoch': False,
        'start_factor': round(schedule.warmup_lr / optimizer.base_lr, 9),
        'begin': 0,
        'end': schedule.warmup_iters,
    }
    poly = {
        'type': 'PolyLR',
        'eta_min': schedule.min_lr,
        'power': schedule.power,
        'begin': schedule.warmup_iters,
        'end': schedule.max_iters,
        'by_epoch': False,
    }
    aligned = ALIGNED.get(arch, (False,) * 4)
    main = head(config, 'logits', 1.0, aligned[0], gpus)
    names = HEADS.get(arch, ('aux',))
    weights = config.loss.auxiliary_weights
    if arch.startswith('ddrnet'):
        main['loss_decode'] = [losses(config, 1.0, gpus), losses(config, weights['aux'], gpus)]
    width_first = augment.base_size[::-1]
    pretrained = config.model.pretrained and published_as(config.model.pretrained)
    data = DATA[config.data.set]
    order = [step for step in data['train.order'] if step != 'PhotoMetricDistortion' or augment.photometric_distortion]
    return flat(
        {
            'optim_wrapper': {
                'type': 'OptimWrapper',
                'optimizer': {
                    'type': {'sgd': 'SGD'}[optimizer.optimizer],
                    'lr': lr,
                    'momentum': optimizer.momentum,
                    'weight_decay': optimizer.weight_decay,
                },
                'clip_grad': optimizer.clip_global_norm_value if optimizer.clip_global_norm else None,
            },
            'param_scheduler': [*([warmup] if schedule.warmup_iters else []), poly],
            'train_cfg': {
                'type': 'IterBasedTrainLoop',
                'max_iters': schedule.max_iters,
                'val_interval': config.runtime.val_interval,
            },
            'randomness': {'seed': config.runtime.seed} if config.runtime.seed else {},
            'checkpoint': config.runtime.checkpoint_interval,
            'batch_size': config.data.batch_size,
            'shuffle': config.data.sampling == 'shuffle',
            'dataset': data['dataset'],
            'splits': data['splits'],
            'val_split': data['val_split'],
            'train': {
                'order': order,
                'RandomResize': {'scale': width_first, 'ratio_range': augment.ratio_range, 'keep_ratio': True},
                'RandomCrop': {'crop_size': augment.crop_size, 'cat_max_ratio': augment.cat_max_ratio},
                'RandomFlip': {'prob': augment.flip_prob},
                **({'Pad': {'size': augment.crop_size}} if 'Pad' in order else {}),
            },
            'test': {
                'order': ['Resize'],
                # Cityscapes' files have this size
                'Resize': {'scale': (augment.eval_size or [1024, 2048])[::-1], 'keep_ratio': True},
            },
            'scales': list(SCALES),
            'preprocessor': {
                'type': 'SegDataPreProcessor',
                'mean': augment.mean,
                'std': augment.std,
                'bgr_to_rgb': True,
                'pad_val': 0,
                'seg_pad_val': 255,
                'size': augment.crop_size,
            },
            'mode': 'whole',
            'norm': main['norm_cfg'],
            'decode_head': main,
            'auxiliary_head': [head(config, name, weights[name], corners, gpus) for name, corners in zip(names, aligned[1:])],
            **({'pretrained': None} if pretrained is None else _initial(pretrained)),
        }
    )


def _initial(pretrained: Any) -> dict[str, Any]:
    if 'resnet' in pretrained.name:
        return {'pretrained': pretrained.aliases[0]}
    return {'pretrained': {'type': 'Pretrained', 'checkpoint': pretrained.url}}


def theirs(name: str) -> dict[str, Any]:
    return {**TABLE['all'], **TABLE[name]}


def gpus(name: str) -> int:
    return int(theirs(name)['devices'].split('x')[0])


def meant(name: str, key: str) -> bool:
    return any(name.startswith(recipe) and key.startswith(beginning) for recipe, beginning in DIFFERENCES)


def test_every_recipe_of_mmsegmentation_is_in_the_table():
    named = {
        path.stem
        for path in recipes.recipes()
        for score in published_scores.of_file(path).scores
        if score.source.startswith('mmsegmentation 1.2.2 ')
    }
    assert named == set(NAMES) and len(NAMES) == 48


@pytest.mark.parametrize('name', NAMES)
def test_settings_are_its_own(name):
    expected = {key: value for key, value in theirs(name).items() if key != 'devices' and not key.startswith('scores.')}
    found = in_their_words(load(PATHS[name]), gpus(name))
    assert found.keys() == expected.keys()
    others = [key for key in expected if found[key] != expected[key]]
    assert [key for key in others if not meant(name, key)] == []
    assert [key for key in expected if meant(name, key) and key not in others] == [], 'no difference any more'


@pytest.mark.parametrize('name', NAMES)
def test_scores_are_its_own(name):
    scores = published_scores.of_file(PATHS[name]).scores
    assert {('ms+flip' if score.flip else 'single'): score.score for score in scores} == {
        'single': theirs(name)['scores.mIoU'],
        'ms+flip': theirs(name)['scores.mIoU(ms+flip)'],
    }
    assert all(score.split == 'val' and score.metric == 'mIoU' for score in scores)
    assert all(score.scales == (list(SCALES) if score.flip else [1.0]) for score in scores)
    assert f'theirs {gpus(name)} x {theirs(name)["devices"].split()[1]}' in PATHS[name].read_text()


def test_networks_are_the_preset():
    """Of what a preset says, nothing is changed by a recipe but the backbone."""
    for name, path in PATHS.items():
        config = load(path)
        given = {key: value for key, value in config.model.arguments().items() if key != 'backbone'}
        assert given in ({}, PRESETS['mmseg'][config.model.arch]), name
