"""What ``twinseg list`` shows: rows (column -> value) for a table."""
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from common import config as configuration
from common import weights
from common.backend import get_backend
from common.data.datasets import CAMVID_CLASSES, CITYSCAPES_CLASSES, EXPECTED

PROBE = 128  # side of the image that tells the output stride
Row = dict[str, Any]


def configs() -> list[Row]:
    """The recipes, each with the first line of its comment."""
    return [{'config': str(path.relative_to(configuration.RECIPES).with_suffix('')), 'about': _first_comment(path)}
            for path in configuration.recipes()]


def keys() -> list[Row]:
    """The keys of a configuration, with types and defaults."""
    return [{'group': group, 'key': key, 'default': field.default, 'type': _type(field.annotation), 'about': field.description}
            for group, kind in configuration.GROUPS.items() for key, field in kind.model_fields.items()]


def datasets() -> list[Row]:
    """The data sets and the files that each expects."""
    classes = {'camvid': len(CAMVID_CLASSES), 'camvid32': len(CAMVID_CLASSES), 'cityscapes': len(CITYSCAPES_CLASSES)}
    rows = [{'set': name, 'classes': str(classes[name]), 'below data_url': layout} for name, layout in EXPECTED.items()]
    return [{'set': 'toy_street', 'classes': str(len(CITYSCAPES_CLASSES)), 'below data_url': 'nothing: it is drawn'}, *rows,
            {'set': 'custom', 'classes': 'classes', 'below data_url': 'image_dir/*image_suffix with label_dir/*label_suffix'}]


def models(backend_name: str) -> list[Row]:
    """The networks: parameters in training and in inference, output stride, auxiliary outputs, publishers."""
    backend = get_backend(backend_name)
    backend.setup('cpu')
    sources = [(table.arch, table.source) for table in weights.TABLES]
    rows = []
    for arch in backend.MODELS:
        network = backend.build_model(arch)
        outputs = backend.forward(network, np.zeros((1, 3, PROBE, PROBE), np.float32), auxiliary=True)
        logits = outputs.pop('logits')
        sizes = {name: array.size for name, array in backend.state(network).items()
                 if not name.endswith(('running_mean', 'running_var'))}
        auxiliary = sum(size for name, size in sizes.items() if name.partition('.')[0] in outputs)
        rows.append({'arch': arch, 'parameters (M)': f'{sum(sizes.values()) / 1e6:.4f}',
                     'for inference (M)': f'{(sum(sizes.values()) - auxiliary) / 1e6:.4f}',
                     'output stride': PROBE // logits.shape[2] if logits.ndim == 4 else None,
                     'auxiliary outputs': ', '.join(outputs),
                     'loads weights of': ', '.join(dict.fromkeys(source for name, source in sources if name == arch))})
    return rows


def _type(annotation: Any) -> str:
    """A type as a user of YAML reads it."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _type(parts[0])
    if kind is Literal:
        return ' | '.join(map(str, parts))
    if kind is Union:
        return ' | '.join(map(_type, parts))
    if kind is not None:
        return f'{kind.__name__}[{", ".join(map(_type, parts))}]'
    return {NoneType: 'null', Any: 'any'}.get(annotation) or annotation.__name__


def _first_comment(path: Any) -> str:
    first = path.read_text(encoding='utf-8').partition('\n')[0]
    return first.removeprefix('#').strip()
