"""Weights by name: the checkpoints that ship, and published files, which are fetched once into a cache and checked."""

import re
from pathlib import Path
from typing import Callable, Optional

from twinseg.common.data.base import OnProgress
from twinseg.common.errors import DataError, StateError, did_you_mean, reason_of, similar
from twinseg.common.files import home_expanded
from twinseg.common.files.archive import unpacked
from twinseg.common.files.download import RemoteFile, alone, fetch, verify
from twinseg.common.files.folders import weights_folder
from twinseg.common.weights.published import PUBLISHED, Published

SHIPPED = Path(__file__).parent / 'shipped'
SUFFIX = '.safetensors'
ADDRESS = re.compile('[a-z-]+:/')  # how an address begins; a Path has one slash of several
MAX_BYTES = 1 << 30  # bytes of published weights: twice the largest file in the table
Tell = Callable[[str], None]  # hears what a user is to read, a line at a time


def shipped() -> dict[str, Path]:
    """The checkpoints that come with the suite, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob(f'*{SUFFIX}'))}


def names() -> list[str]:
    """All names, those of checkpoints that ship first."""
    return [*shipped(), *(published.name for published in PUBLISHED)]


def published_as(word: str) -> Optional[Published]:
    """The published file that has a name, also as mmengine spells it, or by its file name or address; None: there is none."""
    word = str(Path(word))  # makes one slash of several, and so does a Path that is an address
    return next((published for published in PUBLISHED if word in (str(Path(known)) for known in published.words)), None)


def find_weights(
    word: str | Path,
    tell: Tell = lambda line: None,
    progress: OnProgress = lambda done, total: None,
) -> Path:
    """The file of weights of a path or a name; a file that exists wins, and published weights are fetched. The path of a folder
    comes back unchanged: its reader says what to do with it.

    StateError where there is neither, DataError where a published file cannot be had or is another one.
    """
    path = home_expanded(word)
    if path.is_file():
        return path
    if (checkpoint := _shipped_as(str(word))) is not None:
        return checkpoint
    published = published_as(str(word))
    if published is None and path.is_dir():
        return path
    if published is None and ADDRESS.match(str(word)):
        raise StateError(f'{word}: no address of weights that is known here; download the file and give its path')
    if published is None:
        raise StateError(f'{path}: no such file, and no name of weights{_near(path)}')
    return fetch_published(published, weights_folder(), tell, progress)


def find_shipped(name: str) -> Path:
    """The checkpoint that ships under a name; StateError where there is none, for what is no name at all."""
    if (checkpoint := _shipped_as(name)) is None:
        raise StateError(f'{name}: no name of weights{_near(Path(name))}')
    return checkpoint


def find_checkpoint(word: str | Path) -> Path:
    """The checkpoint or run folder of a path, or the checkpoint that ships under a name; what exists wins.

    StateError where there is neither.
    """
    path = home_expanded(word)
    if path.exists():
        return path
    if (checkpoint := _shipped_as(str(word))) is not None:
        return checkpoint
    published = published_as(str(word))
    if published is not None:
        raise StateError(
            f'{word}: weights of {published.arch} for ImageNet, not a checkpoint: start a training from them (pretrained), or '
            f'`twinseg convert {published.name}` makes a checkpoint of them'
        )
    raise StateError(f'{path}: no such checkpoint, and no name of one that ships{_near(path, list(shipped()))}')


def fetch_published(
    published: Published,
    folder: Path,
    tell: Tell = lambda line: None,
    progress: OnProgress = lambda done, total: None,
) -> Path:
    """The path of a published file in a folder, fetched unless it is there, and checked as far as its publisher allows.

    DataError, with the address and the folder, where it cannot be had, and with what was found where it is another file.
    """
    path = folder / published.file
    again = f'delete it and {"" if published.by_hand else "run again, or "}put the file from {published.url} there'
    if path.is_file():
        verify(path, published.digest, again)
        return path
    if published.by_hand:
        instead = f'; {published.instead} names the same weights in a file that is fetched' if published.instead else ''
        raise DataError(
            f'{published.name}: not in {folder}: its publisher offers it to browsers alone; download {published.file} from '
            f'{published.url} and put it into {folder}{instead}'
        )
    limit = MAX_BYTES if published.mib is None else round((published.mib + 0.001) * (1 << 20))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size = '' if published.mib is None else f' ({published.size})'
        tell(f'{published.name}: downloading{size} from {published.url}')
        if published.url.endswith('.zip'):
            _fetch_zipped(published, path, tell, progress)
        else:
            fetch(RemoteFile(published.url, published.digest, limit), folder, progress, tell)
    except DataError as error:
        raise DataError(f'{published.name}: {error}') from None
    except OSError as error:
        raise DataError(
            f'{error.filename or folder}: {published.name} cannot be kept there ({reason_of(error)}); choose another '
            'folder with the environment variable TWINSEG_CACHE'
        ) from None
    tell(f'{published.name}: kept in {path}; licence {published.licence}, trained on ImageNet, whose terms may apply')
    return path


def _fetch_zipped(published: Published, path: Path, tell: Tell, progress: OnProgress) -> None:
    """Fetches an archive that holds the file, and keeps the file alone."""
    with alone(path.with_suffix('.lock'), tell):
        if path.is_file():  # another process was faster
            return
        archive = fetch(RemoteFile(published.url, None, MAX_BYTES), path.parent, progress, tell)
        with unpacked(archive, path.parent) as (folder, _):
            inside = next((file for file in sorted(folder.rglob(path.name)) if file.is_file()), None)
            if inside is None:
                raise DataError(f'{archive}: holds no {path.name}; delete it to fetch it again from {published.url}')
            verify(inside, published.digest, f'delete {archive} to fetch it again from {published.url}')
            inside.replace(path)
        archive.unlink()


def _shipped_as(word: str) -> Optional[Path]:
    return shipped().get(word.removesuffix(SUFFIX))


def _near(path: Path, known: Optional[list[str]] = None) -> str:
    """What else could have been meant, as the end of a message."""
    known = names() if known is None else known
    published = published_as(path.name)
    if published is not None and published.name in known:
        return f'; {published.name!r} is the name of this file'
    stem = path.name.removesuffix(SUFFIX)
    near = [name for name in known if stem and name.startswith(stem)] or similar(stem, known)
    return did_you_mean(near, '`twinseg list --weights` shows the names')
