"""What may be wrong with a batch norm."""

from typing import Iterator, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.guesses.guess import Variation, with_parameters, with_settings

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-4, 1e-2, 1e-8, 0.0)


def norms(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    parameters, said = layer.parameters, f'{layer.settings["eps"]:g}'
    for value in EPSILONS:
        if value != layer.settings['eps']:
            yield Variation('eps', f'with epsilon {value:g}', said, with_settings(layer, eps=value))
    yield Variation(
        'statistics', 'with the statistics of the batch', 'with the running ones', with_settings(layer, batch_statistics=True)
    )
    if 'bias' in parameters:
        yield Variation('bias', 'without bias', 'with it', with_parameters(layer, bias=np.zeros_like(parameters['bias'])))
    if 'weight' in parameters:
        yield Variation(
            'weight', 'without weight', 'with it', with_parameters(layer, weight=np.ones_like(parameters['weight']))
        )
    if 'running_mean' in parameters:
        mean, variance = parameters['running_mean'], parameters['running_var']
        zeros, ones = np.zeros_like(mean), np.ones_like(variance)
        yield Variation(
            'statistics', 'with a running mean of 0', 'with its running mean', with_parameters(layer, running_mean=zeros)
        )
        yield Variation(
            'statistics', 'with a running variance of 1', 'with its running variance', with_parameters(layer, running_var=ones)
        )
        fresh = with_parameters(layer, running_mean=zeros, running_var=ones)
        yield Variation('statistics', 'with fresh statistics (mean 0, variance 1)', 'with its running statistics', fresh)
        yield Variation(
            'statistics',
            'with the variance taken for a standard deviation',
            'a variance',
            with_settings(layer, variance_as_deviation=True),
        )
    if theirs is not None and theirs.shape == x.shape and 'running_var' in parameters:
        eps = _fitted_epsilon(layer, x, theirs)
        if eps is not None:
            yield Variation('eps', f'with epsilon {eps:.3g}', said, with_settings(layer, eps=eps))


def _fitted_epsilon(layer: Layer, x: np.ndarray, theirs: np.ndarray) -> Optional[float]:
    """The epsilon with which a norm stretches its channels as the other side does."""
    axes = (0, *range(2, x.ndim))
    scale = layer.parameters.get('weight', np.ones(x.shape[1])).astype(np.float64)
    spread, wanted = x.std(axes, dtype=np.float64), theirs.std(axes, dtype=np.float64)
    usable = (spread > 0) & (wanted > 0) & (scale != 0)
    if not usable.any():
        return None
    values = (scale * spread / np.where(wanted > 0, wanted, 1))[usable] ** 2 - layer.parameters['running_var'][usable]
    eps = float(np.median(values))
    return eps if eps >= 0 else None
