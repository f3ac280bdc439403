"""Contents of ``twinseg list``: rows (column -> value) for a table."""

import json
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Optional, Sequence, Union, get_args, get_origin

from twinseg.common import config as configuration
from twinseg.common import tasks
from twinseg.common.backend import Backend, available
from twinseg.common.data import image_folder
from twinseg.common.data.classes import CITYSCAPES_CLASSES
from twinseg.common.data.layouts import DATASETS
from twinseg.common.data.plugin_data import dataset_spec
from twinseg.common.errors import UserError, did_you_mean, similar
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings import published_scores, recipes
from twinseg.common.settings.published_scores import Published
from twinseg.common.weights import TABLES, by_name
from twinseg.common.weights.published import PUBLISHED

Row = dict[str, Any]
COUNTED = Path(__file__).with_name('networks.json')  # written by scripts/count_networks.py


def rows(what: str, words: Sequence[str] = (), dataset: Optional[str] = None, arch: Optional[str] = None) -> list[Row]:
    """The rows of ``recipes``, ``networks``, ``datasets``, ``weights`` or ``keys`` in which all ``words`` occur, in any case;
    of recipes those for a data set and of a network. UserError for a data set or a network that there is not."""
    if what == 'recipes' and (dataset, arch) != (None, None):
        chosen = [row for row in configs() if _is_of(row['config'], dataset, arch)]
    else:
        chosen = {'recipes': configs, 'networks': models, 'datasets': datasets, 'weights': weights, 'keys': keys}[what]()
    texts = (' '.join(map(str, row.values())).lower() for row in chosen)
    return [row for row, text in zip(chosen, texts) if all(word.lower() in text for word in words)]


def _is_of(recipe: str, dataset: Optional[str], arch: Optional[str]) -> bool:
    """Whether a recipe is for a data set, and of a network."""
    known = get_args(configuration.Data.model_fields['set'].annotation)
    networks = json.loads(COUNTED.read_text(encoding='utf-8'))
    for name, given, names in (('--dataset', dataset, known), ('--arch', arch, networks)):
        if given is not None and given not in names:
            raise UserError(
                f'{name} {given}: there is none{did_you_mean(similar(given, names), "there are " + ", ".join(names))}'
            )
    config = configuration.load(recipe)
    return dataset in (None, config.data.set) and arch in (None, config.model.arch)


def configs() -> list[Row]:
    """The recipes, each with the first line of its comment and what is published for it."""
    return [
        {
            'config': str(path.relative_to(recipes.RECIPES).with_suffix('')),
            'about': _first_comment(path),
            'published': '; '.join(score.text for score in (published_scores.of_file(path) or Published()).scores),
        }
        for path in recipes.recipes()
    ]


def keys() -> list[Row]:
    """The keys of a configuration, with types and defaults."""
    return [
        {'group': group, 'key': key, 'default': field.default, 'type': _type(field.annotation), 'about': field.description}
        for group, kind in configuration.GROUPS.items()
        for key, field in kind.model_fields.items()
    ]


def datasets() -> list[Row]:
    """The data sets and the files that each expects."""
    specs = {name: dataset_spec(name) for name in (*DATASETS, *PLUGINS.datasets)}
    rows = [{'set': name, 'classes': str(len(spec.classes)), 'below data_url': spec.layout} for name, spec in specs.items()]
    return [
        {'set': 'toy_street', 'classes': str(len(CITYSCAPES_CLASSES)), 'below data_url': 'nothing: it is drawn'},
        *rows,
        {'set': 'custom', 'classes': 'classes', 'below data_url': 'images in image_dir with labels in label_dir; split_list'},
        {'set': 'imagenet, image_folder', 'classes': 'the folders', 'below data_url': image_folder.LAYOUT},
    ]


def weights() -> list[Row]:
    """The weights that have a name: the checkpoints that ship, and what is known of the published files."""
    try:
        folder = by_name.weights_folder()
    except UserError:  # no home folder, and so no file in it
        folder = None
    return [
        *(
            {
                'weights': name,
                'about': 'trained by this suite on CamVid',
                'size': f'{path.stat().st_size / 2**20:.1f} MiB',
                'licence': 'Apache-2.0',
                'digest': 'in the file',
                'from': 'ships with TwinSeg',
            }
            for name, path in by_name.shipped().items()
        ),
        *(
            {
                'weights': published.name,
                'about': published.about,
                'size': published.size,
                'licence': published.licence,
                'digest': published.checked,
                'from': 'is in the cache'
                if folder and (folder / published.file).is_file()
                else f'by hand: {published.url}'
                if published.by_hand
                else published.url,
            }
            for published in PUBLISHED
        ),
    ]


def models() -> list[Row]:
    """The networks with their default arguments, and the sizes that ``count`` found of them; no framework is needed.

    The input is 224 x 224 for classifiers, as in their papers, and 512 x 1024 for the others, half of Cityscapes.
    """
    sizes = json.loads(COUNTED.read_text(encoding='utf-8'))
    return [
        {
            'arch': arch,
            'parameters (M)': f'{size["parameters"] / 1e6:.4f}',
            'for inference (M)': f'{size["parameters_inference"] / 1e6:.4f}',
            'G MACs': f'{size["macs"] / 1e9:.3f}',
            'at': f'{size["input_size"][0]}x{size["input_size"][1]}',
            'output stride': size['output_stride'],
            'auxiliary outputs': ', '.join(size['auxiliary']),
            'loads weights of': ', '.join(publishers(arch)),
            'backends': ', '.join(available()),
        }
        for arch, size in sizes.items()
    ]


def count(backend: Backend, arch: str) -> Row:
    """Parameters, multiply-accumulates and output stride, counted on a network with its default arguments."""
    full, inference = (backend.MODELS[arch](auxiliary=auxiliary) for auxiliary in (True, False))
    size = tasks.of_logits(full.align_corners.get('logits')).PRINTED_SIZE
    return {
        'parameters': backend.parameters(full),
        'parameters_inference': backend.parameters(inference),
        'macs': backend.macs(inference, size),
        'input_size': list(size),
        'output_stride': backend.output_stride(inference),
        'auxiliary': [name for name in full.align_corners if name != 'logits'],
    }


def publishers(arch: str) -> list[str]:
    """Whose weights a network loads; of a classifier also those that come as a backbone alone."""
    return list(dict.fromkeys(table.source for table in TABLES if table.arch == arch))


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
