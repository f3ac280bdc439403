"""Views that are averaged, and classes that are chosen, on a device: the numbers of the host, and one copy to it."""

import importlib
from contextlib import contextmanager

import numpy as np
import pytest

from tests.support.tiny import tiny_network
from twinseg.common import config
from twinseg.common.images import interpolation
from twinseg.common.inference import views

CLOSE = 1e-5  # of probabilities: the same sums in other kernels
PIXELS_APART = 1e-3  # share of the pixels whose two likeliest classes are that close
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 56), dtype=np.uint8)
VIEWS = [
    {'flip': True},
    {'scales': (0.5, 1.0, 1.75)},
    {'scales': (0.75, 1.5), 'flip': True, 'average': 'logits'},
    {'scales': (0.75, 1.5), 'flip': True, 'average': 'exponentials'},
    {'window': (24, 32), 'stride': (10, 24)},
    {'scales': (0.5, 1.25), 'window': (24, 32), 'flip': True},
]


@contextmanager
def on_device(backend, monkeypatch):
    """A predictor of the tiny network where a device computes, and a function that returns how often the host read from it."""
    if backend.name == 'mindspore':
        monkeypatch.setattr(importlib.import_module('twinseg.mindspore_impl.predictor'), '_on_cpu', lambda: False)
        yield backend.make_predictor(tiny_network('mindspore'), config.from_flat({})), lambda: None
        return
    if not hasattr(importlib.import_module('torch.utils.backend_registration'), '_setup_privateuseone_for_python_backend'):
        pytest.skip('this PyTorch takes no device that is written in Python')
    from tests.support.device import pretended_device

    with pretended_device(monkeypatch) as device:
        network = tiny_network('pytorch').to(device.device)
        yield backend.make_predictor(network, config.from_flat({})), lambda: sum(device.reads.values())


@pytest.fixture
def on_host(backend):
    backend.setup('cpu', threads=1)
    return backend.make_predictor(tiny_network(backend.name), config.from_flat({}))


@pytest.mark.parametrize('keys', VIEWS, ids=str)
def test_views_are_averaged_as_on_the_host(backend, on_host, monkeypatch, keys):
    expected = views.TestTimeAugmentation(on_host, **keys)
    shares, ids = views.probabilities(expected, IMAGES), expected.class_ids(IMAGES)
    with on_device(backend, monkeypatch) as (predictor, reads):
        found = views.TestTimeAugmentation(predictor, **keys)
        np.testing.assert_allclose(views.probabilities(found, IMAGES), shares, atol=CLOSE)
        before = reads()
        assert (found.class_ids(IMAGES) != ids).mean() <= PIXELS_APART
        assert before is None or reads() - before == 1, 'nothing but the classes comes to the host'


@pytest.mark.parametrize('size', [None, (40, 56), (33, 70)])
@pytest.mark.parametrize('strips', [False, True])
def test_classes_are_those_of_the_host(backend, on_host, monkeypatch, size, strips):
    expected = on_host.class_ids(IMAGES, size)
    if strips:  # as at Cityscapes' size
        monkeypatch.setattr(interpolation, 'MAX_LOGITS', 1 << 10)
        monkeypatch.setattr(interpolation, 'STRIP_LOGITS', 1 << 12)
    with on_device(backend, monkeypatch) as (predictor, reads):
        before = reads()
        found = predictor.class_ids(IMAGES, size)
        assert before is None or reads() - before == 1
    assert found.dtype == np.uint8 and (found != expected).mean() <= PIXELS_APART
