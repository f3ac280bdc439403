"""What may be wrong with a convolution or a linear layer."""

from itertools import product
from typing import Iterator, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.guesses.guess import (
    Variation,
    shown,
    with_parameters,
    with_settings,
)


def convolutions(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    weight, settings = layer.parameters['weight'], layer.settings
    if 'bias' in layer.parameters:
        yield Variation('bias', 'without bias', 'with it', with_parameters(layer, bias=None))
    yield from _weights(layer)
    said = shown(settings['padding'])
    reach = [settings['dilation'][axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1)]
    options = [
        dict.fromkeys(
            [
                (0, 0),
                (r // 2, r - r // 2),
                (r - r // 2, r // 2),
                *((p, p) for p in range(1, r + 1)),
                (0, r),
                (r, 0),
                *product(range(3), repeat=2),
            ]
        )
        for r in reach
    ]
    sides = [
        (*rows, *columns)
        for rows, columns in product(*options)
        if all(s <= max(r, 2) for s, r in zip((*rows, *columns), (reach[0], reach[0], reach[1], reach[1])))
    ]
    same = sorted(sides, key=lambda s: (s[:2] != s[2:], s[0] != s[1]))
    yield Variation('padding', "with padding 'same' (TensorFlow's rule)", said, with_settings(layer, padding='same'))
    for value in same[:64]:
        if value != settings['padding']:
            yield Variation('padding', f'with padding {shown(value)}', said, with_settings(layer, padding=value))
    for mode in ('reflect', 'replicate', 'circular'):
        yield Variation(
            'padding',
            f'with padding mode {mode}',
            settings.get('padding_mode', 'zeros'),
            with_settings(layer, padding_mode=mode),
        )
    for dilation in (1, 2, 4, 6, 12, 18):
        if settings['padding'] != 'same' and (dilation, dilation) != settings['dilation']:
            moved = tuple(side * dilation // max(settings['dilation'][0], 1) for side in settings['padding'])
            yield Variation(
                'dilation',
                f'with dilation {dilation}',
                shown(settings['dilation']),
                with_settings(layer, dilation=(dilation, dilation), padding=moved),
            )


def _weights(layer: Layer) -> Iterator[Variation]:
    weight = layer.parameters['weight']
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1] or weight.ndim == 4 and weight.shape[0] == weight.shape[1]:
        yield Variation(
            'weight',
            'with its weight transposed (inputs and outputs exchanged)',
            'with its weight',
            with_parameters(layer, weight=weight.swapaxes(0, 1)),
        )
    if weight.ndim == 4 and weight.shape[2] == weight.shape[3] > 1:
        yield Variation(
            'weight',
            'with its weight transposed (rows and columns exchanged)',
            'with its weight',
            with_parameters(layer, weight=weight.swapaxes(2, 3)),
        )
        yield Variation(
            'weight',
            'with its kernel turned by 180 degrees',
            'with its weight',
            with_parameters(layer, weight=weight[:, :, ::-1, ::-1]),
        )
    if weight.ndim == 4 and weight.shape[1] == 3:
        yield Variation(
            'channels',
            'with the input channels reversed (BGR)',
            'in their order (RGB)',
            with_parameters(layer, weight=weight[:, ::-1]),
        )
    yield Variation(
        'weight', 'with a weight of zeros (missing?)', 'with its weight', with_parameters(layer, weight=np.zeros_like(weight))
    )


def linears(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    if 'bias' in layer.parameters:
        yield Variation('bias', 'without bias', 'with it', with_parameters(layer, bias=None))
    yield from _weights(layer)
