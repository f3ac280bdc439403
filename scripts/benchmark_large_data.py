#!/usr/bin/env python
"""What a data set of many samples costs before a network sees one: opening it, the order of an epoch, a loader's process.

python scripts/benchmark_large_data.py [--samples 1000000] [--set custom|image_folder] [--folder FOLDER]

Makes that many empty files in FOLDER (by default a temporary one), pairs of images and labels or images in a thousand classes,
and prints seconds of CPU time and megabytes. No image is read.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twinseg.common import config
from twinseg.common.data.open import open_dataset
from twinseg.common.data.samples import TrainSamples
from twinseg.common.data.sampling import training_batches
from twinseg.common.host.memory import peak_memory, reset_peak_memory

IN_A_FOLDER = 1000  # files
BATCH = 16
FORMS = {
    'custom': ('images/{split}/{folder:04d}/{name:07d}.jpg', 'labels/{split}/{folder:04d}/{name:07d}.png'),
    'image_folder': ('{split}/{folder:04d}/{name:07d}.jpg',),
}


def make(root: Path, kind: str, samples: int) -> None:
    """Empty files: ``samples`` of the training split, one of validation for each of its folders."""
    for split, every in (('train', 1), ('val', IN_A_FOLDER)):
        for name in range(0, samples, every):
            for form in FORMS[kind]:
                path = root / form.format(split=split, folder=name // IN_A_FOLDER, name=name)
                if name % IN_A_FOLDER == 0:
                    path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def settings(root: Path, kind: str) -> config.Config:
    keys: dict[str, Any] = {'set': kind, 'data_url': str(root)}
    if kind == 'custom':
        keys |= {'image_dir': 'images/{split}', 'label_dir': 'labels/{split}', 'classes': ['ground', 'thing']}
    return config.from_flat(keys)


def private() -> float:
    """Megabytes of memory that this process shares with no other."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(('Private_Dirty', 'Private_Clean'))) / 1024


def growth_of_a_worker(samples: Any) -> float:
    """Megabytes that a process which was forked takes for itself when it has looked at every sample."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        gc.freeze()
        before = private()
        for index in range(len(samples)):
            samples[index]
        os.write(writer, f'{private() - before:.0f}'.encode())
        os._exit(0)
    os.wait()
    return float(os.read(reader, 100))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--samples', type=int, default=1_000_000)
    parser.add_argument('--set', choices=FORMS, default='custom')
    parser.add_argument('--folder', type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        make(root, options.set, options.samples)
        data = settings(root, options.set)
        before, began = _resident(), time.process_time()
        reset_peak_memory()
        dataset = open_dataset(data.data, 'train')
        seconds, peak = time.process_time() - began, peak_memory() - before
        gc.collect()
        print(f'| opening {len(dataset)} samples | {seconds:.2f} s, {_resident() - before:.0f} MB, {peak:.0f} MB at its peak |')
        for title, start in (('order of an epoch, and its first batch', 0), ('the same at the millionth step', 10**6)):
            began = time.process_time()
            next(training_batches(len(dataset), BATCH, 0, start))
            print(f'| {title} | {1000 * (time.process_time() - began):.1f} ms |')
        samples, began = TrainSamples(dataset, data.augment, 0), time.process_time()
        for _ in range(100):
            len(samples.broken)
        print(f'| looking for broken samples after a step | {10 * (time.process_time() - began):.3f} ms |')
        print(f'| what a loader process takes for itself after an epoch | {growth_of_a_worker(dataset.samples):.0f} MB |')
    return 0


def _resident() -> float:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / (1 << 20)


if __name__ == '__main__':
    sys.exit(main())
