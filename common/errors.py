"""Errors that a user can act on; the command line prints them in one line and exits with status 2."""

import difflib
import importlib.util
from typing import Iterable, Optional


class UserError(Exception):
    """Bad input: the message says what was found, where, and what to change; ``status``: what the command exits with."""

    status = 2


class Interrupted(Exception):
    """A training that a signal ended after it saved a checkpoint; ``status``: what the command exits with."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class PartialError(UserError):
    """A work that was done for some of its files only, all named."""

    status = 1


class LostError(UserError):
    """A process of a group that ended or hangs, seen from another one."""

    status = 1


class DivergedError(UserError):
    """A training whose numbers are no longer finite after ``step`` steps."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class BatchError(UserError, ValueError):
    """A batch too small to train on."""


ONE_VALUE = (
    'batch norm sees a single value per channel (a pooling branch gives one pixel, and the batch is one image): '
    'train with batch_size 2 or more'
)


class DataError(UserError):
    """A data set, an image or a label that cannot be used; the message names the file."""


class StateError(UserError):
    """A checkpoint or a set of weights that is unreadable or does not fit the network."""


class BackendError(UserError):
    """A framework, another package or a device that is not there."""


def reason_of(error: BaseException) -> str:
    """Why something failed, in the words of the system or of a library, on one line; its class where it says nothing."""
    return getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__


def first_line_of(error: BaseException) -> str:
    """The first line of a message, which libraries follow up by where it was; the class where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def require(package: str, extra: str) -> None:
    """BackendError where a package is not installed that an extra of ``pyproject.toml`` brings."""
    if importlib.util.find_spec(package) is None:
        raise BackendError(f'{package} is not installed: pip install "twinseg[{extra}]"')


def similar(word: str, words: Iterable[str], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The most similar of some words, if any are similar at all."""
    return difflib.get_close_matches(word, list(words), n=most, cutoff=cutoff)


def nearest(word: str, words: Iterable[str]) -> Optional[str]:
    """The most similar of some words, if one is similar at all; for the hint in a message."""
    return next(iter(similar(word, words, most=1)), None)


def did_you_mean(names: Iterable[str], otherwise: str) -> str:
    """The end of a message about a name that there is not: ``names`` that are similar, or what to do where there are none."""
    shown = ' or '.join(map(repr, names))
    return f'; did you mean {shown}?' if shown else f'; {otherwise}'
