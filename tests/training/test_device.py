"""PyTorch's training step on a pretended accelerator: nothing mixes host and device, nobody waits, little is moved."""

import importlib
import json

import numpy as np
import pytest

from tests.recipes.test_recipes import CLASSES, SEGMENTATION
from tests.support import streets
from tests.support.tiny import batch, mixed_batch, tiny_classifier, tiny_network
from twinseg.common import checkpoint, config
from twinseg.common.backend import get_backend
from twinseg.common.checkpoint import LossScale
from twinseg.common.errors import DivergedError, UserError
from twinseg.common.inference import views
from twinseg.common.training.loop import train

torch = pytest.importorskip('torch')
if not hasattr(importlib.import_module('torch.utils.backend_registration'), '_setup_privateuseone_for_python_backend'):
    pytest.skip('this PyTorch takes no device that is written in Python', allow_module_level=True)
from tests.support.device import pretend_processes, pretended_device  # noqa: E402  # needs PyTorch

CLOSE = 1e-5  # of the largest: the same step on the host, in other kernels
TRAFFIC = 1.3  # of eight processes, as a multiple of one
LEVELS = {
    'O0': {},
    'O1': {'amp_level': 'O1', 'dtype': 'bfloat16'},
    'O2': {'amp_level': 'O2', 'dtype': 'bfloat16', 'loss_scale': 128.0, 'is_dynamic_loss_scale': True},
    'O3': {'amp_level': 'O3', 'dtype': 'bfloat16'},
}
QUICK = {  # recipe, level and keys that every run of the tests tries
    'fast_scnn_8xb4-160k_cityscapes-512x1024': ('O0', {'accumulation_step': 2, 'with_ema': True}),
    'stdc1_4xb12-80k_cityscapes-512x1024': ('O1', {'with_ema': True, 'clip_global_norm': True}),
    'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024': ('O2', {}),
    'enet_cityscapes-512x1024': ('O3', {'accumulation_step': 2}),
}
BUDGETS = (
    'fast_scnn_8xb4-160k_cityscapes-512x1024',
    'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            'stdc1_4xb12-80k_cityscapes-512x1024',
            'enet_cityscapes-512x1024',
            'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
        )
    ),
)
OPTIMIZERS = ('momentum', 'adam', 'adamw', 'rmsprop', 'lamb')


@pytest.fixture
def backend():
    return get_backend('pytorch')


def every_network_and_loss() -> list[str]:
    """A recipe for each."""
    names: dict[tuple[str, ...], str] = {}
    for name, one in SEGMENTATION.items():
        loss = one.loss.model_dump(exclude={'class_weight'})
        names.setdefault((one.model.arch, str(one.model.arguments()), str(loss)), name)
    return list(names.values())


def cases():
    for name, (level, keys) in QUICK.items():
        yield pytest.param(name, level, keys, id=f'{name} {level}')
    for index, name in enumerate(every_network_and_loss()):
        for number, level in enumerate(LEVELS):
            keys = {'accumulation_step': 1 + (index + number) % 2, 'with_ema': True}  # both at each level
            yield pytest.param(name, level, keys, marks=pytest.mark.slow, id=f'{name} {level} of all')


def trainer_of(backend, name: str, **keys):
    one = SEGMENTATION[name].replace(pretrained=None, launcher=None, drop_last=True, **keys)
    classes = CLASSES[one.data.set]
    if isinstance(one.loss.class_weight, str):
        one = one.replace(class_weight=[1.0] * classes)
    return backend.make_trainer(backend.build_model(one.model.arch, num_classes=classes, **one.model.arguments()), one), classes


def batches_of(classes: int, number: int, seed: int = 0, size: tuple[int, int] = (64, 64)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (number, 2, *size), dtype=np.uint8)
    labels[:, :, :8] = 255
    return list(zip(rng.integers(0, 256, (number, 2, 3, *size), dtype=np.uint8), labels))


