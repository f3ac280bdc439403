"""A recipe on other devices: the batch, the learning rate and the images that the network sees."""

import json

import numpy as np
import pytest

from twinseg.common import config
from twinseg.common.cli import main
from twinseg.common.errors import UserError
from twinseg.common.schedules import learning_rates
from twinseg.common.training import rescale
from twinseg.common.training.setup import global_batch

STDC = 'stdc1_4xb12-80k_cityscapes-512x1024'


@pytest.mark.parametrize(
    'devices, batch_size, expected',
    [
        (4, None, {'as published': (48, 0.01, 80000, 1000)}),
        (1, None, {'accumulated': (48, 0.01, 80000, 1000), 'scaled': (12, 0.0025, 320000, 4000)}),
        (1, 5, {'scaled': (5, 0.01 * 5 / 48, 768000, 9600)}),
        (8, None, {'as published': (48, 0.01, 80000, 1000)}),  # six images each
        (8, 12, {'scaled': (96, 0.02, 40000, 500)}),
        (2, 8, {'accumulated': (48, 0.01, 80000, 1000), 'scaled': (16, 0.01 / 3, 240000, 3000)}),
    ],
)
def test_the_ways_keep_the_images_and_the_rate_for_each(devices, batch_size, expected):
    published = config.load(STDC)
    rows = rescale.schedules_for(published, devices, batch_size)
    assert rows[0]['global batch'] == 48 and rows[0]['base_lr'] == 0.01 and rows[0]['devices x images'] == '4 x 12'
    assert [row['way'] for row in rows[1:]] == list(expected)
    for row in rows[1:]:
        images, lr, steps, warmup = expected[row['way']]
        chosen = published.replace(**row['settings'])
        assert row['global batch'] == global_batch(chosen, devices) == images
        rates = learning_rates(chosen.optimizer, chosen.schedule, 100, images)  # what training really takes
        assert len(rates) == steps and rates.max() == pytest.approx(lr) == row['base_lr']
        assert chosen.schedule.warmup_iters == warmup and row['images seen'] == pytest.approx(80000 * 48)
        np.testing.assert_allclose(rates.min(), 1e-4 * images / 48, rtol=0.01)


def test_epochs_stay():
    published = config.load('enet_cityscapes-512x1024')
    scaled = rescale.schedules_for(published, 2, 4)[-1]
    assert scaled['way'] == 'scaled' and scaled['settings'] == {} and scaled['length'] == '300 epochs'
    assert scaled['base_lr'] == pytest.approx(1e-3)


def test_ohem_keeps_the_same_share_of_the_pixels():
    ddrnet = config.load('ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024')
    accumulated, scaled = rescale.schedules_for(ddrnet, 1)[1:]
    assert accumulated['settings'] == {'accumulation_step': 2}, 'the pixels of all batches of a step are compared'
    assert scaled['settings']['ohem_min_kept'] == 131072
    assert rescale.schedules_for(ddrnet, 2)[1]['settings'] == {}
    one_output = ddrnet.replace(loss='cross_entropy', losses={'logits': 'ohem'})
    assert rescale.schedules_for(one_output, 1)[-1]['settings']['ohem_min_kept'] == 131072


def test_the_command_prints_what_to_run(capsys, tmp_path):
    assert main(['recipe', STDC, '--devices', '1', '--json', str(tmp_path / 'x.json')]) == 0
    shown = capsys.readouterr().out
    assert f'accumulated: twinseg train {STDC} --set accumulation_step=4' in shown
    assert f'scaled: twinseg train {STDC} --set max_iters=320000 warmup_iters=4000 val_interval=32000' in shown
    rows = json.loads((tmp_path / 'x.json').read_text())['rows']
    assert [row['way'] for row in rows] == ['published', 'accumulated', 'scaled']


def test_a_recipe_must_say_what_it_is_for():
    with pytest.raises(UserError, match='lr_batch_size: not set'):
        rescale.schedules_for(config.load('fast_scnn_toy_street'), 1)
