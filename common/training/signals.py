"""Signals that end a training: it saves what it has, and is to be continued."""

import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import Any, Iterator, Optional

import numpy as np

from twinseg.common.console import leave_ended_readers
from twinseg.common.parallel.processes import Group

# Exit status of an interrupted training; 75 (EX_TEMPFAIL): to be resumed; 129 is a shell's for a closed terminal.
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGHUP: 129}
ENOUGH = 3  # SIGINTs that end a process at once
SAID = b'twinseg: stopping: the step at hand is finished and saved; Ctrl-C twice more ends at once, without it\n'


class Stopped(BaseException):
    """Raised where a training ends by a signal: no error, so that what handles errors passes it on."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = signal.Signals(number)


class Stop:
    """Lets SIGTERM, SIGINT and SIGHUP end a training after the step at hand instead of at once, however many of them come; with
    a single process the third SIGINT ends it at once.

    Where SIGHUP is ignored from the start (``nohup``), it stays so.
    """

    def __init__(self, group: Group):
        self.group, self.number = group, 0
        self.interrupts = 0  # SIGINTs that came
        self.interruptible = False
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

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which a signal raises Stopped: while a batch is waited for, or scores are computed. Of several processes
        none leaves the others so."""
        self.interruptible = self.group.size == 1
        try:
            if self.interruptible and self.number:
                raise Stopped(self.number)
            yield
        finally:
            self.interruptible = False

    def end(self) -> None:
        """Lets the training end as after SIGTERM."""
        self.number = self.number or signal.SIGTERM

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.group.size == 1:
            self.interrupts += 1
            if self.interrupts >= ENOUGH:
                raise KeyboardInterrupt
            if self.interrupts == 1:
                with suppress(OSError):
                    os.write(2, SAID)  # print is not for handlers
        self.number = number
        if number == signal.SIGHUP:
            leave_ended_readers()
        if self.interruptible:
            self.interruptible = False  # once: what follows is the way out
            raise Stopped(number)
