"""Fuzzes every reader: ``python -m tests.fuzz --seed 0 --cases 400``; with ``--case 17`` one case again.

The good files and what once failed are read first, unchanged. Then each case is one of them, changed. It is read in a watched
process (``watched.py``), and may be refused, in one line with status 2; whatever else happens is printed with the number of the
case, and its files stay in ``--keep``. The exit status is 1 where something failed. A table says what each reader's cases took.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import os
import pkgutil
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional

from tests.fuzz.mutations import Mutator, Tree, Unusual
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.seeds import same_times
from tests.fuzz.watched import Outcome, World, watch
from tests.support.tiny import tiny_network
from twinseg import common
from twinseg.common.backend import get_backend
from twinseg.common.cli.notices import show_warnings_in_one_line

CORPUS = Path(__file__).parent / 'corpus'  # <reader>/<case>/...: files beside or instead of those of the reader's first seed
HEAD = f'{"reader":16}{"cases":>8}{"read":>8}{"refused":>9}{"failed":>8}{"MB":>8}{"seconds":>9}'


def make_ready(torch: bool) -> None:
    """What all cases share is imported and made once, before any is forked; ``torch``: also what a network takes."""
    for module in pkgutil.walk_packages(common.__path__, 'twinseg.common.'):
        if torch or not module.name.startswith('twinseg.common.training'):
            importlib.import_module(module.name)
    if torch:
        backend = get_backend('pytorch')
        backend.setup('cpu', threads=1)
        backend.MODELS['tiny'] = lambda num_classes, auxiliary=True: tiny_network('pytorch', 0.0, num_classes)
    gc.freeze()  # a child that collects garbage does not copy the pages of all this


def _is_installed(reader: Reader) -> bool:
    return not reader.needs or importlib.util.find_spec(reader.needs) is not None


def trees_of(reader: Reader, world: World) -> list[Tree]:
    """The good folders of a reader, and what once failed."""
    trees: list[Tree] = []
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in reader.seeds(world.case):
            trees.append(_read(world.case))
    _clear(world.case)
    for folder in sorted((CORPUS / reader.name).iterdir()) if (CORPUS / reader.name).is_dir() else ():
        trees.append({**trees[0], **_read(folder)})
    return trees


def _read(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def write(tree: Tree, unusual: Optional[Unusual], folder: Path) -> None:
    """The files of a case."""
    for name, content in tree.items():
        path = folder / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    if unusual is not None:
        name, kind = unusual
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == 'fifo':
            os.mkfifo(path)
        else:
            path.symlink_to(path.name if kind == 'loop' else kind)
    same_times(folder)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


class Fuzz:
    """The cases of one seed."""

    def __init__(self, root: Path, seed: int, keep: Path, only: Optional[str] = None):
        self.world, self.seed, self.keep = World(root), seed, keep
        self.readers = [reader for reader in READERS if only in (None, reader.name)]
        self.trees: dict[str, list[Tree]] = {}
        self.outcomes: dict[str, list[Outcome]] = {reader.name: [] for reader in self.readers}

    def run(self, numbers: Iterable[int]) -> Iterator[Outcome]:
        """The good files of all readers, and what once failed, as they are, and then cases; what needs PyTorch comes last,
        because a process without it is forked in a fifth of the time."""
        cases: dict[str, list[int]] = {reader.name: [] for reader in self.readers}
        for number in numbers:
            cases[self.reader_of(number).name].append(number)
        for needs_torch in (False, True):
            readers = [reader for reader in self.readers if _is_installed(reader) and (reader.needs == 'torch') == needs_torch]
            if readers:
                make_ready(needs_torch)
            for reader in readers:
                self.trees[reader.name] = trees_of(reader, self.world)
                for number, tree in enumerate(self.trees[reader.name]):
                    yield self.read(reader, tree, None, random.Random(number), f'{reader.name}-{number}')
                for number in cases[reader.name]:
                    yield self.case(number, reader)
                print(self.row(reader), flush=True)

    def again(self, number: int) -> Outcome:
        """One case."""
        reader = self.reader_of(number)
        make_ready(reader.needs == 'torch')
        self.trees[reader.name] = trees_of(reader, self.world)
        return self.case(number, reader)

    def reader_of(self, number: int) -> Reader:
        """The reader whose turn a case is."""
        [reader] = random.Random(f'{self.seed} {number}').choices(self.readers, [reader.share for reader in self.readers])
        return reader

    def case(self, number: int, reader: Reader) -> Outcome:
        """Makes a case and reads it."""
        rng = random.Random(f'{self.seed} {number} changes')
        tree = rng.choice(self.trees[reader.name])
        unusual: Optional[Unusual] = None
        for _ in range(rng.choice((1, 1, 1, 2))):
            tree, unusual = Mutator(rng).tree(tree, reader.changes)
            if unusual is not None:
                break
        return self.read(reader, tree, unusual, rng, f'{self.seed}-{number}')

    def read(self, reader: Reader, tree: Tree, unusual: Optional[Unusual], rng: random.Random, name: str) -> Outcome:
        write(tree, unusual, self.world.case)
        before = {path: path.read_bytes() for path in self.world.case.rglob('*') if path.is_file() and not path.is_symlink()}
        outcome = watch(lambda: reader.read(rng), self.world, reader.limits)
        self.outcomes[reader.name].append(outcome)
        if outcome.problem:
            kept = self.keep / name
            shutil.rmtree(kept, ignore_errors=True)
            for path, content in before.items():
                target = kept / path.relative_to(self.world.case)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            print(
                f'{name} ({reader.name}; its files: {kept}{"; " + str(unusual) if unusual else ""}): {outcome.problem}\n',
                flush=True,
            )
        self.world.clean()
        _clear(self.world.case)
        return outcome

    def row(self, reader: Reader) -> str:
        """What the reader's cases took, below ``HEAD``."""
        outcomes = self.outcomes[reader.name]
        failed = sum(outcome.problem is not None for outcome in outcomes)
        refused = sum(outcome.status == 2 and outcome.problem is None for outcome in outcomes)
        memory, seconds = max(one.memory for one in outcomes) >> 20, max(one.seconds for one in outcomes)
        read = len(outcomes) - failed - refused
        return f'{reader.name:16}{len(outcomes):8}{read:8}{refused:9}{failed:8}{memory:8}{seconds:9.2f}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cases', type=int, default=400)
    parser.add_argument('--case', type=int, help='one case, again')
    parser.add_argument('--reader', help='cases of one reader alone')
    parser.add_argument('--keep', type=Path, default=Path('fuzz-failures'), help='folder for the files of failed cases')
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ['OPENCV_FFMPEG_LOGLEVEL'] = '-8'  # as of a command: OpenCV asks once, and the first seeds are made here
    show_warnings_in_one_line()
    with tempfile.TemporaryDirectory(prefix='twinseg-fuzz-') as root:
        fuzz = Fuzz(Path(root) / 'world', options.seed, options.keep.absolute(), options.reader)
        if options.case is None:
            print(HEAD)
            outcomes = list(fuzz.run(range(options.cases)))
        else:
            outcomes = [fuzz.again(options.case)]
            print(outcomes[0])
    return int(any(outcome.problem is not None for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
