"""An exported file as one side of a trace: an ONNX whose inner tensors are read by adding outputs to a copy, or replaced by
cutting the graph at them; of a MINDIR, the output alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np
import onnx
from onnx import TensorProto, helper

from twinseg.common.activations import Layer, Watcher
from twinseg.common.deploy.engines import open_engine
from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.deploy.sessions import failure, openvino_core
from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import written_beside
from twinseg.common.images.interpolation import Size
from twinseg.common.trace.onnx_mapping import WEIGHTED, layer_names, layers_of, map_graph
from twinseg.common.trace.onnx_mapping import Mapping as TensorMapping
from twinseg.common.trace.onnx_pieces import COMPUTED, Piece, joined, piece_of
from twinseg.common.trace.recording import Event, Recording
from twinseg.common.trace.sources import Statistics

TOGETHER = 1 << 29  # bytes of inner tensors that are read in one run: a graph with larger ones is run several times
NORMALISED = 'in/normalised'  # the tensor behind the normalisation that `export --uint8` puts before the network
QUANTISED = ('QuantizeLinear', 'QLinearConv', 'ConvInteger')


class OnnxSource:
    """An exported file in an engine on the host."""

    runs, has_double = True, False

    def __init__(self, label: str, path: Path, engine: Optional[str], statistics: Statistics) -> None:
        self.label, self.path = label, path
        self.engine = open_engine(path, engine)
        self.raw = False
        self.knows_statistics = 'mean' in self.engine.metadata
        if self.knows_statistics:
            known = ExportMetadata.read(self.engine.metadata, path)
            statistics, self.raw = (known.mean, known.std), known.input == 'uint8'
        self.mean, self.std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in statistics)
        shape = self.engine.shape
        self.batch = shape[0]  # None: any number of images
        height, width = (shape[1], shape[2]) if self.raw else (shape[2], shape[3])
        self.size: Optional[Size] = (height, width) if height and width else None
        self.model: Any = None
        self.precision = 'float32'
        self.mapping = TensorMapping({}, [], [])
        if path.suffix == '.onnx':
            self.model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=False)
            self.types = _types(self.model)
            if any(node.op_type in QUANTISED for node in self.model.graph.node):
                self.precision = 'int8'
            elif _is_half(self.model, self.types):
                self.precision = 'float16'
            self.mapping = TensorMapping(
                {
                    name: Event(name, 0, 'output', 0)
                    for node in self.model.graph.node
                    for name in node.output
                    if name in self.types
                },
                [],
                [],
            )

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the network's input, float32."""
        return (images.astype(np.float32) - self.mean) / self.std

    def bind(self, recording: Recording, layers: Mapping[str, Layer]) -> None:
        """Finds out which tensor of the graph is which recorded one."""
        if self.model is not None:
            self.mapping = map_graph(self.model, recording, layers)
            self.types = _types(onnx.shape_inference.infer_shapes(self.model))

    def layers(self) -> Mapping[str, Layer]:
        """Convolutions and products by the name of the layer whose output they give, a norm that was folded in among them."""
        return {} if self.model is None else layers_of(self.model, self.mapping.events)

    def unmatched(self, layers: Mapping[str, Layer]) -> tuple[list[str], list[str]]:
        """Layers of the network without a node, and nodes with weights without a layer: a graph has no modules."""
        return self.mapping.layers_without_node, self.mapping.nodes_without_layer

    def double(self) -> None:
        """None: an engine has no float64."""

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Computes while ``watcher`` (a ``Passage``) looks on."""
        see = watcher.see  # type: ignore[attr-defined]
        changed = see(Event('', 0, 'input', 0), inputs)
        inputs = inputs if changed is None else np.asarray(changed, np.float32)
        given = self.given(inputs)
        final = Event('', 0, 'output', 0)
        if self.model is None:
            see(final, self.engine(given))
            return
        if getattr(watcher, 'forced', False) and self._may_run_together(watcher):
            self._run_pieces_together(inputs, watcher)
        elif getattr(watcher, 'forced', False) or getattr(watcher, 'replaced', None):
            self._run_cut(inputs, watcher)
        else:
            self._run_whole(given, watcher)
        if self.mapping.output is not None and self.mapping.output != final:
            see(final, self.engine(given)) if not getattr(watcher, 'forced', False) else None

    def write_with_outputs(self, out: Path) -> None:
        """Writes a copy of the file whose inner tensors are outputs, too, named after their layers: for a converter of a card
        and ``ascend310_infer --dump``. UserError where it cannot be written."""
        if self.model is None:
            raise UserError(f'{self.path}: --outputs is for ONNX')
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        taken = {name for node in model.graph.node for name in node.output} | {item.name for item in model.graph.output}
        for name, event in self.mapping.events.items():
            layer = event.layer
            if name not in self.types or event.side != 'output' or event.call or not layer:
                continue
            if layer not in taken:
                model.graph.node.append(helper.make_node('Identity', [name], [layer]))
            elif layer != name:
                continue
            if layer not in {item.name for item in model.graph.output}:
                shape = self.mapping.shapes.get(name)
                model.graph.output.append(helper.make_tensor_value_info(layer, self.types[name], shape))
        try:
            with written_beside(out) as part:
                onnx.save(model, str(part))
        except OSError as error:
            raise UserError(f'{out}: cannot be written ({reason_of(error)})') from None

    def given(self, inputs: np.ndarray) -> np.ndarray:
        """The network's input as the file takes it."""
        if not self.raw:
            return inputs
        pixels = np.rint(inputs * self.std + self.mean).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    def _run_whole(self, given: np.ndarray, watcher: Any) -> None:
        """The whole graph with outputs added, as many at once as fit."""
        names = [name for name in self.mapping.events if name in self.types]
        batch = [self.model.graph.input[0].name]
        start = 0
        while start < len(names):
            size, stop = 0, start
            while stop < len(names) and (stop == start or size < TOGETHER):
                size += 4 * int(np.prod(self.mapping.shapes.get(names[stop], (1 << 20,))))
                stop += 1
            model = onnx.ModelProto()
            model.CopyFrom(self.model)
            model.graph.ClearField('output')
            model.graph.output.extend(helper.make_tensor_value_info(name, self.types[name], None) for name in names[start:stop])
            values = self.execute(model, {batch[0]: given}, names[start:stop])
            for name in names[start:stop]:
                watcher.see(self.mapping.events[name], np.asarray(values[name], np.float32))
            start = stop

    def _run_cut(self, inputs: np.ndarray, watcher: Any) -> None:
        """Piece by piece: each computes a tensor from those before, as ``watcher`` wants them."""
        names, source, pieces = self._pieces()
        values: dict[str, np.ndarray] = {source: inputs}
        last_use = {name: index for index, (_, borders, _) in enumerate(pieces) for name in borders}
        for index, (name, (nodes, borders, weights)) in enumerate(zip(names, pieces)):
            if not all(border in values for border in borders):
                continue  # depends on the image by another path, such as its size as a tensor
            feeds = {border: values[border] for border in borders}
            ports = [
                helper.make_tensor_value_info(border, self.types.get(border, TensorProto.FLOAT), list(value.shape))
                for border, value in feeds.items()
            ]
            body = helper.make_graph(
                nodes, 'piece', ports, [helper.make_tensor_value_info(name, self.types[name], None)], weights
            )
            model = helper.make_model(body, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
            value = np.asarray(self.execute(model, feeds, [name])[name], np.float32)
            changed = watcher.see(self.mapping.events[name], value)
            values[name] = value if changed is None else np.array(changed, np.float32)
            for border in [border for border in values if last_use.get(border, -1) <= index and border != name]:
                del values[border]

    def _may_run_together(self, watcher: Any) -> bool:
        """Whether every piece is fed what was recorded, and not what another piece gives."""
        return not watcher.nudge and all(event in watcher.recording for event in self.mapping.events.values())

    def _run_pieces_together(self, inputs: np.ndarray, watcher: Any) -> None:
        """All pieces, each fed what was recorded, as many in one run as fit: for a ``watcher`` that replaces every tensor by
        the recorded one."""
        names, source, pieces = self._pieces()

        def value_of(name: str) -> np.ndarray:
            return inputs if name == source else watcher.recording[self.mapping.events[name]]

        start = 0
        while start < len(names):
            size, stop = 0, start
            group: list[int] = []
            feeds: dict[str, np.ndarray] = {}
            while stop < len(names) and (not group or size < TOGETHER):
                _, borders, _ = pieces[stop]
                if all(border == source or border in self.mapping.events for border in borders):
                    feeds |= {border: value_of(border) for border in borders if border not in feeds}
                    size = sum(value.nbytes for value in feeds.values())
                    size += sum(4 * int(np.prod(self.mapping.shapes.get(names[index], ()))) for index in group)
                    group.append(stop)
                stop += 1
            start = stop
            if not group:
                continue
            wanted = [names[index] for index in group]
            model = joined({names[index]: pieces[index] for index in group}, set(names), self.types, feeds, self.model)
            values = self.execute(model, feeds, [f'{name}{COMPUTED}' for name in wanted])
            for name in wanted:
                watcher.see(self.mapping.events[name], np.asarray(values[f'{name}{COMPUTED}'], np.float32))

    def _pieces(self) -> tuple[list[str], str, list[Piece]]:
        """The mapped tensors, the network's input, and what computes each of these from those before."""
        graph = self.model.graph
        producers = {name: node for node in graph.node for name in node.output}
        constants = {item.name: item for item in graph.initializer}
        source = NORMALISED if NORMALISED in producers else graph.input[0].name
        names = [name for name in self.mapping.events if name in self.types]
        return names, source, [piece_of(name, set(names) | {source}, producers, constants) for name in names]

    def execute(self, model: Any, feeds: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        """Outputs of a model that was made from the file's, in the file's engine."""
        feeds = {
            name: value.astype(np.float16) if self.types.get(name) == TensorProto.FLOAT16 else value
            for name, value in feeds.items()
        }
        try:
            if self.engine.name == 'openvino':
                core = openvino_core()
                compiled = core.compile_model(
                    core.read_model(model.SerializeToString()), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}
                )
                ports = [next(name for name in port.get_names() if name in feeds) for port in compiled.inputs]
                results = compiled([np.ascontiguousarray(feeds[name]) for name in ports])
                return {name: results[index] for index, name in enumerate(outputs)}
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
            return dict(zip(outputs, session.run(outputs, dict(feeds))))
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's exception classes share no base
            raise failure(
                self.path, f'{"OpenVINO" if self.engine.name == "openvino" else "ONNX Runtime"} cannot run a part of it', error
            ) from None


def name_alike(first: OnnxSource, second: OnnxSource) -> None:
    """Gives the tensors of two graphs of one network the names of their layers, where a graph alone has those of tensors."""
    graphs = [source.model.graph for source in (first, second) if source.model is not None]
    if len(graphs) < 2 or graphs[0].output[0].name != graphs[1].output[0].name:
        return
    names = {**layer_names(first.model, second.model), graphs[0].output[0].name: ''}
    for source in (first, second):
        events = {tensor: Event(names.get(tensor, tensor), 0, 'output', 0) for tensor in source.mapping.events}
        source.mapping = replace(source.mapping, events=events)


def _is_half(model: Any, types: Mapping[str, int]) -> bool:
    """Whether most of the products (convolutions, linear layers) give float16: one layer that does is a difference, not the
    precision of the file."""
    kinds = [types.get(node.output[0]) for node in model.graph.node if node.op_type in WEIGHTED]
    return 2 * kinds.count(TensorProto.FLOAT16) > len(kinds)


def _types(model: Any) -> dict[str, int]:
    """Element types of the floating-point tensors."""
    infos = [*model.graph.value_info, *model.graph.output, *model.graph.input]
    kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
    return {name: kind for name, kind in kinds.items() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)}
