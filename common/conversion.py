"""``twinseg convert``: a published checkpoint as one of ours, which then carries all that the other commands need."""
from pathlib import Path
from typing import Any, Optional

from common import checkpoint, weights
from common.backend import available, get_backend
from common.data.datasets import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from common.errors import UserError

SUFFIX = '.safetensors'


def convert(file: Path, source: Optional[str] = None, out: Optional[Path] = None) -> dict[str, Any]:
    """Reads published weights, loads them into the network of every installed backend, and writes ``out``.

    ``source`` is one of ``weights.SOURCES``, None: recognised. ``out`` is by default the file's name in the current folder,
    ending in .safetensors. A network of 19 classes is taken for one of Cityscapes. Returns what was found, read and written;
    StateError for a file that is unreadable or does not fit.
    """
    out = out or Path(file.stem + SUFFIX)
    if out.suffix != SUFFIX:
        raise UserError(f'{out}: a converted checkpoint is named *{SUFFIX}')
    if out.exists() and out.samefile(file):
        raise UserError(f'{out}: would be written over itself; give another --out')
    converted = weights.load(file, source)
    loaded = {}
    for name in available():
        backend = get_backend(name)
        backend.setup('cpu')
        loaded[name] = str(backend.load_state(backend.build_model(converted.arch, **converted.arguments), converted.state))
    classes = CITYSCAPES_CLASSES if converted.num_classes == len(CITYSCAPES_CLASSES) else ()
    arguments = {key: value for key, value in converted.arguments.items() if key != 'num_classes'}
    config: dict[str, Any] = {'arch': converted.arch, 'num_classes': converted.num_classes, 'model_args': arguments}
    checkpoint.save(out, {f'model.{name}': array for name, array in converted.state.items()},
                    {'config': {**config, **({'set': 'cityscapes'} if classes else {})}, 'num_classes': converted.num_classes,
                     'classes': list(classes), 'palette': [list(colour) for colour in CITYSCAPES_PALETTE] if classes else [],
                     'source': converted.source, 'file': file.name})
    return {'found': str(converted), **loaded, 'written': str(out)}
