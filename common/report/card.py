"""A folder for sharing a trained network, in the layout of Hugging Face's hub: ``README.md`` (the model card),
``model.safetensors`` (the weights alone) and ``config.json``. Nothing is sent anywhere."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml

from twinseg.common import checkpoint, tasks
from twinseg.common import config as configuration
from twinseg.common.checkpoint import RunMeta
from twinseg.common.errors import UserError
from twinseg.common.files import write_text
from twinseg.common.host.version import version
from twinseg.common.inference.runs import SHARED, find_checkpoint
from twinseg.common.printable import printable
from twinseg.common.report.records import read_run
from twinseg.common.report.results_table import hardware, hours, recipe_of

DATA_TERMS = {  # what a reader of the card has to know of the data that its weights come from
    'cityscapes': 'Cityscapes, whose terms allow non-commercial use alone (https://www.cityscapes-dataset.com/license/)',
    'camvid': 'CamVid (http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/)',
    'camvid32': 'CamVid (http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/)',
    'camvid11of32': 'CamVid (http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/)',
    'voc': 'Pascal VOC 2012, with images under the terms of Flickr (http://host.robots.ox.ac.uk/pascal/VOC/)',
    'imagenet': 'ImageNet, whose terms allow non-commercial research and education (https://www.image-net.org/download.php)',
    'toy_street': 'street scenes that TwinSeg draws; no photographs',
}
SPDX = re.compile(r'[A-Za-z0-9][A-Za-z0-9.+-]*')  # the form of identifiers; the list of them grows
PIPELINES = {'segmentation': 'image-segmentation', 'classification': 'image-classification'}


@dataclass(frozen=True)
class Card:
    """A folder that was written."""

    folder: Path
    files: tuple[str, ...]


def write_card(source: Path, out: Optional[Path] = None, licence: Optional[str] = None) -> Card:
    """Writes the folder of a run, a checkpoint, or a name of weights that ship; by default beside the current folder's files,
    named as the run. ``licence``: of the weights, as an SPDX identifier; without it the card says that it is not stated.

    UserError where ``out`` has files already or ``licence`` is no identifier, and StateError for what is no checkpoint.
    """
    if licence is not None and not SPDX.fullmatch(licence):
        raise UserError(f'--licence {licence}: expected an SPDX identifier, such as apache-2.0, mit or cc-by-nc-4.0')
    file = find_checkpoint(source)
    state, meta = checkpoint.model_state(file)
    folder = out or Path(f'{source.stem if source.is_file() else source.name}-card')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder}: is there already, and not empty; choose another folder with --out')
    weights = meta.model_copy(update={'trainer': None})
    checkpoint.save(folder / SHARED, {f'model.{name}': array for name, array in state.items()}, weights)
    write_text(folder / 'config.json', json.dumps(_config(meta), indent=1) + '\n')
    write_text(folder / 'README.md', _text(source, meta, folder.name, licence, sum(array.size for array in state.values())))
    return Card(folder, ('README.md', SHARED, 'config.json'))


def _config(meta: RunMeta) -> dict[str, Any]:
    return {
        'library_name': 'twinseg',
        'arch': meta.config.get('arch'),
        'id2label': {str(number): name for number, name in enumerate(meta.classes)},
        'palette': meta.palette,
        'config': meta.config,
    }


def _text(source: Path, meta: RunMeta, name: str, licence: Optional[str], numbers: int) -> str:
    config = configuration.from_flat(meta.config, str(source), trusted=True)
    task, data = tasks.of(config.task), config.data
    record = read_run(source) if source.is_dir() and (source / 'metrics.jsonl').is_file() else None
    scores = (record.best if record else None) or meta.scores
    figures = {key: scores[key] for key in task.FIGURES if isinstance(scores.get(key), (int, float))}
    head: dict[str, Any] = {
        'library_name': 'twinseg',
        'license': licence or 'other',
        'pipeline_tag': PIPELINES[config.task],
        'tags': ['twinseg', 'pytorch', 'mindspore', config.model.arch],
        'datasets': [data.set],
    }
    if figures:
        head['model-index'] = [
            {
                'name': name,
                'results': [
                    {
                        'task': {'type': PIPELINES[config.task]},
                        'dataset': {'name': data.set, 'type': data.set, 'split': data.val_split},
                        'metrics': [{'type': key, 'value': value} for key, value in figures.items()],
                    }
                ],
            }
        ]
    recipe = recipe_of(config)
    facts = {
        'network': f'{config.model.arch}, {numbers / 1e6:.3f} M numbers, for images such as {_size(task.input_size(config))}',
        'classes': ', '.join(meta.classes) or meta.num_classes,
        'data': f'{DATA_TERMS.get(data.set, data.set)}; trained on {" + ".join(data.train_splits)}',
        'licence of the weights': licence or 'not stated by who trained them; the terms of the data may apply',
        'recipe': recipe,
        'steps': meta.step,
        'hours': hours(record) if record else None,
        'hardware': hardware(meta) if meta.machine or meta.device else None,
        'trained with': f'{meta.backend}, ' + ', '.join(f'{key} {value}' for key, value in meta.versions.items()),
        'source': ', '.join(part for part in (meta.source, meta.file) if part) or None,
        'card': f'written by `twinseg card`, TwinSeg {version()}',
    }
    rows = [f'| {key} | {_cell(value)} |' for key, value in facts.items() if value not in (None, '', 'None, ')]
    augment = config.augment
    conditions = [f'split {data.val_split}', f'protocol {augment.protocol}', f'scales {augment.eval_scales}']
    conditions += ['mirrored, too'] if augment.eval_flip else []
    conditions += [f'at {augment.eval_size}'] if augment.eval_size else []
    scored = [f'- {key}: {value:.2f}{"" if key == "loss" else " %"}' for key, value in figures.items()]
    trained = f'twinseg train {recipe if recipe == config.runtime.recipe else "config.yaml"}'
    lines = [
        '---',
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        '---',
        '',
        f'# {_cell(name)}',
        '',
        f'{config.model.arch} for {config.task} on {data.set}, for PyTorch and MindSpore alike.',
        '',
        '| | |',
        '| --- | --- |',
        *rows,
        '',
        '## Scores',
        '',
        *(scored or ['Not scored: the file holds no evaluation.']),
        *(['', f'Of {data.set}: {_cell("; ".join(map(str, conditions)))}.'] if scored else []),
        '',
        '## Use',
        '',
        '```python',
        'import twinseg',
        '',
        f'model = twinseg.load({name!r})  # this folder; backend="mindspore" for the other framework',
        "model.predict('photo.jpg').save('predictions')",
        '```',
        '',
        '```bash',
        f'twinseg predict --checkpoint {name} photo.jpg',
        f'{trained}    # trains it again',
        '```',
        '',
    ]
    return '\n'.join(lines)


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _cell(value: Any) -> str:
    """Text for a cell of a Markdown table, on one line."""
    return printable(str(value)).replace('|', r'\|').replace('<', '&lt;')
