"""An ONNX graph cut at tensors: what computes one from those before."""

from typing import Any, Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

Arrays = Mapping[str, np.ndarray]
Piece = tuple[list[Any], list[str], list[Any]]  # nodes in order, the tensors that they take, constants
COMPUTED = '/computed'  # ending of a tensor that a piece computes, beside that of the same name that other pieces take


def piece_of(name: str, borders: set[str], producers: Mapping[str, Any], constants: Mapping[str, Any]) -> Piece:
    """The nodes that compute a tensor from ``borders`` and constants, in order; the borders and constants that they use."""
    nodes: dict[int, Any] = {}
    used: dict[str, None] = {}
    weights: dict[str, Any] = {}
    waiting = [name]
    first = True
    order: list[Any] = []
    seen: set[int] = set()

    while waiting:
        tensor = waiting.pop()
        if not tensor:
            continue
        if tensor in borders and not first:
            used.setdefault(tensor)
            continue
        first = False
        if tensor in constants:
            weights[tensor] = constants[tensor]
            continue
        node = producers.get(tensor)
        if node is None:
            used.setdefault(tensor)
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        nodes[id(node)] = node
        waiting += list(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                waiting += [item for inner in attribute.g.node for item in inner.input]
    position = {id(node): index for index, node in enumerate({id(n): n for n in producers.values()}.values())}
    order = sorted(nodes.values(), key=lambda node: position[id(node)])
    inner = {item for node in order for item in node.output}
    return order, [item for item in used if item not in inner], list(weights.values())


def joined(pieces: Mapping[str, Piece], cuts: Collection[str], types: Mapping[str, int], feeds: Arrays, source: Any) -> Any:
    """One model of the pieces (tensor -> what computes it) of the model ``source``: it takes ``feeds`` and gives the tensors
    under their names with the ending COMPUTED. ``cuts``: all tensors that other pieces take."""
    nodes: dict[int, Any] = {}
    weights: dict[str, Any] = {}
    for piece, _, constants in pieces.values():
        weights |= {item.name: item for item in constants}
        for node in piece:
            if id(node) in nodes:
                continue
            copy = nodes[id(node)] = type(node).FromString(node.SerializeToString())
            for index, name in enumerate(node.output):
                if name in cuts:
                    copy.output[index] = f'{name}{COMPUTED}'
    ports = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), list(value.shape))
        for name, value in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(f'{name}{COMPUTED}', types[name], None) for name in pieces]
    body = helper.make_graph(list(nodes.values()), 'pieces', ports, outputs, list(weights.values()))
    return helper.make_model(body, opset_imports=source.opset_import, ir_version=source.ir_version)
