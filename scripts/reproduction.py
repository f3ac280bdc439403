"""Writes docs/reproduction.md: ENet on CamVid as davidtvs/PyTorch-ENet trains it, from the folders of its runs.

Usage: python scripts/reproduction.py pytorch=RUN mindspore=RUN [--note TEXT], with folders that ``twinseg train`` left.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from twinseg.common import config as configuration
from twinseg.common.files import write_text
from twinseg.common.report import chart
from twinseg.common.report.records import read_run
from twinseg.common.settings import published_scores

ROOT = Path(__file__).parents[1]
RECIPE = 'enet/enet_davidtvs_camvid-360x480'
GOLDEN = ROOT / 'tests/golden/training/davidtvs_enet.json'
PICTURE = 'reproduction.svg'
EPOCHS = (100, 200, 300)  # at which validation is shown by class
SETTINGS = (
    *('base_size', 'batch_size', 'drop_last', 'epochs', 'optimizer', 'base_lr', 'lr_adjust', 'lr_gamma', 'weight_decay'),
    *('class_weight', 'class_weight_of', 'flip_prob', 'mean', 'std'),
)
TEST = {  # IoU by class on the test split: README.md of davidtvs/PyTorch-ENet@e17d404
    **{'sky': 90.2, 'building': 68.6, 'pole': 22.6, 'road': 91.5, 'pavement': 73.2, 'tree': 63.6, 'sign_symbol': 19.3},
    **{'fence': 16.7, 'car': 65.1, 'pedestrian': 27.2, 'bicyclist': 35.0},
}
STYLE = (
    '<style>text{font:11px sans-serif;fill:#777}.grid{stroke:#ccc}polyline{fill:none;stroke-width:1.5}.pale{opacity:.25}'
    '.dashed{stroke-dasharray:5 3}.s0{stroke:#1f77b4}.s1{stroke:#d62728}.s2{stroke:#2ca02c}.s3{stroke:#9467bd}</style>'
)


class Training(NamedTuple):
    """What a run's folder says."""

    name: str  # backend
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    def at(self, epoch: float) -> dict[str, Any]:
        """The evaluation at an epoch; empty where there is none."""
        return next((one for one in self.evaluations if one['epoch'] == epoch), {})


def read(name: str, folder: Path) -> Training:
    """The records of a run."""
    run = read_run(folder, name)
    return Training(name, list(run.steps), list(run.evaluations))


def picture(trainings: list[Training]) -> str:
    """The curves of validation over each other, as an SVG file."""
    curves = [
        chart.Series(one.name, np.array([[record['epoch'], record['mIoU']] for record in one.evaluations])) for one in trainings
    ]
    drawn = chart.lines('validation mIoU by epoch', curves, markers=True)
    drawn = drawn[drawn.index('<svg') : drawn.index('</svg>') + len('</svg>')]
    return drawn.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace('>', f'>{STYLE}', 1) + '\n'


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join('-' if cell is None else str(cell) for cell in line) + ' |' for line in lines) + '\n'


def page(trainings: list[Training], note: str) -> str:
    """The text of docs/reproduction.md."""
    recipe, golden = configuration.load(RECIPE), json.loads(GOLDEN.read_text())
    settings = {key: getattr(getattr(recipe, configuration.KEYS[key]), key) for key in SETTINGS}
    published = published_scores.of_recipe(RECIPE)
    shown = [(one, epoch) for one in trainings for epoch in EPOCHS if one.at(epoch)]
    last = [(one, one.evaluations[-1]['epoch']) for one in trainings if one.evaluations[-1]['epoch'] not in EPOCHS]
    columns = [*shown, *last]
    by_class = [
        [name, *(f'{one.at(epoch)["classes"][name]["IoU"]:.1f}' for one, epoch in columns), test] for name, test in TEST.items()
    ]
    by_class.append(['**mIoU**', *(f'**{one.at(epoch)["mIoU"]:.2f}**' for one, epoch in columns), '**52.1**'])
    runs = [
        [
            one.name,
            one.steps[-1]['step'],
            f'{one.steps[-1]["epoch"]:.0f} of {recipe.schedule.epochs}',
            f'{max(record["elapsed"] for record in [*one.steps, *one.evaluations]) / 3600:.2f}',
            f'{median(record["img_per_s"] for record in one.steps):.1f}',
            max(f'{record["mIoU"]:.2f}' for record in one.evaluations),
        ]
        for one in trainings
    ]
    return f"""# A published number, reproduced

Made by `python scripts/reproduction.py BACKEND=RUN...` from run folders; not to be edited.

ENet on CamVid (367 images of 360x480 to train on, 101 to validate, 11 classes) as davidtvs/PyTorch-ENet@e17d404 trains it:
`twinseg train {RECIPE} --set data_url=CAMVID`. Published: {'; '.join(score.text for score in published.scores)}. The
publisher says that "±2" is to be expected. The test images are not used here.

## Protocol

{table(['setting', 'value'], [[f'`{key}`', value] for key, value in settings.items()])}
Of the publisher's 12 outputs one is for unlabeled pixels: it has the weight 0 in the loss, and predictions of it are left
out of the score. Here there are 11 outputs, and every labelled pixel counts.

## What is the publisher's to the last digits

`tests/training/test_golden_steps.py` takes {len(golden['losses'])} steps of the publisher's own `Train.run_epoch`
(`tests/golden/make_davidtvs_steps.py`): with its weights, class weights, optimizer and batches, dropout off. In PyTorch each
of the {len(golden['moves'][0])} parameters and statistics moves as far as there, to the last bit; in MindSpore as far as the
publisher's own do from weights that are one rounding error away. The learning rates are equal over all 300 epochs. Outputs,
gradients and the count of parameters: `tests/models/test_golden.py`, case `davidtvs_enet`.

## Runs

{table(['backend', 'steps', 'epochs', 'hours', 'images/s', 'best validation mIoU'], runs)}
{note}

![validation mIoU by epoch]({PICTURE})

## Validation by class

IoU in per cent on the 101 validation images; in the last column the publisher's on the 233 test images, which are harder.

{table(['class', *(f'{one.name}, epoch {epoch:.0f}' for one, epoch in columns), 'published (test)'], by_class)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='BACKEND=RUN', help='folder of a run')
    parser.add_argument('--note', default='', help='a sentence below the table of runs: on what they ran')
    arguments = parser.parse_args()
    trainings = [read(name, Path(folder)) for name, _, folder in (run.partition('=') for run in arguments.runs)]
    write_text(ROOT / 'docs' / PICTURE, picture(trainings))
    write_text(ROOT / 'docs/reproduction.md', page(trainings, arguments.note))


if __name__ == '__main__':
    main()
