"""What an ONNX file may be before an engine sees it: one image input of a size that fits the memory, weights that are in the
file or its folder, operators that end.

Nothing here is recursive, and nothing is allocated by what the file says of sizes.
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Mapping, NamedTuple, Optional

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import resolved
from twinseg.common.settings.limits import MAX_SIDE

MAX_FILE = 1 << 31  # bytes: protobuf takes no more
MAX_NODES = 100_000  # operators of a graph, with those of the functions that it calls: a ResNet-152 has 520
MAX_NESTED = 64  # graphs in graphs
MAX_RANK = 16
MAX_TOGETHER = 1 << 25  # pixels of a batch: sixteen images of Cityscapes
MAX_NUMBERS = 1 << 26  # numbers of a tensor that is computed, or SHARE for each of the images' where that is more
SHARE = 64  # a U-Net has 64 channels at the size of the image, which has three: 21
ENDLESS = ('Loop', 'Scan', 'SequenceMap')  # operators that repeat a graph as often as the data say
TEXTS = ('key', 'value', 'name', 'dim_param', 'op_type', 'domain')  # fields
# Of ONNX, of ONNX Runtime's quantised and fused files, and OpenVINO's own.
DOMAINS = ('', 'ai.onnx', 'ai.onnx.ml', 'com.microsoft', 'com.microsoft.nchwc', 'com.ms.internal.nhwc', 'org.openvinotoolkit')
IMAGES = {TensorProto.FLOAT: 'float32', TensorProto.FLOAT16: 'float16', TensorProto.UINT8: 'uint8'}  # types of images


class Checked(NamedTuple):
    """An ONNX file without the weights in other files, and the bytes of those."""

    model: ModelProto
    elsewhere: int


def load(path: Path) -> Checked:
    """An ONNX file, checked.

    UserError for what is no ONNX, and for what would take memory, time or files that a network for images does not. Reading may
    itself take memory, which has to be limited (see ``sandbox``).
    """
    if path.stat().st_size >= MAX_FILE:
        raise UserError(f'{path}: {path.stat().st_size} bytes; an ONNX file has less than {MAX_FILE}')
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError among them
        raise UserError(f'{path}: not readable as ONNX: {reason_of(error)}') from None
    try:
        return Checked(model, _check(model, path.absolute().parent))
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None


def _check(model: ModelProto, folder: Path) -> int:
    """Bytes of the weights in other files. ValueError says what is wrong."""
    _check_texts(model)
    graphs = list(_graphs(model))
    nodes = [node for graph in graphs for node in graph.node]
    _check_operators(model, nodes)
    sizes: dict[Path, int] = {}
    largest = MAX_NUMBERS
    for tensor in _tensors(graphs, nodes):
        _check_tensor(tensor, folder, sizes)
        largest = max(largest, math.prod(tensor.dims))  # a weight of int8 is computed as one of float32
    _check_computed(model, max(largest, SHARE * math.prod(_images(model.graph))))
    return sum(sizes.values())


def _check_texts(model: ModelProto) -> None:
    """ValueError for names and notes that are no UTF-8, which engines hand on."""
    ends = (*model.graph.input, *model.graph.output)
    sides = [side for end in ends for side in end.type.tensor_type.shape.dim]
    for item in (*model.metadata_props, *ends, *sides, *model.graph.initializer, *model.graph.node):
        for name in TEXTS:
            if isinstance(getattr(item, name, None), bytes):  # as protobuf gives what it cannot decode
                raise ValueError(f'{name} is no UTF-8: found {getattr(item, name)[:80]!r}')


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The graph, those inside its operators, and the bodies of its functions."""
    left: list[tuple[Any, int]] = [(graph, 0) for graph in (model.graph, *model.functions)]
    count = 0
    while left:
        graph, depth = left.pop()
        count += len(graph.node)
        if count > MAX_NODES or depth > MAX_NESTED:
            raise ValueError(f'more than {MAX_NODES} operators, or {MAX_NESTED} graphs inside each other')
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField('g') else []), *attribute.graphs]
                if inner and node.op_type != 'If':
                    raise ValueError(f'{_name(node)} repeats a graph as often as its data say; a network for images does not')
                left += [(one, depth + 1) for one in inner]


def _check_operators(model: ModelProto, nodes: list[NodeProto]) -> None:
    """ValueError for an operator that no engine here has, that may never end, or functions that call each other for ever."""
    functions = {(function.domain, function.name): function for function in model.functions}
    for node in nodes:
        if node.op_type in ENDLESS:
            raise ValueError(f'{_name(node)} repeats a graph as often as its data say; a network for images does not')
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
            raise ValueError(f'{_name(node)} is of the domain {node.domain!r}, which no engine here has')
    counts: dict[tuple[str, str], int] = {}
    waiting = dict(functions)
    while waiting:
        for key, function in list(waiting.items()):
            calls = [(node.domain, node.op_type) for node in function.node]
            if not any(call in waiting for call in calls):
                counts[key] = sum(counts.get(call, 1) for call in calls)
                del waiting[key]
                break
        else:
            raise ValueError(f'the function {next(iter(waiting))[1]!r} calls itself')
    total = sum(counts.get((node.domain, node.op_type), 1) for node in nodes)
    if total > MAX_NODES:
        raise ValueError(f'{total} operators, with those of its functions; expected at most {MAX_NODES}')


