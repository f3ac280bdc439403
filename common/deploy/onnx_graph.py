"""ONNX graphs as they are handed out: simplified, of one operator set, described, with what goes before and behind the
network."""

from collections import Counter
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.errors import UserError, require

OPSETS = {17: 8, 18: 8}  # ONNX operator set -> IR version; Ascend's ATC and its peers read these


class Summary(NamedTuple):
    """Contents of an ONNX file."""

    opset: int
    ir_version: int
    operators: dict[str, int]  # kind -> how many, the most frequent first


def summarise(path: Path) -> Summary:
    """Operator set, IR version and operators of an ONNX file."""
    model = onnx.load(str(path))
    operators = Counter(node.op_type for node in model.graph.node)
    return Summary(model.opset_import[0].version, model.ir_version, dict(operators.most_common()))


def finish(model: Any, opset: int, metadata: Mapping[str, str]) -> Any:
    """An ONNX model of operator set 17 or 18 simplified (norms go into convolutions), brought to ``opset`` and its IR version,
    described and checked; its input and output become what the description says."""
    require('onnxscript', 'deploy')
    from onnxscript import optimizer

    if opset not in OPSETS:
        raise UserError(f'opset {opset}: choose {" or ".join(map(str, OPSETS))}')
    model = optimizer.optimize(model)
    if model.opset_import[0].version != opset:
        model = version_converter.convert_version(model, opset)
    for node in model.graph.node:  # the converter leaves this attribute of set 18 behind
        if opset == 17 and node.op_type.startswith('Reduce') and node.op_type != 'ReduceSum':
            others = [attribute for attribute in node.attribute if attribute.name != 'noop_with_empty_axes']
            del node.attribute[:]
            node.attribute.extend(others)
    if metadata:
        _surround(model.graph, ExportMetadata.read(metadata, Path(metadata['arch'])))
    model.ir_version = OPSETS[opset]
    model.producer_name, model.producer_version = 'twinseg', metadata.get('twinseg_version', '')
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]  # the exporter's own notes: file names of this machine among them
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _surround(graph: Any, metadata: ExportMetadata) -> None:
    """Normalisation before, and resizing with argmax behind a graph from ``image`` to ``logits``, where its metadata name them.

    Names with a slash are not among those that exporters give.
    """

    def constant(name: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    batch, _, height, width = [side.dim_param or side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    before, behind = [], []
    if metadata.input == 'uint8':
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == 'image':
                    node.input[index] = 'in/normalised'
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info('image', TensorProto.UINT8, [batch, height, width, 3]))
        mean = constant('in/mean', np.array(metadata.mean, np.float32))
        std = constant('in/std', np.array(metadata.std, np.float32))
        before = [
            helper.make_node('Cast', ['image'], ['in/pixels'], to=TensorProto.FLOAT),
            helper.make_node('Sub', ['in/pixels', mean], ['in/centred']),
            helper.make_node('Div', ['in/centred', std], ['in/scaled']),
            helper.make_node('Transpose', ['in/scaled'], ['in/normalised'], perm=[0, 3, 1, 2]),
        ]
    if metadata.output == 'class_ids':
        last, shape = 'logits', [batch]
        if metadata.align_corners is not None:
            last, shape = 'out/full', [batch, height, width]
            if all(isinstance(side, int) for side in shape):
                constant('out/size', np.array([batch, metadata.num_classes, height, width]))
            else:
                sides = constant('out/sides', np.array([1, 2] if metadata.input == 'uint8' else [2, 3]))
                behind += [
                    helper.make_node('Shape', ['image'], ['out/image_shape']),
                    helper.make_node('Shape', ['logits'], ['out/shape']),
                    helper.make_node('Gather', ['out/shape', constant('out/first', np.array([0, 1]))], ['out/channels']),
                    helper.make_node('Gather', ['out/image_shape', sides], ['out/height_width']),
                    helper.make_node('Concat', ['out/channels', 'out/height_width'], ['out/size'], axis=0),
                ]
            mode = 'align_corners' if metadata.align_corners else 'half_pixel'
            behind.append(
                helper.make_node(
                    'Resize', ['logits', '', '', 'out/size'], [last], mode='linear', coordinate_transformation_mode=mode
                )
            )
        behind += [
            helper.make_node('ArgMax', [last], ['out/ids'], axis=1, keepdims=0),
            helper.make_node('Cast', ['out/ids'], ['class_ids'], to=TensorProto.INT32),
        ]
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info('class_ids', TensorProto.INT32, shape))
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
