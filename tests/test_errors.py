"""Reasons in words, also where an error has none."""

import errno
import os

import pytest

from twinseg.common.errors import first_line_of, reason_of


@pytest.mark.parametrize(
    'error, first, whole',
    [
        (RuntimeError(), 'RuntimeError', 'RuntimeError'),
        (RuntimeError('\n \n'), 'RuntimeError', 'RuntimeError'),
        (RuntimeError('\nbad\nat f.cc:3'), 'bad', 'bad at f.cc:3'),
        (KeyError('x'), "'x'", "'x'"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), '[Errno 5] Input/output error', 'Input/output error'),
    ],
)
def test_reasons(error, first, whole):
    assert first_line_of(error) == first and reason_of(error) == whole
