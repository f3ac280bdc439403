"""Initial weights against the publishers' formulas."""

import numpy as np
import pytest

from twinseg.common.errors import UserError
from twinseg.common.settings.presets import preset_arguments
from twinseg.common.training.initial_weights import initial_weight


def test_the_decoder_of_stdc_seg(backend):
    """models/model_stages.py: ``kaiming_normal_(a=1)`` (standard deviation 1 / sqrt(fan in)) for all convolutions outside the
    backbone, classifiers too; nets/stdcnet.py: ``kaiming_normal_(mode='fan_out')`` in it."""
    arguments = preset_arguments('stdc_seg', 'stdc1_seg')
    plain = {**arguments, 'decoder_init': None}
    theirs, ours = (backend.state(backend.build_model('stdc1_seg', seed=0, **keys)) for keys in (arguments, plain))
    weights = {name: value for name, value in theirs.items() if value.ndim == 4}
    assert sum(not name.startswith('backbone.') for name in weights) == 18
    for name, value in weights.items():
        if name.startswith('backbone.'):
            assert np.array_equal(value, ours[name]), name
        else:
            fan_in = np.prod(value.shape[1:])
            assert value.std() * np.sqrt(fan_in) == pytest.approx(1, abs=4 / np.sqrt(2 * value.size)), name
    assert theirs['head.classifier.weight'].std() == pytest.approx(0.0625, rel=0.05)
    assert ours['head.classifier.weight'].std() == pytest.approx(0.01, rel=0.05), "mmsegmentation's"


def test_a_scheme_that_there_is_not_is_named():
    with pytest.raises(UserError, match="no scheme 'kaiming'; there are kaiming_fan_out, "):
        initial_weight('conv.weight', (2, 3, 1, 1), 'kaiming', 0)