@pytest.mark.parametrize('name, level, keys', cases())
def test_a_step_mixes_nothing_and_never_waits(backend, monkeypatch, name, level, keys):
    with pretended_device(monkeypatch) as device:
        trainer, classes = trainer_of(backend, name, **LEVELS[level], **keys)
        number = keys.get('accumulation_step', 1)
        steps = [trainer.step(batches_of(classes, number), 1e-4)]
        device.reset()
        kernels = ((0.5, 0.3, 0.2), (0.4, 0.3, 0.3))  # of detail targets, in another step others
        steps += [trainer.step(batches_of(classes, number, seed), 1e-4, kernel) for seed, kernel in enumerate(kernels, 1)]
        assert (dict(device.reads), dict(device.blocking)) == ({}, {}), 'second and third step'
        assert trainer.ahead
        trainer.settle()
        assert sum(device.reads.values()) == 1, 'all figures are read at once'
        assert not trainer.ahead and all(np.isfinite(values['loss']) for values in steps)
        again, _ = trainer_of(backend, name, **LEVELS[level], **keys)
        again.load_state(*trainer.state())
        losses = [one.step(batches_of(classes, number, 3), 1e-4)['loss'] for one in (trainer, again)]
        assert losses[0] == losses[1], 'a loaded state goes on alike'
        images, labels = batches_of(classes, 1)[0]
        for ema in {False, trainer.average is not None}:
            predictor = trainer.predictor(ema=ema)
            assert predictor.class_ids(images, labels.shape[1:]).shape == labels.shape
            assert views.TestTimeAugmentation(predictor, (1.0,), flip=True).class_ids(images).shape == labels.shape
        trainer.step(batches_of(classes, number, 4), 1e-4)


def tiny(backend, **keys):
    return backend.make_trainer(tiny_network(backend.name, dropout=0.5).to(backend._device), config.from_flat(keys))


def spoil(trainer, steps: tuple[int, ...]) -> None:
    """Makes a gradient infinite in some steps, by their numbers, once each."""
    left = set(steps)

    def hook(gradient):
        if trainer.steps not in left:
            return gradient
        left.remove(trainer.steps)
        return gradient * float('inf')

    trainer.network.classifier.bias.register_hook(hook)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('fused', [True, False], ids=['kernels', 'loops'])
def test_steps_and_skipped_steps_are_those_of_the_host(backend, monkeypatch, optimizer, fused):
    keys = {
        'optimizer': optimizer,
        'eps': 1e-3,
        'weight_decay': 1e-2,
        'with_ema': True,
        'clip_global_norm': True,
        'is_dynamic_loss_scale': True,
        'loss_scale': 8.0,
        'scale_window': 2,
    }
    batches = [[batch(seed)] for seed in range(6)]
    backend.setup('cpu')
    host = tiny(backend, **keys)
    spoil(host, (0, 3))
    expected = [dict(host.step(one, 0.01)) for one in batches]
    assert [values['overflow'] for values in expected] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert [values['loss_scale'] for values in expected] == [8.0, 4.0, 4.0, 8.0, 4.0, 4.0]
    with pretended_device(monkeypatch):
        if not fused:
            monkeypatch.setattr('twinseg.pytorch_impl.optim.FUSED_DEVICES', ())
        trainer = tiny(backend, **keys)
        spoil(trainer, (0, 3))
        steps = [trainer.step(one, 0.01) for one in batches]
        assert trainer.ahead == (fused or optimizer not in ('adam', 'adamw')), 'loops of Adam count on the host'
        for values, on_host in zip(steps, expected):
            assert dict(values) == pytest.approx(on_host, rel=CLOSE, nan_ok=True)
        (tensors, meta), (others, other_meta) = trainer.state(), host.state()
    assert meta == other_meta and (meta.steps, meta.optimizer_steps) == (6, 4)
    for name, value in others.items():
        np.testing.assert_allclose(tensors[name], value, rtol=0, atol=CLOSE * np.abs(value).max(), err_msg=name)


def test_lamb_without_running_means_on_a_device(backend, monkeypatch):
    """A beta of 0 has no logarithm."""
    keys = {'optimizer': 'lamb', 'beta': [0.0, 0.0], 'eps': 1e-3}
    backend.setup('cpu')
    host = tiny(backend, **keys)
    expected = [dict(host.step([batch(seed)], 0.01)) for seed in range(3)]
    with pretended_device(monkeypatch):
        trainer = tiny(backend, **keys)
        for values, on_host in zip([trainer.step([batch(seed)], 0.01) for seed in range(3)], expected):
            assert dict(values) == pytest.approx(on_host, rel=CLOSE)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_skipped_step_leaves_all_as_it_was(backend, monkeypatch, optimizer):
    keys = {'optimizer': optimizer, 'with_ema': True, 'weight_decay': 1e-2, 'amp_level': 'O2'}
    with pretended_device(monkeypatch):
        trainer = tiny(backend, **keys, is_dynamic_loss_scale=True, loss_scale=4.0)
        trainer.step([batch(0)], 0.1)
        before, meta = trainer.state()
        trainer.load_state(before, meta.model_copy(update={'loss_scale': LossScale(scale=2.0**40, good_steps=3)}))
        assert trainer.step([batch(1)], 0.1)['overflow'] == 1.0
        after, counted = trainer.state()
    assert (counted.steps, counted.optimizer_steps, counted.loss_scale) == (2, 1, LossScale(scale=2.0**39, good_steps=0))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {'model.block.bn.running_mean', 'model.block.bn.running_var'}


