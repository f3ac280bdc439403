"""The values inside a network: watched, replaced, and differentiated layer by layer (see ``twinseg.common.backend.Backend``).

Twin of ``pytorch_impl/tracing.py``: same names, same arguments.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, NoReturn, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from twinseg.common.activations import Arrays, Layer, Watcher, map_tensors
from twinseg.common.errors import BackendError
from twinseg.mindspore_impl import precision
from twinseg.mindspore_impl.network import _LEAVES
from twinseg.mindspore_impl.sizes import uncompiled

_KINDS = {
    nn.Conv2d: 'conv',
    nn.Conv2dTranspose: 'conv_transpose',
    nn.Dense: 'linear',
    nn.BatchNorm2d: 'norm',
    nn.BatchNorm1d: 'norm',
    nn.ReLU: 'relu',
    nn.PReLU: 'prelu',
    nn.Sigmoid: 'sigmoid',
    nn.AvgPool2d: 'avg_pool',
    nn.MaxPool2d: 'max_pool',
    nn.Dropout: 'dropout',
    nn.Identity: 'identity',
}
_FLOATS = (ms.float16, ms.bfloat16, ms.float32, ms.float64)


def watch(network: nn.Cell, images: np.ndarray, watcher: Watcher, *, auxiliary: bool = False) -> None:
    """Runs a network in its mode on normalised images (N, C, H, W) while ``watcher`` looks on."""
    precision.allow_tf32(False)
    hooks: list[Any] = []
    with ExitStack() as at_end:
        at_end.enter_context(uncompiled())
        for name, cell in network.cells_and_names():
            if name and not isinstance(cell, nn.CellList):
                hooks.append(cell.register_forward_pre_hook(partial(_enter, watcher, name), with_kwargs=True))
                hooks.append(cell.register_forward_hook(partial(_leave, watcher, name)))
        for hook in hooks:
            at_end.callback(hook.remove)
        _set_auxiliary(network, auxiliary)
        at_end.callback(_set_auxiliary, network, False)
        args, _ = _enter(watcher, '', network, (Tensor(np.asarray(images, np.float32)),), {})
        _leave(watcher, '', network, args, network(*args))


def layers(network: nn.Cell) -> dict[str, Layer]:
    """The layers (cells without parts) by name, in the order of definition."""
    return {name: _layer(cell) for name, cell in network.cells_and_names() if name and not any(cell.cells())}


def set_training(network: nn.Cell, training: bool) -> None:
    """Training or evaluation mode."""
    network.set_train(training)


def copy_of(network: nn.Cell, double: bool = False) -> NoReturn:
    """BackendError: MindSpore's convolutions for CPUs take float32 alone, and its cells are not copied."""
    raise BackendError('float64: MindSpore has no convolutions for it on CPUs; use the PyTorch backend')


def activation_gradients(
    network: nn.Cell, images: np.ndarray, cotangents: Callable[[Sequence[tuple[int, ...]]], Arrays], *, auxiliary: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Arrays]]:
    """Gradients of the sum of outputs times ``cotangents(shapes of the outputs)``: by name of the module those of its (first)
    output at its first call, by name of the parameter, and the inputs of every module at its first call."""
    gradients: dict[str, np.ndarray] = {}
    inputs: dict[str, Arrays] = {}

    def see(name: str, cell: nn.Cell, args: Any, kwargs: Any) -> None:
        inputs.setdefault(name, [_array(x).copy() for x in _tensors((args, kwargs))])

    def hold(name: str, cell: nn.Cell, args: Any, output: Any) -> None:
        tensors = _tensors(output)
        if name not in seen and tensors:
            seen.add(name)
            tensors[0].register_hook(lambda gradient: gradients.__setitem__(name, _array(gradient).copy()))

    def weighted_sum(x: Tensor) -> Tensor:
        outputs = _tensors(network(x))
        weights = cotangents([tuple(output.shape) for output in outputs])
        return sum(((output * Tensor(weight)).sum() for output, weight in zip(outputs, weights)), Tensor(0.0, ms.float32))

    seen: set[str] = set()
    names = _parameter_names(network, '')
    with ExitStack() as at_end:
        at_end.enter_context(uncompiled())
        for name, cell in network.cells_and_names():
            if not isinstance(cell, nn.CellList):
                at_end.callback(cell.register_forward_pre_hook(partial(see, name), with_kwargs=True).remove)
                at_end.callback(cell.register_forward_hook(partial(hold, name)).remove)
        _set_auxiliary(network, auxiliary)
        at_end.callback(_set_auxiliary, network, False)
        trainable = ms.ParameterTuple(names.values())
        _, values = ms.value_and_grad(weighted_sum, None, trainable)(Tensor(np.asarray(images, np.float32)))
    return gradients, {name: _array(value).copy() for name, value in zip(names, values)}, inputs


