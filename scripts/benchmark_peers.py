#!/usr/bin/env python
"""What users wait for, beside what else does it or beside another commit: CPU time in turns, as ratios with their spread.

python scripts/benchmark_peers.py [WORK...] [--rounds 7] [--peers FOLDER] [--tramac FOLDER] [--write docs/speed.md]
python scripts/benchmark_peers.py --against COMMIT [WORK...] [--slower 1.15]

Every side is a process of its own with one thread, on one core: MindSpore starts one thread more than it is told. The two take
turns, so that other work on the machine slows both, and a ratio is taken within a round. The peers are installed into FOLDER
(by default in the cache folder) by pip, the first time, and are seen by their side alone; Tramac/Fast-SCNN-pytorch is no
package, so --tramac names a checkout of it. A work whose peer cannot be installed or imported is left out with the reason. With
``--against`` both sides are this suite, the other one from COMMIT, and the exit status is 1 where a work takes more than
``--slower`` times as long.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Optional

from benchmark_works import BATCH, ROWS, STEP_SIZE, TWIN, Work, keep_freed_memory, open_torchvision

ROOT = Path(__file__).resolve().parent.parent
PEERS = (  # and what they need beside the suite's PyTorch, NumPy and Pillow; mmcv-lite is mmcv without compiled operators
    *('timm', 'torchmetrics', 'lightning-utilities', 'mmsegmentation==1.2.2', 'mmengine', 'mmcv-lite<2.2'),
    *('addict', 'ftfy', 'matplotlib', 'prettytable', 'regex', 'termcolor', 'wcwidth', 'yapf'),
    *('contourpy', 'cycler', 'fonttools', 'kiwisolver', 'pyparsing'),
)


def spent() -> float:
    """Seconds of CPU time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def serve(side: str) -> None:
    """Does the works whose names come on stdin, and answers each with a line: its seconds, or why it cannot be done."""
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import cv2

    cv2.setNumThreads(1)
    if side == 'theirs':
        with redirect_stdout(sys.stderr), suppress(ImportError):
            open_torchvision()
    works: dict[str, Work] = {}
    for line in sys.stdin:
        name, answer = line.strip(), {}
        try:
            with redirect_stdout(sys.stderr):
                if side == 'ours' or ROWS[name].peer == TWIN:
                    keep_freed_memory()
                if name not in works:
                    ready = ROWS[name].ours if side == 'ours' else ROWS[name].theirs
                    assert ready is not None
                    works[name] = ready()
                    works[name]()
                began = spent()
                works[name]()
                answer = {'seconds': spent() - began}
        except Exception as error:  # a peer may fail in any way
            answer = {'error': f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'}
        print(json.dumps(answer), flush=True)


class Side:
    """A process that does works when it is asked."""

    def __init__(self, side: str, tree: Path, folder: Path, more: tuple[Path, ...] = ()):
        threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
        path = os.pathsep.join(map(str, (tree, *more)))
        environment = {**os.environ, **threads, 'PYTHONPATH': path, 'WORK_FOLDER': str(folder)}
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), '--side', side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            cwd=folder,
            text=True,
        )

    def seconds(self, work: str) -> float:
        """CPU time of a work; RuntimeError says why it cannot be done."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(work + '\n')
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        answer = json.loads(line or '{"error": "the process ended"}')
        if 'error' in answer:
            raise RuntimeError(answer['error'])
        return answer['seconds']

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def compare(name: str, ours: Side, theirs: Side, rounds: int) -> tuple[float, float, list[float]]:
    """Median seconds of both sides, and the ratio of theirs to ours in each round, sorted."""
    pairs = [(ours.seconds(name), theirs.seconds(name)) for _ in range(rounds)]
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
        sorted(other / mine for mine, other in pairs),
    )


def install(folder: Path) -> None:
    """Installs the peers into a folder, the first time."""
    minor = metadata.version('torch').split('.')[1]
    packages = [*PEERS, f'torchvision==0.{int(minor) + 15}.*']  # that of PyTorch 2.x is 0.(x + 15)
    done = folder / 'installed'
    if not done.is_file() or done.read_text() != '\n'.join(packages):
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--upgrade', '--no-deps', '--target', str(folder)]
        if subprocess.run([*command, *packages]).returncode == 0:
            done.write_text('\n'.join(packages))


def commit() -> str:
    """The commit of this tree, and whether files have changed since."""
    git = ['git', '-C', str(ROOT)]
    name = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True).stdout.strip()
    return name + (' with changes' if changed else '')


@contextmanager
def checked_out(name: str) -> Iterator[Path]:
    """The files of a commit, in a temporary folder; SystemExit where there is no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree, git = Path(folder) / 'tree', ['git', '-C', str(ROOT), 'worktree']
        added = subprocess.run([*git, 'add', '--quiet', '--detach', str(tree), name], capture_output=True, text=True)
        if added.returncode:
            print(f'--against {name}: {added.stderr.strip()}', file=sys.stderr)
            raise SystemExit(2)
        try:
            yield tree
        finally:
            subprocess.run([*git, 'remove', '--force', str(tree)], check=True)


