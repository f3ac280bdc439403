"""What travels between a backend and ``trace``: layers as data, and somebody who watches values pass."""

from typing import Any, Callable, NamedTuple, Optional, Protocol

import numpy as np

Arrays = list[np.ndarray]


class Layer(NamedTuple):
    """A module or cell without parts, as data."""

    kind: str  # conv, conv_transpose, linear, norm, relu, prelu, sigmoid, avg_pool, max_pool, dropout; else the class's name
    settings: dict[
        str, Any
    ]  # stride, dilation (H, W), padding (top, bottom, left, right) or 'same', groups, eps, ceil_mode, ...
    parameters: dict[str, np.ndarray]  # weight, bias, running_mean, running_var, as far as the layer has them


class Watcher(Protocol):
    """Sees what goes into every module and what comes out, in the order of execution, and may put other values there.

    Names are those of the modules ('' for the network). Arrays are the floating-point tensors among arguments or results, in
    order, in float32 (float64 of a network in float64); they may share memory with the network and are copied to be kept. What
    a method returns replaces them; None changes nothing.
    """

    def enter(self, name: str, inputs: Arrays) -> Optional[Arrays]:
        """Before a module computes."""

    def leave(self, name: str, outputs: Arrays) -> Optional[Arrays]:
        """After a module has computed."""


def map_tensors(tree: Any, is_tensor: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """A copy of nested tuples, lists and dicts in which every tensor is replaced by ``change`` of it, in order."""
    if is_tensor(tree):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(value, is_tensor, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [map_tensors(value, is_tensor, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, '_fields') else type(tree)(parts)
    return tree
