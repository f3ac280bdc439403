"""Contents of ``twinseg list``: rows (column -> value) for a table.

What changes with the suite alone is read from a file, for counting it imports and builds all that there is.
"""

import json
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Optional, Sequence, Union, get_args, get_origin

from twinseg.common.errors import UserError, did_you_mean, similar
from twinseg.common.files import write_text
from twinseg.common.files.folders import weights_folder
from twinseg.common.host.version import available
from twinseg.common.plugins import PLUGINS

Row = dict[str, Any]
STORED = Path(__file__).with_name('catalogue.json')  # what ``counting`` says, written by scripts/count_networks.py


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
    from twinseg.common import config as configuration

    known = get_args(configuration.Data.model_fields['set'].annotation)
    networks = stored()['networks']
    for name, given, names in (('--dataset', dataset, known), ('--arch', arch, networks)):
        if given is not None and given not in names:
            raise UserError(
                f'{name} {given}: there is none{did_you_mean(similar(given, names), "there are " + ", ".join(names))}'
            )
    config = configuration.load(recipe)
    return dataset in (None, config.data.set) and arch in (None, config.model.arch)


def configs() -> list[Row]:
    """The recipes, each with the first line of its comment and what is published for it."""
    return stored()['recipes']


def keys() -> list[Row]:
    """The keys of a configuration, with types and defaults."""
    from twinseg.common import config as configuration

    return [
        {'key': key, 'group': group, 'default': field.default, 'type': _type(field.annotation), 'about': field.description}
        for group, kind in configuration.GROUPS.items()
        for key, field in kind.model_fields.items()
    ]


def datasets() -> list[Row]:
    """The data sets and the files that each expects, those of plugins last."""
    rows = stored()['datasets']
    if PLUGINS.datasets:
        from twinseg.common.report.counting import described

        rows += [described(name) for name in PLUGINS.datasets]
    return rows


def weights() -> list[Row]:
    """The weights that have a name: the checkpoints that ship, and what is known of the published files."""
    try:
        folder = weights_folder()
    except UserError:  # no home folder, and so no file in it
        folder = None
    rows = stored()['weights']
    for row in rows:
        file = row.pop('file')
        if folder and file and (folder / file).is_file():
            row['from'] = 'is in the cache'
    return rows


def models() -> list[Row]:
    """The networks with their default arguments, and the sizes that were counted; no framework is needed.

    The input is 224 x 224 for classifiers, as in their papers, and 512 x 1024 for the others, half of Cityscapes.
    """
    return [
        {
            'arch': arch,
            'parameters (M)': f'{size["parameters"] / 1e6:.4f}',
            'for inference (M)': f'{size["parameters_inference"] / 1e6:.4f}',
            'G MACs': f'{size["macs"] / 1e9:.3f}',
            'at': f'{size["input_size"][0]}x{size["input_size"][1]}',
            'output stride': size['output_stride'],
            'auxiliary outputs': ', '.join(size['auxiliary']),
            'loads weights of': ', '.join(size['publishers']),
            'backends': ', '.join(available()),
        }
        for arch, size in stored()['networks'].items()
    ]


def stored() -> dict[str, Any]:
    """Networks (name -> sizes), and rows of recipes, data sets and weights."""
    return json.loads(STORED.read_text(encoding='utf-8'))


def store(**parts: Any) -> None:
    """Writes parts of the same again."""
    write_text(STORED, json.dumps({**stored(), **parts}, indent=1) + '\n')


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
