"""Commands that show and share: ``demo``, ``card``."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import Device


def demo(
    checkpoint: Annotated[
        Optional[list[Path]],
        typer.Option(metavar='PATH | NAME', help='checkpoint or run folder, several times; by default those that ship'),
    ] = None,
    model: Annotated[
        Optional[list[Path]], typer.Option(metavar='FILE', help='exported .onnx or .mindir, several times')
    ] = None,
    device: Device = None,
    host: Annotated[str, typer.Option(help='address to listen on: of this machine alone by default')] = '127.0.0.1',
    port: Annotated[Optional[int], typer.Option(min=1, max=65535, help='by default the first free one from 7860')] = None,
) -> None:
    """Opens a page on this machine: drop an image, or take one from the camera, and compare what networks see in it."""
    import sys

    from twinseg.common.doors import demo
    from twinseg.common.errors import require

    require('gradio', 'demo')
    offered = demo.choices(checkpoint or [], model or [])
    if host not in (demo.LOCAL, 'localhost', '::1'):
        print(f'twinseg: warning: --host {host}: everybody who reaches this machine can use the page', file=sys.stderr)
    demo.serve(demo.Networks(offered, device), host, port)


def card(
    source: Annotated[Path, typer.Argument(metavar='RUN', help='run folder, checkpoint, or the name of one that ships')],
    out: Annotated[Optional[Path], typer.Option(metavar='FOLDER', help='by default RUN-card')] = None,
    licence: Annotated[
        Optional[str], typer.Option('--licence', '--license', metavar='SPDX', help='licence of the weights, such as apache-2.0')
    ] = None,
) -> None:
    """Writes a folder in Hugging Face's layout: model card, weights, configuration. `--checkpoint` and `twinseg.load` take it.

    Nothing is uploaded."""
    from twinseg.common import console
    from twinseg.common.report.card import write_card

    written = write_card(source, out, licence)
    console.show_facts({'folder': written.folder, 'files': written.files})
