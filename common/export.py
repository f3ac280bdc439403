"""Export to files for deployment: ONNX, MINDIR, AIR. No file is handed out that was not run again and compared.

A file is written under a temporary name beside its place, run on the host by every engine that reads it, compared with
the network it came from, and only then renamed. One that differs is kept as ``<name>.rejected`` for inspection.
"""
import json
import os
from collections import Counter
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterator, Literal, Mapping, Optional

import numpy as np

from common.backend import available, get_backend
from common.config import Config
from common.errors import BackendError, UserError
from common.evaluation import load_run, network_arguments
from common.host_engines import Engine, OnnxRuntime, OpenVino, open_engine

Format = Literal['onnx', 'mindir', 'air']
FORMATS = ('onnx', 'mindir', 'air')
TOLERANCE = 1e-4  # largest difference to the network, of its largest logit
OPSETS = {17: 8, 18: 8}  # ONNX operator set -> IR version; Ascend's ATC and its peers read these
Run = Callable[[np.ndarray], np.ndarray]


class ExportError(UserError):
    """An exported file that does not compute what the network computes."""


def export_checkpoint(config: Optional[Config], backend_name: Optional[str], device: Optional[str], checkpoint: Path,
                      format: Format, out: Path, *, size: Optional[tuple[int, int]] = None, dynamic: bool = False,
                      batch: int = 1) -> dict[str, Any]:
    """Exports the network of a checkpoint (or run folder) to ``out`` in float32.

    The file takes normalised float32 images (``batch``, 3, ``size``; by default the size of training), with
    ``dynamic`` of any number and size, and returns ``logits`` at the head's size. ONNX is written from the PyTorch twin
    where PyTorch is installed, MINDIR and AIR from the MindSpore one; the comparison is with the network of ``backend_name``.

    Returns what the file is and ``differences``, by engine, of the largest logit; ExportError when one is above TOLERANCE.
    """
    if format not in FORMATS:
        raise UserError(f'--format {format!r}: choose {", ".join(FORMATS)}')
    if out.suffix != f'.{format}':
        raise UserError(f'{out}: a file of format {format} is named *.{format}')
    run = load_run(checkpoint, backend_name, device, config)
    name = run.meta['backend']
    writer_name = ('pytorch' if 'pytorch' in available() else name) if format == 'onnx' else 'mindspore'
    networks = {}
    for twin in dict.fromkeys((name, writer_name)):
        backend = get_backend(twin)
        if twin != name:
            backend.setup(None if format == 'air' else 'cpu')  # None: the best present
        classes = run.config.model.num_classes or run.meta['num_classes']
        networks[twin] = backend.build_model(run.config.model.arch, **network_arguments(run.config, classes))
        backend.load_state(networks[twin], get_backend(name).state(run.network))
    size = size or run.config.input_size
    facts = metadata(run.config, run.meta, networks[name].align_corners.get('logits'), size)
    report = get_backend(writer_name).export(
        networks[writer_name], out, format, input_size=size, batch=batch, dynamic=dynamic, metadata=facts,
        reference=lambda images: get_backend(name).forward(networks[name], images)['logits'])
    return {'arch': run.config.model.arch, 'checkpoint': str(checkpoint), 'compared_with': name, 'written_by': writer_name,
            **report}


def metadata(config: Config, meta: Mapping[str, Any], align_corners: Optional[bool], size: tuple[int, int]) -> dict[str, str]:
    """What a user of the file needs to know, as strings (lists as JSON): it is stored in the file."""
    facts = {'num_classes': config.model.num_classes or meta['num_classes'], 'classes': meta.get('classes', []),
             'palette': meta.get('palette', []), 'mean': config.augment.mean, 'std': config.augment.std,
             'input_size': list(size), 'align_corners': align_corners, 'step': meta.get('step'), 'set': config.data.set,
             'task': 'classification' if config.classifies else 'segmentation'}
    if config.classifies:
        facts |= {key: getattr(config.augment, key) for key in ('crop_pct', 'square_resize', 'interpolation')}
    return {'arch': config.model.arch, 'twinseg_version': version('twinseg'), **{key: json.dumps(facts[key]) for key in facts}}


