"""Layers in numpy and float64: what a layer with other settings would give on a recorded input. Features are (N, C, H, W)."""

from typing import Any, Mapping, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.images.interpolation import bilinear_matrix

Sides = tuple[int, int, int, int]  # top, bottom, left, right
HALF = {'float16': np.float16, 'float32': np.float32}


def compute(layer: Layer, x: np.ndarray) -> Optional[np.ndarray]:
    """The layer's output in evaluation mode; None for a kind that is not known here, and for settings that give no output."""
    function = {
        'conv': _conv,
        'linear': _linear,
        'norm': _norm,
        'relu': lambda layer, x: np.maximum(x, 0),
        'sigmoid': lambda layer, x: 1 / (1 + np.exp(-x)),
        'prelu': _prelu,
        'avg_pool': _pool,
        'max_pool': _pool,
        'identity': lambda layer, x: x,
        'dropout': lambda layer, x: x,
    }.get(layer.kind)
    if function is None:
        return None
    try:
        return function(layer, np.asarray(x, np.float64))
    except (ValueError, IndexError, KeyError):
        return None


def same_sides(size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Sides:
    """TensorFlow's padding for ceil(size / stride) outputs: an odd pixel at the bottom and right."""
    total = [
        max((-(-side // step) - 1) * step + reach * (taps - 1) + 1 - side, 0)
        for side, taps, step, reach in zip(size, kernel, stride, dilation)
    ]
    return total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2


def _padded(x: np.ndarray, sides: Sides, mode: str = 'zeros', value: float = 0.0) -> np.ndarray:
    around = ((0, 0), (0, 0), sides[:2], sides[2:])
    if mode == 'zeros':
        return np.pad(x, around, constant_values=value)
    return np.pad(x, around, mode={'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}[mode])  # type: ignore[call-overload]


def _conv(layer: Layer, x: np.ndarray) -> np.ndarray:
    settings, weight = layer.settings, layer.parameters['weight'].astype(np.float64)
    stride, dilation, groups = settings['stride'], settings['dilation'], settings['groups']
    sides = settings['padding']
    if sides == 'same':
        sides = same_sides(x.shape[2:], weight.shape[2:], stride, dilation)
    x = _padded(x, sides, settings.get('padding_mode', 'zeros'))
    height, width = ((x.shape[2 + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    if height < 1 or width < 1 or x.shape[1] != weight.shape[1] * groups:
        raise ValueError
    n, outputs = len(x), weight.shape[0]
    y = np.zeros((n, groups, outputs // groups, height * width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            top, left = row * dilation[0], column * dilation[1]
            taps = x[
                :,
                :,
                top : top + (height - 1) * stride[0] + 1 : stride[0],
                left : left + (width - 1) * stride[1] + 1 : stride[1],
            ]
            taps = taps.reshape(n, groups, x.shape[1] // groups, height * width)
            y += weight[:, :, row, column].reshape(1, groups, outputs // groups, -1) @ taps
    y = y.reshape(n, outputs, height, width)
    return y + layer.parameters['bias'].reshape(1, -1, 1, 1) if 'bias' in layer.parameters else y


def _linear(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = x @ layer.parameters['weight'].astype(np.float64).T
    return y + layer.parameters['bias'] if 'bias' in layer.parameters else y


def _norm(layer: Layer, x: np.ndarray) -> np.ndarray:
    parameters, shape = layer.parameters, (1, -1) + (1,) * (x.ndim - 2)
    axes = (0, *range(2, x.ndim))
    if layer.settings.get('batch_statistics'):
        mean, variance = x.mean(axes), x.var(axes)
    else:
        mean, variance = parameters['running_mean'].astype(np.float64), parameters['running_var'].astype(np.float64)
    deviation = variance if layer.settings.get('variance_as_deviation') else np.sqrt(variance + layer.settings['eps'])
    y = (x - mean.reshape(shape)) / deviation.reshape(shape)
    if 'weight' in parameters:
        y = y * parameters['weight'].reshape(shape)
    return y + parameters['bias'].reshape(shape) if 'bias' in parameters else y


def _prelu(layer: Layer, x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, x * layer.parameters['weight'].reshape((1, -1) + (1,) * (x.ndim - 2)))


def _pool(layer: Layer, x: np.ndarray) -> np.ndarray:
    settings: Mapping[str, Any] = layer.settings
    kernel, stride, sides, largest = settings['kernel'], settings['stride'], settings['padding'], layer.kind == 'max_pool'
    if sides == 'same':
        sides = same_sides(x.shape[2:], kernel, stride, (1, 1))
    lengths = []
    for axis in (0, 1):
        full = x.shape[2 + axis] + sides[2 * axis] + sides[2 * axis + 1] - kernel[axis]
        count = (-(-full // stride[axis]) if settings['ceil_mode'] else full // stride[axis]) + 1
        if settings['ceil_mode'] and (count - 1) * stride[axis] >= x.shape[2 + axis] + sides[2 * axis]:
            count -= 1  # no window begins in the padding
        lengths.append(count)
    missing = [
        max((lengths[axis] - 1) * stride[axis] + kernel[axis] - x.shape[2 + axis] - sides[2 * axis] - sides[2 * axis + 1], 0)
        for axis in (0, 1)
    ]
    outside = -np.inf if largest and not settings.get('padding_counts') else 0.0
    inside = _padded(np.ones_like(x[:1, :1]), sides, value=1.0 if settings.get('count_include_pad') else 0.0)
    x, inside = _padded(x, sides, value=outside), np.pad(inside, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
    x = np.pad(x, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), constant_values=-np.inf if largest else 0.0)
    windows = [
        (
            slice(row, row + (lengths[0] - 1) * stride[0] + 1, stride[0]),
            slice(column, column + (lengths[1] - 1) * stride[1] + 1, stride[1]),
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    if largest:
        return np.max([x[:, :, rows, columns] for rows, columns in windows], 0)
    total = np.sum([x[:, :, rows, columns] for rows, columns in windows], 0)
    return total / sum(inside[:, :, rows, columns] for rows, columns in windows)


def resized(x: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    """Features resized to ``size`` (H, W) by ``rule``: align_corners, half_pixel, asymmetric (bilinear), or nearest."""
    if rule == 'nearest':
        rows, columns = (np.arange(new) * old // new for new, old in zip(size, x.shape[2:]))
        return x[:, :, rows][:, :, :, columns]
    down, across = (
        bilinear_matrix(old, new, rule == 'align_corners', rule == 'half_pixel').astype(np.float64)
        for old, new in zip(x.shape[2:], size)
    )
    return down @ (np.asarray(x, np.float64) @ across.T)
