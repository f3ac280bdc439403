"""The line of a training that waits for its input, and when there is one."""

from pathlib import Path

import pytest

from tests.support import streets
from twinseg.common import config
from twinseg.common.data.cache import build_cache
from twinseg.common.data.open import open_dataset, open_for_cache
from twinseg.common.training import input_wait, loop
from twinseg.common.training.input_wait import NOTABLE, STEPS, advice
from twinseg.common.training.loop import train

RECIPE = Path('runs/a/config.yaml')


@pytest.fixture
def settings(tmp_path):
    return config.from_flat(streets.settings(streets.make(tmp_path / 'streets', count=4)))


def line(settings, share=0.634, steps=STEPS):
    return advice(share, steps, open_dataset(settings.data, 'train'), settings.data, RECIPE)


def test_a_cache_is_offered_where_files_are_decoded(settings):
    assert line(settings).startswith('input waits 63 % of the time: `twinseg prepare runs/a/config.yaml --cache` decodes')
    build_cache(open_for_cache(settings.data), 'raise')
    assert '--cache' not in line(settings) and 'num_parallel_workers above ' in line(settings)


def test_none_is_offered_of_images_that_are_drawn():
    drawn = config.from_flat({'set': 'toy_street'})
    assert '--cache' not in line(drawn)


@pytest.mark.parametrize('share, steps', [(NOTABLE - 0.01, STEPS), (0.9, STEPS - 1), (0.0, 1)])
def test_a_training_that_hardly_waits_is_not_told_so(settings, share, steps):
    assert line(settings, share, steps) is None


def test_a_training_says_it_once_and_its_command_works(settings, tmp_path, monkeypatch):
    pytest.importorskip('torch')
    monkeypatch.setattr(input_wait, 'STEPS', 1)
    monkeypatch.setattr(input_wait, 'NOTABLE', -1.0)
    monkeypatch.setattr(loop, 'machine', lambda: {'cores': 1})
    short = settings.replace(max_iters=3, val_interval=3, batch_size=2, num_parallel_workers=2)
    train(short, 'pytorch', 'cpu', tmp_path / 'run')
    text = (tmp_path / 'run' / 'log.txt').read_text()
    assert text.count('input waits ') == 1 and f'`twinseg prepare {tmp_path}/run/config.yaml --cache`' in text
    assert text.count('num_parallel_workers: 2, but this process may use 1 of the cores') == 1


@pytest.mark.parametrize('workers, told', [(0, False), (4, False), (5, True)])
def test_more_workers_than_cores_are_told(workers, told):
    assert (input_wait.too_many(workers, 4) is not None) == told
