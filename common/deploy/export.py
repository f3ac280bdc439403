"""Export to files for deployment: ONNX, MINDIR, AIR. No file is handed out that was not run again and compared.

A file is written under a temporary name beside its place, run on the host by every engine that reads it, compared with
the network it came from, and only then renamed. One that differs is kept as ``<name>.rejected`` for inspection.
"""

import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Literal, Mapping, Optional

import numpy as np

from twinseg.common.backend import available, get_backend
from twinseg.common.checkpoint import RunMeta
from twinseg.common.config import Config
from twinseg.common.deploy.engines import Engine, OnnxRuntime, OpenVino, open_engine
from twinseg.common.deploy.exported_file import Facts
from twinseg.common.errors import BackendError, UserError, require
from twinseg.common.inference.evaluate import load_run, network_arguments, num_classes
from twinseg.common.interpolation import resize_bilinear
from twinseg.common.version import version

Format = Literal['onnx', 'mindir', 'air']
FORMATS = ('onnx', 'mindir', 'air')
TOLERANCE = 1e-4  # largest difference to the network, of its largest logit; more where the network itself jumps that far
NUDGE = 1e-5  # of a pixel's normalised value: some ten times the rounding errors of an engine
RUN_AS = {'.air': '.mindir'}  # nothing on a host runs AIR: what is compared is a MINDIR of the same network
OPSETS = {17: 8, 18: 8}  # ONNX operator set -> IR version; Ascend's ATC and its peers read these
ONNX_PACKAGES = ('onnxscript', 'onnxruntime', 'openvino')  # what ONNX is written and run with
Run = Callable[[np.ndarray], np.ndarray]


class ExportError(UserError):
    """An exported file that does not compute what the network computes."""


def export_checkpoint(
    config: Optional[Config],
    backend_name: Optional[str],
    device: Optional[str],
    checkpoint: Path,
    format: Format,
    out: Path,
    *,
    size: Optional[tuple[int, int]] = None,
    dynamic: bool = False,
    batch: int = 1,
    uint8: bool = False,
    argmax: bool = False,
) -> dict[str, Any]:
    """Exports the network of a checkpoint (or run folder) to ``out`` in float32.

    The file takes normalised float32 images (``batch``, 3, ``size``; by default ``Config.input_size``), with
    ``dynamic`` of any number and size, and returns ``logits`` at the head's size. ONNX is written from the PyTorch twin
    where PyTorch is installed, MINDIR and AIR from the MindSpore one; the comparison is with the network of ``backend_name``.
    ``uint8`` makes it take images as they are, uint8 (``batch``, H, W, 3), and ``argmax`` return class ids, int32
    (``batch``, H, W) of the images' size, of a classifier (``batch``,).

    Returns what the file is and ``differences``, by engine, of the largest logit; ExportError when one is too large.
    """
    if format not in FORMATS:
        raise UserError(f'--format {format!r}: choose {", ".join(FORMATS)}')
    if out.suffix != f'.{format}':
        raise UserError(f'{out}: a file of format {format} is named *.{format}')
    for package in ONNX_PACKAGES if format == 'onnx' else ():
        require(package, 'deploy')
    run = load_run(checkpoint, backend_name, device, config)
    name = run.backend
    writer_name = ('pytorch' if 'pytorch' in available() else name) if format == 'onnx' else 'mindspore'
    networks = {}
    classes = num_classes(run.config, run.meta.num_classes, str(checkpoint))
    for twin in dict.fromkeys((name, writer_name)):
        backend = get_backend(twin)
        if twin != name:
            backend.setup(None if format == 'air' else 'cpu')  # None: the best present
        networks[twin] = backend.build_model(run.config.model.arch, **network_arguments(run.config, classes))
        backend.load_state(networks[twin], get_backend(name).state(run.network))
    size = size or run.config.input_size
    facts = metadata(run.config, run.meta, classes, networks[name].align_corners.get('logits'), size)
    facts |= {'input': json.dumps('uint8' if uint8 else 'float32'), 'output': json.dumps('class_ids' if argmax else 'logits')}
    report = get_backend(writer_name).export(
        networks[writer_name],
        out,
        format,
        input_size=size,
        batch=batch,
        dynamic=dynamic,
        metadata=facts,
        reference=lambda images: get_backend(name).forward(networks[name], images)['logits'],
    )
    return {
        'arch': run.config.model.arch,
        'checkpoint': str(checkpoint),
        'compared_with': name,
        'written_by': writer_name,
        **report,
    }


