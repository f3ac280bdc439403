"""PyTorch's network for a CPU: norms folded into convolutions, channels last."""

import numpy as np
import pytest

from tests.support.checkpoints import random_state
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend

torch = pytest.importorskip('torch')

from twinseg.pytorch_impl import predictor as predictors  # noqa: E402
from twinseg.pytorch_impl.layers.norm import BatchNorm2d  # noqa: E402

LOGITS = 1e-5  # largest difference, of the largest logit


@pytest.fixture(scope='module')
def backend():
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    return backend


@pytest.mark.parametrize('arch', ['fast_scnn', 'ddrnet23_slim_seg', 'stdc1_seg', 'resnet18'])
def test_it_computes_the_same(backend, arch):
    network = backend.build_model(arch, num_classes=5)
    backend.load_state(network, random_state(backend, network))
    before = backend.state(network)
    image = torch.randn((2, 3, 65, 97), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        copied = predictors.for_host(network)
        expected, logits = network(image)['logits'], copied(image)['logits']
    assert copied is not network and (logits - expected).abs().max() <= LOGITS * expected.abs().max()
    norms = [module for module in copied.modules() if isinstance(module, BatchNorm2d)]
    assert sum(norm.forward is predictors._unchanged for norm in norms) > len(norms) / 2
    assert all(np.array_equal(before[name], value) for name, value in backend.state(network).items())


def test_it_follows_the_weights(backend):
    network, images = tiny_network('pytorch'), batch(0)[0]
    predictor = backend.make_predictor(network, config.Config())
    first = predictor.logits(images)
    assert np.array_equal(predictor.logits(images), first)
    backend.load_state(network, random_state(backend, network))
    again = predictor.logits(images)
    assert not np.allclose(again, first)
    trainer = backend.make_trainer(network, config.Config())
    trainer.step([batch(0)], 0.1)
    trained = predictor.logits(images)
    assert not np.allclose(trained, again)
    expected = backend.make_predictor(network, config.Config()).logits(images)
    assert np.array_equal(trained, expected)


def test_a_network_that_it_would_not_equal_runs_as_it_is(backend, monkeypatch):
    network = tiny_network('pytorch')
    monkeypatch.setattr(predictors, '_fold', lambda norm, conv: setattr(norm, 'forward', predictors._unchanged))
    backend.load_state(network, random_state(backend, network))
    with torch.inference_mode():
        assert predictors.for_host(network) is network


def test_half_precision_is_left_alone(backend):
    predictor = backend.make_predictor(tiny_network('pytorch'), config.from_flat({'amp_level': 'O2', 'dtype': 'bfloat16'}))
    predictor.logits(batch(0)[0])
    assert predictor.folded is None
