"""Which tensor of an ONNX graph is which tensor of the network that it was exported from.

Nodes with weights are mapped by the names of their weights, by the exporter's scopes, and else by position and shape; the
others by what flows into and out of these. A norm that was folded into a convolution is known by its absence.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Optional
from typing import Mapping as Map

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twinseg.common.activations import Layer
from twinseg.common.trace.recording import START, Event, Recording

WEIGHTED = {'Conv': 'conv', 'ConvTranspose': 'conv_transpose', 'Gemm': 'linear', 'MatMul': 'linear'}
WITH_PARAMETERS = {**WEIGHTED, 'BatchNormalization': 'norm', 'PRelu': 'prelu'}
WITHOUT = {'Relu': 'relu', 'Sigmoid': 'sigmoid', 'MaxPool': 'max_pool', 'AveragePool': 'avg_pool', 'BatchNormalization': 'norm'}
THROUGH = ('DequantizeLinear', 'QuantizeLinear', 'Transpose', 'Identity', 'Cast', 'Reshape', 'Unsqueeze')
QUANTISING = ('DequantizeLinear', 'QuantizeLinear')
ROUNDING = (*QUANTISING, 'Cast')  # what a layer in another precision takes its input through


@dataclass
class Mapping:
    """Tensors of a graph, in the order of execution, and what they are."""

    events: dict[str, Event]
    nodes_without_layer: list[str]  # nodes with weights that belong to no layer
    layers_without_node: list[str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    output: Optional[Event] = None  # what the graph's output is


def map_graph(model: Any, recording: Recording, layers: Map[str, Layer]) -> Mapping:
    """Maps a graph on a recording of the network with ``layers``. Where one tensor is two recorded ones, since what was between
    them is not in the graph, an Identity is put in."""
    graph = model.graph
    nodes = list(graph.node)
    producers = {name: node for node in nodes for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    constants = {item.name: tuple(item.dims) for item in graph.initializer}

    def constant(name: str) -> Optional[str]:
        while name and name not in constants:
            node = producers.get(name)
            if node is None or node.op_type not in THROUGH or not node.input:
                return None
            name = node.input[0]
        return name or None

    weighted = [
        node
        for node in nodes
        if node.op_type in WITH_PARAMETERS
        and len(node.input) > 1
        and constant(node.input[1]) is not None
        and (node.op_type != 'MatMul' or len(constants[constant(node.input[1]) or '']) == 2)
    ]
    chosen = _by_name(weighted, {id(node): constant(node.input[1]) or '' for node in weighted}, layers, recording)
    _by_position(weighted, chosen, {id(node): constants[constant(node.input[1]) or ''] for node in weighted}, layers, recording)
    calls: Counter[str] = Counter()
    events: dict[str, Event] = {}
    entries: list[tuple[Any, Event]] = []
    for node in weighted:
        name = chosen.get(id(node))
        if name is None:
            continue
        call = calls[name]
        calls[name] += 1
        entry, result = Event(name, call, 'input', 0), Event(name, call, 'output', 0)
        if entry not in recording or result not in recording:
            continue
        entries.append((node, entry))
        tensor = node.output[0]
        following = users.get(tensor, [])
        if node.op_type == 'MatMul' and len(following) == 1 and following[0].op_type == 'Add':
            tensor = following[0].output[0]
            following = users.get(tensor, [])
        while len(following) == 1 and _widens(following[0]):  # behind it recorded values are not rounded
            tensor = following[0].output[0]
            following = users.get(tensor, [])
        norm = _consumer(recording, result, 'norm', layers)
        if norm is not None and not any(user.op_type == 'BatchNormalization' for user in following):
            result = norm
        events[tensor] = result
    source = _image(graph, producers)
    known = {**events, **({source: START} if START in recording else {})}
    for node in nodes:  # layers without parameters, by what flows into them
        kind = WITHOUT.get(node.op_type)
        tensor = _unrounded(node.input[0], producers) if node.input else ''
        if kind is not None and tensor in known and node.output[0] not in known:
            after = _consumer(recording, known[tensor], kind, layers)
            if after is not None and after not in known.values():
                events[node.output[0]] = known[node.output[0]] = after
    cuts: dict[int, list[tuple[Any, str, str]]] = {}
    for node, entry in entries:  # and by what flows out of them
        tensor, origin = _unrounded(node.input[0], producers), recording.origin(entry)
        if tensor not in known:
            target = origin if origin not in known.values() else entry
            events[tensor] = known[tensor] = target
        elif recording.content[known[tensor]] != recording.content[entry]:
            fresh = f'{tensor}/into/{entry.layer}'
            cuts.setdefault(id(node), []).append((node, tensor, fresh))
            events[fresh] = entry
    _cut(graph, cuts, producers)
    output = next((Event('', 0, 'output', 0) for _ in graph.output if Event('', 0, 'output', 0) in recording), None)
    if output is not None and graph.output[0].name not in known and not _is_integer(graph.output[0]):
        events[graph.output[0].name] = output
    order = {name: index for index, node in enumerate(graph.node) for name in node.output}
    events = {name: events[name] for name in sorted((name for name in events if name in order), key=lambda name: order[name])}
    without_layer = [f'{node.name} ({node.op_type})' for node in weighted if id(node) not in chosen]
    taken = set(chosen.values()) | {event.layer for event in events.values()}
    recorded = {event.layer for event in recording.content}
    without_node = [name for name, layer in layers.items() if layer.parameters and name in recorded and name not in taken]
    shapes = {name: recording.shapes[event] for name, event in events.items()}
    return Mapping(events, without_layer, without_node, shapes, output if graph.output[0].name in events else None)


def layer_names(*models: Any) -> dict[str, str]:
    """Layers by the tensor that they give, for graphs of one network whose tensors have equal names: by the name of a weight in
    any of them. A layer that gives several tensors is left out."""
    names: dict[str, str] = {}
    for model in models:
        for node in model.graph.node:
            if node.op_type in WITH_PARAMETERS and len(node.input) > 1:
                tensor = node.output[0]
                name = layer_name(model, tensor)
                if name != tensor:
                    names.setdefault(tensor, name)
    counts = Counter(names.values())
    return {tensor: name for tensor, name in names.items() if counts[name] == 1}


def layer_name(model: Any, output: str) -> str:
    """The layer of a node by the name of its weight, else the name of its output."""
    node = next(node for node in model.graph.node if output in node.output)
    name = node.input[1].removeprefix('network.').removesuffix('_DequantizeLinear_Output')
    return name.removesuffix('_quantized').removesuffix('.weight') if '.weight' in name else output


def layers_of(model: Any, events: Map[str, Event]) -> dict[str, Layer]:
    """Convolutions and products with known weights, by the layer whose output they give."""
    values = {item.name: item for item in model.graph.initializer}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == 'Cast'}
    behind = {name: output for output, name in casts.items()}
    layers = {}
    for node in model.graph.node:
        event = events.get(node.output[0]) or events.get(behind.get(node.output[0], '')) if node.output else None
        names = [casts.get(name, name) for name in node.input]
        if event is None or node.op_type not in ('Conv', 'Gemm') or any(name not in values for name in names[1:] if name):
            continue
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        weight = numpy_helper.to_array(values[names[1]]).astype(np.float32)
        parameters = {'weight': weight.T if node.op_type == 'Gemm' and not given.get('transB') else weight}
        if len(names) > 2 and names[2]:
            parameters['bias'] = numpy_helper.to_array(values[names[2]]).astype(np.float32)
        if node.op_type == 'Gemm':
            layers[event.layer] = Layer('linear', {}, parameters)
            continue
        top, left, bottom, right = given.get('pads', (0, 0, 0, 0))
        settings = {
            'stride': tuple(given.get('strides', (1, 1))),
            'dilation': tuple(given.get('dilations', (1, 1))),
            'groups': given.get('group', 1),
            'padding': (top, bottom, left, right),
            'padding_mode': 'zeros',
        }
        layers[event.layer] = Layer('conv', settings, parameters)
    return layers


def _by_name(weighted: list[Any], names: Map[int, str], layers: Map[str, Layer], recording: Recording) -> dict[int, str]:
    chosen = {}
    for node in weighted:
        words = [names[id(node)].rpartition('.')[0], node.name.rpartition('/')[0].strip('/').replace('/', '.')]
        for word in words:
            while word and word not in layers:
                word = word.partition('.')[2]
            if word and layers[word].kind == WITH_PARAMETERS[node.op_type]:
                chosen[id(node)] = word
                break
    return chosen


def _by_position(
    weighted: list[Any],
    chosen: dict[int, str],
    shapes: Map[int, tuple[int, ...]],
    layers: Map[str, Layer],
    recording: Recording,
) -> None:
    """Nodes without a known name take the next layer in the order of execution whose weight has their shape."""
    executed = list(
        dict.fromkeys(event.layer for event in recording.content if event.side == 'input' and event.layer in layers)
    )
    rest = [name for name in executed if name not in chosen.values() and 'weight' in layers[name].parameters]
    for node in weighted:
        if id(node) in chosen:
            continue
        shape, kind = shapes[id(node)], WITH_PARAMETERS[node.op_type]
        for index, name in enumerate(rest):
            own = layers[name].parameters['weight'].shape
            if layers[name].kind == kind and (own == shape or kind == 'linear' and own == shape[::-1]):
                chosen[id(node)] = name
                del rest[: index + 1]
                break


def _consumer(recording: Recording, event: Event, kind: str, layers: Map[str, Layer]) -> Optional[Event]:
    """The output of a layer of a kind that takes the content of an event."""
    for other in recording.events[recording.content[event]]:
        result = Event(other.layer, other.call, 'output', 0)
        if other.side == 'input' and other.layer in layers and layers[other.layer].kind == kind and result in recording:
            return result
    return None


def _image(graph: Any, producers: Map[str, Any]) -> str:
    return 'in/normalised' if 'in/normalised' in producers else graph.input[0].name


def _widens(node: Any) -> bool:
    """Whether a node makes float32 of what a layer in half precision gives."""
    return node.op_type == 'Cast' and any(item.name == 'to' and item.i == TensorProto.FLOAT for item in node.attribute)


def _unrounded(name: str, producers: Map[str, Any]) -> str:
    while name in producers and producers[name].op_type in ROUNDING:
        name = producers[name].input[0]
    return name


def _is_integer(value: Any) -> bool:
    return value.type.tensor_type.elem_type not in (1, 10)


def _cut(graph: Any, cuts: Map[int, list[tuple[Any, str, str]]], producers: Map[str, Any]) -> None:
    """Puts an Identity before the nodes of ``cuts``."""
    if not cuts:
        return
    nodes = []
    for node in list(graph.node):
        for _, tensor, fresh in cuts.get(id(node), ()):
            nodes.append(helper.make_node('Identity', [tensor], [fresh]))
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = fresh
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
