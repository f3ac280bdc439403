"""The values that pass through a network, stored in files, so that the activations of a large one need not fit in memory."""

import hashlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Iterator, Literal, Mapping, NamedTuple, Optional

import numpy as np

from twinseg.common.activations import Arrays
from twinseg.common.errors import UserError
from twinseg.common.trace.difference import Difference, difference

MOST_CAUSES = 64  # most causes that are looked into
MOST_CAPTURED = 1 << 30  # bytes of the second side's tensors that are held for that
RESERVE = 1 << 30  # bytes that a recording leaves free on its disk
Side = Literal['input', 'output']


class Event(NamedTuple):
    """A tensor that enters or leaves a module."""

    layer: str  # name of the module, '' for the network
    call: int  # number of the call of this module, from 0
    side: Side
    number: int  # position among the floating-point tensors

    def __str__(self) -> str:
        name = self.layer or 'network'
        call = f' (call {self.call + 1})' if self.call else ''
        index = f' {self.number + 1}' if self.number else ''
        return (
            f'{self.side}{index} of {name}{call}'
            if self.side == 'input'
            else f'{name}{call}{f", output{index}" if index else ""}'
        )


START = Event('', 0, 'input', 0)  # the network's input


class Passage(ABC):
    """A ``Watcher`` that gives every tensor its ``Event``; subclasses say in ``see`` what happens to it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.open: list[tuple[str, int]] = []  # modules that are being computed, the innermost last

    def enter(self, name: str, inputs: Arrays) -> Optional[Arrays]:
        call = self.calls[name]
        self.calls[name] += 1
        changed = self._pass(name, call, 'input', inputs)
        self.open.append((name, call))
        return changed

    def leave(self, name: str, outputs: Arrays) -> Optional[Arrays]:
        while self.open and self.open[-1][0] != name:  # a module that raised inside a try
            self.open.pop()
        _, call = self.open.pop()
        return self._pass(name, call, 'output', outputs)

    def _pass(self, name: str, call: int, side: Side, arrays: Arrays) -> Optional[Arrays]:
        changed = [self.see(Event(name, call, side, index), array) for index, array in enumerate(arrays)]
        if all(array is None for array in changed):
            return None
        return [old if new is None else new for old, new in zip(arrays, changed)]

    @abstractmethod
    def see(self, event: Event, array: np.ndarray) -> Optional[np.ndarray]:
        """Takes a tensor; what it returns replaces the tensor."""


class Recording(Passage):
    """All tensors of one run, each content once, in a temporary folder that ``close`` removes.

    ``limit``: most bytes; UserError beyond it, and when the disk would be full.
    """

    def __init__(self, limit: Optional[int] = None, folder: Optional[Path] = None) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix='twinseg-trace-', dir=folder))
        self.limit, self.bytes = limit, 0
        self.content: dict[Event, str] = {}  # event -> digest of its content, in the order of execution
        self.parents: dict[Event, str] = {}  # event -> the module whose code brings the tensor there
        self.events: dict[str, list[Event]] = {}  # digest -> events; the first one is where the content was computed
        self.shapes: dict[Event, tuple[int, ...]] = {}

    def see(self, event: Event, array: np.ndarray) -> None:
        """Stores a copy of a tensor in float32."""
        self.add(event, array, self.open[-1][0] if self.open else '')

    def add(self, event: Event, array: np.ndarray, parent: str = '') -> None:
        """Stores a tensor in float32."""
        array = np.ascontiguousarray(array, np.float32)
        digest = hashlib.blake2b(array.tobytes() + str(array.shape).encode(), digest_size=16).hexdigest()
        if digest not in self.events:
            self._make_room(array.nbytes)
            np.save(self.folder / digest, array)
            self.events[digest] = []
        self.events[digest].append(event)
        self.content[event], self.parents[event], self.shapes[event] = digest, parent, array.shape

    def _make_room(self, size: int) -> None:
        self.bytes += size
        if self.limit is not None and self.bytes > self.limit:
            raise UserError(
                f'the recording takes more than {self.limit / 1e9:.1f} GB of disk: '
                'give smaller or fewer images, or a larger --space'
            )
        if shutil.disk_usage(self.folder).free < size + RESERVE:
            raise UserError(f'{self.folder.parent}: no space for the recording; free some, or choose another folder in TMPDIR')

    def __contains__(self, event: Event) -> bool:
        return event in self.content

    def __getitem__(self, event: Event) -> np.ndarray:
        """The tensor, read-only, mapped from its file."""
        return np.load(self.folder / f'{self.content[event]}.npy', mmap_mode='r')

    def origin(self, event: Event) -> Event:
        """The first event with this content: where it was computed."""
        return self.events[self.content[event]][0]

    def close(self) -> None:
        """Removes the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> 'Recording':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Comparison(Passage):
    """Compares what passes with a recording. ``forced``: and puts the recorded values in its place; ``nudge``: these changed by
    a relative rounding error, up or down by chance."""

    def __init__(
        self,
        recording: Recording,
        forced: bool,
        nudge: float = 0.0,
        limits: Optional[Mapping[Event, float]] = None,
        replaced: Optional[Mapping[Event, np.ndarray]] = None,
    ) -> None:
        super().__init__()
        self.recording, self.forced, self.nudge, self.limits = recording, forced, nudge, limits
        self.replaced = replaced or {}
        self.rng = np.random.default_rng(0)
        self.differences: dict[Event, Difference] = {}
        self.unknown: dict[Event, Optional[Event]] = {}  # events that the recording does not have -> the known one before
        self.captured: dict[Event, np.ndarray] = {}
        self.last: Optional[Event] = None

    def see(self, event: Event, array: np.ndarray) -> Optional[np.ndarray]:
        if event not in self.recording:
            self.unknown[event] = self.last
            return None
        self.last = event
        reference = self.recording[event]
        apart = self.differences[event] = difference(reference, array)
        if self.limits is not None and apart.relative > self.limits[event] and self._has_room(array):
            self.captured[event] = np.array(array)
        if event in self.replaced:
            return self.replaced[event]
        if not self.forced:
            return None
        if not self.nudge:
            return reference
        return np.asarray(reference) * (1 + self.nudge * self.rng.choice(np.array([-1, 1], np.float32), reference.shape))

    def unseen_before(self, event: Event) -> Iterator[Event]:
        """Outputs that an event was computed from and that the second side never has, the latest first: that of a convolution
        with its norm folded in."""
        while (entry := Event(event.layer, event.call, 'input', 0)) in self.recording:
            event = self.recording.origin(entry)
            if entry in self.differences or event in self.differences or event.side != 'output':
                return
            yield event

    def _has_room(self, array: np.ndarray) -> bool:
        held = sum(one.nbytes for one in self.captured.values())
        return len(self.captured) < MOST_CAUSES and held + array.nbytes <= MOST_CAPTURED
