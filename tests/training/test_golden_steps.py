"""A training step of a recipe is its publisher's own step: losses, movements, learning rates (docs/design.md section 4).

``golden/training/`` holds what mmsegmentation's ``model.train_step`` and davidtvs' ``Train.run_epoch`` did with the weights
and batches that ``golden.py`` makes. The same steps show that the twins stay together, so ``models/test_matrix.py`` need not
take steps with these networks again. Every run takes the two steps whose movements are recorded, with those of ``LARGE`` the
first of them, ``--slow`` all four. MindSpore compiles those of ``OPERATORS`` for longer than it computes them: only ``--slow``
compiles them, and only ``--slow`` has MindSpore take those of ``SLOW_TWINS``.
"""

import json
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from tests.conftest import GOLDEN
from tests.golden import golden
from twinseg.common import config, weights
from twinseg.common.backend import available, get_backend
from twinseg.common.schedules import learning_rates

LOSS_TOLERANCE = 2e-6  # relative, or 5 times the fixture's noise of the step
MOVE_TOLERANCE = 1e-4  # relative, or 5 times the fixture's noise
RATE_TOLERANCE = 1e-9  # relative
APART = 1e-4  # relative L2, over all parameters and statistics of twins after the steps with recorded moves
STILL = 1e-12  # L2 norm of what does not move
OPERATORS = ('davidtvs_enet', 'mmseg_ddrnet_23_slim', 'mmseg_stdc1')
LARGE = ('mmseg_deeplabv3plus_r50_d8', 'mmseg_fcn_r50_d8', 'mmseg_fcn_unet_s5_d16', 'mmseg_pspnet_r50_d8', 'mmseg_upernet_r50')
SLOW_TWINS = ('mmseg_deeplabv3plus_r50_d8', 'mmseg_fcn_r50_d8', 'mmseg_pspnet_r50_d8')  # in MindSpore; UPerNet's backbone
OUTPUTS = {  # a part of their loss, or the head in its name -> which of our network's outputs
    'logits': 0,
    'decode.loss_spatial': 1,
    'decode': 0,
    'aux': 1,
    'aux_0': 1,
    'aux_1': 2,
    'aux_2': 3,
}


def cases() -> list[str]:
    """Names of the fixtures."""
    names = sorted(path.stem for path in (GOLDEN / 'training').glob('*.json'))
    assert names, f'{GOLDEN / "training"}: no fixtures'
    return names


def recorded(case: str) -> dict:
    return json.loads((GOLDEN / 'training' / f'{case}.json').read_text())


