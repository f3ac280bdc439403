"""Precision levels and loss scaling: the same meaning in both backends."""

import importlib
import os
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.tiny import batch, mixed_batch, tiny_classifier, tiny_network
from twinseg.common import config
from twinseg.common.backend import available, get_backend
from twinseg.common.checkpoint import LossScale, TrainerState
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import BackendError, UserError
from twinseg.common.parallel.processes import ALONE
from twinseg.common.training import loop
from twinseg.common.training.loss_scaling import LossScaler

HALF = 2e-2  # relative difference that half precision may make to a loss or a gradient norm of the tiny network


@pytest.fixture
def precision(backend):
    return importlib.import_module(f'twinseg.{backend.name}_impl.precision')


def trainer(backend, **settings):
    return backend.make_trainer(tiny_network(backend.name), config.from_flat(settings))


@pytest.mark.parametrize(
    'settings, steps, expected',
    [
        ({'loss_scale': 8.0}, '++--+', [(8, 0)] * 5),
        (
            {'loss_scale': 8.0, 'is_dynamic_loss_scale': True, 'scale_window': 2},
            '+++-++-',
            [(8, 1), (16, 0), (16, 1), (8, 0), (8, 1), (16, 0), (8, 0)],
        ),
        ({'loss_scale': 2.0, 'is_dynamic_loss_scale': True}, '---', [(1, 0), (1, 0), (1, 0)]),
        ({'is_dynamic_loss_scale': True}, '-+', [(32768, 0), (32768, 1)]),
        ({}, '-+', [(1, 0), (1, 0)]),
    ],
    ids=['static', 'dynamic', 'never below 1', 'dynamic by default', 'static by default'],
)
def test_scale_after_each_step(settings, steps, expected):
    scaler = LossScaler(config.Precision(**settings))
    for sign, (scale, good_steps) in zip(steps, expected):
        scaler.update(sign == '+')
        assert scaler.state() == LossScale(scale=scale, good_steps=good_steps)
    again = LossScaler(config.Precision(**settings))
    again.load_state(scaler.state())
    assert again.state() == scaler.state()


def state(steps: int, optimizer_steps: int, scale: float, good_steps: int) -> TrainerState:
    return TrainerState(steps=steps, optimizer_steps=optimizer_steps, loss_scale=LossScale(scale=scale, good_steps=good_steps))


@pytest.mark.parametrize('dynamic', [False, True])
def test_a_step_with_overflow_is_skipped(backend, dynamic):
    made = trainer(backend, amp_level='O2', loss_scale=2.0**40, is_dynamic_loss_scale=dynamic, with_ema=True)
    before, _ = made.state()
    values = made.step([batch(0)], 0.1)
    after, meta = made.state()
    assert values['overflow'] == 1.0 and np.isfinite(values['loss']) and values['loss_scale'] == 2.0**40
    assert meta == state(1, 0, 2.0 ** (39 if dynamic else 40), 0)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {'model.block.bn.running_mean', 'model.block.bn.running_var'}


def test_a_classifier_goes_on_after_an_overflow(backend):
    settings = {'amp_level': 'O2', 'loss_scale': 2.0**12, 'is_dynamic_loss_scale': True, 'with_ema': True}
    made = backend.make_trainer(tiny_classifier(backend.name, 0.2), config.from_flat(settings))
    made.step([mixed_batch(0)], 0.1)
    before, meta = made.state()
    made.load_state(before, meta.model_copy(update={'loss_scale': LossScale(scale=2.0**60, good_steps=0)}))
    values = made.step([mixed_batch(1)], 0.1)
    after, counted = made.state()
    assert (values['overflow'], values['loss_scale']) == (1.0, 2.0**60) and np.isfinite(values['loss'])
    assert counted == state(2, 1, 2.0**59, 0)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all(name.startswith('model.') and 'running' in name for name in moved)
    overflows = []
    while not overflows or overflows[-1]:
        overflows.append(made.step([mixed_batch(2)], 0.1)['overflow'])
    last, counted = made.state()
    assert counted == state(2 + len(overflows), 2, 2.0 ** (60 - len(overflows)), 1)
    assert not np.array_equal(last['model.linear.weight'], after['model.linear.weight'])


