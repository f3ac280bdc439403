"""Initial weights, drawn with numpy: both backends start from the same numbers.

A scheme is a standard deviation (normal) or one of these, in which the fans count the numbers that a weight of shape
(out, in, kernel...) connects, as PyTorch counts them:

- ``kaiming_fan_out``: normal, variance 2 / fan out (He et al. 2015; ResNet, mmsegmentation)
- ``kaiming_fan_in``: normal, variance 2 / fan in
- ``kaiming_linear``: normal, variance 1 / fan in: Kaiming's for a linear activation (``kaiming_normal_(a=1)``; STDC-Seg)
- ``kaiming_uniform``: uniform, the same variance
- ``xavier_uniform``: uniform, variance 2 / (fan in + fan out) (Glorot and Bengio 2010)
- ``uniform_fan_in``: uniform in +-1 / sqrt(fan in), biases too: what PyTorch's layers draw when a publisher leaves them alone
- ``bilinear``: a transposed convolution that interpolates channel by channel (Long et al. 2015)

Other biases start at 0.
"""

import math
import zlib
from typing import Mapping

import numpy as np

from twinseg.common.errors import UserError


def schemes(declared: Mapping[str, str | float | None]) -> dict[str, str | float]:
    """The scheme of every module (dotted name, parents first, '' the network): what it declares, else its parent's."""
    resolved: dict[str, str | float] = {}
    for name, scheme in declared.items():
        resolved[name] = resolved.get(name.rpartition('.')[0], 'kaiming_fan_out') if scheme is None else scheme
    return resolved


def initial_weight(name: str, shape: tuple[int, ...], scheme: str | float, seed: int) -> np.ndarray:
    """float32 weights of a layer; they depend on the seed, the tensor's name and its shape, and on no other tensor. UserError
    for a scheme that there is not."""
    rng = _generator(name, seed)
    fan_in, fan_out = (channels * math.prod(shape[2:]) for channels in (shape[1], shape[0]))
    if scheme == 'bilinear':
        return _bilinear(shape)
    limits = {'kaiming_uniform': 6 / fan_in, 'xavier_uniform': 6 / (fan_in + fan_out), 'uniform_fan_in': 1 / fan_in}
    if scheme in limits:
        return (2 * rng.random(shape, dtype=np.float32) - 1) * np.float32(math.sqrt(limits[str(scheme)]))
    variances = {'kaiming_fan_out': 2 / fan_out, 'kaiming_fan_in': 2 / fan_in, 'kaiming_linear': 1 / fan_in}
    if isinstance(scheme, str) and scheme not in variances:
        raise UserError(f'initial weights: no scheme {scheme!r}; there are {", ".join([*variances, *limits, "bilinear"])}')
    std = variances[scheme] ** 0.5 if isinstance(scheme, str) else scheme
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def initial_bias(name: str, length: int, weight_shape: tuple[int, ...], scheme: str | float, seed: int) -> np.ndarray:
    """float32 biases of a layer: 0, except with ``uniform_fan_in``."""
    if scheme != 'uniform_fan_in':
        return np.zeros(length, np.float32)
    limit = np.float32(1 / math.sqrt(math.prod(weight_shape[1:])))
    return (2 * _generator(name, seed).random(length, dtype=np.float32) - 1) * limit


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(name.encode())))


def _bilinear(shape: tuple[int, ...]) -> np.ndarray:
    size = shape[2]
    factor = (size + 1) // 2
    line = 1 - np.abs(np.arange(size) - (factor - 1 if size % 2 else factor - 0.5)) / factor
    weight = np.zeros(shape, np.float32)
    weight[range(shape[0]), range(shape[0])] = np.outer(line, line)
    return weight
