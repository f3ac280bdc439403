"""TensorBoard's event files, read without TensorBoard."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event


def events(folder: Path) -> list[tuple[int, Any]]:
    """(step, value) of everything that was written below a folder, in order."""
    found = []
    for path in sorted(folder.rglob('events.*')):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack('<Q', content[start : start + 8])
            event = Event.FromString(content[start + 12 : start + 12 + length])
            start += 16 + length
            found += [(event.step, value) for value in event.summary.value]
    return found
