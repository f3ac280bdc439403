"""Export to files for deployment: ONNX, MINDIR, AIR. No file is handed out that was not run again and compared.

A backend writes a file under a temporary name in the same folder; it is run on the host by every engine that reads it, compared
with the network it came from, and only then renamed. One that differs is kept as ``<name>.rejected`` for inspection.
"""

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, get_args

import onnx

from twinseg.common import tasks
from twinseg.common.backend import Backend, Format, Network, available, get_backend
from twinseg.common.config import Config
from twinseg.common.deploy import onnx_graph, verify
from twinseg.common.deploy.verify import ImageShape, Reference
from twinseg.common.errors import UserError, require
from twinseg.common.files import written_beside
from twinseg.common.host.version import version
from twinseg.common.images.interpolation import Size
from twinseg.common.inference.runs import Run, load_run, network_arguments

RUN_AS = {'.air': '.mindir'}  # nothing on a host runs AIR: a MINDIR of the same network is compared instead
ONNX_PACKAGES = ('onnxscript', 'onnxruntime', 'openvino')  # packages that finish and run ONNX files


class ExportError(UserError):
    """An exported file that does not compute what the network computes."""


@dataclass(frozen=True)
class ExportOptions:
    """Inputs and outputs of an exported file."""

    size: Optional[Size] = None  # size of the images; by default that of evaluation
    batch: int = 1
    dynamic: bool = False  # any number and size of images
    uint8: bool = False  # input uint8 (N, H, W, 3) instead of normalised float32 (N, 3, H, W)
    argmax: bool = False  # output class ids, int32 (N, H, W) of the images' size or for classifiers (N,), instead of logits
    opset: int = 17  # opset of ONNX


DEFAULT_OPTIONS = ExportOptions()


@dataclass(frozen=True)
class FileSpecification:
    """A file as a backend is asked for it."""

    shape: ImageShape  # shape of the images that the file takes
    dynamic: bool = False
    metadata: Optional[Mapping[str, str]] = None  # see ``ExportMetadata``
    opset: int = 17


@dataclass(frozen=True)
class VerifiedFile:
    """A file that was run and compared."""

    path: Path
    bytes: int
    input_shape: ImageShape
    dynamic: bool
    run_as: Optional[str]  # format of the file that was run in its place; None: the file itself
    differences: dict[str, float]  # engine -> largest difference, of the network's largest logit
    tolerance: float
    onnx: Optional[onnx_graph.Summary] = None

    @property
    def difference(self) -> float:
        """The largest one."""
        return max(self.differences.values())

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        values = {key: value for key, value in asdict(self).items() if key not in ('onnx', 'run_as', 'tolerance')}
        values |= {'path': str(self.path), 'input_shape': list(self.input_shape)}
        if self.run_as:
            values['run_as'] = self.run_as
        values |= {'difference': self.difference, 'tolerance': self.tolerance}
        return values | (self.onnx._asdict() if self.onnx else {})


@dataclass(frozen=True)
class ExportReport:
    """An exported checkpoint."""

    arch: str
    checkpoint: Path
    compared_with: str  # backend
    written_by: str  # backend
    file: VerifiedFile

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return {
            'arch': self.arch,
            'checkpoint': str(self.checkpoint),
            'compared_with': self.compared_with,
            'written_by': self.written_by,
            **self.file.to_json(),
        }


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    format: Format,
    options: ExportOptions = DEFAULT_OPTIONS,
    *,
    backend_name: Optional[str] = None,
    device: Optional[str] = None,
    config: Optional[Config] = None,
) -> ExportReport:
    """Exports the network of a checkpoint (or run folder) to ``out`` in float32.

    ONNX is written from the PyTorch twin where PyTorch is installed, MINDIR and AIR from the MindSpore one; the comparison is
    with the network of ``backend_name`` on the host's CPU, whose float32 is float32: an accelerator that multiplies with fewer
    bits would loosen ``verify.tolerance``. ``device`` is for AIR alone, which only an Ascend writes. ExportError when the file
    differs by too much, UserError when it cannot be written.
    """
    if format not in get_args(Format):
        raise UserError(f'--format {format!r}: choose {", ".join(get_args(Format))}')
    if out.suffix != f'.{format}':
        raise UserError(f'{out}: a file of format {format} is named *.{format}')
    for package in ONNX_PACKAGES if format == 'onnx' else ():
        require(package, 'deploy')
    run = load_run(checkpoint, backend_name, device if format == 'air' else 'cpu', config)
    name = run.backend.name
    writer_name = ('pytorch' if 'pytorch' in available() else name) if format == 'onnx' else 'mindspore'
    networks = {}
    for twin in dict.fromkeys((name, writer_name)):
        backend = get_backend(twin)
        if twin != name:
            backend.setup(None if format == 'air' else 'cpu')  # None: the best present
        if twin == name and run.config.precision.amp_level == 'O0':
            networks[twin] = run.network
            continue
        networks[twin] = backend.build_model(run.config.model.arch, seed=None, **network_arguments(run.config, run.num_classes))
        backend.load_state(networks[twin], run.backend.state(run.network))
    size = options.size or tasks.of(run.config.task).input_size(run.config)
    specification = FileSpecification(
        (options.batch, 3, *size),
        options.dynamic,
        describe(run, options, networks[name].align_corners.get('logits'), size),
        options.opset,
    )
    file = export_network(
        get_backend(writer_name),
        networks[writer_name],
        out,
        specification,
        lambda images: run.backend.forward(networks[name], images)['logits'],
    )
    return ExportReport(run.config.model.arch, checkpoint, name, writer_name, file)


