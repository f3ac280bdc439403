"""The ``twinseg`` command: parses, loads the configuration, hands over. Nothing heavy is imported before it is needed."""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from twinseg.common.errors import Interrupted, UserError

if TYPE_CHECKING:
    from twinseg.common.config import Config
    from twinseg.common.deploy.exported_file import Facts

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help='Semantic segmentation networks, each in PyTorch and in MindSpore. `--debug` anywhere shows tracebacks.',
)

ConfigName = Annotated[Optional[str], typer.Argument(metavar='CONFIG', show_default=False, help='a recipe or a YAML file')]
Backend = Annotated[
    Optional[Literal['pytorch', 'mindspore']],
    typer.Option(help="by default the configuration's, else PyTorch where it is installed"),
]
Device = Annotated[
    Optional[Literal['cpu', 'gpu', 'ascend']], typer.Option(case_sensitive=False, help='by default the best present')
]
Settings = Annotated[Optional[list[str]], typer.Option('--set', metavar='KEY=VALUE ...', help='changes the configuration')]
Checkpoint = Annotated[Path, typer.Option(metavar='PATH', help='checkpoint, or run folder: its best one')]
Size = Annotated[Optional[str], typer.Option(metavar='HxW', help='input size; by default the crop size')]
ExportedFile = Annotated[Optional[Path], typer.Option(metavar='FILE', help='exported .onnx or .mindir instead')]
Engine = Annotated[
    Optional[Literal['onnxruntime', 'openvino', 'mindspore']],
    typer.Option(help='what runs --model: by default onnxruntime for .onnx, mindspore for .mindir'),
]
Json = Annotated[Optional[Path], typer.Option('--json', metavar='FILE', help='also writes the figures here')]


@app.command()
def train(
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    work_dir: Annotated[Optional[Path], typer.Option(help='by default runs/CONFIG-BACKEND')] = None,
    resume: Annotated[bool, typer.Option('--resume', help='continue in the work folder, exactly')] = False,
    checkpoint: Annotated[
        Optional[Path],
        typer.Option(metavar='FILE', help='continue from this checkpoint, of either backend, in a new work folder'),
    ] = None,
) -> None:
    """Trains a network; leaves config.yaml, metrics.jsonl, log.txt, TensorBoard events and checkpoints/."""
    from twinseg.common.training import loop

    if config is None and resume and work_dir:
        config = str(work_dir / 'config.yaml')
    chosen = _config(config, settings, checkpoint)
    name = _backend(chosen, backend)
    folder = work_dir or Path(chosen.runtime.work_dir or f'runs/{Path(config or chosen.model.arch).stem}-{name}')
    loop.train(chosen, name, device, folder, resume=resume, start_from=checkpoint)


@app.command('eval')
def evaluate(
    config: ConfigName = None,
    checkpoint: Annotated[Optional[Path], typer.Option(metavar='PATH', help='checkpoint, or run folder: its best one')] = None,
    model: ExportedFile = None,
    engine: Engine = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    ms_flip: Annotated[bool, typer.Option('--ms-flip', help='average over six scales, mirrored too')] = False,
    slide: Annotated[bool, typer.Option('--slide', help='average over overlapping windows of the crop size')] = False,
    boundary: Annotated[bool, typer.Option('--boundary', help='boundary IoU, too')] = False,
    real_size: Annotated[bool, typer.Option('--real-size', help='classifiers: images as they are')] = False,
    split: Annotated[Optional[str], typer.Option(help='by default the validation split')] = None,
    json_file: Json = None,
) -> None:
    """Scores of a checkpoint or an exported file: mIoU, mAcc, aAcc, or of a classifier top-1, top-5 and loss, and a table of
    the classes."""
    from twinseg.common import console
    from twinseg.common.deploy.exported_file import FilePredictor
    from twinseg.common.inference import evaluate
    from twinseg.common.parallel import processes

    _writable(json_file)
    if (checkpoint is None) == (model is None):
        raise UserError('give the network: a checkpoint (--checkpoint) or an exported file (--model)')
    how: dict[str, Any] = {'ms_flip': ms_flip, 'slide': slide, 'boundary': boundary, 'real_size': real_size, 'split': split}
    with console.progress('evaluating') as progress:
        if model is not None:
            predictor = FilePredictor(model, engine)
            chosen = _config_for(predictor.facts, config, settings)
            found = evaluate.evaluate_file(predictor, chosen, **how, progress=progress)
        else:
            assert checkpoint is not None
            chosen = _config(config, settings, checkpoint)
            found = evaluate.evaluate_run(
                checkpoint, _backend(chosen, backend), device, chosen, **how, progress=None if processes.rank() else progress
            )
    if processes.rank():
        return
    console.show_scores(found['scores'], found['conditions'])
    _write_json(
        json_file, {**found['scores'].to_json(), 'conditions': found['conditions'], 'confusion': found['matrix'].tolist()}
    )


