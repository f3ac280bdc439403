"""``twinseg.load``: a trained network for Python, whatever file it is in."""

from pathlib import Path
from typing import Optional

from twinseg.common.deploy.engines import ENGINES
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.deploy.on_engine import on_engine
from twinseg.common.errors import UserError
from twinseg.common.inference.model import Model
from twinseg.common.inference.runs import load_run


def load(
    path: str | Path, backend: Optional[str] = None, *, device: Optional[str] = None, engine: Optional[str] = None
) -> Model:
    """The network of a run folder, a checkpoint or an exported file.

    ``backend`` (``pytorch``, ``mindspore``; by default the one that trained it, if it is installed) and ``device`` (``cpu``,
    ``gpu``, ``ascend``; by default the best present) are for run folders and checkpoints. ``engine`` (``onnxruntime``,
    ``openvino``, ``mindspore``) runs an exported file; one of the first two runs a run folder or a checkpoint on the CPU
    instead of its framework, faster. Raises UserError for what cannot be opened.
    """
    path = Path(path)
    if path.suffix in ENGINES:
        for name, given in {'backend': backend, 'device': device}.items():
            if given is not None:
                raise UserError(f'{name}: {given!r} is not for {path}: it is an exported file, which an engine runs')
        return Model(ExportedNetwork(path, engine).trained())
    if engine is None:
        return Model(load_run(path, backend, device).trained())
    if engine not in ENGINES['.onnx']:
        raise UserError(
            f'engine: {engine!r} is not for {path}, which is no exported file; choose {" or ".join(ENGINES[".onnx"])}'
        )
    return Model(on_engine(load_run(path, backend, device or 'cpu'), engine).trained())
