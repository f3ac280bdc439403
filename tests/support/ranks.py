"""What each process of a group runs for test_distributed.py, and how a group is started.

As a program: python -m tests.support.ranks BACKEND FOLDER CASE...; every case leaves the trainer's state in FOLDER, by
case, number of processes and rank.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.tiny import CLASSES, batch, tiny_classifier, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend
from twinseg.common.data.mixing import Mixing, is_active
from twinseg.common.data.sampling import rank_positions

ROOT = Path(__file__).parents[2]
BATCH = 4  # global
AUGMENTED = {'set': 'image_folder', 'mix_up': 0.8, 'cutmix': 1.0, 'mixup_mode': 'elem'}
CASES = {  # name -> steps, keys
    'twenty_steps': (20, {'with_ema': True, 'weight_decay': 1e-3}),
    'accumulation': (
        3,
        {
            'accumulation_step': 2,
            'class_weight': [1.0, 2.0, 0.5, 1.0, 3.0],
            'clip_global_norm': True,
            'clip_global_norm_value': 0.1,
        },
    ),
    'ohem': (2, {'loss': 'ohem', 'ohem_min_kept': 300, 'ohem_thresh': 0.1}),
    'ohem_easy': (2, {'loss': 'ohem', 'ohem_min_kept': 5000}),
    'ohem_pixel_sampler': (2, {'loss': 'ohem_pixel_sampler', 'ohem_min_kept': 90, 'ohem_thresh': 0.1}),
    'stdc_ohem': (2, {'loss': 'stdc_ohem', 'ohem_min_kept': 300}),
    'stdc_ohem_largest': (2, {'loss': 'stdc_ohem', 'ohem_min_kept': 900, 'ohem_thresh': 0.01}),
    'ohem_accumulated': (2, {'loss': 'ohem', 'ohem_min_kept': 300, 'ohem_thresh': 0.1, 'accumulation_step': 2}),
    'lovasz': (2, {'loss': {'lovasz': 1.0, 'focal': 0.5}, 'class_weight': [1.0, 2.0, 0.5, 1.0, 3.0]}),
    'mixed': (3, AUGMENTED),
    'compiled': (3, {}),
}
UNEQUAL = {'own_norms': (3, {'sync_bn': False, 'with_ema': True})}  # not what one process with all would do


def command(backend_name: str, size: int, logs: Path, *words: str) -> list[str]:
    """``python WORDS`` in ``size`` processes by the backend's own launcher."""
    if size == 1:
        return [sys.executable, *words]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    if backend_name == 'pytorch':
        return [sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={size}', f'--master_port={port}', *words]
    return [
        str(Path(sys.executable).parent / 'msrun'),
        f'--worker_num={size}',
        f'--local_worker_num={size}',
        f'--master_port={port}',
        f'--log_dir={logs}',
        '--join=True',
        'python',
        *words,
    ]


def environment(**more: str) -> dict[str, str]:
    """The tests' own, for a process in any folder; msrun takes the first ``python`` of the PATH."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **more}


def start(backend_name: str, size: int, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs a group to its end."""
    return subprocess.run(
        command(backend_name, size, folder / 'msrun', *words),
        cwd=folder,
        env=environment(),
        timeout=400,
        capture_output=True,
        text=True,
    )


def train(backend, case: str) -> dict[str, np.ndarray]:
    """The state after the steps of a case, each process on its part of the batches, and the losses of the steps."""
    steps, keys = {**CASES, **UNEQUAL}[case]
    compiled = steps == 20 or case == 'compiled'
    mode = {'torch_compile': case == 'compiled'} if backend.name == 'pytorch' else {'graph_mode': int(not compiled)}
    settings = config.from_flat({**keys, **mode})
    classifies = settings.task == 'classification'
    network = tiny_classifier(backend.name, 0.4) if classifies else tiny_network(backend.name, dropout=0.5)
    trainer, group = backend.make_trainer(network, settings), backend.group()
    positions = rank_positions(BATCH // group.size, group.rank, group.size)
    mixing = Mixing(settings.augment, CLASSES, 0.1, 0, group.rank, group.size) if is_active(settings.augment) else None
    losses = []
    for step in range(steps):
        batches = []
        for part in range(settings.optimizer.accumulation_step):
            images, labels = batch(100 * step + part, BATCH)
            images, labels = images[positions], labels[positions, 0, 0] % CLASSES if mixing else labels[positions]
            batches.append(mixing(images, labels, step, 0.0) if mixing else (images, labels))
        losses.append(trainer.step(batches, 0.1)['loss'])
    return {**trainer.state()[0], 'losses': np.array(losses)}


def main() -> None:
    name, folder, *cases = sys.argv[1:]
    backend = get_backend(name)
    backend.setup('cpu', threads=1)
    group = backend.group()
    for case in cases:
        np.savez(Path(folder) / f'{case}_{group.size}_{group.rank}.npz', **train(backend, case))


if __name__ == '__main__':
    main()