def _tensors(graphs: list[GraphProto], nodes: list[NodeProto]) -> Iterator[TensorProto]:
    """All weights and constants. ValueError for sparse ones, which engines make dense."""
    for graph in graphs:
        if isinstance(graph, GraphProto):
            yield from graph.initializer
            if graph.sparse_initializer:
                raise ValueError('it has sparse weights; store them dense')
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField('sparse_tensor') or attribute.sparse_tensors:
                raise ValueError(f'{_name(node)} has a sparse constant; store it dense')
            if attribute.type == AttributeProto.TENSOR or attribute.HasField('t'):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: TensorProto, folder: Path, sizes: dict[Path, int]) -> None:
    """ValueError where a tensor says that it is larger than what is stored of it, or is stored outside the folder."""
    name = repr(tensor.name[:80])
    if len(tensor.dims) > MAX_RANK or min(tensor.dims, default=0) < 0:
        raise ValueError(f'the weight {name} has the shape {list(tensor.dims)[:MAX_RANK]}')
    if tensor.data_location == TensorProto.EXTERNAL:
        stored = _external(tensor, folder, sizes)
    else:
        held = [
            tensor.float_data,
            tensor.int32_data,
            tensor.int64_data,
            tensor.double_data,
            tensor.uint64_data,
            tensor.string_data,
        ]
        stored = max(len(tensor.raw_data), *map(len, held))
    if math.prod(tensor.dims) > 8 * stored:  # a number has a bit or more
        raise ValueError(f'the weight {name} has the shape {list(tensor.dims)}, but only {stored} bytes or numbers are stored')


def _external(tensor: TensorProto, folder: Path, sizes: dict[Path, int]) -> int:
    """Bytes of a tensor in another file, which has to be in the folder; ValueError where it is not."""
    name = repr(tensor.name[:80])
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get('location', '')
    parts = PurePosixPath(location.replace('\\', '/')).parts
    if not parts or '\0' in location or location.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]:
        raise ValueError(f'the weight {name} is in {location[:200]!r}, outside the folder of the file')
    file = folder.joinpath(*parts)
    if file not in sizes:
        if not resolved(file).is_relative_to(resolved(folder)):
            raise ValueError(f'the weight {name} is in {location[:200]!r}, which leads outside the folder of the file')
        if not file.is_file():
            raise ValueError(f'the weight {name} is in {location[:200]!r}: no such file; it belongs beside the .onnx')
        sizes[file] = file.stat().st_size
    offset, length = (_number(said, key) for key in ('offset', 'length'))
    end = sizes[file] if length is None else (offset or 0) + length
    if end > sizes[file]:
        raise ValueError(f'the weight {name} ends at byte {end} of {location[:200]!r}, which has {sizes[file]}')
    return end - (offset or 0)


def _number(said: Mapping[str, str], key: str) -> Optional[int]:
    text = said.get(key)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ValueError(f'{key}: found {text[:80]!r}, expected a number of bytes')
    return int(text)


def _images(graph: GraphProto) -> tuple[int, ...]:
    """Sizes of the one input, 1 for what may have any. ValueError where it takes no images, or more than the memory holds."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    if len(inputs) != 1:
        names = ', '.join(one.name[:40] for one in inputs[:4])
        raise ValueError(f'it has {len(inputs)} inputs{" (" + names + ")" if names else ""}; expected one, for images')
    kind = inputs[0].type.tensor_type
    name = f'the input {inputs[0].name[:80]!r}'
    if not inputs[0].type.HasField('tensor_type') or kind.elem_type not in IMAGES:
        raise ValueError(f'{name} is of the type {_type_name(inputs[0].type)}; expected {" or ".join(IMAGES.values())}')
    if not kind.HasField('shape') or len(kind.shape.dim) != 4:
        sizes = f'{len(kind.shape.dim)} dimensions' if kind.HasField('shape') else 'no shape'
        raise ValueError(f'{name} has {sizes}; expected 4, of images (N, 3, H, W) or (N, H, W, 3)')
    dims = tuple(side.dim_value if side.HasField('dim_value') else 1 for side in kind.shape.dim)
    if min(dims) < 1 or max(dims[1:]) > MAX_SIDE or math.prod(dims) > 3 * MAX_TOGETHER:
        shape = ' x '.join(map(str, dims))
        raise ValueError(f'{name} is for images of {shape}; expected {MAX_TOGETHER} pixels at most, and sides up to {MAX_SIDE}')
    if not graph.output or not graph.output[0].type.HasField('tensor_type'):
        raise ValueError('it has no output that is a tensor')
    return dims


def _type_name(kind: Any) -> str:
    value = kind.tensor_type.elem_type
    return helper.tensor_dtype_to_string(value) if value in helper.get_all_tensor_dtypes() else f'number {value}'


def _check_computed(model: ModelProto, limit: int) -> None:
    """ValueError where a tensor that is computed is known to be larger than the images call for; what depends on the images
    alone shows when the file runs."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except MemoryError:
        raise ValueError('the shapes of what it computes take more memory than a network for images calls for') from None
    except Exception:  # an operator that ONNX does not know; engines judge it
        return
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        dims = [side.dim_value for side in value.type.tensor_type.shape.dim if side.HasField('dim_value')]
        if math.prod(max(side, 1) for side in dims) > limit:
            shape = ' x '.join(str(side.dim_value or 'any') for side in value.type.tensor_type.shape.dim)
            raise ValueError(
                f'it computes {value.name[:80]!r} of {shape}, more than {limit} numbers, which its images do not call for'
            )


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with large weights as inputs of their shape."""
    light = ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    named = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(one for one in model.graph.input if one.name not in named)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= 64 and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _name(node: NodeProto) -> str:
    return f'the operator {node.op_type[:80]!r}' + (f' ({node.name[:80]})' if node.name else '')
