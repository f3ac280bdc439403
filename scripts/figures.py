"""The pictures of README.md and docs/:

    python scripts/figures.py masks RUN [--out FOLDER]
    python scripts/figures.py drawings [--out FOLDER]

``masks`` predicts one drawn street scene with the checkpoint of RUN, a run of fast_scnn_toy_street, four times: in PyTorch, in
MindSpore, and, from the exported ONNX file, in ONNX Runtime and in the C++ program ``ascend310_infer`` on this host. It writes
``masks.png`` and, with the numbers of pixels that differ, ``masks.json``. ``drawings`` writes ``layers.svg``, from the import
contract in pyproject.toml, and ``data_flow.svg``; it needs no framework.
"""

import argparse
import html
import json
import os
import platform
import subprocess
import sys
import tempfile
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
from twinseg.common import config as configuration
from twinseg.common.data.base import IGNORE, Description
from twinseg.common.data.open import open_dataset
from twinseg.common.drawing import INK, PAPER, colour_labels
from twinseg.common.errors import UserError
from twinseg.common.files import write_text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'docs' / 'figures'
RECIPE = 'fastscnn/fast_scnn_toy_street'
SCENE = 0  # of the validation scenes
LARGEST = 300_000  # bytes of a picture in the repository
TITLE, GAP = 34, 10  # pixels
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
    """Writes ``masks.png`` and ``masks.json``. UserError where the run is of another recipe or a step of the chain fails."""
    config = configuration.load(RECIPE)
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
        predicted['ascend310_infer'] = chain(onnx, image, truth, dataset.description, Path(folder))
    differ = {name: int((mask != predicted['pytorch']).sum()) for name, mask in predicted.items() if name != 'pytorch'}
    right = float((predicted['pytorch'] == truth)[truth != IGNORE].mean())
    record: dict[str, Any] = {
        'scene': SCENE,
        'pixels': truth.size,
        'differ_from_pytorch': differ,
        'right_of_pytorch': round(100 * right, 1),
        'recipe': RECIPE,
        'machine': platform.machine(),
        'versions': {name: metadata.version(name) for name in VERSIONS},
    }
    disagreement = np.zeros_like(image)
    for mask in predicted.values():
        disagreement[mask != predicted['pytorch']] = 255
    panels = [
        Panel('image', image),
        Panel('truth', colour_labels(truth, palette)),
        Panel('PyTorch', colour_labels(predicted['pytorch'], palette)),
        Panel(f'MindSpore: {differ["mindspore"]:,} pixels differ', colour_labels(predicted['mindspore'], palette)),
        Panel(
            f'C++ for Ascend, on the host: {differ["ascend310_infer"]:,} differ',
            colour_labels(predicted['ascend310_infer'], palette),
        ),
        Panel(f'where any differs, of {truth.size:,} pixels', disagreement),
    ]
    out.mkdir(parents=True, exist_ok=True)
    grid(panels, 3).quantize(256, dither=Image.Dither.NONE).save(out / 'masks.png', optimize=True)
    write_text(out / 'masks.json', json.dumps(record, indent=1) + '\n')
    print(f'{out}/masks.png, masks.json: {differ} of {truth.size} pixels differ')


def chain(onnx: Path, image: np.ndarray, truth: np.ndarray, description: Description, folder: Path) -> np.ndarray:
    """Class ids (H, W) of the scene, as a custom data set, from scripts/run_infer_310.sh with OpenVINO on this host."""
    for kind, pixels in (('images', image), ('labels', truth.astype(np.uint8))):
        (folder / kind / 'val').mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / 'val' / 'scene.png')
    keys = {'set': 'custom', 'image_dir': 'images/{split}', 'label_dir': 'labels/{split}', 'arch': 'fast_scnn'}
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


# --- drawings -------------------------------------------------------------------------------------------------------------


def drawings() -> dict[str, str]:
    """The SVG drawings by file name; the same text on every machine."""
    return {'layers.svg': layers(floors()), 'data_flow.svg': data_flow()}


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
    of_run = kinds.add_parser('masks', help='predictions of a run of fast_scnn_toy_street: masks.png, masks.json')
    of_run.add_argument('run', type=Path, help='folder of the run')
    of_contract = kinds.add_parser('drawings', help='layers.svg, data_flow.svg')
    for kind in (of_run, of_contract):
        kind.add_argument('--out', type=Path, default=FOLDER, help='where to write (docs/figures)')
    arguments = parser.parse_args(words)
    try:
        if arguments.kind == 'masks':
            masks(arguments.run, arguments.out)
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