def module_gradients(
    network: nn.Cell, name: str, inputs: Arrays, output_gradient: np.ndarray
) -> tuple[Arrays, dict[str, np.ndarray]]:
    """Gradients of one module by itself, for the gradient of its (first) output: those of its inputs, and by name those of its
    parameters."""
    cell = dict(network.cells_and_names())[name]
    names = _parameter_names(cell, name)
    given = [Tensor(np.array(x, np.float32)) for x in inputs]
    weight = Tensor(np.array(output_gradient, np.float32))

    def weighted_sum(*values: Tensor) -> Tensor:
        return (_tensors(cell(*values))[0] * weight).sum()

    with uncompiled():
        positions = tuple(range(len(given)))
        if not names:
            by_input, by_parameter = ms.grad(weighted_sum, positions)(*given), []
        else:
            by_input, by_parameter = ms.grad(weighted_sum, positions, ms.ParameterTuple(names.values()))(*given)
    by_input = by_input if isinstance(by_input, tuple) else (by_input,)
    gradients = {key: _array(value).copy() for key, value in zip(names, by_parameter)}
    return [_array(value).copy() for value in by_input], gradients


def _parameter_names(cell: nn.Cell, prefix: str) -> dict[str, ms.Parameter]:
    """The trainable parameters of a cell by canonical name."""
    names = {}
    for name, parameter in cell.parameters_and_names():
        if parameter.requires_grad:
            path, _, leaf = (f'{prefix}.{name}' if prefix else name).rpartition('.')
            names[f'{path}.{_LEAVES.get(leaf, leaf)}'] = parameter
    return names


def _enter(watcher: Watcher, name: str, cell: nn.Cell, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    changed = watcher.enter(name, [_array(x) for x in tensors])
    return _replace((args, kwargs), tensors, changed) if changed is not None else (args, kwargs)


def _leave(watcher: Watcher, name: str, cell: nn.Cell, args: Any, output: Any) -> Any:
    tensors = _tensors(output)
    changed = watcher.leave(name, [_array(x) for x in tensors])
    return _replace(output, tensors, changed) if changed is not None else output


def _replace(tree: Any, tensors: list[Tensor], arrays: Arrays) -> Any:
    values = iter(x if array is None else Tensor(np.array(array, np.float32), x.dtype) for x, array in zip(tensors, arrays))
    return map_tensors(tree, _is_real, lambda _: next(values))


def _tensors(tree: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_tensors(tree, _is_real, tensors.append)
    return tensors


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in _FLOATS


def _array(x: Tensor) -> np.ndarray:
    return x.asnumpy() if x.dtype in (ms.float32, ms.float64) else x.astype(ms.float32).asnumpy()


def _set_auxiliary(network: Any, always: bool) -> None:
    if hasattr(network, 'set_auxiliary'):
        network.set_auxiliary(always)


def _layer(cell: Any) -> Layer:
    kind = next((kind for base, kind in _KINDS.items() if isinstance(cell, base)), type(cell).__name__)
    kind = {'ReLU': 'relu', 'PReLU': 'prelu'}.get(kind, kind)
    kind = 'dropout' if 'Drop' in type(cell).__name__ and kind == type(cell).__name__ else kind
    settings: dict[str, Any] = {}
    if kind in ('conv', 'conv_transpose'):
        settings = {key: _pair(getattr(cell, key)) for key in ('stride', 'dilation')} | {'groups': cell.group}
        around = getattr(cell, 'crop', cell.padding)  # our transposed convolution cuts by itself
        valid = cell.pad_mode == 'valid' and not hasattr(cell, 'crop')
        settings['padding'] = 'same' if cell.pad_mode == 'same' else _sides(0 if valid else around)
        settings['padding_mode'] = 'zeros'
    elif kind in ('avg_pool', 'max_pool'):
        around = getattr(cell, 'around', getattr(cell, 'padding', 0) if cell.pad_mode.lower() == 'pad' else 0)
        settings = {
            'kernel': _pair(getattr(cell, 'reach', cell.kernel_size)),
            'stride': _pair(getattr(cell, 'step', cell.stride)),
        }
        settings |= {'padding': 'same' if cell.pad_mode.lower() == 'same' else _sides(around)}
        settings |= {'ceil_mode': bool(getattr(cell, 'ceil_mode', False))}
        settings |= {'count_include_pad': bool(getattr(cell, 'count_include_pad', True))} if kind == 'avg_pool' else {}
    elif kind == 'norm':
        settings = {'eps': cell.eps, 'momentum': 1 - cell.momentum}
    elif kind == 'dropout':
        settings = {'ratio': getattr(cell, 'ratio', getattr(cell, 'p', None))}
    parameters = {name.rpartition('.')[2]: value for name, value in cell.parameters_and_names(expand=False)}
    return Layer(kind, settings, {_LEAVES[key]: _array(x).copy() for key, x in parameters.items() if key in _LEAVES})


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[-2], size[-1])


def _sides(padding: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    return tuple(padding) if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
