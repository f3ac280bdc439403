#!/usr/bin/env python
"""Exports every network in every way and writes, as a Markdown table, how far each file is from the network it came from.

python scripts/compare_exports.py [ARCH...] [--out FILE.md]     (by default docs/exports.md, all networks; half an hour)

Networks have their default arguments and random weights, norms and biases.
"""

import argparse
import sys
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from twinseg.common.backend import get_backend
from twinseg.common.deploy.export import FileSpecification, export_network
from twinseg.common.deploy.verify import NUDGE, TOLERANCE, Reference
from twinseg.common.errors import UserError
from twinseg.common.measure.environment import machine

SIZE = (64, 96)  # size of the images
TASKS = 6  # networks of a process, which MindSpore's memory outgrows
ENGINES = {
    ('pytorch', 'onnx'): ('onnxruntime', 'openvino'),
    ('mindspore', 'onnx'): ('onnxruntime', 'openvino'),
    ('mindspore', 'mindir'): ('mindspore',),
}  # writer and format -> engines that run the file
TITLES = {'pytorch': 'PyTorch', 'mindspore': 'MindSpore', 'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO'}
PACKAGES = ('torch', 'mindspore', 'onnx', 'onnxruntime', 'openvino')


def row(arch: str) -> dict[str, str]:
    """A row of the table: for every file and engine the largest difference, relative to the largest logit, or an error."""
    twins: dict[str, Any] = {}
    state: dict[str, np.ndarray] = {}
    for name in ('pytorch', 'mindspore'):
        backend = get_backend(name)
        backend.setup('cpu', threads=1)
        twins[name] = backend.build_model(arch, auxiliary=False)
        state = state or random_state(backend.state(twins[name]))
        backend.load_state(twins[name], state)
    references = {
        name: remembering(lambda images, name=name: get_backend(name).forward(twins[name], images)['logits']) for name in twins
    }
    images = np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32)
    ours, theirs = (run(images) for run in references.values())
    cells = {'network': f'`{arch}`', 'MindSpore to PyTorch': f'{np.abs(ours - theirs).max() / np.abs(ours).max():.1e}'}
    with TemporaryDirectory() as folder:
        for (name, format), engines in ENGINES.items():
            try:
                path = Path(folder, f'{name}.{format}')
                file = export_network(get_backend(name), twins[name], path, FileSpecification((1, 3, *SIZE)), references[name])
                mark = '*' if file.tolerance > TOLERANCE else ''
                texts = {engine: f'{file.differences[engine]:.1e}{mark}' for engine in engines}
            except UserError as error:
                texts = dict.fromkeys(engines, f'failed: {error}')
            cells |= {f'{format.upper()} of {TITLES[name]}, by {TITLES[engine]}': texts[engine] for engine in engines}
    return cells


def remembering(run: Reference) -> Reference:
    """The same function, which computes nothing twice: exports are compared on the same images."""
    known: dict[bytes, np.ndarray] = {}

    def call(images: np.ndarray) -> np.ndarray:
        key = images.tobytes()
        if key not in known:
            known[key] = run(images)
        return known[key]

    return call


def random_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state with random norms and biases, too, instead of the neutral ones that a network starts with."""
    rng = np.random.default_rng(0)
    return {
        name: array
        if array.ndim > 1
        else rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        if name.endswith('running_var')
        else array + 0.3 * rng.standard_normal(array.shape, np.float32)
        for name, array in state.items()
    }


def write(out: Path, rows: list[dict[str, str]], archs: list[str]) -> None:
    """The table as Markdown, with its conditions; ``archs`` is empty for all networks."""
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(list(cells.values()) for cells in rows)]
    table = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    out.write_text(
        f"""# Exported files against their networks

Written by `{' '.join(['python scripts/compare_exports.py', *archs])}`: the largest difference between a file's
logits and its network's, of the network's largest logit. `twinseg export` hands out no file above {TOLERANCE:.0e}. Random
weights, norms and biases, images of {SIZE[0]}x{SIZE[1]}, float32, {machine()['cpu']};
{', '.join(f'{name} {version(name)}' for name in PACKAGES)}.

{table}
A star: the network unpools, and itself moves by at least half as much when its images change by {NUDGE:.0e}.
""",
        encoding='utf-8',
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('archs', nargs='*', metavar='ARCH')
    parser.add_argument('--out', type=Path, default=Path('docs/exports.md'), metavar='FILE.md')
    words = parser.parse_args()
    archs = words.archs or list(get_backend('pytorch').MODELS)
    rows: list[dict[str, str]] = []
    with get_context('spawn').Pool(1, maxtasksperchild=TASKS) as pool:
        for cells in pool.imap(row, archs):
            rows.append(cells)
            print(*cells.values(), file=sys.stderr, flush=True)
            write(words.out, rows, words.archs if len(rows) == len(archs) else archs[: len(rows)])
    return int(any(cell.startswith('failed: ') for cells in rows for cell in cells.values()))


if __name__ == '__main__':
    sys.exit(main())
