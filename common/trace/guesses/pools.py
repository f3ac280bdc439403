"""What may be wrong with a pooling."""

from itertools import product
from typing import Iterator, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.guesses.guess import Variation, shown, with_settings


def pools(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    settings = layer.settings
    if 'count_include_pad' in settings:
        value = settings['count_include_pad']
        words = {True: 'counting the padding', False: 'not counting the padding'}
        yield Variation('count_include_pad', words[not value], words[value], with_settings(layer, count_include_pad=not value))
    else:
        yield Variation(
            'padding', 'padded with zeros that may win', 'by what never wins', with_settings(layer, padding_counts=True)
        )
    words = {True: 'in ceil mode', False: 'in floor mode'}
    yield Variation(
        'ceil_mode',
        words[not settings['ceil_mode']],
        words[settings['ceil_mode']],
        with_settings(layer, ceil_mode=not settings['ceil_mode']),
    )
    kind = {'avg_pool': 'max_pool', 'max_pool': 'avg_pool'}[layer.kind]
    yield Variation('kind', f'as {kind.replace("_", " ")}', layer.kind.replace('_', ' '), layer._replace(kind=kind))
    reach = range(max(settings['kernel']))
    options = [
        (top, bottom, left, right) for top, bottom, left, right in product(reach, repeat=4) if top - bottom == left - right
    ]
    for value in ('same', *sorted(options, key=lambda s: (s[:2] != s[2:], s[0] != s[1]))):
        if value != settings['padding']:
            for ceil in (settings['ceil_mode'], not settings['ceil_mode']):
                yield Variation(
                    'padding',
                    f'with padding {shown(value)}',
                    shown(settings['padding']),
                    with_settings(layer, padding=value, ceil_mode=ceil),
                )
