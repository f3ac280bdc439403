"""Commands that measure: ``parity``, ``benchmark``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from twinseg.common.cli.options import (
    Backend,
    ConfigName,
    Device,
    InputSize,
    Json,
    Settings,
    choose_backend,
    load_config,
    parse_size,
    write_json,
)
from twinseg.common.errors import UserError
from twinseg.common.printable import printable

if TYPE_CHECKING:
    from twinseg.common.config import Config


def parity(
    config: ConfigName = None,
    settings: Settings = None,
    weights: Annotated[
        Optional[Path], typer.Option(metavar='FILE | NAME', help='weights; by default random, from the seed')
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    size: Annotated[Optional[str], typer.Option(metavar='HxW', help='by default 64x96')] = None,
    batch_size: Annotated[int, typer.Option(min=4, help='images of a batch; with fewer, batch norm amplifies rounding')] = 4,
    amp: Annotated[Optional[Literal['O0', 'O1', 'O2', 'O3']], typer.Option(help='precision level')] = None,
    checkpoint: Annotated[Optional[Path], typer.Option(metavar='PATH | NAME', help='--data: checkpoint or run')] = None,
    data: Annotated[bool, typer.Option('--data', help='predictions on the validation images instead, of --checkpoint')] = False,
    images: Annotated[Optional[int], typer.Option(min=1, help='--data: most images; by default all')] = None,
    out: Annotated[Optional[Path], typer.Option(metavar='FOLDER', help='--data: the worst images as pictures')] = None,
    json_file: Json = None,
) -> None:
    """Compares the twins: logits, gradients, training steps, or predictions on a data set. Exit status 1 when they differ."""
    from twinseg.common import console
    from twinseg.common.measure import parity

    if data:
        if checkpoint is None:
            raise UserError('--data: give the network: --checkpoint RUN')
        _on_data(checkpoint, load_config(config, settings, checkpoint), out, images, json_file)
        return
    for option, given in {'--checkpoint': checkpoint, '--images': images, '--out': out}.items():
        if given is not None:
            raise UserError(f'{option}: has an effect with --data only; weights for the comparison are --weights')
    result = parity.parity(
        load_config(config, settings, weights),
        steps=steps,
        size=parse_size(size) or (64, 96),
        weights=weights,
        amp=amp,
        batch_size=batch_size,
    )
    console.show_parity(result.to_json())
    write_json(json_file, result.to_json())
    if not result.ok:
        side = weights or config
        training = f' --backward --steps {min(steps, 3)}'
        if side is not None:
            print(printable(f'trace it: twinseg trace {side}@pytorch {side}@mindspore{training}'))
        raise typer.Exit(1)


def _on_data(checkpoint: Path, config: 'Config', out: Optional[Path], images: Optional[int], json_file: Optional[Path]) -> None:
    from twinseg.common import console
    from twinseg.common.measure.parity_on_data import parity_on_data

    with console.progress('predicting') as progress:
        result = parity_on_data(checkpoint, config, out, most=images, progress=progress).to_json()
    write_json(json_file, result)
    figures = {f'{name} mIoU': scores['mIoU'] for name, scores in result.pop('scores').items()}
    console.show_facts({**result, **figures})
    if not result['ok']:
        print(printable(f'trace it: twinseg trace {checkpoint}@pytorch {checkpoint}@mindspore'))
        raise typer.Exit(1)


def benchmark(
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    checkpoint: Annotated[Optional[Path], typer.Option(metavar='PATH', help='checkpoint with the configuration')] = None,
    size: InputSize = None,
    batch: Annotated[int, typer.Option(min=1, help='images per inference')] = 1,
    runs: Annotated[int, typer.Option(min=1)] = 20,
    train: Annotated[bool, typer.Option(help='training steps, too')] = True,
    json_file: Json = None,
) -> None:
    """Measures latency, throughput, parameters, MACs and peak memory, and states the machine and the precision."""
    from twinseg.common import console, facts
    from twinseg.common.inference.runs import stored_facts
    from twinseg.common.measure import benchmark

    chosen = load_config(config, settings, checkpoint)
    if checkpoint is not None:
        stored = stored_facts(checkpoint)
        facts.check(stored, facts.of_config(chosen))
        chosen = chosen.replace(num_classes=chosen.model.num_classes or stored.num_classes)
    result = benchmark.benchmark(
        chosen, choose_backend(chosen, backend), device, size=parse_size(size), batch=batch, runs=runs, train=train
    ).to_json()
    console.show_benchmark(result)
    write_json(json_file, result)