def recipe(record: dict) -> config.Config:
    """Our recipe of that name; the recorded steps are of one device, whose part of the OHEM pixels it takes. Class weights that
    are counted on the labels are those of the record."""
    chosen = config.load(record['config'].rpartition('/')[2])
    if chosen.loss.loss == 'ohem':
        devices = chosen.optimizer.lr_batch_size // chosen.data.batch_size
        chosen = chosen.replace(ohem_min_kept=chosen.loss.ohem_min_kept // devices)
    if 'class_weight' in record:
        return config.from_flat({**chosen.flat(), 'class_weight': record['class_weight']}, trusted=True)
    return chosen.replace(pretrained=None)


def rates(record: dict) -> np.ndarray:
    """Our learning rates of every step of the recipe, on as many devices as it names."""
    chosen = recipe(record)
    return learning_rates(chosen.optimizer, chosen.schedule, record.get('steps_per_epoch', 1), chosen.optimizer.lr_batch_size)


class Steps(NamedTuple):
    """What our trainer did in the recorded steps."""

    losses: list[dict[str, float]]
    moves: list[dict[str, float]]  # after steps 1 and 2: the publisher's name -> L2 norm of the movement since the start
    outputs: list[str]  # of the network, in order
    unread: list[str]  # the publisher's names that our network does not have
    end: dict[str, np.ndarray]  # parameters and statistics after the last step with recorded moves


@pytest.fixture(scope='module', params=cases())
def case(request) -> str:
    return request.param


@pytest.fixture
def slow(request) -> bool:
    return request.config.getoption('--slow')


@pytest.fixture
def steps(backend_name, case, slow) -> Steps:
    return taken(backend_name, case, slow)


@lru_cache(maxsize=1)  # for both backends
def published(case: str) -> tuple[dict, weights.Converted]:
    """The recording of the publisher's network and its weights."""
    spec = golden.read(GOLDEN / f'{case}.json')
    return spec, weights.convert(golden.state_dict(spec))


def number_of_steps(case: str, slow: bool) -> int:
    record = recorded(case)
    return len(record['losses']) if slow else 1 if case in LARGE else len(record['moves'])


@lru_cache(maxsize=2)  # both backends' of one case
def taken(backend_name: str, case: str, slow: bool) -> Steps:
    """Takes the recorded steps."""
    if backend_name == 'mindspore' and case in SLOW_TWINS and not slow:
        pytest.skip('needs --slow')
    backend = get_backend(backend_name)
    backend.setup('cpu', seed=0, threads=1)
    record = recorded(case)
    spec, converted = published(case)
    chosen = recipe(record)
    network = backend.build_model(chosen.model.arch, num_classes=converted.arguments['num_classes'], **chosen.model.arguments())
    report = backend.load_state(network, converted.state)
    assert not report.missing and not report.unexpected and not report.mismatched
    for _, module in network.named_modules() if backend.name == 'pytorch' else network.cells_and_names():
        if hasattr(module, 'ratio'):  # dropout
            module.ratio = 0.0
    if backend.name == 'mindspore' and case in OPERATORS and not slow:
        chosen = chosen.replace(graph_mode=1)
    trainer = backend.make_trainer(network, chosen)
    shape, losses, moves = record['batch'], [], []
    for step, rate in enumerate(rates(record)[: number_of_steps(case, slow)], start=1):
        images = golden.generator(f'images:train:{case}:{step - 1}').integers(0, 256, shape, dtype=np.uint8)
        labels = golden.label(f'train:{case}:{step - 1}', (shape[0], *shape[2:]), spec['num_classes'], block=8)
        losses.append(dict(trainer.step([(images, labels.astype(np.uint8))], rate)))  # the figures themselves hold the trainer
        if step <= len(record['moves']):
            end = {key: array for key, array in trainer.state()[0].items() if key.startswith('model.')}
            moves.append(
                {
                    theirs: float(np.linalg.norm(np.subtract(end[f'model.{ours}'], converted.state[ours], dtype=np.float64)))
                    for ours, theirs in converted.names.items()
                }
            )
    return Steps(losses, moves, list(network.align_corners), converted.ignored, end)


@pytest.mark.parametrize('name', cases())
def test_learning_rates(name):
    record = recorded(name)
    ours = rates(record)
    np.testing.assert_allclose(ours[: len(record['learning_rates'])], record['learning_rates'], rtol=RATE_TOLERANCE)
    places = [int(step) for step in record['curve']]
    np.testing.assert_allclose(ours[places], list(record['curve'].values()), rtol=RATE_TOLERANCE)


def assert_within(differences: dict[str, tuple[float, float]], record_property) -> None:
    """That no relative difference exceeds its tolerance; records the one that comes closest (``--junit-xml``)."""
    worst = max(differences, key=lambda name: differences[name][0] / differences[name][1])
    record_property('worst', f'{worst}: {differences[worst][0]:.1e} of {differences[worst][1]:.1e}')
    over = {name: difference for name, difference in differences.items() if not difference[0] <= difference[1]}
    assert not over


def test_losses(steps, case, slow, record_property):
    """The loss of every step, and every part of it; the noise is that of the whole loss, so parts are measured by it, too."""
    record, differences = recorded(case), {}
    assert len(steps.losses) == number_of_steps(case, slow)
    noises = np.maximum.accumulate(record['noise'])  # of two runs: that of a later step is no smaller
    for number, (ours, theirs, noise) in enumerate(zip(steps.losses, record['losses'], noises), start=1):
        expected: dict[str, float] = {}
        for part, value in theirs.items():
            head = part.partition('.')[0]
            name = 'loss' if part == 'loss' else f'loss_{steps.outputs[OUTPUTS.get(part, OUTPUTS.get(head))]}'
            expected[name] = expected.get(name, 0.0) + value
        assert set(expected) == {name for name in ours if name.startswith('loss') and name != 'loss_scale'}
        for name, value in expected.items():
            difference = abs(ours[name] - value) / theirs['loss']
            differences[f'step {number}, {name}'] = difference, max(LOSS_TOLERANCE, 5 * noise)
    assert_within(differences, record_property)


def test_movements(steps, case, slow, record_property):
    """How far every parameter and running statistic moved over step 1, and over steps 1 and 2."""
    record, differences = recorded(case), {}
    assert len(record['moves']) == len(record['move_noise'])
    assert len(steps.moves) == min(number_of_steps(case, slow), len(record['moves']))
    for number, (ours, theirs, noise) in enumerate(zip(steps.moves, record['moves'], record['move_noise']), start=1):
        assert set(theirs) - set(steps.unread) == set(ours)
        for name, move in ours.items():
            if theirs[name] <= STILL:
                assert move <= STILL, name
            else:
                differences[f'step {number}, {name}'] = abs(move / theirs[name] - 1), max(MOVE_TOLERANCE, 5 * noise)
    assert_within(differences, record_property)


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
def test_twins_stay_together(case, slow):
    """The twins' parameters and statistics after the steps with recorded moves, together. Adam moves a weight by as much for a
    gradient that is rounding noise as for any other, so its record says how far the publisher's own steps are apart
    (``apart``)."""
    ours, theirs = (taken(backend_name, case, slow).end for backend_name in available())
    assert list(ours) == list(theirs)
    apart = sum(float(np.sum((theirs[name] - ours[name]) ** 2, dtype=np.float64)) for name in ours)
    size = sum(float(np.sum(array**2, dtype=np.float64)) for array in ours.values())
    assert 0 < (apart / size) ** 0.5 <= max(APART, 2 * recorded(case).get('apart', 0))