def test_a_dynamic_scale_finds_its_place(backend):
    made = trainer(backend, amp_level='O2', loss_scale=2.0**24, is_dynamic_loss_scale=True)
    overflows = [made.step([batch(0)], 0.1)['overflow'] for _ in range(12)]
    assert overflows[0] == 1.0 and overflows[-1] == 0.0
    assert made.scaler.scale == 2.0 ** (24 - sum(overflows))


def test_a_static_scale_of_two_changes_nothing(backend):
    plain, scaled = trainer(backend), trainer(backend, loss_scale=2.0**20)
    for made in (plain, scaled):
        made.step([batch(0)], 0.1)
    for name, value in plain.state()[0].items():
        np.testing.assert_allclose(scaled.state()[0][name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize('level', ['O1', 'O2', 'O3'])
def test_levels_compute_in_half_and_keep_float32(backend, level):
    exact, made = trainer(backend), trainer(backend, amp_level=level, loss_scale=64.0)
    expected, values = exact.step([batch(0)], 0.1), made.step([batch(0)], 0.1)
    for name in ('loss', 'grad_norm'):
        assert values[name] != expected[name]
        assert values[name] == pytest.approx(expected[name], rel=HALF)
    assert {value.dtype for value in made.state()[0].values()} == {np.dtype('float32')}
    images, _ = batch(1)
    difference = np.abs(made.predictor().logits(images) - exact.predictor().logits(images)).max()
    assert 0 < difference < HALF


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
@pytest.mark.parametrize('level', ['O1', 'O2', 'O3'])
def test_twins_agree_in_half_precision(level):
    steps = []
    for backend in map(get_backend, available()):
        backend.setup('cpu')
        steps.append(trainer(backend, amp_level=level).step([batch(0)], 0.1))
    assert steps[0]['loss'] == pytest.approx(steps[1]['loss'], rel=1e-4)
    assert steps[0]['grad_norm'] == pytest.approx(steps[1]['grad_norm'], rel=1e-2)


def test_bfloat16(backend, precision):
    if backend.name == 'mindspore':
        with pytest.raises(BackendError, match='bfloat16'):
            trainer(backend, amp_level='O2', dtype='bfloat16')
    else:
        values = trainer(backend, amp_level='O2', dtype='bfloat16').step([batch(0)], 0.1)
        assert values['overflow'] == 0.0


def test_float32_is_float32_unless_tf32_is_asked_for(backend):
    """The flags exist without a GPU: a trainer and a predictor set them, and reference computations take them back."""
    if backend.name != 'pytorch':
        pytest.skip('MindSpore has no such flags on a CPU')
    import torch

    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    network = tiny_network(backend.name)
    for allowed in (True, False):
        for make in (backend.make_trainer, backend.make_predictor):
            make(network, config.from_flat({'tf32': allowed}))
            assert flags() == (allowed, allowed)
    backend.make_predictor(network, config.from_flat({'tf32': True}))
    backend.forward(network, np.zeros((1, 3, 16, 16), np.float32))
    assert flags() == (False, False)


class Npu:
    """What torch_npu adds to PyTorch, as far as it is asked here, on a card that saturates or not."""

    def __init__(self, infinity: bool):
        self.options: dict[str, str] = {}
        self.config = SimpleNamespace(allow_internal_format=True)
        self.utils = SimpleNamespace(is_support_inf_nan=lambda: infinity)

    def set_option(self, options: dict[str, str]) -> None:
        self.options |= options


@pytest.mark.parametrize('infinity', [True, False], ids=['910B', '910A'])
def test_an_ascend_in_pytorch_keeps_float32_and_says_whether_it_saturates(infinity, monkeypatch):
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl import precision

    monkeypatch.setattr(torch, 'npu', npu := Npu(infinity), raising=False)
    precision.keep_float32()
    assert npu.options == {'ACL_PRECISION_MODE': 'must_keep_origin_dtype'} and npu.config.allow_internal_format is False
    assert precision.of_ascend()['overflow gives'] == ('infinity' if infinity else 'the largest number')
    assert not precision.saturates('cpu')


@pytest.mark.parametrize(
    'chip, mode, infinity',
    [
        ('ascend910b', None, True),
        ('ascend910_93', None, True),
        ('ascend910b', 'SATURATION_MODE', False),
        ('ascend910', None, False),
    ],
)
def test_an_ascend_in_mindspore_keeps_float32_and_says_whether_it_saturates(chip, mode, infinity, monkeypatch):
    ms = pytest.importorskip('mindspore')
    from twinseg.mindspore_impl import precision

    modes: list[str] = []
    monkeypatch.setattr(ms, 'get_context', lambda key: 'Ascend')
    monkeypatch.setattr(ms.device_context.ascend.op_precision, 'precision_mode', modes.append)
    context = SimpleNamespace(get_instance=lambda: SimpleNamespace(get_ascend_soc_version=lambda: chip))
    monkeypatch.setattr(precision, 'MSContext', context)
    monkeypatch.setenv(precision.OVERFLOW_MODE, mode or '')
    if mode is None:
        monkeypatch.delenv(precision.OVERFLOW_MODE)
    precision.keep_float32()
    assert modes == ['must_keep_origin_dtype']
    assert os.environ[precision.OVERFLOW_MODE] == (mode or 'INFNAN_MODE')
    assert precision.saturates('Ascend') is not infinity and not precision.saturates('CPU')
    assert precision.of_ascend()['overflow gives'] == ('infinity' if infinity else 'the largest number')


@pytest.mark.parametrize('device', ['cpu', 'ascend'])
def test_the_log_says_what_float32_is_on_the_device(device):
    lines: list[str] = []
    images = open_dataset(config.Data(set='toy_street', train_samples=1, val_samples=1), 'train')
    facts = {'ascend': 'Ascend910A', 'precision_mode': 'must_keep_origin_dtype', 'overflow gives': 'the largest number'}
    run = SimpleNamespace(
        config=config.from_flat({'arch': 'fast_scnn', 'set': 'toy_street'}),
        trainer=SimpleNamespace(lr_mult_followers=dict, frozen=dict),
        detail_kernels=None,
        log=SimpleNamespace(line=lines.append),
        rates=[0.1],
        progress=SimpleNamespace(step=0),
        backend=SimpleNamespace(name='mindspore', accelerator=lambda: facts),
        meta=SimpleNamespace(device=device),
        training=images,
        validation=images,
        epoch_steps=1,
        group=ALONE,
        images=4,
    )
    loop.Run.introduce(run, None, False, [])
    said = 'ascend: Ascend910A, precision_mode: must_keep_origin_dtype, overflow gives: the largest number'
    assert (said in lines) is (device != 'cpu')


def test_a_device_that_saturates_takes_no_dynamic_scale(backend, monkeypatch):
    """There no overflow is seen, and the scale would double for ever."""
    side = importlib.import_module(f'twinseg.{backend.name}_impl.precision')
    monkeypatch.setattr(side, 'saturates', lambda *_: True)
    with pytest.raises(UserError, match='is_dynamic_loss_scale: this Ascend saturates .O2.*static loss_scale'):
        trainer(backend, amp_level='O2', is_dynamic_loss_scale=True)
    for settings in ({'amp_level': 'O2', 'loss_scale': 1024.0}, {'amp_level': 'O0', 'is_dynamic_loss_scale': True}):
        trainer(backend, **settings)


def test_channels_last_is_for_cpus_and_gpus_alone(monkeypatch):
    """torch_npu refuses that layout; the meta device stands for it, since it is neither."""
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl import precision

    for device, expected in (('cpu', True), ('meta', False)):
        network = precision.apply(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).to(device), 'O2')
        assert network[0].weight.is_contiguous(memory_format=torch.channels_last) is expected


@pytest.mark.parametrize('target, device, kind', [('GPU', 'gpu', 'tf32'), ('Ascend', 'ascend', 'hf32')])
def test_mindspore_tells_the_device(target, device, kind, monkeypatch):
    ms = pytest.importorskip('mindspore')
    from twinseg.mindspore_impl import precision

    said = []
    monkeypatch.setattr(ms, 'get_context', lambda key: target)
    for name in (f'matmul_allow_{kind}', f'conv_allow_{kind}'):
        module = getattr(ms.device_context, device).op_precision
        monkeypatch.setattr(module, name, lambda allowed, name=name: said.append((name, allowed)))
    precision.allow_tf32(False)
    assert said == [(f'matmul_allow_{kind}', False), (f'conv_allow_{kind}', False)]
