"""Commands that show what there is: ``list``, ``report``, ``results``."""

from pathlib import Path
from typing import Annotated

import typer

from twinseg.common.cli.options import Device, Runs


def list_(
    models: Annotated[bool, typer.Option('--models', help='networks')] = False,
    configs: Annotated[bool, typer.Option('--configs', help='recipes')] = False,
    datasets: Annotated[bool, typer.Option('--datasets', help='data sets')] = False,
    weights: Annotated[bool, typer.Option('--weights', help='weights that have a name')] = False,
    keys: Annotated[bool, typer.Option('--keys', help='keys of the configuration')] = False,
) -> None:
    """Networks, recipes, data sets and weights; with --keys every key of the configuration."""
    from twinseg.common import console
    from twinseg.common.report import catalogue

    everything = not (models or configs or datasets or weights or keys)
    if configs or everything:
        console.show('recipes', catalogue.configs())
    if datasets or everything:
        console.show('data sets', catalogue.datasets())
    if weights or everything:
        console.show('weights', catalogue.weights())
    if keys:
        console.show('keys', catalogue.keys())
    if models or everything:
        console.show('networks', catalogue.models())


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('report.html'),
    pictures: Annotated[int, typer.Option(min=0, help='validation images shown')] = 4,
    device: Device = None,
) -> None:
    """One self-contained page for one or several runs: curves, classes, confusion matrix, pictures."""
    from twinseg.common.report import write_report

    print(write_report(runs, out, pictures=pictures, device=device))


def results(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('docs/results.md'),
    add: Annotated[bool, typer.Option('--add', help='keep the rows that FILE has of other runs')] = False,
) -> None:
    """A table of run folders: data, recipe, time, hardware, scores and sizes, with the published scores beside them."""
    from twinseg.common.report.results_table import write_results

    print(write_results(runs, out, add))