@app.command()
def predict(
    words: Annotated[list[str], typer.Argument(metavar='[CONFIG] INPUT...', help='images, folders, videos')],
    checkpoint: Annotated[Optional[Path], typer.Option(metavar='PATH', help='checkpoint or run folder')] = None,
    model: ExportedFile = None,
    engine: Engine = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar='FOLDER')] = Path('predictions'),
    logits: Annotated[Optional[Path], typer.Option(metavar='FILE.npy', help='raw logits of one image')] = None,
) -> None:
    """Class ids and overlays with a legend, of images, folders or videos; of a classifier the five likeliest classes."""
    from twinseg.common import console
    from twinseg.common.inference import predict

    config = words.pop(0) if len(words) > 1 and _is_config(words[0]) else None
    chosen = _config(config, settings, checkpoint) if checkpoint else None
    for path in predict.predict(
        chosen,
        _backend(chosen, backend),
        device,
        checkpoint,
        list(map(Path, words)),
        out,
        logits=logits,
        model=model,
        engine=engine,
    ):
        print(path)
        if path.name == 'predictions.json':
            console.show(
                'likeliest classes',
                [
                    {
                        'image': image,
                        **{
                            str(rank): f'{guess["class"]} {100 * guess["probability"]:.1f} %'
                            for rank, guess in enumerate(guesses, 1)
                        },
                    }
                    for image, guesses in json.loads(path.read_text(encoding='utf-8')).items()
                ],
            )


@app.command()
def submit(
    checkpoint: Checkpoint,
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar='FOLDER')] = Path('submission'),
    split: Annotated[str, typer.Option(help='images to predict; they need no labels')] = 'test',
    ms_flip: Annotated[bool, typer.Option('--ms-flip', help='average over six scales, mirrored too')] = False,
    slide: Annotated[bool, typer.Option('--slide', help='average over windows of the crop size')] = False,
) -> None:
    """Predictions as the test servers of Cityscapes and Pascal VOC take them, and one archive of all."""
    from twinseg.common import console
    from twinseg.common.inference import submit

    chosen = _config(config, settings, checkpoint)
    with console.progress('predicting') as progress:
        console.show_facts(
            submit.submit(
                checkpoint,
                out,
                _backend(chosen, backend),
                device,
                chosen,
                split=split,
                ms_flip=ms_flip,
                slide=slide,
                progress=progress,
            )
        )


@app.command()
def export(
    checkpoint: Checkpoint,
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    format: Annotated[Literal['onnx', 'mindir', 'air'], typer.Option()] = 'onnx',
    out: Annotated[Optional[Path], typer.Option(metavar='FILE', help='by default ARCH.FORMAT')] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dynamic: Annotated[bool, typer.Option('--dynamic', help='for any size')] = False,
    uint8: Annotated[bool, typer.Option('--uint8', help='takes uint8 NHWC images as they are')] = False,
    argmax: Annotated[bool, typer.Option('--argmax', help='returns class ids at full size')] = False,
    json_file: Json = None,
) -> None:
    """Writes ONNX, MINDIR or AIR, runs the file on the host and compares it with the network."""
    from twinseg.common import console
    from twinseg.common.deploy.export import export_checkpoint

    _writable(json_file)
    chosen = _config(config, settings, checkpoint)
    found = export_checkpoint(
        chosen,
        _backend(chosen, backend),
        device,
        checkpoint,
        format,
        out or Path(f'{chosen.model.arch}.{format}'),
        size=_size(size),
        dynamic=dynamic,
        batch=batch,
        uint8=uint8,
        argmax=argmax,
    )
    console.show_facts({key: value for key, value in found.items() if key != 'operators'})
    _write_json(json_file, found)


