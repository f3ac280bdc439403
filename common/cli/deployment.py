"""Commands around exported files: ``export``, ``quantize``, ``preprocess``, ``postprocess``, and one for convert_om.sh."""

import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from twinseg.common.cli.options import (
    Backend,
    Checkpoint,
    ConfigName,
    Device,
    InputSize,
    Json,
    Settings,
    choose_for_run,
    load_config,
    load_config_for_file,
    parse_size,
    report_scores,
    write_json,
)


def export(
    checkpoint: Checkpoint,
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    format: Annotated[Literal['onnx', 'mindir', 'air'], typer.Option()] = 'onnx',
    out: Annotated[Optional[Path], typer.Option(metavar='FILE', help='by default ARCH.FORMAT')] = None,
    size: InputSize = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dynamic: Annotated[bool, typer.Option('--dynamic', help='accept images of any number and size')] = False,
    uint8: Annotated[bool, typer.Option('--uint8', help='take uint8 NHWC images, not normalised')] = False,
    argmax: Annotated[bool, typer.Option('--argmax', help='return class ids at full size')] = False,
    json_file: Json = None,
) -> None:
    """Writes ONNX, MINDIR or AIR, runs the file on the host and compares it with the network there, in float32; --device is
    for AIR alone."""
    from twinseg.common import console
    from twinseg.common.deploy.export import ExportError, ExportOptions, export_checkpoint

    chosen = load_config(config, settings, checkpoint)
    backend_name, device_name = choose_for_run(chosen, backend, device, settings)
    file = out or Path(f'{chosen.model.arch}.{format}')
    try:
        report = export_checkpoint(
            checkpoint,
            file,
            format,
            ExportOptions(parse_size(size), batch, dynamic, uint8, argmax),
            backend_name=backend_name,
            device=device_name,
            config=chosen,
        ).to_json()
    except ExportError as error:
        if format != 'onnx':
            raise
        trace = f'twinseg trace {checkpoint}@{backend_name} {file}.rejected'
        raise ExportError(f'{error}; trace it: {trace}') from None
    console.show_facts({key: value for key, value in report.items() if key != 'operators'})
    write_json(json_file, report)


def quantize(
    model: Annotated[Path, typer.Argument(metavar='MODEL', help='exported .onnx')],
    config: ConfigName = None,
    settings: Settings = None,
    out: Annotated[Optional[Path], typer.Option(metavar='FILE', help='by default MODEL_int8.onnx')] = None,
    images: Annotated[int, typer.Option(min=1, help='training images to calibrate on')] = 64,
    json_file: Json = None,
) -> None:
    """Writes an exported ONNX in int8, calibrated on real images, and says what it costs on the validation split."""
    from twinseg.common import console
    from twinseg.common.deploy import quantize
    from twinseg.common.deploy.exported_file import ExportedNetwork

    chosen = load_config_for_file(ExportedNetwork(model).metadata, config, settings)
    out = out or model.with_name(f'{model.stem}_int8.onnx')
    with console.progress('evaluating') as progress:
        quantized = quantize.quantize(model, out, chosen, images=images, progress=progress).to_json()
    console.show_facts(quantized)
    write_json(json_file, quantized)


def preprocess(
    model: Annotated[Path, typer.Argument(metavar='MODEL', help='the exported .onnx (or .mindir), of one size')],
    dataset_name: Annotated[str, typer.Argument(help='imagenet2012, cityscapes, camvid, custom, ...')],
    dataset_path: Annotated[Path, typer.Argument(help="data set's folder (for ImageNet also the split's, or a tar)")],
    config: Annotated[Optional[Path], typer.Option(metavar='FILE', help='recipe with further keys; custom needs one')] = None,
    uint8: Annotated[bool, typer.Option('--uint8', help='leave normalisation to the card (AIPP)')] = False,
    out: Annotated[Path, typer.Option(metavar='FOLDER')] = Path('preprocess_Result'),
) -> None:
    """Writes a validation set as .bin inputs and labels for ascend310_infer."""
    from twinseg.common import console
    from twinseg.common.deploy import ascend310

    with console.progress('writing') as progress:
        written = ascend310.preprocess(model, dataset_name, dataset_path, out, config, uint8=uint8, progress=progress)
    console.show_facts(written.to_json())


def postprocess(
    model: Annotated[Path, typer.Argument(metavar='MODEL', help='the exported .onnx (or .mindir) of preprocess')],
    inputs: Annotated[Path, typer.Option(metavar='FOLDER', help='folder that preprocess wrote')] = Path('preprocess_Result'),
    results: Annotated[Path, typer.Option(metavar='FOLDER', help='folder that ascend310_infer wrote')] = Path('result_Files'),
    precision: Annotated[Literal['fp32', 'fp16', 'int8'], typer.Option(help='precision of the results')] = 'fp32',
    json_file: Json = None,
) -> None:
    """Scores the results of ascend310_infer, and compares a sample with the model's outputs. Exit status 1 when they differ."""
    from twinseg.common import console, tasks
    from twinseg.common.deploy import ascend310

    with console.progress('reading') as progress:
        evaluation, comparison = ascend310.postprocess(model, inputs, results, precision, progress)
    report_scores(evaluation, json_file)
    print(tasks.of(evaluation.task).model_zoo_lines(evaluation.scores))
    if not comparison.difference <= comparison.tolerance:
        print(
            f'twinseg: error: {results}: the results differ from those of {model} by {comparison.difference:.1e} '
            f'{comparison.unit} (tolerance in {precision}: {comparison.tolerance:.0e}); was the model made from this file, '
            'in this precision?',
            file=sys.stderr,
        )
        raise typer.Exit(1)


def conversion_facts(model: Path, aipp: Annotated[bool, typer.Option('--aipp')] = False) -> None:
    """Prints the facts that scripts/convert_om.sh asks for."""
    from twinseg.common.deploy import ascend310

    print('\n'.join(ascend310.conversion_facts(model, aipp)))
