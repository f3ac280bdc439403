"""Options that several commands share, the values they turn into, and scores on the screen and in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from twinseg.common.errors import UserError

if TYPE_CHECKING:
    from twinseg.common.config import Config
    from twinseg.common.deploy.metadata import ExportMetadata
    from twinseg.common.images.interpolation import Size
    from twinseg.common.inference.runs import Run
    from twinseg.common.tasks.base import Evaluation


def _in_a_folder(file: Optional[Path]) -> Optional[Path]:
    """The file; UserError, before the work and not after it, where the folder that it goes into is absent."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f'{file}: there is no folder {file.parent}')
    return file


ConfigName = Annotated[Optional[str], typer.Argument(metavar='CONFIG', show_default=False, help='a recipe or a YAML file')]
Backend = Annotated[
    Optional[Literal['pytorch', 'mindspore']],
    typer.Option(help="by default the configuration's, else PyTorch where it is installed"),
]
Device = Annotated[
    Optional[Literal['cpu', 'gpu', 'ascend']],
    typer.Option(case_sensitive=False, help='by default the best that this machine has'),
]
Settings = Annotated[Optional[list[str]], typer.Option('--set', metavar='KEY=VALUE ...', help='keys of the configuration')]
_CHECKPOINT = typer.Option(metavar='PATH | NAME', help='checkpoint, or run folder: its best one, or the name of one that ships')
Checkpoint = Annotated[Path, _CHECKPOINT]
CheckpointOrModel = Annotated[Optional[Path], _CHECKPOINT]  # beside ``ExportedFile``
InputSize = Annotated[Optional[str], typer.Option(metavar='HxW', help='input size; by default the crop size')]
ExportedFile = Annotated[Optional[Path], typer.Option(metavar='FILE', help='exported .onnx or .mindir instead')]
Engine = Annotated[
    Optional[Literal['onnxruntime', 'openvino', 'mindspore']],
    typer.Option(
        help='engine on the CPU: of --model by default onnxruntime for .onnx, mindspore for .mindir; onnxruntime and openvino '
        'also run a checkpoint, faster than its framework, which does by default'
    ),
]
MultiScaleFlip = Annotated[bool, typer.Option('--ms-flip', help='average over six scales, mirrored too')]
Slide = Annotated[bool, typer.Option('--slide', help='average over overlapping windows of the crop size')]
Scales = Annotated[
    Optional[str], typer.Option(metavar='S,S,...', help='scales to average over, such as 0.75,1,1.25; by default eval_scales')
]
Flip = Annotated[bool, typer.Option('--flip', help='average over the mirrored image, too')]
Stride = Annotated[
    Optional[str], typer.Option(metavar='HxW', help='--slide: from a window to the next; by default two thirds of it')
]
Json = Annotated[
    Optional[Path], typer.Option('--json', metavar='FILE', help='file that gets the figures, too', callback=_in_a_folder)
]
Runs = Annotated[list[Path], typer.Argument(metavar='RUN...', help='run folders')]


def check_network(
    checkpoint: Optional[Path], model: Optional[Path], *, backend: Optional[str], device: Optional[str], engine: Optional[str]
) -> None:
    """UserError unless there is one network, a checkpoint or an exported file, and for an option without effect on it."""
    if (checkpoint is None) == (model is None):
        raise UserError('give the network: a checkpoint (--checkpoint) or an exported file (--model)')
    if model is None and engine == 'mindspore':
        raise UserError('--engine mindspore: runs .mindir files; of a checkpoint give --backend mindspore')
    if model is None and engine is not None and device not in (None, 'cpu'):
        raise UserError(f'--engine {engine}: runs on the CPU, not on --device {device}; leave one of the two out')
    for name, given in {'--backend': backend, '--device': device}.items() if model is not None else ():
        if given is not None and (name, given) != ('--device', 'cpu'):  # the engines run there
            raise UserError(f'{name} {given}: has no effect on an exported file')


def load_config(name: Optional[str], settings: Optional[list[str]], checkpoint: Optional[Path] = None) -> 'Config':
    """The configuration of a recipe, or the one that a checkpoint carries; with ``--set``."""
    from twinseg.common import config

    if name is not None:
        return config.load(name, settings or ())
    if checkpoint is None:
        raise UserError('give CONFIG: a recipe (`twinseg list --configs`) or a YAML file')
    from twinseg.common.inference.runs import stored_config

    return config.override(stored_config(checkpoint), settings or ())


def load_network(
    checkpoint: Path,
    config: 'Config',
    backend: Optional[str],
    device: Optional[str],
    settings: Optional[list[str]],
    engine: Optional[str],
) -> 'Run':
    """A checkpoint's network on the backend and the device that are asked for, or on an engine."""
    from twinseg.common.inference.runs import load_run

    chosen, device = choose_for_run(config, backend, device, settings)
    run = load_run(checkpoint, chosen, 'cpu' if engine else device, config)
    if engine is None:
        return run
    from twinseg.common.deploy.on_engine import on_engine

    return on_engine(run, engine)


def load_config_for_file(metadata: 'ExportMetadata', name: Optional[str], settings: Optional[list[str]]) -> 'Config':
    """The configuration of an exported file's evaluation: the data of a recipe, or of the set that the file names."""
    from twinseg.common import config

    return config.override(metadata.configuration(None if name is None else config.load(name)), settings or ())


def choose_backend(config: Optional['Config'], asked: Optional[str]) -> str:
    """The backend that is asked for, or the configuration's, or the first that is installed."""
    from twinseg.common.backend import preferred

    return asked or (config and config.runtime.backend) or preferred()


def choose_for_run(
    config: 'Config', backend: Optional[str], device: Optional[str], settings: Optional[list[str]]
) -> tuple[str, Optional[str]]:
    """Backend and device for a trained network. What is asked for, also with ``--set``, must be there; what the configuration
    of the training says is taken where it is there."""
    from twinseg.common.backend import preferred
    from twinseg.common.config import parse_override

    asked = {key for key, _ in map(parse_override, settings or ())}
    chosen = backend or (config.runtime.backend if 'backend' in asked else None) or preferred(config.runtime.backend)
    return chosen, device or (config.runtime.device_target if 'device_target' in asked else None)


def parse_scales(text: Optional[str]) -> tuple[float, ...]:
    """``0.75,1`` -> (0.75, 1.0), as ``eval_scales`` takes them."""
    from twinseg.common.config import from_flat

    try:
        scales = [float(part) for part in text.split(',')] if text is not None else []
    except ValueError:
        raise UserError(f'--scales {text!r}: expected numbers with commas, such as 0.75,1,1.25') from None
    return tuple(from_flat({'eval_scales': scales}, '--scales').augment.eval_scales) if scales else ()


def parse_size(text: Optional[str], option: str = '--size') -> Optional['Size']:
    """``512x1024`` -> (512, 1024)."""
    if text is None:
        return None
    height, _, width = text.lower().partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f'{option} {text!r}: expected height x width, such as 512x1024')
    return int(height), int(width)


def write_json(file: Optional[Path], values: dict[str, Any]) -> None:
    """Writes the values where ``--json`` names a file."""
    if file is not None:
        import json

        from twinseg.common.files import write_text

        write_text(file, json.dumps(values, indent=1, default=str) + '\n')


def report_scores(evaluation: 'Evaluation', file: Optional[Path]) -> None:
    """Prints the scores of an evaluation with the conditions that they hold under, and writes them where ``--json`` says."""
    from twinseg.common import console, tasks

    tasks.of(evaluation.task).show_scores(evaluation.scores)
    console.show_facts(evaluation.conditions)
    write_json(file, evaluation.to_json())
