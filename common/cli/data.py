"""Commands for data sets: ``prepare``, ``browse``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from twinseg.common.cli.options import ConfigName, Settings, load_config
from twinseg.common.errors import UserError

if TYPE_CHECKING:
    from twinseg.common.data.annotations.convert import Options


def prepare(
    config: Annotated[
        Optional[str],
        typer.Argument(
            metavar='NAME | weights | CONFIG',
            show_default=False,
            help='a data set: voc, cityscapes, camvid, camvid32, camvid11of32, imagenet, custom (--from); weights; with '
            '--cache a recipe or a YAML file',
        ),
    ] = None,
    words: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar='[WEIGHTS... | ANNOTATIONS]',
            show_default=False,
            help='weights: their names (`twinseg list --weights`); custom: folder of annotations and images, or a COCO file',
        ),
    ] = None,
    settings: Settings = None,
    folder: Annotated[
        Optional[Path],
        typer.Option(
            help='folder for what is made; by default of a data set $TWINSEG_DATA/NAME, of custom ANNOTATIONS-twinseg, of '
            'weights the cache'
        ),
    ] = None,
    cache: Annotated[bool, typer.Option('--cache', help='decode images into a memory-mapped file')] = False,
    tool: Annotated[
        Optional[str],
        typer.Option('--from', metavar='TOOL', help='custom: labelme, coco, cvat (Segmentation mask 1.1), supervisely'),
    ] = None,
    classes: Annotated[
        Optional[str],
        typer.Option(
            metavar='FILE | NAMES',
            help='custom: classes in the order of their ids, one a line, or with commas; LABEL=CLASS gives a label another '
            'class, LABEL=__ignore__ none; by default those of the annotations',
        ),
    ] = None,
    val_fraction: Annotated[
        Optional[float],
        typer.Option(
            min=0, max=1, help='custom: share of the images for validation; by default as folders and lists say, else 0.2'
        ),
    ] = None,
    unlabelled: Annotated[
        str, typer.Option(metavar='background | ignored | CLASS', help='custom: what the pixels are that no object covers')
    ] = 'background',
) -> None:
    """Prepares a data set or weights: fetches, or says what to fetch, unpacks and converts; --cache decodes images once.

    `prepare custom --from TOOL ANNOTATIONS` draws label files from polygons and masks, and writes a recipe.
    """
    from twinseg.common import console
    from twinseg.common.data.annotations.convert import Options
    from twinseg.common.data.cache import build_cache
    from twinseg.common.data.layouts import FOLDERS
    from twinseg.common.data.open import open_for_cache
    from twinseg.common.data.prepare import PREPARABLE, prepare_dataset
    from twinseg.common.files import home_expanded

    if not cache and (config == 'custom' or tool or classes or val_fraction is not None or unlabelled != 'background'):
        _prepare_annotations(config, tool, words or [], folder, Options(classes, val_fraction, unlabelled))
        return
    if config == 'weights' and not cache:
        _prepare_weights(words or [], folder)
        return
    if words:
        raise UserError(f'prepare {config} {words[0]}: one thing at a time; leave {words[0]!r} out')
    if not cache:
        if config not in PREPARABLE:
            raise UserError(
                f'prepare {config or ""}: give a data set ({", ".join(PREPARABLE)}), custom with --from, weights and their '
                'names (`twinseg list --weights`), or --cache with a configuration'
            )
        base = os.environ.get('TWINSEG_DATA')
        if folder is None and not base:
            raise UserError('give --folder, or set the environment variable TWINSEG_DATA')
        with console.progress(f'preparing {config}') as progress:
            console.show_facts(
                prepare_dataset(config, home_expanded(folder or Path(str(base)) / FOLDERS.get(config, config)), progress)
            )
        return
    chosen = load_config(config, settings)
    with console.progress('decoding') as progress:
        summaries = build_cache(open_for_cache(chosen.data), chosen.data.on_error, progress)
    console.show('cached', [{**vars(summary), 'problems': len(summary.problems)} for summary in summaries])


def _prepare_weights(names: list[str], folder: Optional[Path]) -> None:
    from twinseg.common import console
    from twinseg.common.files import home_expanded
    from twinseg.common.weights import by_name
    from twinseg.common.weights.prepare import prepare_weights

    if not names:
        raise UserError(f'prepare weights: give names: {", ".join(by_name.names())}')
    for name in names:
        with console.progress(f'downloading {name}') as progress:
            facts = prepare_weights(name, folder and home_expanded(folder), print, progress)
        console.show_facts(facts)


def _prepare_annotations(
    name: Optional[str], tool: Optional[str], words: list[str], folder: Optional[Path], options: 'Options'
) -> None:
    """Label files and a recipe from the annotations of a tool."""
    from twinseg.common import console
    from twinseg.common.data.annotations.convert import READERS, convert_annotations
    from twinseg.common.files import home_expanded, resolved

    if name != 'custom' or tool not in READERS or len(words) != 1:
        raise UserError(
            f'prepare {name or ""}: expected `prepare custom --from TOOL ANNOTATIONS`, TOOL one of {", ".join(READERS)}'
            + (f' (found {tool!r})' if tool not in READERS else '')
        )
    source = home_expanded(words[0])
    where = resolved(source)
    below = folder or where.with_name(f'{where.stem if where.is_file() else where.name}-twinseg')
    with console.progress('drawing') as progress:
        facts = convert_annotations(tool, source, below, options, progress)
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
