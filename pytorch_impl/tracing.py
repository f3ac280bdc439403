"""The values inside a network: watched, replaced, and differentiated layer by layer (see ``twinseg.common.backend.Backend``).

Twin of ``mindspore_impl/tracing.py``: same names, same arguments.
"""

import copy
from functools import partial
from typing import Any, Callable, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from twinseg.common.activations import Arrays, Layer, Watcher, map_tensors
from twinseg.pytorch_impl import precision

_KINDS = {
    nn.Conv2d: 'conv',
    nn.ConvTranspose2d: 'conv_transpose',
    nn.Linear: 'linear',
    nn.modules.batchnorm._BatchNorm: 'norm',
    nn.ReLU: 'relu',
    nn.PReLU: 'prelu',
    nn.Sigmoid: 'sigmoid',
    nn.AvgPool2d: 'avg_pool',
    nn.MaxPool2d: 'max_pool',
    nn.modules.dropout._DropoutNd: 'dropout',
    nn.Identity: 'identity',
}


def watch(network: nn.Module, images: np.ndarray, watcher: Watcher, *, auxiliary: bool = False) -> None:
    """Runs a network in its mode on normalised images (N, C, H, W) while ``watcher`` looks on."""
    precision.allow_tf32(False)
    hooks: list[Any] = []
    for name, module in network.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(partial(_enter, watcher, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(_leave, watcher, name)))
    _set_auxiliary(network, auxiliary)
    try:
        with torch.no_grad():
            args, _ = _enter(watcher, '', network, (_like(network, images),), {})
            _leave(watcher, '', network, args, network(*args))
    finally:
        _set_auxiliary(network, False)
        for hook in hooks:
            hook.remove()


def layers(network: nn.Module) -> dict[str, Layer]:
    """The layers (modules without parts) by name, in the order of definition."""
    return {name: _layer(module) for name, module in network.named_modules() if name and not any(module.children())}


def set_training(network: nn.Module, training: bool) -> None:
    """Training or evaluation mode."""
    network.train(training)


def copy_of(network: nn.Module, double: bool = False) -> nn.Module:
    """A copy of a network, with ``double`` in float64."""
    twin = copy.deepcopy(network)
    return twin.double() if double else twin


