"""The backend protocol: both implementations offer all of it.

Types are mypy's matter (``typed_backends.py``).
"""

import sys

import pytest

from tests.support import signatures
from twinseg.common.backend import Backend, Engine, Predictor, Trainer, get_backend
from twinseg.common.errors import BackendError


def test_a_backend_offers_the_protocol(backend):
    expected = signatures.of_protocol(Backend)
    assert signatures.of_module(backend, expected) == expected
    assert all(hasattr(backend, name) for name in signatures.constants(Backend))


def test_its_trainers_predictors_and_engines_do_too(backend):
    classes = [(Predictor, backend.Predictor), (Trainer, backend.Trainer)]
    if backend.name == 'mindspore':
        classes.append((Engine, sys.modules[backend.open_mindir.__module__].Mindir))
    for protocol, kind in classes:
        for name, expected in signatures.of_protocol(protocol).items():
            assert signatures.parameters(getattr(kind, name))[1:] == expected, (kind, name)


def test_what_a_backend_has_not_it_says(backend_name, tmp_path):
    lacking = get_backend(backend_name)
    with pytest.raises(BackendError):
        if backend_name == 'pytorch':
            lacking.open_mindir(tmp_path / 'net.mindir')
        else:
            lacking.make_float64_trainer(None, None)