def describe(run: Run, options: ExportOptions, align_corners: Optional[bool], size: Size) -> dict[str, str]:
    """Metadata for a user of a file, as the strings that are stored in it; ``size`` of the images that it takes."""
    config, meta = run.config, run.meta
    facts = {
        'num_classes': run.num_classes,
        'classes': meta.classes,
        'palette': meta.palette,
        'mean': config.augment.mean,
        'std': config.augment.std,
        'input_size': list(size),
        'eval_size': config.augment.eval_size,
        'align_corners': align_corners,
        'step': meta.step,
        'set': config.data.set,
        'task': config.task,
        'white_level': config.data.white_level,
    }
    keys = tasks.of(config.task).EXPORTED_KEYS
    facts |= {field: getattr(config.augment, field) for field in keys if field not in facts}
    facts |= {'input': 'uint8' if options.uint8 else 'float32', 'output': 'class_ids' if options.argmax else 'logits'}
    return {'arch': config.model.arch, 'twinseg_version': version(), **{key: json.dumps(facts[key]) for key in facts}}


def export_network(
    backend: Backend, network: Network, path: Path, specification: FileSpecification, reference: Optional[Reference] = None
) -> VerifiedFile:
    """Has a backend write its network to ``path``, in the format that its suffix names, and compares the file with
    ``reference`` (default: the network); see ``write_verified``."""

    def write(part: Path) -> None:
        format: Any = part.suffix[1:]
        named = specification.metadata or {}
        backend.write(network, part, format, shape=specification.shape, dynamic=specification.dynamic, metadata=named)
        if format == 'onnx':
            onnx.save(onnx_graph.finish(onnx.load(str(part)), specification.opset, named), str(part))

    return write_verified(
        path,
        write,
        reference or (lambda images: backend.forward(network, images)['logits']),
        specification.shape,
        specification.dynamic,
    )


def write_verified(
    path: Path, write: Callable[[Path], None], reference: Reference, shape: ImageShape, dynamic: bool = False
) -> VerifiedFile:
    """Writes a file through ``write(temporary path)``, runs it, and renames it to ``path`` when it agrees with ``reference``.

    ``shape`` of the images that ``reference`` takes; a ``dynamic`` file is run at other sizes too. What no host runs is judged
    by a file of another format that ``write`` makes (``RUN_AS``). Raises ExportError when it is off by more than
    ``verify.tolerance`` (it is kept as ``<name>.rejected``), UserError when the folder cannot be written.
    """
    shapes = [shape] + ([(shape[0] + 1, 3, shape[2] + 33, shape[3] - 17), (1, 3, shape[3], shape[2])] if dynamic else [])
    stand_in = RUN_AS.get(path.suffix)
    try:
        with written_beside(path) as part, ExitStack() as at_end:
            runnable = part.with_suffix(stand_in or part.suffix)
            write(part)
            if stand_in:
                at_end.callback(runnable.unlink, missing_ok=True)
                write(runnable)
            differences = verify.compare(runnable, reference, shapes)
            file = VerifiedFile(
                path,
                part.stat().st_size,
                shape,
                dynamic,
                stand_in and stand_in[1:],
                differences,
                verify.tolerance(max(differences.values()), reference, shapes),
                onnx_graph.summarise(part) if part.suffix == '.onnx' else None,
            )
            if not file.difference <= file.tolerance:
                rejected = path.with_name(path.name + '.rejected')
                os.replace(part, rejected)
                raise ExportError(
                    f'{path}: the exported file differs from the network by {file.difference:.1e} of its '
                    f'largest logit (tolerance {file.tolerance:.0e}); kept as {rejected.name}'
                )
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None
    return file
