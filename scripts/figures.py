"""The pictures of README.md and docs/:

    python scripts/figures.py masks RUN [--out FOLDER]
    python scripts/figures.py speed NAME.json... [--out FOLDER]
    python scripts/figures.py drawings [--out FOLDER]

``masks`` predicts one drawn street scene with the checkpoint of RUN, a run on toy_street, four times: in PyTorch, in
MindSpore, and, from the exported ONNX file, in ONNX Runtime and in the C++ program ``ascend310_infer`` on this host. It writes
``masks.png`` and, with the numbers of pixels that differ, ``masks.json``. ``speed`` takes what
``twinseg eval --checkpoint NAME --json NAME.json`` wrote of the weights that ship, and measures a prediction in each engine:
``speed.json``. ``drawings`` writes ``layers.svg``, from the import contract in pyproject.toml, ``data_flow.svg``, and from
``speed.json`` ``speed.svg``; it needs no framework.
"""

import argparse
import datetime
import html
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where import-linter brings it
    import tomli as tomllib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import twinseg
from twinseg.common.data.base import IGNORE, Description
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import UserError
from twinseg.common.files import write_text
from twinseg.common.images.drawing import INK, PAPER, colour_labels
from twinseg.common.inference.runs import stored_config
from twinseg.common.measure.environment import machine
from twinseg.common.report.results_table import recipe_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'docs' / 'figures'
SCENE = 0  # of the validation scenes
LARGEST = 300_000  # bytes of a picture in the repository
TITLE, GAP = 34, 10  # pixels
DIFFERENT = (220, 20, 20)  # colour of a pixel whose class differs
ENGINES = ('pytorch', 'mindspore', 'onnxruntime', 'openvino')
COLOURS = ('#c2410c', '#1d4ed8', '#15803d', '#7e22ce')  # one for each engine
ROUNDS = 5  # predictions in each engine, of which the median counts
SIZE = (360, 480)  # pixels of CamVid's images
VERSIONS = ('torch', 'mindspore', 'onnxruntime', 'openvino')
NODES = {  # data_flow.svg: what each step is and where it lives
    'configuration': 'common/config.py',
    'data set': 'common/data',
    'sampler': 'common/data',
    'transforms': 'common/data',
    'loader': 'each backend',
    'network': 'each backend',
    'loss': 'each backend',
    'metrics': 'common/metrics.py',
    'report': 'common/report',
}
FONT = 'font-family="sans-serif" text-anchor="middle" dominant-baseline="middle"'


class Panel(NamedTuple):
    """A picture with its title: RGB uint8 (H, W, 3)."""

    title: str
    pixels: np.ndarray


# --- masks ----------------------------------------------------------------------------------------------------------------