def metadata(
    config: Config, meta: RunMeta, num_classes: int, align_corners: Optional[bool], size: tuple[int, int]
) -> dict[str, str]:
    """What a user of the file needs to know, as strings (lists as JSON): it is stored in the file."""
    facts = {
        'num_classes': num_classes,
        'classes': meta.classes,
        'palette': meta.palette,
        'mean': config.augment.mean,
        'std': config.augment.std,
        'input_size': list(size),
        'eval_size': config.augment.eval_size,
        'align_corners': align_corners,
        'step': meta.step,
        'set': config.data.set,
        'task': 'classification' if config.classifies else 'segmentation',
    }
    if config.classifies:
        facts |= {key: getattr(config.augment, key) for key in ('crop_pct', 'square_resize', 'interpolation')}
    return {'arch': config.model.arch, 'twinseg_version': version(), **{key: json.dumps(facts[key]) for key in facts}}


def write_verified(
    path: Path, write: Callable[[Path], None], reference: Run, shape: tuple[int, int, int, int], dynamic: bool
) -> dict[str, Any]:
    """Writes a file through ``write(temporary path)``, runs it, and renames it to ``path`` when it agrees with ``reference``.

    ``shape`` (N, 3, H, W) of the images that ``reference`` takes, normalised; a ``dynamic`` file is run at other sizes too.
    What no host runs is judged by a file of another format that ``write`` makes (``RUN_AS``). Raises ExportError when it is off
    by more than TOLERANCE and twice the network's ``unsteadiness`` (it is kept as ``<name>.rejected``), UserError when the
    folder cannot be written.
    """
    run_as = path.with_suffix(RUN_AS.get(path.suffix, path.suffix))
    with _temporary(path) as part, _temporary(run_as) as runnable:
        write(part)
        if runnable != part:
            write(runnable)
        shapes = [shape] + ([(shape[0] + 1, 3, shape[2] + 33, shape[3] - 17), (1, 3, shape[3], shape[2])] if dynamic else [])
        differences = compare(runnable, reference, shapes)
        difference, tolerance = max(differences.values()), TOLERANCE
        if not difference <= tolerance:
            tolerance = max(tolerance, 2 * unsteadiness(reference, shapes))
        report = {
            'path': str(path),
            'bytes': part.stat().st_size,
            'input_shape': list(shape),
            'dynamic': dynamic,
            **({} if runnable == part else {'run_as': run_as.suffix[1:]}),
            'differences': differences,
            'difference': difference,
            'tolerance': tolerance,
            **describe(part),
        }
        if not difference <= tolerance:
            rejected = path.with_name(path.name + '.rejected')
            os.replace(part, rejected)
            raise ExportError(
                f'{path}: the exported file differs from the network by {difference:.1e} of its '
                f'largest logit (tolerance {tolerance:.0e}); kept as {rejected.name}'
            )
        os.replace(part, path)
    return report


def unsteadiness(reference: Run, shapes: list[tuple[int, int, int, int]], seed: int = 0) -> float:
    """How far a network's logits move, of the largest one, when its images change by NUDGE: far where it unpools, since a
    maximum's place jumps between values that are nearly equal."""
    found = 0.0
    for shape in shapes:
        rng = np.random.default_rng(seed)
        images = rng.standard_normal(shape, np.float32)
        logits = reference(images)
        for _ in range(3):
            nudged = images * rng.choice(np.array([1 - NUDGE, 1 + NUDGE], np.float32), shape)
            found = max(found, float(np.abs(reference(nudged) - logits).max() / np.abs(logits).max()))
    return found


def compare(path: Path, reference: Run, shapes: list[tuple[int, int, int, int]], seed: int = 0) -> dict[str, float]:
    """Largest difference, by engine, between a file's logits and ``reference``'s, of the latter's largest magnitude; of class
    ids, by how much a chosen class falls short of the largest logit."""
    engines: list[Engine] = [OnnxRuntime(path), OpenVino(path)] if path.suffix == '.onnx' else [open_engine(path)]
    differences = dict.fromkeys((engine.name for engine in engines), 0.0)
    facts = Facts.read(engines[0].metadata, path) if engines[0].metadata else None
    for shape in shapes:
        rng = np.random.default_rng(seed)
        images: np.ndarray = rng.standard_normal(shape, dtype=np.float32)
        given = images
        if facts and facts.input == 'uint8':
            given = rng.integers(0, 256, (shape[0], *shape[2:], 3), np.uint8)
            mean, std = np.array(facts.mean, np.float32), np.array(facts.std, np.float32)
            images = np.ascontiguousarray(((given - mean) / std).transpose(0, 3, 1, 2))
        expected = reference(images)
        largest = np.abs(expected).max()
        if facts and facts.output == 'class_ids' and facts.align_corners is not None:
            expected = resize_bilinear(expected, shape[2:], facts.align_corners)
        for engine in engines:
            found = engine(given)
            if facts and facts.output == 'class_ids':
                apart = _shortfall(found, expected)
            else:
                same = found.shape == expected.shape and np.isfinite(found).all()
                apart = float(np.abs(found - expected).max()) if same else float('inf')
            differences[engine.name] = max(differences[engine.name], float(apart / largest))
    return differences


