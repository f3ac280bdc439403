"""Writes docs/reproduction.md: ENet on CamVid as davidtvs/PyTorch-ENet trains it.

Usage: python scripts/reproduction.py [BACKEND=RUN] [--note TEXT], with a folder that ``twinseg train`` left. What the page
says of a run is kept in docs/reproduction.json; a folder replaces what is kept of its backend from its own first evaluation
on, and hours before that are counted in.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from twinseg.common import config as configuration
from twinseg.common.errors import UserError
from twinseg.common.files import write_text
from twinseg.common.report import chart
from twinseg.common.report.records import read_run
from twinseg.common.settings import published_scores

ROOT = Path(__file__).parents[1]
RECIPE = 'enet/enet_davidtvs_camvid-360x480'
GOLDEN = ROOT / 'tests/golden/training/davidtvs_enet.json'
PICTURE, KEPT = 'reproduction.svg', 'reproduction.json'
EPOCHS = (100, 200, 300)  # at which validation is shown by class
SETTINGS = (
    *('base_size', 'batch_size', 'drop_last', 'epochs', 'optimizer', 'base_lr', 'lr_adjust', 'lr_gamma', 'weight_decay'),
    *('class_weight', 'class_weight_of', 'flip_prob', 'mean', 'std'),
)
TEST = {  # IoU by class on the test split: README.md of davidtvs/PyTorch-ENet@e17d404
    **{'sky': 90.2, 'building': 68.6, 'pole': 22.6, 'road': 91.5, 'pavement': 73.2, 'tree': 63.6, 'sign_symbol': 19.3},
    **{'fence': 16.7, 'car': 65.1, 'pedestrian': 27.2, 'bicyclist': 35.0},
}
COLOURS = ('#1f77b4', '#d62728')  # of the first run's curve, and the second's
STYLE = (
    '<style>text{font:11px sans-serif;fill:#777}.grid{stroke:#ccc}polyline{fill:none;stroke-width:1.5}circle{fill:#fff}'
    f'.dashed{{stroke-dasharray:5 3}}.s0{{stroke:{COLOURS[0]}}}.s1{{stroke:{COLOURS[1]}}}</style>'
)


class Training(NamedTuple):
    """What is kept of a run."""

    name: str  # backend
    steps: int
    epoch: float
    hours: float
    images_per_second: float
    note: str  # on what it ran
    evaluations: list[dict[str, Any]]  # epoch, mIoU and, where they are known, the IoU of the ``classes``

    def at(self, epoch: float) -> dict[str, Any]:
        """The evaluation at an epoch, by class; empty where there is none."""
        return next((one for one in self.evaluations if one['epoch'] == epoch and 'classes' in one), {})


def read(name: str, folder: Path, note: str) -> Training:
    """What a run's folder says."""
    run = read_run(folder, name)
    last = run.steps[-1]
    return Training(
        name,
        last['step'],
        last['epoch'],
        round(max(record['elapsed'] for record in [*run.steps, *run.evaluations]) / 3600, 2),
        round(median(record['img_per_s'] for record in run.steps), 1),
        note,
        [
            {
                'epoch': one['epoch'],
                'mIoU': round(one['mIoU'], 2),
                'classes': {key: round(value['IoU'], 1) for key, value in one['classes'].items()},
            }
            for one in run.evaluations
        ],
    )


def joined(kept: list[Training], new: Training) -> list[Training]:
    """The runs with a new one in its backend's place, behind what is kept of the epochs before its first."""
    before = next((one for one in kept if one.name == new.name), None)
    if before is None:
        return [*kept, new]
    start = new.evaluations[0]['epoch']
    earlier = [one for one in before.evaluations if one['epoch'] < start]
    hours = new.hours + (before.hours * start / before.epoch if earlier else 0)
    evaluations, note = [*earlier, *new.evaluations], new.note or before.note
    new = new._replace(evaluations=evaluations, hours=round(hours, 2), note=note)
    return [new if one is before else one for one in kept]


