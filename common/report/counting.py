"""What ``twinseg list`` reads from a file, computed: networks are built, recipes and tables read."""

from typing import Any

from twinseg.common import tasks
from twinseg.common.backend import Backend
from twinseg.common.data import image_folder
from twinseg.common.data.classes import CITYSCAPES_CLASSES
from twinseg.common.data.layouts import DATASETS
from twinseg.common.data.plugin_data import dataset_spec
from twinseg.common.settings import published_scores, recipes
from twinseg.common.settings.published_scores import Published
from twinseg.common.weights import TABLES, by_name
from twinseg.common.weights.published import PUBLISHED

Row = dict[str, Any]


def tables() -> dict[str, list[Row]]:
    """All that is listed without a network."""
    return {'recipes': configs(), 'datasets': datasets(), 'weights': weights()}


def count(backend: Backend, arch: str) -> Row:
    """Parameters, multiply-accumulates and output stride of a network with its default arguments, and whose weights it loads;
    of a classifier also those that come as a backbone alone."""
    full, inference = (backend.MODELS[arch](auxiliary=auxiliary) for auxiliary in (True, False))
    size = tasks.of_logits(full.align_corners.get('logits')).PRINTED_SIZE
    return {
        'parameters': backend.parameters(full),
        'parameters_inference': backend.parameters(inference),
        'macs': backend.macs(inference, size),
        'input_size': list(size),
        'output_stride': backend.output_stride(inference),
        'auxiliary': [name for name in full.align_corners if name != 'logits'],
        'publishers': list(dict.fromkeys(table.source for table in TABLES if table.arch == arch)),
    }


def configs() -> list[Row]:
    """The recipes, each with the first line of its comment and what is published for it."""
    return [
        {
            'config': str(path.relative_to(recipes.RECIPES).with_suffix('')),
            'about': path.read_text(encoding='utf-8').partition('\n')[0].removeprefix('#').strip(),
            'published': '; '.join(score.text for score in (published_scores.of_file(path) or Published()).scores),
        }
        for path in recipes.recipes()
    ]


def datasets() -> list[Row]:
    """The suite's data sets and the files that each expects."""
    return [
        {'set': 'toy_street', 'classes': str(len(CITYSCAPES_CLASSES)), 'below data_url': 'nothing: it is drawn'},
        *map(described, DATASETS),
        {'set': 'custom', 'classes': 'classes', 'below data_url': 'images in image_dir with labels in label_dir; split_list'},
        {'set': 'imagenet, image_folder', 'classes': 'the folders', 'below data_url': image_folder.LAYOUT},
    ]


def described(name: str) -> Row:
    """A data set of files, of the suite or of a plugin."""
    spec = dataset_spec(name)
    return {'set': name, 'classes': str(len(spec.classes)), 'below data_url': spec.layout}


def weights() -> list[Row]:
    """The weights that have a name, each with the name of its ``file`` in the cache."""
    return [
        *(
            {
                'weights': name,
                'about': 'trained by this suite on CamVid',
                'size': f'{path.stat().st_size / 2**20:.1f} MiB',
                'licence': 'Apache-2.0',
                'digest': 'in the file',
                'from': 'ships with TwinSeg',
                'file': None,
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
                'from': f'by hand: {published.url}' if published.by_hand else published.url,
                'file': published.file,
            }
            for published in PUBLISHED
        ),
    ]
