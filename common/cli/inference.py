"""Commands that run a trained network: ``eval``, ``predict``, ``submit``."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Optional

import typer

from twinseg.common.cli.options import (
    Backend,
    Checkpoint,
    CheckpointOrModel,
    ConfigName,
    Device,
    Engine,
    ExportedFile,
    Flip,
    Json,
    MultiScaleFlip,
    Scales,
    Settings,
    Slide,
    Stride,
    check_network,
    choose_for_run,
    load_config,
    load_config_for_file,
    load_network,
    parse_scales,
    parse_size,
    report_scores,
)
from twinseg.common.errors import UserError


def evaluate(
    config: ConfigName = None,
    checkpoint: CheckpointOrModel = None,
    model: ExportedFile = None,
    engine: Engine = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    ms_flip: MultiScaleFlip = False,
    scales: Scales = None,
    flip: Flip = False,
    slide: Slide = False,
    stride: Stride = None,
    boundary: Annotated[bool, typer.Option('--boundary', help='boundary IoU, too')] = False,
    real_size: Annotated[bool, typer.Option('--real-size', help='classifiers: images neither resized nor cropped')] = False,
    split: Annotated[Optional[str], typer.Option(help='by default the validation split')] = None,
    json_file: Json = None,
) -> None:
    """Scores a checkpoint or an exported file: mIoU, mAcc, aAcc and a table of the classes, or top-1, top-5 and loss of a
    classifier."""
    from twinseg.common import console
    from twinseg.common.deploy.exported_file import ExportedNetwork, evaluate_exported
    from twinseg.common.inference.evaluate import evaluate_run
    from twinseg.common.parallel import launch
    from twinseg.common.tasks.base import EvalOptions

    check_network(checkpoint, model, backend=backend, device=device, engine=engine)
    options = EvalOptions(
        ms_flip, slide, boundary, real_size, split, parse_scales(scales), flip, parse_size(stride, '--stride')
    )
    with console.progress('evaluating') as progress:
        if model is not None:
            network = ExportedNetwork(model, engine)
            chosen = load_config_for_file(network.metadata, config, settings)
            evaluation = evaluate_exported(network, chosen, options, progress)
        else:
            assert checkpoint is not None
            chosen = load_config(config, settings, checkpoint)
            run = load_network(checkpoint, chosen, backend, device, settings, engine)
            evaluation = evaluate_run(run, options, None if launch.rank() else progress)
    if launch.rank() == 0:
        report_scores(evaluation, json_file)


def predict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar='[CONFIG] INPUT...',
            help="images, videos, folders with all below them, patterns ('**/*.jpg'), addresses, or the number of a camera",
        ),
    ],
    checkpoint: CheckpointOrModel = None,
    model: ExportedFile = None,
    engine: Engine = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    out: Annotated[
        Optional[Path], typer.Option(metavar='FOLDER', help='by default predictions, or predictions-2, ... where that is full')
    ] = None,
    ms_flip: MultiScaleFlip = False,
    scales: Scales = None,
    flip: Flip = False,
    slide: Slide = False,
    stride: Stride = None,
    opacity: Annotated[
        Optional[float], typer.Option(min=0, max=1, help="of the classes' colours over the image; by default 0.5")
    ] = None,
    palette_png: Annotated[
        bool, typer.Option('--palette-png', help="ids as PNGs that viewers show in the classes' colours")
    ] = False,
    seconds: Annotated[Optional[float], typer.Option(min=0, help='camera: how long; by default until Ctrl-C')] = None,
    logits: Annotated[Optional[Path], typer.Option(metavar='FILE.npy', help='raw logits of one image')] = None,
) -> None:
    """Writes class ids and an overlay with a legend for each image, two videos (overlay and mask) for a video or a camera; with
    a classifier it prints the five most likely classes.

    The exit status is 1 when some of the files could not be read; the others are predicted."""
    from twinseg.common import console
    from twinseg.common.deploy.exported_file import ExportedNetwork
    from twinseg.common.inference import predict, sources
    from twinseg.common.tasks.base import DRAWING, Drawing, EvalOptions

    config = words.pop(0) if len(words) > 1 and _is_config(words[0]) else None
    check_network(checkpoint, model, backend=backend, device=device, engine=engine)
    folder, earlier = (out, []) if out is not None else sources.fresh_folder(Path('predictions'))
    drawing = Drawing(DRAWING.opacity if opacity is None else opacity, palette_png)
    camera = sources.camera_of(words)
    if camera is None and seconds is not None:
        raise UserError('--seconds: is for a camera')
    if camera is not None and logits is not None:
        raise UserError('--logits: is for an image')
    options = EvalOptions(ms_flip, slide, scales=parse_scales(scales), flip=flip, stride=parse_size(stride, '--stride'))
    with TemporaryDirectory(prefix='twinseg-') as fetched:
        files = []
        if camera is None:  # before the network, which takes seconds to load
            with console.progress('downloading') as progress:
                paths = sources.paths(words, Path(fetched), progress)
            files = predict.input_files(paths, folder, earlier)
        if model is not None:
            if settings:
                raise UserError(
                    '--set: has no effect on an exported file, which holds its settings; export it again with others'
                )
            exported = ExportedNetwork(model, engine)
            if config is not None:
                load_config_for_file(exported.metadata, config, None)  # compares the two
            network = exported.trained(options)
        else:
            assert checkpoint is not None
            chosen = load_config(config, settings, checkpoint)
            network = load_network(checkpoint, chosen, backend, device, settings, engine).trained(options)
        if camera is not None:
            for path in sources.predict_camera(network, camera, folder, seconds, drawing):
                console.show_predicted(path)
            return
        with console.progress('predicting') as progress:
            predict.predict(network, files, folder, logits, console.show_predicted, drawing, progress)


def submit(
    checkpoint: Checkpoint,
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar='FOLDER')] = Path('submission'),
    split: Annotated[str, typer.Option(help='images to predict; they need no labels')] = 'test',
    ms_flip: MultiScaleFlip = False,
    scales: Scales = None,
    flip: Flip = False,
    slide: Slide = False,
    stride: Stride = None,
) -> None:
    """Writes predictions in the format of the test servers of Cityscapes and Pascal VOC, and one archive of them."""
    from twinseg.common import console
    from twinseg.common.inference import submit
    from twinseg.common.inference.runs import load_run
    from twinseg.common.tasks.base import EvalOptions

    options = EvalOptions(
        ms_flip, slide, split=split, scales=parse_scales(scales), flip=flip, stride=parse_size(stride, '--stride')
    )
    chosen = load_config(config, settings, checkpoint)
    run = load_run(checkpoint, *choose_for_run(chosen, backend, device, settings), chosen)
    with console.progress('predicting') as progress:
        submission = submit.submit(run, out, options, progress)
    console.show_facts(submission.to_json())


def _is_config(word: str) -> bool:
    from twinseg.common.settings.recipes import named

    return word.endswith(('.yaml', '.yml', '.py')) or named(word) is not None
