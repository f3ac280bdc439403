"""Cityscapes and Pascal VOC end to end, on small drawn data in their formats: train, evaluate, predict for the servers."""

import itertools
import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from twinseg.common import config
from twinseg.common.backend import available
from twinseg.common.cli import main
from twinseg.common.data.classes import CITYSCAPES_LABEL_IDS, default_palette
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.inference.submit import submit
from twinseg.common.tasks.base import EvalOptions
from twinseg.common.training.loop import train

SIZE = (64, 128)
COLOURS = np.random.default_rng(5).integers(30, 226, (34, 3))
CITIES = {'train': ('aachen', 'bochum'), 'val': ('frankfurt', 'lindau'), 'test': ('berlin',)}


def scene(seed: int, classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label: bands of the first classes, boxes of the others, and a border of 255 around the boxes."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.array(classes[:4], np.uint8), SIZE[0] // 4)[:, None].repeat(SIZE[1], 1)
    for number in rng.choice(classes[4:], 3):
        top, left = int(rng.integers(0, SIZE[0] - 20)), int(rng.integers(0, SIZE[1] - 30))
        cv2.rectangle(label, (left, top), (left + 29, top + 19), int(number), cv2.FILLED)
        cv2.rectangle(label, (left, top), (left + 29, top + 19), 255, 1)
    image = np.clip(COLOURS[np.minimum(label, 33)] + rng.normal(0, 10, (*SIZE, 3)), 0, 255).astype(np.uint8)
    return image, label


def cityscapes(root: Path) -> Path:
    """The folders of leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip; label 4 stands for what is not evaluated."""
    for split, cities in CITIES.items():
        for seed, (city, number) in enumerate(itertools.product(cities, range(3))):
            image, label = scene(seed + 100 * len(split), [23, 11, 21, 7, 26, 24, 13, 4])
            label[label == 255] = 4
            stem = f'{city}_{number:06d}_000019'
            for kind, ending, pixels in (('leftImg8bit', 'leftImg8bit', image), ('gtFine', 'gtFine_labelIds', label)):
                if kind == 'leftImg8bit' or split != 'test':
                    path = root / kind / split / city / f'{stem}_{ending}.png'
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
    return root


def voc(root: Path) -> Path:
    """VOCdevkit/VOC2012 with palette labels and 255 at borders, SBD's in SegmentationClassAug, and the lists."""
    base = root / 'VOCdevkit/VOC2012'
    palette = [0, 0, 0, *np.ravel(default_palette(255)).tolist()]
    names = {
        'train': ['2007_000032', '2007_000039'],
        'aug': ['2010_000001', '2010_000002', '2010_000003', '2010_000004'],
        'val': ['2008_000002', '2008_000003', '2008_000007'],
        'test': ['2012_000009', '2012_000010'],
    }
    for folder in ('JPEGImages', 'SegmentationClass', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (base / folder).mkdir(parents=True)
    for split, listed in names.items():
        (base / f'ImageSets/Segmentation/{split}.txt').write_text(''.join(f'{name}\n' for name in listed))
        for seed, name in enumerate(listed):
            image, label = scene(seed + 1000 * len(split), [0, 15, 7, 20, 2, 12, 18, 9])
            Image.fromarray(image).save(base / f'JPEGImages/{name}.jpg', quality=95)
            picture = Image.fromarray(label, 'P')
            picture.putpalette(palette)
            if split != 'test':
                picture.save(base / ('SegmentationClassAug' if split == 'aug' else 'SegmentationClass') / f'{name}.png')
    return root


SMALL = dict(
    batch_size=2,
    num_parallel_workers=0,
    max_iters=30,
    val_interval=30,
    checkpoint_interval=30,
    log_interval=10,
    threads=1,
    model_args={'bn_momentum': 0.3},
    photometric_distortion=False,
)  # colour tells the classes apart
RECIPES = {  # the published recipe, on data and for a time that fit a test
    'cityscapes': (
        cityscapes,
        'fast_scnn_8xb4-160k_cityscapes-512x1024',
        dict(crop_size=[48, 96], base_size=list(SIZE), base_lr=0.2, lr_batch_size=2),
    ),
    'voc': (
        voc,
        'fcn_r50-d8_4xb4-20k_voc12aug-512x512',
        dict(
            arch='fast_scnn',
            backbone=None,
            pretrained=None,
            auxiliary_weights={'aux_gfe': 0.4},
            crop_size=[64, 64],
            base_size=[64, 256],
            eval_size=[96, 512],
            base_lr=0.05,
            lr_batch_size=2,
        ),
    ),
}


CASES = [
    *itertools.product(RECIPES, ['pytorch']),
    *(pytest.param((kind, 'mindspore'), marks=pytest.mark.slow) for kind in RECIPES),
]


@pytest.fixture(scope='module', params=CASES, ids=' '.join)
def trained(request, tmp_path_factory):
    """The data set, its folder with a run of a few steps in it, and what the run's last evaluation found."""
    kind, backend_name = request.param
    if backend_name not in available():
        pytest.skip(f'{backend_name} is not installed')
    make, recipe, changes = RECIPES[kind]
    folder = tmp_path_factory.mktemp(kind)
    chosen = config.load(recipe).replace(data_url=str(make(folder / 'data')), **{**SMALL, **changes})
    scores = train(chosen, backend_name, 'cpu', folder / 'run')
    return kind, folder, scores


def test_training_learns_and_evaluation_repeats_it(trained):
    _, folder, scores = trained
    lines = [json.loads(line) for line in (folder / 'run/metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if line['kind'] == 'train']
    assert losses[-1] < 0.8 * losses[0]
    found = evaluate_run(load_run(folder / 'run', device='cpu'))
    assert found.scores.to_json()['mIoU'] == pytest.approx(scores['mIoU'])


def test_the_test_split_is_predicted_without_labels(trained, capsys):
    kind, folder, _ = trained
    assert main(['submit', '--checkpoint', str(folder / 'run'), '--out', str(folder / 'server'), '--device', 'cpu']) == 0
    if kind == 'cityscapes':
        with zipfile.ZipFile(folder / 'server/cityscapes.zip') as archive:
            names = archive.namelist()
        assert names == [f'berlin_{number:06d}_000019_pred_labelIds.png' for number in range(3)]
        known = set(CITYSCAPES_LABEL_IDS)
    else:
        with tarfile.open(folder / 'server/voc.tgz') as archive:
            names = archive.getnames()
        assert names == [f'results/VOC2012/Segmentation/comp6_test_cls/{name}.png' for name in ('2012_000009', '2012_000010')]
        known = set(range(21))
    for name in names:
        with Image.open(folder / 'server' / name) as picture:
            assert picture.size == SIZE[::-1] and picture.mode == ('L' if kind == 'cityscapes' else 'P')
            assert set(np.unique(np.array(picture))) <= known
            if kind == 'voc':
                assert picture.getpalette()[45:48] == [192, 128, 128]  # person


def test_what_is_sent_scores_what_evaluation_says(trained):
    """The validation split, scored from the files: by cityscapesScripts, or for VOC as its server does."""
    kind, folder, _ = trained
    run = load_run(folder / 'run', device='cpu')
    options = EvalOptions(ms_flip=run.backend.name == 'pytorch', split='val')  # MindSpore compiles every size
    found = evaluate_run(run, options)
    submit(run, folder / 'sent', options)
    if kind == 'cityscapes':
        scoring = pytest.importorskip('cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling')
        truths = sorted((folder / 'data/gtFine/val').glob('*/*_gtFine_labelIds.png'))
        sent = [folder / 'sent' / path.name.replace('gtFine_labelIds', 'pred_labelIds') for path in truths]
        scoring.args.evalInstLevelScore, scoring.args.quiet = False, True
        scoring.args.JSONOutput = False
        theirs = scoring.evaluateImgLists(list(map(str, sent)), list(map(str, truths)), scoring.args)
        assert 100 * theirs['averageScoreClasses'] == pytest.approx(found.scores.to_json()['mIoU'], abs=1e-3)
        return
    matrix = np.zeros((21, 21), int)
    for path in sorted((folder / 'sent/results/VOC2012/Segmentation/comp6_val_cls').glob('*.png')):
        truth = np.array(Image.open(folder / 'data/VOCdevkit/VOC2012/SegmentationClass' / path.name))
        np.add.at(matrix, (truth[truth != 255], np.array(Image.open(path))[truth != 255]), 1)
    assert np.array_equal(matrix, found.matrix)


def test_data_sets_without_a_server_are_named(tmp_path):
    pytest.importorskip('torch')
    from tests.support import streets

    chosen = config.from_flat(streets.settings(streets.make(tmp_path / 'data', count=4), max_iters=1))
    train(chosen, 'pytorch', 'cpu', tmp_path / 'run')
    assert main(['submit', '--checkpoint', str(tmp_path / 'run'), '--out', str(tmp_path / 'out')]) == 2
    assert not (tmp_path / 'out').exists()
