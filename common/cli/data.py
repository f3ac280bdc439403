"""Commands for data sets: ``prepare``, ``browse``."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import ConfigName, Settings, load_config
from twinseg.common.errors import UserError
from twinseg.common.files import home_expanded


def prepare(
    config: Annotated[
        Optional[str],
        typer.Argument(
            metavar='NAME | weights | CONFIG',
            show_default=False,
            help='a data set: voc, cityscapes, camvid, camvid32, imagenet; weights; with --cache a recipe or a YAML file',
        ),
    ] = None,
    words: Annotated[
        Optional[list[str]],
        typer.Argument(metavar='[WEIGHTS...]', show_default=False, help='with weights: their names (`twinseg list --weights`)'),
    ] = None,
    settings: Settings = None,
    folder: Annotated[
        Optional[Path], typer.Option(help='folder for the data, by default $TWINSEG_DATA/NAME; of weights, by default a cache')
    ] = None,
    cache: Annotated[bool, typer.Option('--cache', help='decode images into a memory-mapped file')] = False,
) -> None:
    """Makes a data set or weights ready: fetches, or says what to fetch, unpacks and converts; --cache decodes images once."""
    from twinseg.common import console
    from twinseg.common.data.cache import build_cache
    from twinseg.common.data.open import open_for_cache
    from twinseg.common.data.prepare import PREPARABLE, prepare_dataset

    if config == 'weights' and not cache:
        _prepare_weights(words or [], folder)
        return
    if words:
        raise UserError(f'prepare {config} {words[0]}: one thing at a time; leave {words[0]!r} out')
    if not cache:
        if config not in PREPARABLE:
            raise UserError(
                f'prepare {config or ""}: give a data set ({", ".join(PREPARABLE)}), weights and their names '
                '(`twinseg list --weights`), or --cache with a configuration'
            )
        base = os.environ.get('TWINSEG_DATA')
        if folder is None and not base:
            raise UserError('give --folder, or set the environment variable TWINSEG_DATA')
        with console.progress(f'preparing {config}') as progress:
            console.show_facts(prepare_dataset(config, home_expanded(folder or Path(str(base)) / config), progress))
        return
    chosen = load_config(config, settings)
    with console.progress('decoding') as progress:
        summaries = build_cache(open_for_cache(chosen.data), chosen.data.on_error, progress)
    console.show('cached', [{**vars(summary), 'problems': len(summary.problems)} for summary in summaries])


def _prepare_weights(names: list[str], folder: Optional[Path]) -> None:
    from twinseg.common import console
    from twinseg.common.weights import by_name
    from twinseg.common.weights.prepare import prepare_weights

    if not names:
        raise UserError(f'prepare weights: give names: {", ".join(by_name.names())}')
    for name in names:
        with console.progress(f'downloading {name}') as progress:
            facts = prepare_weights(name, folder and Path(os.path.expanduser(folder)), print, progress)
        console.show_facts(facts)


def browse(
    config: ConfigName = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar='FOLDER', help='folder for browse.json and browse.png')] = Path('browse'),
    samples: Annotated[int, typer.Option(min=1, help='training images in the picture')] = 4,
) -> None:
    """Checks a data set (counts, sizes, ids, broken or missing files: exit status 1) and draws augmented samples."""
    from twinseg.common import console
    from twinseg.common.report import browse

    with console.progress('reading') as progress:
        summary = browse.browse(load_config(config, settings), out, samples, progress)
    console.show_browse(summary)
    if summary['problems']:
        raise typer.Exit(1)