def test_accumulated_batches_whose_pixels_are_compared(backend, monkeypatch):
    with pretended_device(monkeypatch) as device:
        losses = {'ohem': 1.0, 'lovasz': 0.5, 'dice': 1.0, 'focal': 1.0}
        trainer = tiny(backend, loss=losses, ohem_min_kept=100, accumulation_step=2)
        trainer.step([batch(0), batch(1)], 0.1)
        device.reset()
        trainer.step([batch(2), batch(3)], 0.1)
        assert (dict(device.reads), dict(device.blocking)) == ({}, {})


def test_a_classifier_never_waits(backend, monkeypatch):
    with pretended_device(monkeypatch) as device:
        network = tiny_classifier(backend.name, 0.4).to(device.device)
        trainer = backend.make_trainer(network, config.from_flat({'optimizer': 'adamw', 'with_ema': True}))
        trainer.step([mixed_batch(0)], 0.1)
        device.reset()
        trainer.step([mixed_batch(1)], 0.1)
        assert (dict(device.reads), dict(device.blocking)) == ({}, {})


def test_what_a_gpu_refuses_is_refused(backend, monkeypatch):
    """The pretended device would notice: else the tests above show nothing."""
    with pretended_device(monkeypatch) as device:
        on_device = torch.ones(3, device=device.device)
        with pytest.raises(RuntimeError, match='on the same device'):
            on_device + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            on_device.numpy()
        device.reset()
        assert (on_device.sum().item(), on_device.tolist(), bool(on_device[0] > 0)) == (3.0, [1.0] * 3, True)
        torch.tensor([1.0, 2.0], device=device.device), torch.ones(2).to(device.device), on_device[on_device > 0]
        torch.ones(2).to(device.device, non_blocking=True)
        assert (sum(device.reads.values()), sum(device.blocking.values())) == (4, 2)


@pytest.mark.parametrize('level', ['O1', 'O2', 'O3'])
def test_a_device_without_channels_last(backend, monkeypatch, level):
    with pretended_device(monkeypatch, channels_last=False):
        trainer = tiny(backend, **LEVELS[level])
        assert np.isfinite(trainer.step([batch(0)], 0.1)['loss'])
        trainer.predictor().class_ids(batch(0)[0])


def test_a_device_that_saturates(backend, monkeypatch):
    with pretended_device(monkeypatch, saturates=True):
        with pytest.raises(UserError, match='is_dynamic_loss_scale: this Ascend saturates'):
            tiny(backend, amp_level='O2', is_dynamic_loss_scale=True)
        tiny(backend, amp_level='O2', is_dynamic_loss_scale=True, dtype='bfloat16')
        tiny(backend, amp_level='O2', loss_scale=128.0)


def test_slots_lie_like_their_weights(backend, monkeypatch):
    """Else the optimizer's kernels for many tensors at once are not taken after a resume."""
    backend.setup('cpu')
    for optimizer in OPTIMIZERS:
        first, second = (tiny(backend, **LEVELS['O2'], optimizer=optimizer, momentum=0.9) for _ in range(2))
        first.step([batch(0)], 0.1)
        second.load_state(*first.state())
        weight = second.network.block.conv.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for name, value in second.optimizer.parameters.items():
            state = second.optimizer.optimizer.state[value]
            assert {state[key].stride() for key in second.optimizer.slots.values()} == {value.stride()}, name


def traffic(backend, monkeypatch, name: str, processes: int = 1, **keys) -> int:
    """Bytes that a second step reads and writes."""
    with monkeypatch.context() as patch, pretended_device(patch) as device:
        if processes > 1:
            pretend_processes(patch, processes)
        trainer, classes = trainer_of(backend, name, **keys)
        for seed in range(2):
            device.reset()
            trainer.step(batches_of(classes, 1, seed, (128, 128)), 1e-4)
        assert not device.reads and not device.blocking
        return device.bytes