def masks(run: Path, out: Path) -> None:
    """Writes ``masks.png`` and ``masks.json``. UserError where the run is on other data or a step of the chain fails."""
    run = run.absolute()  # commands run in a folder of their own
    config = stored_config(run)
    if config.data.set != 'toy_street':
        raise UserError(f'{run}: was trained on {config.data.set}; the picture shows a scene of toy_street')
    dataset = open_dataset(config.data, 'val')
    image, truth = dataset.read(SCENE)
    palette = np.asarray(dataset.description.palette, np.uint8)
    models = {name: twinseg.load(run, backend=name) for name in ('pytorch', 'mindspore')}
    predicted = {name: model.predict(image).mask for name, model in models.items()}
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / 'net.onnx'
        height, width = image.shape[:2]
        size = ('--size', f'{height}x{width}', '--argmax')
        call([sys.executable, '-m', 'twinseg', 'export', '--checkpoint', str(run), *size, '--out', str(onnx)], folder)
        predicted['onnxruntime'] = twinseg.load(onnx).predict(image).mask
        predicted['ascend310_infer'] = chain(onnx, image, truth, dataset.description, config.model.arch, Path(folder))
    differ = {name: int((mask != predicted['pytorch']).sum()) for name, mask in predicted.items() if name != 'pytorch'}
    right = float((predicted['pytorch'] == truth)[truth != IGNORE].mean())
    record: dict[str, Any] = {
        'scene': SCENE,
        'pixels': truth.size,
        'differ_from_pytorch': differ,
        'right_of_pytorch': round(100 * right, 1),
        'recipe': recipe_of(config),
        'machine': platform.machine(),
        'versions': {name: metadata.version(name) for name in VERSIONS},
    }
    disagreement = np.repeat(128 + image.mean(2, keepdims=True).astype(np.uint8) // 2, 3, 2)  # the image, grey and pale
    any_differs = np.any([mask != predicted['pytorch'] for mask in predicted.values()], 0)
    disagreement[any_differs] = DIFFERENT
    panels = [
        Panel('image', image),
        Panel('truth', colour_labels(truth, palette)),
        Panel('PyTorch', colour_labels(predicted['pytorch'], palette)),
        Panel(f'MindSpore: {differ["mindspore"]:,} pixels differ', colour_labels(predicted['mindspore'], palette)),
        Panel(
            f'C++ for Ascend, on the host: {differ["ascend310_infer"]:,} differ',
            colour_labels(predicted['ascend310_infer'], palette),
        ),
        Panel(f'red: any of them differs ({int(any_differs.sum()):,} of {truth.size:,} pixels)', disagreement),
    ]
    out.mkdir(parents=True, exist_ok=True)
    grid(panels, 3).quantize(256, dither=Image.Dither.NONE).save(out / 'masks.png', optimize=True)
    write_text(out / 'masks.json', json.dumps(record, indent=1) + '\n')
    print(f'{out}/masks.png, masks.json: {differ} of {truth.size} pixels differ')


def chain(onnx: Path, image: np.ndarray, truth: np.ndarray, description: Description, arch: str, folder: Path) -> np.ndarray:
    """Class ids (H, W) of the scene, as a custom data set, from scripts/run_infer_310.sh with OpenVINO on this host."""
    for kind, pixels in (('images', image), ('labels', truth.astype(np.uint8))):
        (folder / kind / 'val').mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / 'val' / 'scene.png')
    keys = {'set': 'custom', 'image_dir': 'images/{split}', 'label_dir': 'labels/{split}', 'arch': arch}
    classes = {'classes': list(description.classes), 'palette': np.asarray(description.palette).tolist()}
    (folder / 'scene.yaml').write_text(json.dumps({**keys, **classes}))  # JSON is YAML
    words = ['bash', str(ROOT / 'scripts/run_infer_310.sh'), str(onnx), 'custom', str(folder)]
    call(words, str(folder), CONFIG='scene.yaml', ENGINE='openvino', DEVICE_TYPE='CPU', TWINSEG_PYTHON=sys.executable)
    (result,) = (folder / 'infer_310' / 'result_Files').glob('*_0.bin')
    return np.fromfile(result, np.int32).reshape(truth.shape).astype(np.uint8)


def call(words: Sequence[str], folder: str, **environment: str) -> None:
    """A program in a folder; UserError with the end of what it printed where it fails."""
    inherited = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
    done = subprocess.run(words, cwd=folder, env=inherited, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f'{" ".join(words[:4])} ended with status {done.returncode}: {(done.stdout + done.stderr)[-800:]}')


