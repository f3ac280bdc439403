"""Warnings on the screen: a line each, without the code that gave them."""

import logging
import sys
import warnings
from typing import Any

from twinseg.common.printable import one_line


class _Lines(logging.Handler):
    """Warnings of the suite's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        print(one_line(f'twinseg: warning: {record.getMessage()}'), file=sys.stderr)


_lines = _Lines(logging.WARNING)


def show_warnings_in_one_line() -> None:
    """Warnings, those of ``warnings`` and those of loggers, appear on stderr as a line each."""
    warnings.showwarning = _show_warning
    logging.getLogger('twinseg').addHandler(_lines)  # once, however often it is called


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(one_line(f'twinseg: warning: {message}'), file=sys.stderr)
