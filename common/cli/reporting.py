"""Commands that show what there is: ``list``, ``report``, ``results``."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import Device, Runs
from twinseg.common.errors import UserError, did_you_mean, similar


def list_(
    what: Annotated[
        Optional[str],
        typer.Argument(
            metavar='WHAT', show_default=False, help='recipes, networks, datasets, weights or keys; by default all but keys'
        ),
    ] = None,
    words: Annotated[
        Optional[list[str]], typer.Argument(metavar='WORD...', show_default=False, help='only rows in which all of these occur')
    ] = None,
    dataset: Annotated[Optional[str], typer.Option(metavar='SET', help='recipes for this data set, such as camvid')] = None,
    arch: Annotated[Optional[str], typer.Option(metavar='NETWORK', help='recipes of this network, such as stdc1_seg')] = None,
    models: Annotated[bool, typer.Option('--models', help='networks')] = False,
    configs: Annotated[bool, typer.Option('--configs', help='recipes')] = False,
    datasets: Annotated[bool, typer.Option('--datasets', help='data sets')] = False,
    weights: Annotated[bool, typer.Option('--weights', help='weights that have a name')] = False,
    keys: Annotated[bool, typer.Option('--keys', help='keys of the configuration')] = False,
    as_json: Annotated[bool, typer.Option('--json', help='print JSON: WHAT -> rows')] = False,
) -> None:
    """Lists networks, recipes, data sets and weights; with `keys`, every key of the configuration."""
    from twinseg.common import console
    from twinseg.common.report import catalogue

    asked = {'recipes': configs, 'datasets': datasets, 'weights': weights, 'keys': keys, 'networks': models}
    if what is not None:
        if what not in asked:
            raise UserError(
                f'list {what}: expected {", ".join(asked)}{did_you_mean(similar(what, asked), "`twinseg list -h`")}'
            )
        asked[what] = True
    if dataset is not None or arch is not None:
        if {name for name, given in asked.items() if given} - {'recipes'}:
            raise UserError('--dataset and --arch are for `twinseg list recipes`')
        asked['recipes'] = True
    if not any(asked.values()):
        asked = {name: name != 'keys' for name in asked}
    rows = {name: catalogue.rows(name, words or (), dataset, arch) for name, given in asked.items() if given}
    if as_json:
        import json

        print(json.dumps(rows, indent=1))
        return
    for name, entries in rows.items():
        if not entries:
            console.console.print(f'no {name}{" with " + " ".join(words) if words else ""}', highlight=False)
        elif name in ('recipes', 'weights', 'keys'):
            console.show_entries(name, entries)
        else:
            console.show(name, entries)


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('report.html'),
    pictures: Annotated[int, typer.Option(min=0, help='validation images shown')] = 4,
    device: Device = None,
    png: Annotated[Optional[Path], typer.Option(metavar='FOLDER', help='each chart as PNG, for a paper')] = None,
) -> None:
    """Writes one self-contained page about one or several runs: curves, classes, confusion matrix, pictures."""
    from twinseg.common.report.page import write_report

    print(write_report(runs, out, pictures=pictures, device=device, png=png))


def results(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('results.md'),
    add: Annotated[bool, typer.Option('--add', help='keep the rows that FILE has of other runs')] = False,
    card: Annotated[
        bool, typer.Option('--card', help="print the model zoo's table of each run instead: ms a step, loss, time")
    ] = False,
) -> None:
    """Writes a table of run folders: data, recipe, time, hardware, scores and sizes, with the published scores beside them."""
    from twinseg.common.report.results_table import write_results
    from twinseg.common.report.zoo import performance

    if card:
        print(*map(performance, runs), sep='\n')
        return
    print(write_results(runs, out, add))
