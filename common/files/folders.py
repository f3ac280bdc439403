"""Folders of this machine that every part of the suite uses."""

import os
from pathlib import Path

from twinseg.common.errors import UserError


def weights_folder() -> Path:
    """The folder in which published weights are kept. UserError where there is no home folder."""
    return cache_folder() / 'weights'


def cache_folder() -> Path:
    """The folder of all caches, of decoded images and of weights: ``$TWINSEG_CACHE``, else ``twinseg`` in
    ``$XDG_CACHE_HOME``, else ``~/.cache/twinseg``. UserError where there is no home folder."""
    given, base = (os.environ.get(name) for name in ('TWINSEG_CACHE', 'XDG_CACHE_HOME'))
    try:
        if given:
            return Path(given).expanduser()
        if base and Path(base).is_absolute():  # as its specification says
            return Path(base) / 'twinseg'
        if os.environ.get('HOME', '~'):
            return Path('~/.cache/twinseg').expanduser()
    except RuntimeError:  # no home folder
        pass
    raise UserError(
        f'TWINSEG_CACHE={given}: no such home folder; give a path'
        if given
        else 'there is no home folder for a cache: set the environment variable TWINSEG_CACHE to a folder'
    )