@app.command()
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
    from twinseg.common.deploy.exported_file import FilePredictor

    _writable(json_file)
    chosen = _config_for(FilePredictor(model).facts, config, settings)
    with console.progress('evaluating') as progress:
        found = quantize.quantize(
            model, out or model.with_name(f'{model.stem}_int8.onnx'), chosen, images=images, progress=progress
        )
    console.show_facts(found)
    _write_json(json_file, found)


@app.command()
def preprocess(
    model: Annotated[Path, typer.Argument(metavar='MODEL', help='the exported .onnx (or .mindir), of one size')],
    dataset_name: Annotated[str, typer.Argument(help='imagenet2012, cityscapes, camvid, custom, ...')],
    dataset_path: Annotated[Path, typer.Argument(help='its folder (of ImageNet also that of the split, or a tar)')],
    config: Annotated[Optional[Path], typer.Option(metavar='FILE', help='recipe with further keys; custom needs one')] = None,
    uint8: Annotated[bool, typer.Option('--uint8', help='not normalised: the card does it (AIPP)')] = False,
    out: Annotated[Path, typer.Option(metavar='FOLDER')] = Path('preprocess_Result'),
) -> None:
    """Writes a validation set as .bin inputs and labels for ascend310_infer."""
    from twinseg.common import console
    from twinseg.common.deploy import ascend310

    with console.progress('writing') as progress:
        console.show_facts(ascend310.preprocess(model, dataset_name, dataset_path, out, config, uint8=uint8, progress=progress))


@app.command()
def postprocess(
    model: Annotated[Path, typer.Argument(metavar='MODEL', help='the exported .onnx (or .mindir) of preprocess')],
    inputs: Annotated[Path, typer.Option(metavar='FOLDER', help='of preprocess')] = Path('preprocess_Result'),
    results: Annotated[Path, typer.Option(metavar='FOLDER', help='of ascend310_infer')] = Path('result_Files'),
    precision: Annotated[Literal['fp32', 'fp16', 'int8'], typer.Option(help='that the results were computed in')] = 'fp32',
    json_file: Json = None,
) -> None:
    """Scores the results of ascend310_infer, and compares a sample with the model's own. Exit status 1 when they differ."""
    from twinseg.common import console, metrics
    from twinseg.common.deploy import ascend310

    _writable(json_file)
    with console.progress('reading') as progress:
        found, comparison = ascend310.postprocess(model, inputs, results, precision, progress)
    scores = found['scores']
    console.show_scores(scores, found['conditions'])
    _write_json(json_file, {**scores.to_json(), 'conditions': found['conditions'], 'confusion': found['matrix'].tolist()})
    if isinstance(scores, metrics.ImageScores):
        print(f'Top1 acc: {metrics.show(scores.top1)}\nTop5 acc: {metrics.show(scores.top5)}')
    else:
        print(f'mIoU: {metrics.show(scores.miou)}')
    if not comparison.difference <= comparison.tolerance:
        print(
            f'twinseg: error: {results}: the results differ from those of {model} by {comparison.difference:.1e} '
            f'{comparison.unit} (tolerance in {precision}: {comparison.tolerance:.0e}); was the model made from this file, '
            'in this precision?',
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command('conversion-facts', hidden=True)
def conversion_facts(model: Path, aipp: Annotated[bool, typer.Option('--aipp')] = False) -> None:
    """For scripts/convert_om.sh."""
    from twinseg.common.deploy import ascend310

    print('\n'.join(ascend310.conversion_facts(model, aipp)))


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar='FILE', help='weights: .pth, .tar, .ckpt, .safetensors, ...')],
    source: Annotated[Optional[str], typer.Option('--from', metavar='PUBLISHER', help='by default recognised')] = None,
    out: Annotated[
        Optional[Path], typer.Option(metavar='FILE', help='by default FILE.safetensors; .pth and .ckpt for one framework')
    ] = None,
    settings: Annotated[
        Optional[list[str]], typer.Option('--set', metavar='KEY=VALUE ...', help='what weights do not tell: output_stride=8')
    ] = None,
    half: Annotated[bool, typer.Option('--half', help='float16 kernels: half the size')] = False,
) -> None:
    """Published weights as a checkpoint of ours, for both backends; or one of ours without what only training needs."""
    from twinseg.common import console
    from twinseg.common.config import parse_override
    from twinseg.common.weights.convert_file import convert_file

    console.show_facts(convert_file(file, source, out, dict(map(parse_override, settings or ())), half).facts())


