"""Export of a network to MINDIR, AIR and, where PyTorch is not installed, to ONNX; running a MINDIR file.

MindSpore's own ONNX export writes wrong padding without an error and knows neither resizing nor padded or adaptive pooling
(MindSpore 2.10). MINDIR is complete: a flat list of primitives with their constants and shapes. ``OnnxGraph`` translates that.
"""

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
import onnx
from mindspore import Tensor, nn, ops
from onnx import TensorProto, helper, numpy_helper

from twinseg.common.backend import Format, check_shape
from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.deploy.sessions import failure
from twinseg.common.errors import BackendError, UserError
from twinseg.common.files import plain_path
from twinseg.common.images.interpolation import Size, pooling_matrix
from twinseg.mindspore_impl.layers import normalise, resize


class Inference(nn.Cell):
    """A network that returns its logits alone, or takes and returns what the ``metadata`` of a file names."""

    def __init__(self, network: nn.Cell, metadata: Optional[ExportMetadata] = None, size: Optional[Size] = None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.uint8, self.class_ids = (metadata.input == 'uint8', metadata.output == 'class_ids') if metadata else (False, False)
        self.mean, self.std = (list(metadata.mean), list(metadata.std)) if metadata else ([], [])
        self.align_corners = metadata.align_corners if metadata else None
        self.size: Size = size or (0, 0)  # height and width of class ids

    def construct(self, image: Tensor) -> Tensor:
        if self.uint8:
            image = normalise(ops.transpose(image, (0, 3, 1, 2)), self.mean, self.std)
        logits = self.network(image)['logits']
        if not self.class_ids:
            return logits
        if self.align_corners is not None:
            logits = resize(logits, self.size, self.align_corners)
        return ops.cast(ops.argmax(logits, 1), ms.int32)


def write(
    network: nn.Cell,
    path: Path,
    format: Format,
    *,
    shape: tuple[int, int, int, int],
    dynamic: bool = False,
    metadata: Optional[Mapping[str, str]] = None,
) -> None:
    """Writes a network in evaluation mode as MINDIR, AIR (on an Ascend) or ONNX, operator set 17 (see
    ``common.backend.Backend``)."""
    if format == 'air':
        require_ascend(ms.get_context('device_target') == 'Ascend')
    if dynamic and format != 'mindir':
        raise BackendError(
            f'MindSpore writes {format} with fixed sizes only: leave out --dynamic'
            + (', or install PyTorch, which exports the twin' if format == 'onnx' else '')
        )
    if format == 'onnx':
        mindir = path.with_suffix('.mindir')
        try:
            _write(Inference(network), mindir, shape, dynamic, {})
            onnx.save(OnnxGraph(ms.load_mindir(str(mindir))).model, str(path))
        finally:
            mindir.unlink(missing_ok=True)
        return
    described = ExportMetadata.read(metadata, path) if metadata else None
    if dynamic and described and described.output == 'class_ids':
        raise UserError('--argmax with --dynamic is for ONNX; in MINDIR it needs one size')
    _write(Inference(network, described, shape[2:]), path, shape, dynamic, metadata or {})


def require_ascend(present: bool) -> None:
    """BackendError where no Ascend is present: AIR can be written on one only."""
    if not present:
        raise BackendError(
            'AIR is written by MindSpore on an Ascend device only, and there is none here; '
            'export mindir, or onnx for ATC (which makes .om from it)'
        )


def _write(network: Inference, path: Path, shape: Sequence[int], dynamic: bool, metadata: Mapping[str, str]) -> None:
    def describe(model: Any) -> None:
        model.user_info.update(metadata)
        model.producer_name, model.producer_version = 'twinseg', metadata.get('twinseg_version', '')

    batch, channels, height, width = (None, 3, None, None) if dynamic else shape
    sides: list[Any] = [batch, height, width, channels] if network.uint8 else [batch, channels, height, width]
    kind = ms.uint8 if network.uint8 else ms.float32
    image = Tensor(shape=sides, dtype=kind) if dynamic else Tensor(np.zeros(sides), kind)
    network.set_train(False)
    try:
        with plain_path(path) as plain:
            ms.export(
                network,
                image,
                file_name=str(plain),
                file_format=path.suffix[1:].upper(),
                **({'custom_func': describe} if path.suffix == '.mindir' else {}),
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise failure(Path(path.name), 'MindSpore cannot export this network', error) from error
    path.chmod(0o644)  # MindSpore writes files that only their owner may read


def open_mindir(path: Path) -> 'Mindir':
    """A MINDIR file, ready to run on the CPU; UserError when it is broken."""
    return Mindir(path)


class Mindir:
    """A MINDIR file, run by MindSpore on the CPU. It checks sizes: MindSpore itself computes nonsense for a wrong one."""

    name = 'mindspore'

    def __init__(self, path: Path):
        try:
            with plain_path(path, copied=True) as plain:
                model = ms.load_mindir(str(plain))
                self.cell = nn.GraphCell(ms.load(str(plain)))
            sides = model.graph.input[0].tensor[0].dims
        except Exception as error:  # protobuf's DecodeError among them
            raise failure(path, 'MindSpore refuses it', error) from None
        self.path = path
        self.shape = tuple(size if size > 0 else None for size in sides)
        self.metadata = dict(model.user_info)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        try:
            return self.cell(Tensor(images)).asnumpy()
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise failure(self.path, 'MindSpore cannot run it', error) from None


class OnnxGraph:
    """The ONNX model, operator set 17, of a MINDIR model with fixed sizes.

    Each method is named after a MindSpore primitive; it takes the primitive's inputs (names of tensors, or constants as
    Python values and arrays), its attributes and the shape of its result, and returns the result.
    """

    def __init__(self, mindir: Any):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        graph = mindir.graph
        primitives = {item.name: item for item in mindir.primitives}
        values: dict[str, Any] = {graph.input[0].name: 'image'}
        self.shapes = {'image': list(graph.input[0].tensor[0].dims)}
        for parameter in graph.parameter:
            values[parameter.name] = _array(parameter)
        for node in graph.node:
            attributes = {item.name: _value(item) for item in node.attribute if item.name != 'shape'}
            if node.op_type == 'Constant':
                values[node.output[0]] = attributes['value']
                continue
            primitive = primitives[node.op_type.removeprefix('REF::')]
            attributes |= {item.name: _value(item) for item in primitive.attribute}
            translate = getattr(self, primitive.op_type, None)
            if translate is None:
                raise UserError(
                    f'no ONNX for the MindSpore operator {primitive.op_type} ({node.domain}); with PyTorch '
                    'installed the twin is exported instead'
                )
            shape = [list(tensor.dims) for item in node.attribute if item.name == 'shape' for tensor in item.tensors]
            result = translate([values[name] for name in node.input], attributes, shape[0] if shape else [])
            values[node.output[0]] = result
            if isinstance(result, str) and shape:
                self.shapes[result] = shape[0]
        self._node('Identity', [values[graph.output[0].name]], output='logits')
        image, logits = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(item.tensor[0].dims))
            for name, item in (('image', graph.input[0]), ('logits', graph.output[0]))
        )
        self.model = helper.make_model(
            helper.make_graph(self.nodes, 'twinseg', [image], [logits], self.initializers),
            opset_imports=[helper.make_opsetid('', 17)],
        )

    def _node(self, kind: str, inputs: Sequence[Any], output: Optional[str] = None, **attributes: Any) -> str:
        output = output or f'{kind.lower()}_{len(self.nodes)}'
        names = [item if isinstance(item, str) else self._constant(np.asarray(item)) for item in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], f'{kind}_{len(self.nodes)}', **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f'constant_{len(self.initializers)}'
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def Load(self, inputs, attributes, shape):
        return inputs[0]

    def Depend(self, inputs, attributes, shape):
        return inputs[0]

    def UpdateState(self, inputs, attributes, shape):
        return None

    def MakeTuple(self, inputs, attributes, shape):
        return tuple(inputs)

    def TupleGetItem(self, inputs, attributes, shape):
        return inputs[0][inputs[1]]

    def Conv2D(self, inputs, attributes, shape):
        top, bottom, left, right = attributes['pad_list']
        return self._node(
            'Conv',
            inputs,
            strides=attributes['stride'][2:],
            dilations=attributes['dilation'][2:],
            pads=[top, left, bottom, right],
            group=attributes['group'],
        )

    def Conv2DTranspose(self, inputs, attributes, shape):
        return self._node('ConvTranspose', inputs[:2], strides=attributes['stride'][2:], group=attributes['group'])

    def BiasAdd(self, inputs, attributes, shape):
        last = self.nodes[-1]
        if last.op_type in ('Conv', 'ConvTranspose') and last.output == [inputs[0]]:  # no other node reads it
            last.input.append(self._constant(inputs[1]))
            return inputs[0]
        return self._node('Add', [inputs[0], inputs[1].reshape(1, -1, 1, 1)])

    def BatchNorm(self, inputs, attributes, shape):
        return (self._node('BatchNormalization', inputs[:5], epsilon=inputs[6]),)

    def ReLU(self, inputs, attributes, shape):
        return self._node('Relu', inputs)

    def Sigmoid(self, inputs, attributes, shape):
        return self._node('Sigmoid', inputs)

    def Add(self, inputs, attributes, shape):
        return self._node('Add', inputs)

    def Mul(self, inputs, attributes, shape):
        return self._node('Mul', inputs)

    def Muls(self, inputs, attributes, shape):
        return self._node('Mul', [inputs[0], np.float32(inputs[1])])

    def Sub(self, inputs, attributes, shape):
        return self._node('Sub', inputs)

    def Div(self, inputs, attributes, shape):
        return self._node('Div', inputs)

    def Sqrt(self, inputs, attributes, shape):
        return self._node('Sqrt', inputs)

    def StridedSlice(self, inputs, attributes, shape):
        step, begin_mask = np.array(inputs[3]), inputs[4]  # begin_mask has a bit for every axis that starts at its beginning
        start = np.array([0 if begin_mask >> axis & 1 else begin for axis, begin in enumerate(inputs[1])])
        return self._node('Slice', [inputs[0], start, start + step * shape, np.arange(len(start)), step])

    def Slice(self, inputs, attributes, shape):
        start = np.array(inputs[1])
        return self._node('Slice', [inputs[0], start, start + shape, np.arange(len(start))])

    def Concat(self, inputs, attributes, shape):
        return self._node('Concat', inputs[0], axis=inputs[1])

    def ReduceMean(self, inputs, attributes, shape):
        return self._node('ReduceMean', inputs[:1], axes=inputs[1], keepdims=int(inputs[2]))

    def MatMul(self, inputs, attributes, shape):
        return self._node('Gemm', inputs[:2], transA=int(inputs[2]), transB=int(inputs[3]))

    def Transpose(self, inputs, attributes, shape):
        if isinstance(inputs[0], np.ndarray):
            return inputs[0].transpose(inputs[1])
        return self._node('Transpose', inputs[:1], perm=inputs[1])

    def Reshape(self, inputs, attributes, shape):
        return self._node('Reshape', [inputs[0], np.array(shape)])

    def Flatten(self, inputs, attributes, shape):
        return self.Reshape(inputs, attributes, shape)

    def Squeeze(self, inputs, attributes, shape):
        return self.Reshape(inputs, attributes, shape)

    def ExpandDims(self, inputs, attributes, shape):
        return self.Reshape(inputs, attributes, shape)

    def AvgPool3D(self, inputs, attributes, shape):
        front, back, top, bottom, left, right = attributes['pad_list']
        return self._node(
            'AveragePool',
            inputs,
            kernel_shape=attributes['kernel_size'][2:],
            strides=attributes['strides'][2:],
            pads=[front, top, left, back, bottom, right],
            count_include_pad=int(attributes['count_include_pad']),
        )

    def MaxPool(self, inputs, attributes, shape):
        return self._node('MaxPool', inputs, kernel_shape=attributes['kernel_size'][2:], strides=attributes['strides'][2:])

    def MaxPool3DWithArgmax(self, inputs, attributes, shape):
        return (
            self._node(
                'MaxPool',
                inputs,
                kernel_shape=attributes['ksize'],
                strides=attributes['strides'],
                pads=[*attributes['pads'], *attributes['pads']],
                ceil_mode=int(attributes['ceil_mode']),
            ),
            None,
        )

    def PReLU(self, inputs, attributes, shape):
        return self._node('PRelu', [inputs[0], inputs[1].reshape(-1, 1, 1)])

    def PadV3(self, inputs, attributes, shape):
        before, after = inputs[1][::2][::-1], inputs[1][1::2][::-1]  # the last axis comes first
        none = [0] * (len(shape) - len(before))
        return self._node('Pad', [inputs[0], np.array([*none, *before, *none, *after]), inputs[2]])

    def MaxPoolWithArgmaxV2(self, inputs, attributes, shape):
        n, c, h, w = self.shapes[inputs[0]]
        pads = attributes['pads'][2:]
        pooled = self._node(
            'MaxPool',
            inputs,
            kernel_shape=attributes['kernel_size'][2:],
            strides=attributes['strides'][2:],
            pads=[*pads, *pads],
            ceil_mode=int(attributes['ceil_mode']),
        )
        self.nodes[-1].output.append(f'{pooled}_indices')  # ONNX counts through the whole tensor, MindSpore in every channel
        offsets = np.arange(n * c).reshape(n, c, 1, 1) * (h * w)
        return pooled, self._node('Sub', [f'{pooled}_indices', offsets])

    def TensorScatterElements(self, inputs, attributes, shape):
        data, indices, updates, axis, _ = inputs
        if isinstance(data, np.ndarray) and not data.any():
            data = self._node('ConstantOfShape', [np.array(data.shape)], value=numpy_helper.from_array(np.zeros(1, data.dtype)))
        return self._node('ScatterElements', [data, indices, updates], axis=axis)

    def AdaptiveAvgPool2D(self, inputs, attributes, shape):
        rows, columns = (pooling_matrix(size, bins) for size, bins in zip(self.shapes[inputs[0]][2:], shape[2:]))
        pooled = self._node('MatMul', [inputs[0], columns.T])
        return self._node('MatMul', [rows, pooled])

    def ResizeBilinearV2(self, inputs, attributes, shape):
        mode = 'align_corners' if inputs[2] else 'half_pixel' if inputs[3] else 'asymmetric'
        return self._node('Resize', [inputs[0], '', '', np.array(shape)], mode='linear', coordinate_transformation_mode=mode)

    def ResizeNearestNeighborV2(self, inputs, attributes, shape):
        return self._node(
            'Resize',
            [inputs[0], '', '', np.array(shape)],
            mode='nearest',
            nearest_mode='floor',
            coordinate_transformation_mode='asymmetric',
        )


def _array(tensor: Any) -> np.ndarray:
    """A MINDIR tensor as an array."""
    dtype = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16}[tensor.data_type]
    return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))


def _value(attribute: Any) -> Any:
    """A MINDIR attribute as a Python value; a tuple's element gives its number in a list of one."""
    kind = attribute.AttributeType.Name(attribute.type)
    if kind in ('INT64', 'INT32', 'BOOL'):
        number = attribute.ints[0] if attribute.ints else attribute.i
        return bool(number) if kind == 'BOOL' else number
    if kind == 'FLOAT':
        return attribute.floats[0] if attribute.floats else attribute.f
    if kind == 'STRING':
        return (attribute.strings[0] if attribute.strings else attribute.s).decode()
    if kind in ('TUPLE', 'LIST'):
        return [_value(item) for item in attribute.values]
    if kind == 'TENSORS' and attribute.tensors[0].raw_data:
        return _array(attribute.tensors[0])
    return None
