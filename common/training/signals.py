"""Signals that end a training: it saves what it has, and is to be continued."""

import signal
import threading
from typing import Any, Optional

import numpy as np

from twinseg.common.console import leave_closed_terminals
from twinseg.common.parallel.processes import Group

# Exit status of an interrupted training; 75 (EX_TEMPFAIL): to be resumed; 129 is a shell's for a closed terminal.
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGHUP: 129}


class Stop:
    """Lets SIGTERM, SIGINT and SIGHUP end a training after the step at hand instead of at once; with a single process the
    second one ends it at once, unless one of the two is SIGHUP, which the kernel, shells and systemd send beside others.

    Where SIGHUP is ignored from the start (``nohup``), it stays so.
    """

    def __init__(self, group: Group):
        self.group, self.number = group, 0
        self.previous: dict[int, Any] = {}  # signal -> handler before

    def __enter__(self) -> 'Stop':
        if threading.current_thread() is threading.main_thread():  # signals go there
            self.previous = {
                number: signal.signal(number, self._note)
                for number in STATUS
                if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)
            }
        return self

    def __exit__(self, _: Any, error: Optional[BaseException], *__: Any) -> None:
        if self.group.size > 1 and isinstance(error, RuntimeError):
            return  # another process is gone: this one says so before the launcher ends it (``naming_lost_ranks``)
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def asked(self, count: int) -> tuple[Optional[signal.Signals], int]:
        """The signal that any process got, and the sum of their counts; the same answer on all."""
        for number in self.previous:  # MindSpore, when it compiles, sets a handler that turns SIGINT into SIGTERM
            signal.signal(number, self._note)
        numbers, counts = self.group.all_gather(np.array([self.number, count])).T
        return (signal.Signals(numbers.max()) if numbers.any() else None), int(counts.sum())

    def _note(self, number: int, _: Any) -> None:
        if self.number and self.group.size == 1 and signal.SIGHUP not in (self.number, number):
            raise KeyboardInterrupt
        self.number = number
        if number == signal.SIGHUP:
            leave_closed_terminals()