@app.command()
def parity(
    config: ConfigName = None,
    settings: Settings = None,
    weights: Annotated[Optional[Path], typer.Option(metavar='FILE', help='by default drawn from the seed')] = None,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    size: Annotated[Optional[str], typer.Option(metavar='HxW', help='by default 64x96')] = None,
    batch_size: Annotated[int, typer.Option(min=4, help='with fewer, batch norm amplifies rounding')] = 4,
    amp: Annotated[Optional[Literal['O0', 'O1', 'O2', 'O3']], typer.Option(help='precision level')] = None,
    json_file: Json = None,
) -> None:
    """Compares the twins: logits, gradients, training steps. Exit status 1 when they differ."""
    from twinseg.common.measure import parity as comparing

    _writable(json_file)
    found = comparing.parity(
        _config(config, settings, weights),
        steps=steps,
        size=_size(size) or (64, 96),
        weights=weights,
        amp=amp,
        batch_size=batch_size,
    )
    comparing.show(found)
    _write_json(json_file, found)
    if not found['ok']:
        raise typer.Exit(1)


@app.command()
def benchmark(
    config: ConfigName = None,
    backend: Backend = None,
    device: Device = None,
    settings: Settings = None,
    checkpoint: Annotated[Optional[Path], typer.Option(metavar='PATH', help='gives the configuration')] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(min=1, help='images of an inference')] = 1,
    runs: Annotated[int, typer.Option(min=1)] = 20,
    train: Annotated[bool, typer.Option(help='training steps, too')] = True,
    json_file: Json = None,
) -> None:
    """Latency, throughput, parameters, MACs and peak memory, with the machine and the precision that they hold for."""
    from twinseg.common.measure import benchmark as measuring

    _writable(json_file)
    chosen = _config(config, settings, checkpoint)
    found = measuring.benchmark(
        chosen, _backend(chosen, backend), device, size=_size(size), batch=batch, runs=runs, train=train
    )
    measuring.show(found)
    _write_json(json_file, found)


@app.command()
def browse(
    config: ConfigName = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar='FOLDER', help='for browse.json and browse.png')] = Path('browse'),
    samples: Annotated[int, typer.Option(min=1, help='training images in the picture')] = 4,
) -> None:
    """Checks a data set (counts, sizes, ids, broken or missing files: exit status 1) and draws augmented samples."""
    from twinseg.common import console
    from twinseg.common.report import browse as browsing

    with console.progress('reading') as progress:
        found = browsing.browse(_config(config, settings, None), out, samples, progress)
    browsing.show(found)
    if found['problems']:
        raise typer.Exit(1)


