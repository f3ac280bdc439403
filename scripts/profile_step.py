#!/usr/bin/env python
"""What a training step consists of: CPU milliseconds by kind of operator, in this tree and, with --against, in a commit.

python scripts/profile_step.py [--steps 3] [--size 512x1024] [--against COMMIT] [--write docs/step_profile.md]

Fast-SCNN, STDC1 and DDRNet-23-slim by their recipes, in PyTorch with one thread, two images; the median of some steps after the
first. Both trees take turns, one process a network and turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from datetime import date
from pathlib import Path

from benchmark_peers import checked_out, commit
from benchmark_works import DDRNET, FAST_SCNN, STDC1, keep_freed_memory, step

from twinseg.common.cli.options import parse_size
from twinseg.common.errors import UserError
from twinseg.common.measure.environment import machine, versions

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {
    'Fast-SCNN': FAST_SCNN,
    'STDC1': STDC1,
    'DDRNet-23-slim': DDRNET,
}
KINDS = {  # row -> what the names of its operators contain; the first that fits
    'loss and resize in strips': ('_CrossEntropy', '_WeightedSum', '_WeightedSoftmax', 'Strips'),
    'convolutions, forward': ('mkldnn_convolution', 'slow_conv2d_forward', 'thnn_conv2d', 'conv_depthwise'),
    'convolutions, backward': ('convolution_backward', 'slow_conv2d_backward'),
    'batch norm': ('batch_norm',),
    'activations and pooling': ('relu', 'threshold', 'clamp_min', 'sigmoid', 'pool', 'dropout'),
    'resize': ('upsample',),
    'loss': ('nll_loss', 'log_softmax', 'binary_cross_entropy', 'sort', 'topk', 'gather', 'index'),
    'optimizer': ('_foreach', '_fused'),
}
REST = 'the rest: additions, concatenations, copies'


def measure(recipe: str, size: tuple[int, int], steps: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operator, each without the operators that it calls."""
    from torch.profiler import ProfilerActivity, profile

    keep_freed_memory()
    work = step(recipe, size=size)()
    work()
    each: list[dict[str, float]] = []
    for _ in range(steps):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        spent: dict[str, float] = defaultdict(float)
        for event in profiler.key_averages():
            spent[kind_of(event.key)] += event.self_cpu_time_total / 1000
        each.append(spent)
    return {kind: statistics.median(spent.get(kind, 0) for spent in each) for kind in (*KINDS, REST)}


def kind_of(operator: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), REST)


def measured_in(tree: Path, network: str, size: str, steps: int) -> dict[str, float]:
    """The same in a process with the package of a tree."""
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
    command = [sys.executable, str(Path(__file__).resolve()), '--network', network, '--size', size, '--steps', str(steps)]
    environment = {**os.environ, **threads, 'PYTHONPATH': str(tree)}
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'profile_step.py: {network} in {tree}: {done.stderr.strip().splitlines()[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def table(network: str, columns: dict[str, dict[str, float]]) -> list[str]:
    """Lines of Markdown: a row for each kind, a column for each tree."""
    lines = [f'## {network}', '', f'| ms | {" | ".join(columns)} |', f'|---|{"---|" * len(columns)}']
    for kind in (*KINDS, REST):
        values = [column[kind] for column in columns.values()]
        if max(values) >= 0.5:
            lines.append(f'| {kind} | {" | ".join(f"{value:.0f}" for value in values)} |')
    sums = [sum(column.values()) for column in columns.values()]
    return [*lines, f'| **sum** | {" | ".join(f"**{value:.0f}**" for value in sums)} |', '']


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--size', default='512x1024', metavar='HxW')
    parser.add_argument('--against', metavar='COMMIT')
    parser.add_argument('--write', type=Path, metavar='FILE')
    parser.add_argument('--network', choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        height, width = parse_size(options.size)
    except UserError as error:
        parser.error(str(error))
    if options.network:
        print(json.dumps(measure(NETWORKS[options.network], (height, width), options.steps)))
        return 0
    trees, lines = {commit(): ROOT}, []
    with ExitStack() as stack:
        if options.against:
            trees = {options.against: stack.enter_context(checked_out(options.against)), **trees}
        for network in NETWORKS:
            columns = {name: measured_in(tree, network, options.size, options.steps) for name, tree in trees.items()}
            lines += table(network, columns)
            print('\n'.join(lines[-len(KINDS) - 6 :]), flush=True)
    if options.write:
        facts = ', '.join(f'{name} {value}' for name, value in versions().items())
        head = [
            '# What a training step consists of',
            '',
            f'`python scripts/profile_step.py --size {options.size}`: two images of {height}x{width}, PyTorch on one thread,',
            f'float32; milliseconds of the operators themselves. {date.today()}, {machine()["cpu"]}; {facts}.',
            '',
        ]
        options.write.write_text('\n'.join([*head, *lines]), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