def table(names: list[str], ours: Side, theirs: Side, rounds: int, peer: Optional[str]) -> tuple[list[str], dict[str, float]]:
    """Lines of Markdown, printed as they come, and the median ratio of each work."""
    head = f'| work | beside | TwinSeg, ms | {"the other" if peer is None else peer}, ms | ratio (least to most) |'
    lines, ratios = [head, '|---|---|---|---|---|'], {}
    print('\n'.join(lines), flush=True)
    for name in names:
        beside = ROWS[name].peer if peer is None else peer
        try:
            mine, other, every = compare(name, ours, theirs, rounds)
            ratios[name] = statistics.median(every)
            spread = f'**{ratios[name]:.2f}** ({every[0]:.2f} to {every[-1]:.2f})'
            lines.append(f'| {ROWS[name].title} | {beside} | {1000 * mine:.1f} | {1000 * other:.1f} | {spread} |')
        except RuntimeError as error:
            lines.append(f'| {ROWS[name].title} | {beside} | | | not measured: {error} |'.replace('\n', ' '))
        print(lines[-1], flush=True)
    return lines, ratios


def page(lines: list[str], rounds: int, measured: str) -> str:
    """docs/speed.md; ``measured``: the commit."""
    from twinseg.common.measure.environment import machine, versions

    facts = ', '.join(f'{name} {value}' for name, value in versions().items())
    return '\n'.join(
        [
            '# Speed',
            '',
            'What users wait for, beside what else does it; `python scripts/benchmark_peers.py --write docs/speed.md`.',
            'CPU time of one thread, both sides in turns in processes of their own. The ratio is theirs to ours, the median of',
            f'{rounds} rounds; above 1 TwinSeg takes less. `--against COMMIT` compares two commits of the suite.',
            '',
            f'{date.today()}, commit {measured}, {machine()["cpu"]}; {facts}.',
            '',
            *lines,
            '',
            f'Training steps: {BATCH} images of {STEP_SIZE[0]}x{STEP_SIZE[1]}, float32.',
            '',
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('works', nargs='*', metavar='WORK', help=f'by default all of {", ".join(ROWS)}')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--peers', type=Path, help='folder that the peers are installed into')
    parser.add_argument('--tramac', type=Path, help='checkout of Tramac/Fast-SCNN-pytorch')
    parser.add_argument('--against', metavar='COMMIT')
    parser.add_argument('--slower', type=float, default=1.15, help='--against: the largest ratio of this tree to COMMIT')
    parser.add_argument('--write', type=Path, metavar='FILE', help='page that gets the table')
    parser.add_argument('--side', choices=('ours', 'theirs'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tramac:
        os.environ['TRAMAC'] = str(options.tramac.absolute())
    if options.side:
        serve(options.side)
        return 0
    unknown = [name for name in options.works if name not in ROWS]
    if unknown or options.rounds < 1 or options.against and options.write:
        parser.error(f'no work {unknown[0]!r}' if unknown else '--rounds is 1 or more; --write is not for --against')
    measured = commit()
    with tempfile.TemporaryDirectory() as folder:
        if options.against:
            with checked_out(options.against) as tree:
                sides = Side('ours', ROOT, Path(folder)), Side('ours', tree, Path(folder))
                _, ratios = table(options.works or list(ROWS), *sides, options.rounds, options.against)
                for side in sides:
                    side.end()
            slower = [name for name, ratio in ratios.items() if 1 / ratio > options.slower]
            if slower:
                print(f'slower than {options.against} by more than {options.slower} times: {", ".join(slower)}')
            return 1 if slower else 0
        from twinseg.common.files.folders import cache_folder

        peers = (options.peers or cache_folder() / 'peers').absolute()
        peers.mkdir(parents=True, exist_ok=True)
        install(peers)
        sides = Side('ours', ROOT, Path(folder)), Side('theirs', ROOT, Path(folder), (peers,))
        names = options.works or [name for name in ROWS if ROWS[name].theirs]
        lines, _ = table(names, *sides, options.rounds, None)
        for side in sides:
            side.end()
    if options.write:
        options.write.write_text(page(lines, options.rounds, measured), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
