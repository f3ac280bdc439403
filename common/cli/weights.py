"""Commands for weights: ``convert``."""

from pathlib import Path
from typing import Annotated, Optional

import typer


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar='FILE', help='weights: .pth, .tar, .ckpt, .safetensors, ..., or a name (`twinseg list --weights`)'
        ),
    ],
    source: Annotated[Optional[str], typer.Option('--from', metavar='PUBLISHER', help='by default it is recognised')] = None,
    weights_of: Annotated[
        Optional[str],
        typer.Option('--weights-of', metavar='ema|last|NAME', help='which, if the file has several; by default the averaged'),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(metavar='FILE', help='by default FILE.safetensors; .pth and .ckpt for one framework')
    ] = None,
    settings: Annotated[
        Optional[list[str]], typer.Option('--set', metavar='KEY=VALUE ...', help='settings of the network: output_stride=8')
    ] = None,
    half: Annotated[bool, typer.Option('--half', help='float16 kernels: half the size')] = False,
) -> None:
    """Converts published weights to a checkpoint for both backends, or reduces a checkpoint of TwinSeg to its weights."""
    from twinseg.common import console
    from twinseg.common.config import parse_override
    from twinseg.common.weights.by_name import find_weights
    from twinseg.common.weights.convert_file import convert_file

    arguments = dict(map(parse_override, settings or ()))
    with console.progress('downloading') as progress:
        file = find_weights(file, print, progress)
    console.show_facts(convert_file(file, source, out, arguments, half, weights_of).facts())