@app.command()
def prepare(
    config: Annotated[
        Optional[str],
        typer.Argument(
            metavar='NAME | CONFIG',
            show_default=False,
            help='a data set: voc, cityscapes, camvid, camvid32, imagenet; with --cache a recipe or a YAML file',
        ),
    ] = None,
    settings: Settings = None,
    folder: Annotated[Optional[Path], typer.Option(help='for the data; by default $TWINSEG_DATA/NAME')] = None,
    cache: Annotated[bool, typer.Option('--cache', help='decode images into a memory-mapped file')] = False,
) -> None:
    """Makes a data set ready: fetches it, or says what to fetch, unpacks and converts it; --cache decodes it once."""
    import os

    from twinseg.common import console
    from twinseg.common.data.cache import build_cache
    from twinseg.common.data.open import open_for_cache
    from twinseg.common.data.prepare import PREPARABLE, prepare_dataset

    if not cache:
        if config not in PREPARABLE:
            raise UserError(
                f'prepare {config or ""}: give a data set ({", ".join(PREPARABLE)}), or --cache with a configuration'
            )
        base = os.environ.get('TWINSEG_DATA')
        if folder is None and not base:
            raise UserError('give --folder, or set the environment variable TWINSEG_DATA')
        with console.progress(f'preparing {config}') as progress:
            console.show_facts(prepare_dataset(config, (folder or Path(str(base)) / config).expanduser(), progress))
        return
    chosen = _config(config, settings, None)
    with console.progress('decoding') as progress:
        summaries = build_cache(open_for_cache(chosen.data), chosen.data.on_error, progress)
    console.show('cached', [{**vars(summary), 'problems': len(summary.problems)} for summary in summaries])


@app.command('list')
def list_(
    models: Annotated[bool, typer.Option('--models', help='networks')] = False,
    configs: Annotated[bool, typer.Option('--configs', help='recipes')] = False,
    datasets: Annotated[bool, typer.Option('--datasets', help='data sets')] = False,
    keys: Annotated[bool, typer.Option('--keys', help='keys of the configuration')] = False,
    backend: Backend = None,
) -> None:
    """Networks, recipes and data sets; with --keys every key of the configuration."""
    from twinseg.common import console
    from twinseg.common.report import catalogue

    everything = not (models or configs or datasets or keys)
    if configs or everything:
        console.show('recipes', catalogue.configs())
    if datasets or everything:
        console.show('data sets', catalogue.datasets())
    if keys:
        console.show('keys', catalogue.keys())
    if models or everything:
        console.show('networks', catalogue.models(_backend(None, backend)))


@app.command()
def recipe(
    config: ConfigName = None,
    settings: Settings = None,
    devices: Annotated[int, typer.Option(min=1, help='devices that train')] = 1,
    batch_size: Annotated[Optional[int], typer.Option(min=1, help="images on each; by default the recipe's")] = None,
    json_file: Json = None,
) -> None:
    """A recipe on other devices than its publisher's: global batch, learning rate and steps against the published ones."""
    from twinseg.common import console
    from twinseg.common.training import rescale as fitting

    _writable(json_file)
    rows = fitting.ways(_config(config, settings, None), devices, batch_size)
    console.show(
        f'{config}: published, and on {devices} device{"s" * (devices > 1)}',
        [
            {key: f'{value:.4g}' if isinstance(value, float) else value for key, value in row.items() if key != 'settings'}
            for row in rows
        ],
    )
    for row in rows[1:]:
        console.show_facts({row['way']: fitting.command(row, str(config))})
    _write_json(json_file, {'rows': rows})


@app.command()
def ranks(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar='FILE | HOST...',
            help='a rank table to check, or its hosts, such as 10.0.0.1:0=192.168.100.101,1=192.168.101.101 (device=address)',
        ),
    ],
    out: Annotated[Path, typer.Option(metavar='FOLDER', help='for the table of the hosts')] = Path('.'),
) -> None:
    """Writes a rank table for Ascend devices, or checks one and prints the devices of every host, a line each."""
    from twinseg.common.parallel import rank_table

    if len(words) == 1 and '=' not in words[0]:
        print(*(','.join(map(str, devices)) for devices in rank_table.read(Path(words[0]))), sep='\n')
        return
    hosts = [rank_table.parse_host(word) for word in words]
    if len(dict(hosts)) < len(hosts):
        raise UserError('ranks: a host stands twice; give all of its devices at once')
    print(rank_table.write(out, dict(hosts)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar='RUN...', help='run folders')],
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('report.html'),
    pictures: Annotated[int, typer.Option(min=0, help='validation images shown')] = 4,
    device: Device = None,
) -> None:
    """One self-contained page for one or several runs: curves, classes, confusion matrix, pictures."""
    from twinseg.common.report import write_report

    print(write_report(runs, out, pictures=pictures, device=device))