@pytest.mark.parametrize('name', BUDGETS)
def test_traffic(backend, monkeypatch, name):
    one, half, eight = (traffic(backend, monkeypatch, name, **keys) for keys in ({}, LEVELS['O1'], {'processes': 8}))
    assert half <= one, 'O1'
    assert eight <= TRAFFIC * one, 'batch norm over processes'


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('sync', [True, False])
def test_kernels_of_batch_norm_over_processes(backend, monkeypatch, dtype, sync):
    """The device's own kernels, called for the statistics of all processes, against the formulas of the host."""
    from twinseg.pytorch_impl.layers import BatchNorm2d

    rng = np.random.default_rng(0)
    features, gradient = (torch.from_numpy(rng.standard_normal((4, 6, 5, 7)).astype(np.float32)) for _ in range(2))
    results = []
    with pretended_device(monkeypatch) as device:
        pretend_processes(monkeypatch, 8)
        for side in ('cpu', device.device):
            norm = BatchNorm2d(6).to(side)
            norm.sync = sync
            x = (3 * features + 1).to(side, dtype).requires_grad_()
            y = norm(x)
            y.backward(gradient.to(side, dtype))
            values = y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var
            results.append([value.detach().float().cpu().numpy() for value in values])
            assert y.dtype == dtype and int(norm.num_batches_tracked) == 1
    tolerance = CLOSE if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


TINY = {
    **{'arch': 'tiny', 'auxiliary_weights': {}, 'model_args': {}, 'with_ema': True, 'optimizer': 'adamw', 'base_lr': 1e-3},
    **{'max_iters': 10, 'log_interval': 4, 'val_interval': 6, 'checkpoint_interval': 6},
}


def run(backend, monkeypatch, folder, data, on_device: bool, infinite: tuple[int, ...] = (), **changes):
    """A training in which the gradients of some steps, counted from 0, are infinite."""
    trainers = []

    def make_trainer(network, settings):
        trainers.append(Trainer(network, settings))
        spoil(trainers[-1], infinite)
        return trainers[-1]

    from twinseg.pytorch_impl.trainer import Trainer

    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    with monkeypatch.context() as patch:
        patch.setattr(backend, 'make_trainer', make_trainer)
        settings = config.from_flat(streets.settings(data, **{**TINY, **changes}))
        if not on_device:
            return train(settings, 'pytorch', 'cpu', folder)
        with pretended_device(patch):
            patch.setattr(backend, 'setup', lambda *_, **__: 'gpu')
            return train(settings, 'pytorch', None, folder)


def lines(folder, kind: str) -> list[dict]:
    return [line for line in map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines()) if line['kind'] == kind]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'))


def test_a_run_logs_what_it_logs_on_the_host(backend, monkeypatch, data, tmp_path):
    keys = {'is_dynamic_loss_scale': True, 'loss_scale': 8.0, 'amp_level': 'O2', 'dtype': 'bfloat16'}
    for name in ('host', 'device'):
        run(backend, monkeypatch, tmp_path / name, data, name == 'device', infinite=(2, 6), **keys)
    ours, theirs = (lines(tmp_path / name, 'train') for name in ('device', 'host'))
    assert [(line['step'], line['overflows'], line['loss_scale']) for line in ours] == [(4, 1, 4), (8, 2, 2), (10, 2, 2)]
    for key in ('step', 'overflows', 'loss_scale', 'lr', 'epoch', 'broken'):
        assert [line[key] for line in ours] == [line[key] for line in theirs], key
    assert [line['loss'] for line in ours] == pytest.approx([line['loss'] for line in theirs], rel=1e-2)
    assert [line['step'] for line in lines(tmp_path / 'device', 'eval')] == [6, 10]
    for step in (6, 10):
        metas = [checkpoint.load(checkpoint.step_path(tmp_path / name / 'checkpoints', step))[1] for name in ('host', 'device')]
        assert metas[0].trainer == metas[1].trainer


def test_numbers_that_are_not_finite_are_seen_where_they_are_read(backend, monkeypatch, data, tmp_path):
    with pytest.raises(DivergedError, match='step 7: .* gradient norm (inf|nan)'):
        run(backend, monkeypatch, tmp_path / 'stopped', data, True, infinite=(6,))
    assert [line['step'] for line in lines(tmp_path / 'stopped', 'train')] == [4], 'at the step that is logged next'
    run(backend, monkeypatch, tmp_path / 'rolled', data, True, infinite=(6,), nan_policy='rollback')
    assert [line['step'] for line in lines(tmp_path / 'rolled', 'train')] == [4, 8, 10]
    assert 'back to' in (tmp_path / 'rolled' / 'log.txt').read_text()
    meta = checkpoint.load(checkpoint.step_path(tmp_path / 'rolled' / 'checkpoints', 10))[1]
    assert (meta.left_out, meta.rollbacks) == (1, 1), 'the batch of step 7 is left out, those after it are not'
