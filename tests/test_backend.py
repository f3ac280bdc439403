"""The backend protocol: both implementations offer all of it, and it is the only way to them.

Types are mypy's matter (``typed_backends.py``).
"""

import ast
import sys
from pathlib import Path

import pytest

from tests.support import signatures
from twinseg.common.backend import Backend, Engine, Predictor, Trainer, get_backend
from twinseg.common.errors import BackendError

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ('common', 'pytorch_impl', 'mindspore_impl', 'scripts', 'twinseg')
    for path in (ROOT / folder).rglob('*.py')
)


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


def imports_by_name(path: Path) -> list[int]:
    """Lines that import a module whose name is no word of the import statement."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Attribute)
        and node.attr in ('import_module', '__import__')
        or isinstance(node, ast.Name)
        and node.id in ('import_module', '__import__')
        or isinstance(node, ast.ImportFrom)
        and any(alias.name == 'import_module' for alias in node.names)
    ]


def test_modules_are_imported_by_name_in_backend_alone():
    assert len(SOURCES) > 100
    assert [path.relative_to(ROOT).as_posix() for path in SOURCES if imports_by_name(path)] == ['common/backend.py']
