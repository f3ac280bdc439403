"""``twinseg.load``: a trained network for Python, whatever file it is in."""

from pathlib import Path
from typing import Optional

from twinseg.common.deploy.engines import ENGINES
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.errors import UserError
from twinseg.common.inference.model import Model
from twinseg.common.inference.runs import load_run


def load(
    path: str | Path, backend: Optional[str] = None, *, device: Optional[str] = None, engine: Optional[str] = None
) -> Model:
    """The network of a run folder, a checkpoint or an exported file.

    ``backend`` (``pytorch``, ``mindspore``; by default the one that trained it, if it is installed) and ``device`` (``cpu``,
    ``gpu``, ``ascend``; by default the best present) are for run folders and checkpoints, ``engine`` (``onnxruntime``,
    ``openvino``, ``mindspore``) for exported files. Raises UserError for what cannot be opened.
    """
    path = Path(path)
    exported = path.suffix in ENGINES
    for name, given in {'backend': backend, 'device': device}.items() if exported else {'engine': engine}.items():
        if given is not None:
            kind = 'an exported file, which an engine runs' if exported else 'no exported file'
            raise UserError(f'{name}: {given!r} is not for {path}: it is {kind}')
    return Model(ExportedNetwork(path, engine).trained() if exported else load_run(path, backend, device).trained())