def _shortfall(ids: np.ndarray, logits: np.ndarray) -> float:
    """How much smaller than the largest logit that of a chosen class is, at most; ``ids`` (N, ...), ``logits`` (N, C, ...)."""
    ids = ids.astype(np.int64)[:, None]
    if ids.shape != (len(logits), 1, *logits.shape[2:]) or not 0 <= ids.min() <= ids.max() < logits.shape[1]:
        return float('inf')
    return float((logits.max(1, keepdims=True) - np.take_along_axis(logits, ids, 1)).max())


def describe(path: Path) -> dict[str, Any]:
    """Operator set, IR version and operators of an ONNX file; nothing for others."""
    if path.suffix != '.onnx':
        return {}
    import onnx

    model = onnx.load(str(path))
    return {
        'opset': model.opset_import[0].version,
        'ir_version': model.ir_version,
        'operators': dict(Counter(node.op_type for node in model.graph.node).most_common()),
    }


def finish_onnx(model: Any, opset: int, metadata: Mapping[str, str]) -> Any:
    """An ONNX model of operator set 17 or 18 simplified (norms go into convolutions), brought to ``opset`` and its IR version,
    described and checked; its input and output become what the description says."""
    import onnx
    from onnx import version_converter
    from onnxscript import optimizer

    if opset not in OPSETS:
        raise UserError(f'opset {opset}: choose {" or ".join(map(str, OPSETS))}')
    model = optimizer.optimize(model)
    if model.opset_import[0].version != opset:
        model = version_converter.convert_version(model, opset)
    for node in model.graph.node:  # the converter leaves this attribute of set 18 behind
        if opset == 17 and node.op_type.startswith('Reduce') and node.op_type != 'ReduceSum':
            kept = [attribute for attribute in node.attribute if attribute.name != 'noop_with_empty_axes']
            del node.attribute[:]
            node.attribute.extend(kept)
    if metadata:
        _surround(model.graph, Facts.read(metadata, Path(metadata['arch'])))
    model.ir_version = OPSETS[opset]
    model.producer_name, model.producer_version = 'twinseg', metadata.get('twinseg_version', '')
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]  # the exporter's own notes: file names of this machine among them
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _surround(graph: Any, facts: Facts) -> None:
    """Normalisation before, and resizing with argmax behind a graph from ``image`` to ``logits``, where its facts name them.

    Names with a slash are not among those that exporters give.
    """
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    batch, _, height, width = [side.dim_param or side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    before, behind = [], []
    if facts.input == 'uint8':
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == 'image':
                    node.input[place] = 'in/normalised'
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info('image', TensorProto.UINT8, [batch, height, width, 3]))
        mean, std = constant('in/mean', np.array(facts.mean, np.float32)), constant('in/std', np.array(facts.std, np.float32))
        before = [
            helper.make_node('Cast', ['image'], ['in/pixels'], to=TensorProto.FLOAT),
            helper.make_node('Sub', ['in/pixels', mean], ['in/centred']),
            helper.make_node('Div', ['in/centred', std], ['in/scaled']),
            helper.make_node('Transpose', ['in/scaled'], ['in/normalised'], perm=[0, 3, 1, 2]),
        ]
    if facts.output == 'class_ids':
        last, shape = 'logits', [batch]
        if facts.align_corners is not None:
            last, shape = 'out/full', [batch, height, width]
            if all(isinstance(side, int) for side in shape):
                constant('out/size', np.array([batch, facts.num_classes, height, width]))
            else:
                sides = constant('out/sides', np.array([1, 2] if facts.input == 'uint8' else [2, 3]))
                behind += [
                    helper.make_node('Shape', ['image'], ['out/image_shape']),
                    helper.make_node('Shape', ['logits'], ['out/shape']),
                    helper.make_node('Gather', ['out/shape', constant('out/first', np.array([0, 1]))], ['out/channels']),
                    helper.make_node('Gather', ['out/image_shape', sides], ['out/height_width']),
                    helper.make_node('Concat', ['out/channels', 'out/height_width'], ['out/size'], axis=0),
                ]
            mode = 'align_corners' if facts.align_corners else 'half_pixel'
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


def require_ascend(found: bool) -> None:
    """BackendError where no Ascend is present: AIR can be written on one only."""
    if not found:
        raise BackendError(
            'AIR is written by MindSpore on an Ascend device only, and there is none here; '
            'export mindir, or onnx for ATC (which makes .om from it)'
        )


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A path beside ``path``, gone at the end unless it was renamed."""
    part = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b'')
        part.unlink()
        yield part
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None
    finally:
        if part.exists():
            part.unlink()