def picture(trainings: list[Training]) -> str:
    """The curves of validation over each other, as an SVG file."""
    curves = [
        chart.Series(one.name, np.array([[record['epoch'], record['mIoU']] for record in one.evaluations])) for one in trainings
    ]
    drawn = chart.lines('Validation mIoU', curves, x_axis='epoch', y_axis='mIoU, %', markers=True)
    drawn = drawn[drawn.index('<svg') : drawn.index('</svg>') + len('</svg>')]
    names = ''.join(
        f'<text x="460" y="{180 + 16 * index}" text-anchor="end" style="fill:{COLOURS[index]}">{one.name}</text>'
        for index, one in enumerate(trainings)
    )
    return drawn.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace('>', f'>{STYLE}{names}', 1) + '\n'


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join('-' if cell is None else str(cell) for cell in line) + ' |' for line in lines) + '\n'


def page(trainings: list[Training]) -> str:
    """The text of docs/reproduction.md."""
    recipe, golden = configuration.load(RECIPE), json.loads(GOLDEN.read_text())
    settings = {key: getattr(getattr(recipe, configuration.KEYS[key]), key) for key in SETTINGS}
    published = published_scores.of_recipe(RECIPE)
    shown = [(one, epoch) for one in trainings for epoch in EPOCHS if one.at(epoch)]
    last = [(one, one.evaluations[-1]['epoch']) for one in trainings if one.evaluations[-1]['epoch'] not in EPOCHS]
    columns = [*shown, *last]
    scores = [one.at(epoch)['classes'] for one, epoch in columns]
    by_class = [[name, *(f'{of_classes[name]:.1f}' for of_classes in scores), test] for name, test in TEST.items()]
    by_class.append(['**mIoU**', *(f'**{one.at(epoch)["mIoU"]:.2f}**' for one, epoch in columns), '**52.1**'])
    runs = [
        [
            one.name,
            one.steps,
            f'{one.epoch:.0f} of {recipe.schedule.epochs}',
            f'{one.hours:.2f}',
            f'{one.images_per_second:.1f}',
            f'{max(record["mIoU"] for record in one.evaluations):.2f}',
        ]
        for one in trainings
    ]
    notes = '\n\n'.join(one.note for one in trainings if one.note)
    return f"""# A published number, reproduced

Made by `python scripts/reproduction.py BACKEND=RUN` from run folders, of which [reproduction.json](reproduction.json) keeps
what is said here; not to be edited.

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
{notes}

![validation mIoU by epoch]({PICTURE})

## Validation by class

IoU in per cent on the 101 validation images; in the last column the publisher's on the 233 test images, which are harder.

{table(['class', *(f'{one.name}, epoch {epoch:.0f}' for one, epoch in columns), 'published (test)'], by_class)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('run', nargs='?', metavar='BACKEND=RUN', help='folder of a run')
    parser.add_argument('--note', default='', help='a sentence below the table of runs: on what it ran')
    arguments = parser.parse_args()
    kept = ROOT / 'docs' / KEPT
    trainings = [Training(**run) for run in json.loads(kept.read_text())] if kept.exists() else []
    if arguments.run:
        name, _, folder = arguments.run.partition('=')
        if name not in ('pytorch', 'mindspore'):
            parser.error(f'{arguments.run}: expected pytorch=RUN or mindspore=RUN')
        try:
            trainings = joined(trainings, read(name, Path(folder), arguments.note))
        except UserError as error:
            parser.error(str(error))
    lines = ',\n'.join(json.dumps(one._asdict()) for one in trainings)
    write_text(kept, f'[\n{lines}\n]\n')
    write_text(ROOT / 'docs' / PICTURE, picture(trainings))
    write_text(ROOT / 'docs/reproduction.md', page(trainings))


if __name__ == '__main__':
    main()