def activation_gradients(
    network: nn.Module,
    images: np.ndarray,
    cotangents: Callable[[Sequence[tuple[int, ...]]], Arrays],
    *,
    auxiliary: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Arrays]]:
    """Gradients of the sum of outputs times ``cotangents(shapes of the outputs)``: by name of the module those of its (first)
    output at its first call, by name of the parameter, and the inputs of every module at its first call."""
    gradients: dict[str, np.ndarray] = {}
    inputs: dict[str, Arrays] = {}
    hooks: list[Any] = []

    def see(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.setdefault(name, [_array(x).copy() for x in _tensors((args, kwargs))])

    def hold(name: str, module: nn.Module, args: Any, output: Any) -> None:
        tensors = _tensors(output)
        if name not in seen and tensors and tensors[0].requires_grad:
            seen.add(name)
            tensors[0].register_hook(lambda gradient: gradients.__setitem__(name, _array(gradient).copy()))

    seen: set[str] = set()
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(see, name), with_kwargs=True))
        hooks.append(module.register_forward_hook(partial(hold, name)))
    _set_auxiliary(network, auxiliary)
    try:
        network.zero_grad(set_to_none=True)
        outputs = _tensors(network(_like(network, images)))
        weights = cotangents([tuple(output.shape) for output in outputs])
        torch.autograd.backward(outputs, [_like(network, weight) for weight in weights])
    finally:
        _set_auxiliary(network, False)
        for hook in hooks:
            hook.remove()
    parameters = {name: _array(p.grad).copy() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return gradients, parameters, inputs


def module_gradients(
    network: nn.Module, name: str, inputs: Arrays, output_gradient: np.ndarray
) -> tuple[Arrays, dict[str, np.ndarray]]:
    """Gradients of one module by itself, for the gradient of its (first) output: those of its inputs, and by name those of its
    parameters."""
    module = network.get_submodule(name)
    given = [_like(network, x).requires_grad_() for x in inputs]
    parameters = {f'{name}.{key}': p for key, p in module.named_parameters() if p.requires_grad}
    # A sum with zero: a module that works in place may not change a leaf of the graph.
    output = _tensors(module(*[x + 0 for x in given]))[0]
    gradient = _like(network, output_gradient).to(output.dtype)
    wanted = [*given, *parameters.values()]
    gradients = torch.autograd.grad(output, wanted, gradient, allow_unused=True)
    arrays = [_array(torch.zeros_like(x) if g is None else g).copy() for x, g in zip(wanted, gradients)]
    return arrays[: len(given)], dict(zip(parameters, arrays[len(given) :]))


def _enter(watcher: Watcher, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    changed = watcher.enter(name, [_array(x) for x in tensors])
    return _replace((args, kwargs), tensors, changed) if changed is not None else (args, kwargs)


def _leave(watcher: Watcher, name: str, module: nn.Module, args: Any, output: Any) -> Any:
    tensors = _tensors(output)
    changed = watcher.leave(name, [_array(x) for x in tensors])
    return _replace(output, tensors, changed) if changed is not None else output


def _replace(tree: Any, tensors: list[Tensor], arrays: Arrays) -> Any:
    values = iter(
        x if array is None else torch.from_numpy(np.array(array)).to(x.device, x.dtype) for x, array in zip(tensors, arrays)
    )
    return map_tensors(tree, _is_real, lambda _: next(values))


def _tensors(tree: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_tensors(tree, _is_real, tensors.append)
    return tensors


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _array(x: Tensor) -> np.ndarray:
    x = x.detach()
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).cpu().numpy()


def _like(network: nn.Module, array: np.ndarray) -> Tensor:
    """An array on the network's device, in float32, or in float64 where the network's weights are."""
    weight: Optional[Tensor] = next(network.parameters(), None)
    double = weight is not None and weight.dtype == torch.float64
    x = torch.from_numpy(np.array(array, np.float64 if double else np.float32))
    return x if weight is None else x.to(weight.device)


def _set_auxiliary(network: Any, always: bool) -> None:
    if hasattr(network, 'set_auxiliary'):
        network.set_auxiliary(always)


def _layer(module: Any) -> Layer:
    kind = next((kind for base, kind in _KINDS.items() if isinstance(module, base)), type(module).__name__)
    kind = 'dropout' if 'Drop' in type(module).__name__ and kind == type(module).__name__ else kind
    settings: dict[str, Any] = {}
    if kind in ('conv', 'conv_transpose'):
        settings = {key: tuple(getattr(module, key)) for key in ('stride', 'dilation')} | {'groups': module.groups}
        settings['padding'] = 'same' if getattr(module, 'same', False) or module.padding == 'same' else _sides(module.padding)
        settings['padding_mode'] = module.padding_mode
    elif kind in ('avg_pool', 'max_pool'):
        settings = {'kernel': _pair(module.kernel_size), 'stride': _pair(module.stride), 'padding': _sides(module.padding)}
        settings |= {'ceil_mode': module.ceil_mode}
        settings |= {'count_include_pad': module.count_include_pad} if kind == 'avg_pool' else {}
    elif kind == 'norm':
        settings = {'eps': module.eps, 'momentum': module.momentum}
    elif kind == 'dropout':
        settings = {'ratio': getattr(module, 'ratio', getattr(module, 'p', None))}
    names = ('weight', 'bias', 'running_mean', 'running_var')
    present = {key: getattr(module, key, None) for key in names}
    return Layer(kind, settings, {key: _array(x).copy() for key, x in present.items() if isinstance(x, Tensor)})


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _sides(padding: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right)."""
    if padding == 'valid':
        return 0, 0, 0, 0
    rows, columns = _pair(padding)
    return rows, rows, columns, columns
