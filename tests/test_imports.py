"""Rooms import lower floors only, by statements that can be seen; there are no circles (docs/design.md section 1).

``scripts/rooms.py`` reads the imports; the floors are those of the contract in pyproject.toml.
"""

import re
from pathlib import Path

import pytest

from scripts import rooms

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where import-linter brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILES = rooms.modules(ROOT)
GRAPH = rooms.import_graph(FILES)


def floors() -> list[list[str]]:
    """Rooms by floor, the highest first."""
    contracts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
    (layers,) = [contract['layers'] for contract in contracts if contract['type'] == 'layers']
    return [[name.strip('() ') for name in layer.split('|')] for layer in layers]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room that is not on a lower floor."""
    heights = {name: -height for height, names in enumerate(floors()) for name in names}
    return [
        f'{name} imports {other}'
        for name in sorted(graph)
        for other in sorted(graph[name])
        if name.startswith('common.') and other.startswith('common.') and rooms.room(name) != rooms.room(other)
        if heights[rooms.room(name)] <= heights[rooms.room(other)]
    ]


def test_every_room_has_a_floor():
    present = {rooms.room(name) for name in FILES if name.startswith('common.')}
    assert present <= {name for names in floors() for name in names}


def test_the_design_has_the_floors_of_the_contract():
    rows = re.findall(r'^\| (\d+) \| ([a-z_, ]+) \|$', (ROOT / 'docs' / 'design.md').read_text(), re.MULTILINE)
    assert [names.split(', ') for _, names in rows] == floors()
    assert [int(number) for number, _ in rows] == list(range(len(rows)))[::-1]


def test_rooms_import_lower_floors_only():
    assert upward(GRAPH) == []


def test_there_are_no_circles():
    assert rooms.circles(GRAPH) == [] and rooms.circles(rooms.room_graph(GRAPH)) == []


def test_one_module_imports_by_a_computed_name():
    scripts = {f'scripts.{path.stem}': path for path in (ROOT / 'scripts').glob('**/*.py')}
    assert len(scripts) > 5
    assert set(rooms.dynamic_imports({**FILES, **scripts})) == {'common.backend'}


def test_the_implementations_are_imported_by_nobody():
    outside = [name for name in GRAPH if name.partition('.')[0] in ('common', 'twinseg')]
    assert [name for name in outside if any(other.partition('.')[0].endswith('_impl') for other in GRAPH[name])] == []


SMALL = {  # a checkout with a late upward import, a circle of modules and one that only types need
    'common/__init__.py': '',
    'common/errors.py': 'import importlib as i\n\ndef load(name):\n    return i.import_module(name)\n',
    'common/config.py': 'def late():\n    from twinseg.common.training import loop\n    return loop\n',
    'common/metrics.py': 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from twinseg.common import checkpoint\n',
    'common/checkpoint.py': 'import twinseg.common.metrics as m\n',
    'common/training/__init__.py': 'from . import loop\n',
    'common/training/loop.py': 'from ..config import late\n',
    'pytorch_impl/__init__.py': '',
    'pytorch_impl/backend.py': 'from importlib import import_module\nload = __import__\n',
    'twinseg/__init__.py': 'from twinseg.common.errors import load\n',
}


@pytest.mark.parametrize('prefix', ['twinseg.', ''], ids=['one import name', 'packages side by side'])
def test_the_reader_sees_every_import(tmp_path, prefix):
    for name, text in SMALL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace('twinseg.', prefix))
    (tmp_path / 'twinseg' / 'common').symlink_to('../common')
    files = rooms.modules(tmp_path)
    graph = rooms.import_graph(files)
    assert set(graph) == {name.removesuffix('.py').removesuffix('/__init__').replace('/', '.') for name in SMALL}
    assert graph['common.config'] == {'common.training.loop'} and graph['twinseg'] == {'common.errors'}
    assert upward(graph) == [
        'common.checkpoint imports common.metrics',
        'common.config imports common.training.loop',
        'common.metrics imports common.checkpoint',
    ]
    assert rooms.circles(graph) == [['common.checkpoint', 'common.metrics'], ['common.config', 'common.training.loop']]
    assert rooms.dynamic_imports(files) == {'common.errors': [4], 'pytorch_impl.backend': [1, 2]}
    lowest = ['checkpoint', 'common', 'config', 'errors', 'metrics', 'pytorch_impl', 'training']
    assert rooms.floors(rooms.room_graph(graph)) == [lowest, ['twinseg']]