def grid(panels: Sequence[Panel], columns: int) -> Image.Image:
    """The panels, all of one size, in rows, each below its title."""
    height, width = panels[0].pixels.shape[:2]
    rows = -(-len(panels) // columns)
    page = Image.new('RGB', (columns * (width + GAP) + GAP, rows * (height + TITLE + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(21)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + TITLE + GAP)
        draw.text((left, top + TITLE // 2), panel.title, INK, font, 'lm')
        page.paste(Image.fromarray(panel.pixels), (left, top + TITLE))
    return page


# --- speed ----------------------------------------------------------------------------------------------------------------


def speed(evaluations: Sequence[Path], out: Path) -> None:
    """Writes ``speed.json``: mIoU, and the CPU time of a prediction in each engine. UserError for a file of something else."""
    scores = {path.stem: score_of(path) for path in evaluations}
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    commit = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    record = {
        'made_by': 'python scripts/figures.py speed',
        'date': datetime.date.today().isoformat(),
        'commit': commit,
        'processor': machine()['cpu'],
        'versions': {name: metadata.version(name) for name in VERSIONS},
        'images': f'{SIZE[0]}x{SIZE[1]}',
        'miou': {name: round(score, 2) for name, score in scores.items()},
        'cpu_milliseconds': {name: cpu_times(name, image) for name in scores},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / 'speed.json', json.dumps(record, indent=1) + '\n')
    print(f'{out}/speed.json')


def score_of(path: Path) -> float:
    """The mIoU that ``twinseg eval --json`` wrote."""
    try:
        return float(json.loads(path.read_text(encoding='utf-8'))['mIoU'])
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{path}: expected what `twinseg eval --checkpoint NAME --json NAME.json` writes') from None


def cpu_times(weights: str, image: np.ndarray) -> dict[str, float]:
    """CPU time in ms of a prediction from image to class ids, by engine: the median of ROUNDS, all engines in each round."""
    models = {
        name: twinseg.load(weights, backend=name, device='cpu')
        if name in ('pytorch', 'mindspore')
        else twinseg.load(weights, engine=name)
        for name in ENGINES
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):  # the first compiles
        for name, model in models.items():
            began = time.process_time()
            model.predict(image)
            if turn:
                times[name].append(1000 * (time.process_time() - began))
    return {name: round(float(np.median(values)), 1) for name, values in times.items()}


def speed_chart(record: dict[str, Any], width: int = 760, height: int = 400) -> str:
    """mIoU over the CPU time of a prediction, on a logarithmic axis: a row of points a network, a colour an engine."""
    left, right, top, bottom = 60, 20, 20, 84
    times = [value for one in record['cpu_milliseconds'].values() for value in one.values()]
    low, high = (math.log2(value) for value in (min(times) / 1.2, max(times) * 1.2))
    lowest, highest = math.floor(min(record['miou'].values()) - 1), math.ceil(max(record['miou'].values()) + 1)

    def across(milliseconds: float) -> float:
        return left + (math.log2(milliseconds) - low) / (high - low) * (width - left - right)

    def up(score: float) -> float:
        return height - bottom - (score - lowest) / (highest - lowest) * (height - top - bottom)

    def text(x: float, y: float, words: str, more: str = 'text-anchor="middle"', colour: str = '#4c5661') -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="13" fill="{colour}" {more}>{words}</text>'

    parts = []
    for score in range(lowest, highest + 1, 2):
        y = up(score)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#dfe3e7"/>')
        parts.append(text(left - 8, y + 4, str(score), 'text-anchor="end"'))
    for power in range(math.ceil(low), math.floor(high) + 1):
        parts.append(text(across(2**power), height - bottom + 20, str(2**power)))
    parts.append(text((left + width - right) / 2, height - bottom + 42, 'CPU time of one prediction, ms (one thread)'))
    middle = (top + height - bottom) / 2
    parts.append(text(16, middle, 'mIoU, %', f'text-anchor="middle" transform="rotate(-90 16 {middle:.1f})"'))
    for name, score in record['miou'].items():
        measured = record['cpu_milliseconds'][name]
        xs, y = [across(measured[engine]) for engine in ENGINES], up(score)
        parts.append(f'<path d="M{min(xs):.1f} {y:.1f}H{max(xs):.1f}" stroke="#b8c0c8"/>')
        for engine, colour, x in zip(ENGINES, COLOURS, xs):
            title = f'<title>{name}, {engine}: {measured[engine]} ms, {score} mIoU</title>'
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}">{title}</circle>')
        parts.append(text((min(xs) + max(xs)) / 2, y - 14, f'{name}: {score:.2f}', colour='#111'))
    for index, (engine, colour) in enumerate(zip(ENGINES, COLOURS)):
        x = left + 40 + index * (width - left - right) / len(ENGINES)
        parts.append(f'<circle cx="{x:.1f}" cy="{height - 18}" r="6" fill="{colour}"/>')
        parts.append(text(x + 12, height - 13, engine, 'text-anchor="start"'))
    return svg('Accuracy on CamVid against the time of a prediction, by engine', width, height, parts)


# --- drawings -------------------------------------------------------------------------------------------------------------


def drawings() -> dict[str, str]:
    """The SVG drawings by file name; the same text on every machine."""
    measured = json.loads((FOLDER / 'speed.json').read_text(encoding='utf-8'))
    return {'layers.svg': layers(floors()), 'data_flow.svg': data_flow(), 'speed.svg': speed_chart(measured)}


def floors() -> list[list[str]]:
    """The rooms of ``common/`` by floor, the highest first, as pyproject.toml's import contract has them."""
    contracts = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['importlinter']['contracts']
    (contract,) = (one for one in contracts if one['type'] == 'layers')
    return [[room.strip(' ()') for room in layer.split('|')] for layer in contract['layers']]


def layers(rooms: Sequence[Sequence[str]], width: int = 760, height: int = 34) -> str:
    """The floors as rows of boxes: both implementations on top, the shared core below them."""
    rows = [['pytorch_impl', 'mindspore_impl'], *rooms]
    parts = []
    for number, row in enumerate(rows):
        side = (width - GAP) / len(row)
        for column, name in enumerate(row):
            fill = '#dbe7f6' if number == 0 else '#eef0f2'
            parts += box(GAP + column * side, GAP + number * (height + 6), side - GAP, height, [name], fill)
    return svg('Rooms of common/ by floor; a room imports lower floors only', width, len(rows) * (height + 6) + GAP, parts)


def data_flow(side: int = 128, height: int = 56) -> str:
    """The steps from the configuration to the report, in two rows, with arrows."""
    names, step = list(NODES), side + 26
    columns = -(-len(names) // 2)
    parts = []
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        left, top = GAP + column * step, GAP + row * (height + 40)
        fill = '#dbe7f6' if NODES[name] == 'each backend' else '#eef0f2'
        parts += box(left, top, side, height, [name, NODES[name]], fill)
        middle = top + height / 2
        if column + 1 < columns and index + 1 < len(names):
            parts.append(arrow(f'M{left + side} {middle}H{left + side + 20}'))
        elif index + 1 < len(names):
            turn = top + height + 20
            parts.append(arrow(f'M{left + side / 2} {top + height}V{turn}H{GAP + side / 2}V{top + height + 34}'))
    return svg('Data flows one way, from the configuration to the report', columns * step - 6, 2 * (height + 40) - 20, parts)


def box(left: float, top: float, width: float, height: float, lines: Sequence[str], fill: str) -> list[str]:
    """A rectangle with centred lines of text, the first in black, the others smaller."""
    x, y = left + width / 2, top + height / 2
    shape = f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="5" fill="{fill}" stroke="#7a8794"/>'
    first = y - 9 * (len(lines) - 1)
    texts = []
    for index, text in enumerate(lines):
        size, colour = (12, '#4c5661') if index else (14, '#111')
        where = f'x="{x:.1f}" y="{first + 18 * index:.1f}" font-size="{size}" fill="{colour}"'
        texts.append(f'<text {where} {FONT}>{html.escape(text)}</text>')
    return [shape, *texts]


def arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#7a8794" stroke-width="1.5" marker-end="url(#head)"/>'


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A drawing on white, so that it can be read on a light and on a dark page."""
    tip = '<path d="M0 0L6 3L0 6z" fill="#7a8794"/>'
    head = f'<marker id="head" markerWidth="8" markerHeight="8" refX="5" refY="3" orient="auto">{tip}</marker>'
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f'<title>{html.escape(title)}</title>',
            f'<defs>{head}</defs>',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
            *parts,
            '</svg>\n',
        ]
    )


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog='figures.py', description='Makes the pictures of README.md and docs/.')
    kinds = parser.add_subparsers(dest='kind', required=True)
    of_run = kinds.add_parser('masks', help='predictions of a run on toy_street: masks.png, masks.json')
    of_run.add_argument('run', type=Path, help='folder of the run')
    of_weights = kinds.add_parser('speed', help='scores and times of weights that ship: speed.json')
    of_weights.add_argument('scores', type=Path, nargs='+', metavar='NAME.json', help='what twinseg eval --json wrote of NAME')
    of_files = kinds.add_parser('drawings', help='layers.svg, data_flow.svg, speed.svg')
    for kind in (of_run, of_weights, of_files):
        kind.add_argument('--out', type=Path, default=FOLDER, help='where to write (docs/figures)')
    arguments = parser.parse_args(words)
    try:
        if arguments.kind == 'masks':
            masks(arguments.run, arguments.out)
        elif arguments.kind == 'speed':
            speed(arguments.scores, arguments.out)
        else:
            arguments.out.mkdir(parents=True, exist_ok=True)
            for name, text in drawings().items():
                write_text(arguments.out / name, text)
                print(arguments.out / name)
    except (UserError, OSError) as error:
        print(f'figures.py: error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
