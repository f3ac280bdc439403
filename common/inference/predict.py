"""Prediction on images, folders and videos."""

import itertools
import os
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np

from twinseg.common import tasks
from twinseg.common.data.base import OnProgress
from twinseg.common.data.listing import HIDDEN, IMAGE_SUFFIXES, is_image, list_files, some
from twinseg.common.errors import DataError, PartialError, UserError, reason_of
from twinseg.common.files import made_folder, written_beside
from twinseg.common.printable import printable
from twinseg.common.tasks.base import DRAWING, Drawing, InputFile, Outcome, TrainedNetwork, output_path
from twinseg.common.tasks.segmentation import ENDINGS, VIDEO_ENDINGS
from twinseg.common.tasks.video import VIDEOS, is_video

SHOWN = 5  # files that could not be predicted, by name, at the end; each was named when it was read


def predict(
    network: TrainedNetwork,
    files: Sequence[InputFile],
    out: Path,
    logits: Optional[Path] = None,
    hear: Callable[[Path], None] = lambda path: None,
    drawing: Drawing = DRAWING,
    progress: OnProgress = lambda done, total: None,
) -> list[Path]:
    """Writes what a network sees in images and videos (see ``input_files``) to the folder ``out``; returns the files written,
    of which ``hear`` is told at once; ``progress`` hears how many of the inputs are done.

    What they are depends on the task (see ``predict`` there). ``logits`` is a file for the raw logits of a single image as
    ``.npy``, float32 (1, C, h, w) at the head's size, of a classifier (1, C). A file that cannot be read does not end the work:
    PartialError names it when the others are done. UserError where nothing could be read, or where something cannot be written.
    """
    task = tasks.of(network.task)
    if logits is not None and (len(files) != 1 or is_video(files[0].path)):
        raise UserError(f'--logits keeps the logits of one image; given {len(files)} files')
    done = itertools.count(1)
    outcome = Outcome(hear, lambda: progress(next(done), len(files)))
    try:
        with made_folder(out), warnings.catch_warnings():
            if len(files) == 1:  # the error says it
                warnings.filterwarnings('ignore', 'not predicted: ')
            task.predict(network, files, out, outcome, drawing)
        if logits is not None and not outcome.problems:
            with written_beside(logits) as part, part.open('wb') as content:  # np.save would append .npy to other names
                np.save(content, task.logits(network, network.read(files[0].path)))
            outcome.add(logits)
    except OSError as error:
        raise UserError(f'{_named(error, out)}: cannot be written ({reason_of(error)})') from None
    if outcome.problems:
        raise _failure(outcome.problems, len(files))
    return outcome.written


def _named(error: OSError, out: Path) -> str | Path:
    """What could not be written; ``out`` where the error does not say it."""
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else out


def _failure(problems: dict[Path, str], count: int) -> UserError:
    """The end of a prediction in which files could not be read: status 1 where others were, else 2."""
    if count == 1:
        return DataError(next(iter(problems.values())))
    reasons = [*list(problems.values())[:SHOWN], *([f'and {len(problems) - SHOWN} more'] if len(problems) > SHOWN else [])]
    text = f'{len(problems)} of {count} files could not be predicted: {"; ".join(reasons)}'
    return DataError(text) if len(problems) == count else PartialError(text)


def input_files(inputs: Sequence[Path], out: Path = Path('predictions'), earlier: Sequence[Path] = ()) -> list[InputFile]:
    """Images and videos of paths and of folders with all that is below them, in order, with names for what is written of them
    below ``out``.

    The name is the file's, in a folder its path from there, without suffix. Where two would have one name, the suffix stays in
    it (``x.jpg`` and ``x.png`` of one folder), or the folders that tell them apart are put before it. A file that is given
    twice is predicted once; hidden files, and predictions in ``out`` and in the ``earlier`` folders, are skipped; a warning
    counts other files of the folders by kind. UserError for a path that is neither an image nor a video nor a folder with any
    of these, and where a prediction would be written over an input.
    """
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise DataError(f'{", ".join(map(str, missing))}: no such file or folder')
    found: dict[str, _Found] = {}
    for path in inputs:
        for file, below in _files_of(path, (out, *earlier)):
            where = os.path.abspath(file)
            found.setdefault(where, _Found(file, Path(where).parts[1:], len(Path(below).parts)))
    files = _with_names(list(found.values()))
    for named in files:
        for ending in VIDEO_ENDINGS if is_video(named.path) else ENDINGS:
            written = output_path(out, named.name, ending)
            if os.path.abspath(written) in found:
                raise UserError(f'{written} would be written over: it is an input; choose another folder with --out')
    return files


def _files_of(path: Path, written: Sequence[Path]) -> list[tuple[Path, str]]:
    """Images and videos that a path stands for, with their paths below the folder."""
    if path.is_dir():
        listing = list_files(path, IMAGE_SUFFIXES + VIDEOS)
        folder = os.path.abspath(path)
        passed = tuple(below for out in written if (below := os.path.join(os.path.abspath(out), '')) != folder + os.sep)
        names = [name for name in listing.names if not os.path.join(folder, name).startswith(passed)]
        notes = [str(note) for note in listing.notes if note.reason != HIDDEN]
        if len(names) < len(listing.names):
            notes.append(f'{len(listing.names) - len(names)} in {", ".join(map(str, written))}, where predictions are written')
        if notes:
            warnings.warn(f'{path}: not predicted: {printable(", ".join(notes))}', stacklevel=2)
        if not names:
            raise DataError(f'{path}: no images or videos in it; expected {", ".join(IMAGE_SUFFIXES + VIDEOS)}')
        return [(path / name, name) for name in names]
    if not path.is_file():
        raise DataError(f'{path}: neither a file nor a folder')
    if not is_image(path.name) and not is_video(path):
        raise DataError(f'{path}: neither an image nor a video; expected {", ".join(IMAGE_SUFFIXES + VIDEOS)}')
    return [(path, path.name)]


@dataclass
class _Found:
    """A file to predict, and how its name is made of its path: the last ``depth`` parts, with or without the suffix."""

    path: Path
    parts: tuple[str, ...]  # folders and name of the absolute path
    depth: int
    suffix: bool = False

    @property
    def below(self) -> str:
        return '/'.join(self.parts[-self.depth :])

    @property
    def name(self) -> str:
        return self.below if self.suffix else os.path.splitext(self.below)[0]


def _with_names(files: list[_Found]) -> list[InputFile]:
    """The files under names that differ."""
    while True:
        groups = defaultdict(list)
        for file in files:
            groups[file.name].append(file)
        clashing = [group for group in groups.values() if len(group) > 1]
        if not clashing:
            return [InputFile(file.path, file.name) for file in files]
        for group in clashing:
            paths = [file.below for file in group]
            for file, below in zip(group, paths):
                if paths.count(below) == 1:
                    file.suffix = True
                elif file.depth < len(file.parts):
                    file.depth += 1
                else:  # drives of Windows
                    raise UserError(f'{some(paths)} would be written under one name; predict them into different folders')
