"""Deterministic weights, inputs and labels behind the reference fixtures.

A fixture is a pair of files:

* ``<case>.json`` describes a network: where it comes from, its parameters in
  ``state_dict`` order (``[key, shape, kind]``), and the outputs recorded for it;
* ``<case>.npz`` holds those outputs as float32 arrays.

No weights are stored.  Every array is a function of its key, its shape and its
kind, so the weights of a network can be made again anywhere numpy runs, and a
network written in another framework can be given the same ones through a table
that maps its own names to the recorded keys.
"""

import json
import math
import os
import zlib
from collections import OrderedDict

import numpy as np

IGNORE = 255


def generator(text):
    """A random generator that depends on the text alone."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))


def fill(key, shape, kind):
    """The array of one parameter or buffer."""
    shape = tuple(shape)
    rng = generator(key)
    if kind.startswith('small_'):  # closes a residual branch or feeds a sigmoid
        return fill(key, shape, kind[6:]) * np.float32(0.25)
    if kind == 'conv':  # weight of a convolution or of a linear layer
        value = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif kind == 'tconv':  # weight of a transposed convolution
        fan_in = shape[0] * math.prod(shape[2:])
        value = rng.standard_normal(shape) * math.sqrt(2 / fan_in)
    elif kind in ('bias', 'norm_bias', 'running_mean'):
        value = rng.standard_normal(shape) * 0.1
    elif kind in ('norm_weight', 'running_var'):
        value = rng.uniform(0.5, 1.5, shape)
    elif kind == 'abn_weight':  # in-place ABN scales by |weight| + eps, so half are negative
        value = rng.uniform(0.5, 1.5, shape)
        value = np.where(rng.random(shape) < 0.5, -value, value)
    elif kind == 'prelu':
        value = rng.uniform(0.1, 0.4, shape)
    elif kind == 'bilinear':  # fixed upsampling by a transposed convolution
        value = bilinear(shape)
    else:
        raise ValueError(f'unknown kind {kind!r} of {key!r}')
    return value.astype(np.float32)


def bilinear(shape):
    """Kernel of a transposed convolution that interpolates channel by channel."""
    size = shape[2]
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    line = 1 - np.abs(np.arange(size) - centre) / factor
    value = np.zeros(shape)
    for i in range(min(shape[:2])):
        value[i, i] = np.outer(line, line)
    return value


def input(case, shape):
    """The input of a case: standard normal numbers."""
    return generator('input:' + case).standard_normal(tuple(shape)).astype(np.float32)


def label(case, shape, num_classes, block=1, ignored=0.05):
    """A label map (int64), by default with about one pixel in twenty ignored.

    With ``block`` the classes form squares of that side, so that the map has
    boundaries.
    """
    rng = generator('label:' + case)
    coarse = [*shape[:-2], -(-shape[-2] // block), -(-shape[-1] // block)]
    value = rng.integers(0, num_classes, coarse).repeat(block, -2).repeat(block, -1)
    value = value[..., : shape[-2], : shape[-1]]
    return np.where(rng.random(tuple(shape)) < ignored, IGNORE, value)


def scores(case, labels, num_classes):
    """Logits (N, C, H, W) that favour the given labels, each pixel to another degree."""
    rng = generator('scores:' + case)
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    value = 2 * rng.standard_normal(shape)
    gain = rng.uniform(0, 8, labels.shape)
    right = np.arange(num_classes)[:, None, None] == labels[:, None]
    return (value + gain[:, None] * right).astype(np.float32)


def state_dict(spec):
    """All parameters and buffers of a case, in ``state_dict`` order.

    A key under ``aliases`` names the same tensor as another key; a key under
    ``constants`` has a fixed value.
    """
    aliases = spec.get('aliases', {})
    constants = spec.get('constants', {})
    arrays = OrderedDict()
    for key, shape, kind in spec['params']:
        if key in aliases:
            arrays[key] = arrays[aliases[key]]
        elif kind == 'constant':
            arrays[key] = np.array(constants[key], np.float32).reshape(shape)
        else:
            arrays[key] = fill(key, shape, kind)
    return arrays


def checksum(arrays):
    """CRC-32 over all arrays, to tell whether numpy made the same numbers."""
    value = 0
    for key, array in arrays.items():
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(key.encode(), value))
    return value


def sample(array, stride):
    """Every stride-th element along each axis: what a fixture keeps of an output."""
    return array[tuple(slice(None, None, step) for step in stride)]


def read(path):
    """The description of a case, completed from the case it shares its network with."""
    with open(path, encoding='utf-8') as file:
        spec = json.load(file)
    if 'same_network_as' in spec:
        base = os.path.join(os.path.dirname(path), spec['same_network_as'] + '.json')
        spec = {**{k: v for k, v in read(base).items() if k != 'gradients'}, **spec}
    return spec


def load(path):
    """The description of a case and its recorded outputs, by name."""
    path = os.fspath(path)
    with np.load(os.path.splitext(path)[0] + '.npz') as arrays:
        outputs = {name: arrays[name] for name in arrays.files}
    return read(path), outputs