@app.command()
def results(
    runs: Annotated[list[Path], typer.Argument(metavar='RUN...', help='run folders')],
    out: Annotated[Path, typer.Option(metavar='FILE')] = Path('docs/results.md'),
    add: Annotated[bool, typer.Option('--add', help='keep the rows that FILE has of other runs')] = False,
) -> None:
    """A table of run folders: data, recipe, time, hardware, scores and sizes, with the published scores beside them."""
    from twinseg.common.report.results_table import write_results

    print(write_results(runs, out, add))


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted, 75 preempted (SIGTERM)
    and ready to be resumed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in words
    warnings.showwarning = _show_warning
    try:
        return (
            app(
                _repeat_set([word for word in words if word != '--debug']) or ['--help'],
                prog_name='twinseg',
                standalone_mode=False,
            )
            or 0
        )
    except KeyboardInterrupt:
        return 130
    except Interrupted as error:
        print(f'twinseg: {error}', file=sys.stderr)
        return error.status
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One line on stderr; the exit status."""
    if isinstance(error, UserError):
        message, status = str(error), error.status
    elif hasattr(error, 'format_message'):  # typer's own: a wrong option or value
        context = getattr(error, 'ctx', None)
        message, status = f'{error.format_message()} (`{context.command_path if context else "twinseg"} --help`)', 2
    elif isinstance(error, BrokenPipeError):
        return 1
    elif isinstance(error, OSError):
        message, status = f'{f"{error.filename}: " if error.filename else ""}{error.strerror or error}', 2
    else:
        message, status = f'internal error: {type(error).__name__}: {error}; run again with --debug and report what it shows', 1
    from twinseg.common.parallel.processes import who

    print('twinseg: error: ' + who() + ' '.join(message.split()), file=sys.stderr)
    return status


def _repeat_set(words: list[str]) -> list[str]:
    """``--set a=1 b=2`` as ``--set a=1 --set b=2``."""
    expanded: list[str] = []
    inside = False
    for word in words:
        if inside and '=' in word and not word.startswith('-') and expanded[-1] != '--set':
            expanded.append('--set')
        inside = word == '--set' or inside and not word.startswith('-') and '=' in word
        expanded.append(word)
    return expanded


def _config(name: Optional[str], settings: Optional[list[str]], checkpoint: Optional[Path]) -> 'Config':
    """The configuration of a recipe, or the one that a checkpoint carries; with ``--set``."""
    from twinseg.common import config as configuration

    if name is not None:
        return configuration.load(name, settings or ())
    if checkpoint is None:
        raise UserError('give CONFIG: a recipe (`twinseg list --configs`) or a YAML file')
    from twinseg.common.inference.evaluate import stored_config

    return configuration.override(stored_config(checkpoint), settings or ())


def _config_for(facts: 'Facts', name: Optional[str], settings: Optional[list[str]]) -> 'Config':
    """The configuration of an exported file's evaluation: the data of a recipe, or of the set that the file names."""
    from twinseg.common import config as configuration

    return configuration.override(facts.configuration(None if name is None else configuration.load(name)), settings or ())


def _is_config(word: str) -> bool:
    from twinseg.common import config as configuration

    names = {name for path in configuration.recipes() for name in (path.stem, f'{path.parent.name}/{path.stem}')}
    return word.endswith(('.yaml', '.yml')) or word in names


def _backend(config: Optional['Config'], asked: Optional[str]) -> str:
    from twinseg.common.backend import available

    return asked or (config and config.runtime.backend) or next(iter(available()), 'pytorch')


def _size(text: Optional[str]) -> Optional[tuple[int, int]]:
    """``512x1024`` -> (512, 1024)."""
    if text is None:
        return None
    height, _, width = text.lower().partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f'--size {text!r}: expected height x width, such as 512x1024')
    return int(height), int(width)


def _writable(file: Optional[Path]) -> None:
    """Says before the work, not after it, that a file has no place to go."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f'{file}: there is no folder {file.parent}')


def _write_json(file: Optional[Path], values: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(values, indent=1, default=str) + '\n', encoding='utf-8')


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f'twinseg: warning: {" ".join(str(message).split())}', file=sys.stderr)