def write_verified(path: Path, write: Callable[[Path], None], reference: Run, shape: tuple[int, int, int, int],
                   dynamic: bool) -> dict[str, Any]:
    """Writes a file through ``write(temporary path)``, runs it, and renames it to ``path`` when it agrees with ``reference``.

    ``shape`` (N, 3, H, W) of the images; a ``dynamic`` file is run at other sizes too. Raises ExportError (the file is kept
    as ``<name>.rejected``), UserError when the folder cannot be written.
    """
    with _temporary(path) as part:
        write(part)
        shapes = [shape] + ([(shape[0] + 1, 3, shape[2] + 33, shape[3] - 17), (1, 3, shape[3], shape[2])] if dynamic else [])
        differences = compare(part, reference, shapes)
        report = {'path': str(path), 'bytes': part.stat().st_size, 'input_shape': list(shape), 'dynamic': dynamic,
                  'differences': differences, 'difference': max(differences.values()), 'tolerance': TOLERANCE, **describe(part)}
        if not report['difference'] <= TOLERANCE:
            rejected = path.with_name(path.name + '.rejected')
            os.replace(part, rejected)
            raise ExportError(f'{path}: the exported file differs from the network by {report["difference"]:.1e} of its '
                              f'largest logit (tolerance {TOLERANCE:.0e}); kept as {rejected.name}')
        os.replace(part, path)
    return report


def compare(path: Path, reference: Run, shapes: list[tuple[int, int, int, int]], seed: int = 0) -> dict[str, float]:
    """Largest difference, by engine, between a file's logits and ``reference``'s, of the latter's largest magnitude."""
    engines: list[Engine] = [OnnxRuntime(path), OpenVino(path)] if path.suffix == '.onnx' else [open_engine(path)]
    differences = dict.fromkeys((engine.name for engine in engines), 0.0)
    for shape in shapes:
        images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        expected = reference(images)
        for engine in engines:
            found = engine(images)
            same = found.shape == expected.shape and np.isfinite(found).all()
            difference = float(np.abs(found - expected).max() / np.abs(expected).max()) if same else float('inf')
            differences[engine.name] = max(differences[engine.name], difference)
    return differences


def describe(path: Path) -> dict[str, Any]:
    """Operator set, IR version and operators of an ONNX file; nothing for others."""
    if path.suffix != '.onnx':
        return {}
    import onnx

    model = onnx.load(str(path))
    return {'opset': model.opset_import[0].version, 'ir_version': model.ir_version,
            'operators': dict(Counter(node.op_type for node in model.graph.node).most_common())}


def finish_onnx(model: Any, opset: int, metadata: Mapping[str, str]) -> Any:
    """An ONNX model of operator set 18 brought to ``opset`` and its IR version, described and checked."""
    import onnx
    from onnx import version_converter

    if opset not in OPSETS:
        raise UserError(f'opset {opset}: choose {" or ".join(map(str, OPSETS))}')
    if model.opset_import[0].version != opset:
        model = version_converter.convert_version(model, opset)
    for node in model.graph.node:  # the converter leaves this attribute of set 18 behind
        if opset == 17 and node.op_type.startswith('Reduce') and node.op_type != 'ReduceSum':
            kept = [attribute for attribute in node.attribute if attribute.name != 'noop_with_empty_axes']
            del node.attribute[:]
            node.attribute.extend(kept)
    model.ir_version = OPSETS[opset]
    model.producer_name, model.producer_version = 'twinseg', metadata.get('twinseg_version', '')
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]  # the exporter's own notes: file names of this machine among them
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def require_ascend(found: bool) -> None:
    """BackendError where no Ascend is present: AIR can be written on one only."""
    if not found:
        raise BackendError('AIR is written by MindSpore on an Ascend device only, and there is none here; '
                           'export mindir, or onnx for ATC (which makes .om from it)')


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
