"""The command ``trace``."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import Json, Settings, parse_size, write_json
from twinseg.common.errors import UserError


def trace(
    first: Annotated[
        str,
        typer.Argument(
            metavar='A', help='checkpoint, run, exported file, folder or FILE.py:CLASS, with @pytorch, @openvino, ...'
        ),
    ],
    second: Annotated[str, typer.Argument(metavar='B', help='the other side, likewise')],
    inputs: Annotated[Optional[list[str]], typer.Argument(metavar='INPUT...', help='images; by default drawn noise')] = None,
    data: Annotated[Optional[str], typer.Option(metavar='CONFIG', help='recipe whose validation images are the input')] = None,
    settings: Settings = None,
    images: Annotated[int, typer.Option(min=1, help='images of --data, or of noise')] = 1,
    size: Annotated[
        Optional[str], typer.Option(metavar='HxW', help="size of the input; by default the file's, else 128x192")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help='seed of the noise')] = 0,
    weights: Annotated[Optional[Path], typer.Option(metavar='FILE', help='weights of your networks')] = None,
    names: Annotated[Optional[Path], typer.Option(metavar='FILE', help='YAML: module of A: module of B')] = None,
    backward: Annotated[bool, typer.Option('--backward', help='gradients, too')] = False,
    steps: Annotated[int, typer.Option(min=0, help='training steps, too')] = 0,
    rank: Annotated[bool, typer.Option(help='how much of the final difference each layer causes')] = True,
    scored: Annotated[
        Optional[int],
        typer.Option(min=1, metavar='N', help='int8: layers whose score is computed on --data; by default all of them'),
    ] = None,
    space: Annotated[float, typer.Option(min=0.01, metavar='GB', help='most disk for recorded values')] = 20.0,
    outputs: Annotated[
        Optional[Path], typer.Option(metavar='FILE.onnx', help='copy of an ONNX side whose inner tensors are outputs')
    ] = None,
    json_file: Json = None,
    out: Annotated[Optional[Path], typer.Option(metavar='FILE.html', help='page that shows it')] = None,
) -> None:
    """Names the first layer at which two computations of one network part, and tries what could be wrong with it. Exit status 1
    when they part."""
    from twinseg.common import console
    from twinseg.common.trace import command
    from twinseg.common.trace.opening import OpenOptions
    from twinseg.common.trace.page import write_page

    if out is not None and out.suffix != '.html':
        raise UserError(f'{out}: the page is named *.html')
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f'{out}: there is no folder {out.parent}')
    request = command.Request(
        first,
        second,
        command.InputRequest(tuple(inputs or ()), data, tuple(settings or ()), images, parse_size(size), seed),
        OpenOptions(weights=weights),
        names,
        backward,
        steps,
        rank,
        scored,
        int(space * 1e9),
        outputs,
    )
    with console.progress('tracing') as progress:
        result = command.run(request, progress)
    console.show_trace(result.to_json())
    write_json(json_file, result.to_json())
    if out is not None:
        write_page(result, out)
    if not result.ok:
        raise typer.Exit(1)
